"""Why something could not be written: a full disk, no permission, or something else that stands in its place."""

import errno
import os
import re
from pathlib import Path

from attar.errors import OutputError

FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EACCES, errno.EPERM)


def is_write_error(error: BaseException) -> bool:
    """Whether an error comes from a disk that is full or may not be written."""
    return _number(error) in (*FULL, *FORBIDDEN, errno.EROFS)


def write_error(path: Path, error: BaseException) -> OutputError:
    """The error of a place that cannot be written, with its cause and what helps against that."""
    number = _number(error)
    there = next((place for place in (path, *path.parents) if os.path.lexists(place)), Path(path.anchor))
    found = os.strerror(number) if number else (str(error) or type(error).__name__).splitlines()[0][:200]
    fix = "name another place"
    if number in FULL:
        fix = "free space or name another place; nothing half-written was left behind"
    elif number in FORBIDDEN:
        found = f"no permission to write at {there}"
        fix = "name a place that is yours, or have its permissions changed"
    elif number == errno.EROFS:
        found = f"a file system at {there} that is read-only"
    elif number == errno.ENOENT:
        found = f"no directory {path.parent}"
        fix = "make it, or name another place"
    elif number == errno.EISDIR:
        found, fix = "a directory of that name", "name another file"
    elif number in (errno.ENOTDIR, errno.EEXIST):
        found = f"a file where a directory has to be: {there}"
        fix = "name another place, or move that file away"
    elif number == errno.ENAMETOOLONG:
        fix = "give it a shorter name"
    return OutputError(expected=f"to write {path}", found=found, fix=fix)


def _number(error: BaseException) -> int | None:
    """The operating system's number of a cause, None where there is none.

    safetensors and tokenizers raise classes of their own with the number in the text. torch says that its zip file is
    shorter than it should be: where it wrote to a file of Python's, what went before says why; else the disk is full.
    """
    if isinstance(error, OSError) and error.errno:
        return error.errno
    if written := re.search(r"\(os error (\d+)\)", str(error)):
        return int(written[1])
    text = str(error)
    if not isinstance(error, RuntimeError) or not ("unexpected pos" in text or "PytorchStreamWriter" in text):
        return None
    before = error.__context__
    return before.errno if isinstance(before, OSError) and before.errno else errno.ENOSPC
