"""Writing to disk: whole or not at all, over nothing that is the user's, and full disks distinguished from mistakes."""

import errno
import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from attar.errors import OutputError

LINEAGE = "lineage.json"


@contextmanager
def new_directory(out: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary directory beside `out` that becomes `out` when the block ends well, and is removed when it fails.

    What a killed process left behind of the same `out` is removed.

    Raises:
        OutputError: `out` holds something already (and is not attar's own to overwrite), or the disk is full.
    """
    out = Path(out)
    check_free(out, overwrite=overwrite)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
    except OSError as error:
        raise write_error(out, error) from error
    lock = None
    with suppress(OSError):  # where nothing can be locked, nothing is swept
        lock = _locked(temporary)
    try:
        yield temporary
        _sync(temporary)
        _open_to_readers(temporary)
        old = None
        if out.exists():
            old = temporary.with_suffix(".old")
            out.rename(old)
        temporary.rename(out)
        if old is not None:
            shutil.rmtree(old)
    except Exception as error:
        if is_write_error(error):
            raise write_error(out, error) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _sweep(out: Path) -> None:
    """Remove temporary directories of `out` that no living process has locked; what they had moved away is put back."""
    # mkdtemp's letters, and not those of another output whose name begins as this one's: out and out.v2.
    ours = f".{glob.escape(out.name)}." + "[!.]" * 8
    for left in out.parent.glob(f"{ours}.part"):
        with suppress(OSError):
            lock, old = _locked(left), left.with_suffix(".old")
            try:
                if old.exists() and not out.exists():
                    old.rename(out)
                shutil.rmtree(left)
            finally:
                os.close(lock)
    if out.exists():
        for old in out.parent.glob(f"{ours}.old"):
            shutil.rmtree(old, ignore_errors=True)


def _locked(directory: Path) -> int:
    """An open directory, locked until it is closed or the process ends, however it ends.

    Raises:
        BlockingIOError: another process has it.
    """
    opened = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(opened)
        raise
    return opened


def check_free(out: str | Path, *, overwrite: bool = False) -> None:
    """Raise OutputError where `out` is taken: before hours of work, not after them."""
    out = Path(out)
    _sweep(out)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    ours = out.is_dir() and any((out / name).exists() for name in (LINEAGE, "export.json"))
    if not (overwrite and ours):
        raise OutputError(
            expected=f"{out} to be new or empty",
            found="a file" if out.is_file() else f"{len(list(out.iterdir()))} files in it",
            fix="name another directory"
            + (", or pass overwrite=True (--overwrite)" if ours else " or move it away"),
        )


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise write_error(path, error) from error


def save_tensors(state: Any, path: Path) -> None:
    """Write tensors whole or not at all."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        torch.save(state, temporary)
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise write_error(path, error) from error


def _open_to_readers(directory: Path) -> None:
    """Permissions as the user's other files have them: mkdtemp and safetensors write for their owner only."""
    umask = os.umask(0)
    os.umask(umask)
    for path in (directory, *directory.rglob("*")):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)


def _sync(directory: Path) -> None:
    for file in directory.rglob("*"):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())


def is_write_error(error: Exception) -> bool:
    """Whether an error comes from a disk that is full or may not be written.

    safetensors and tokenizers raise classes of their own with the number of the cause in the text; torch says nothing
    but that its zip file is shorter than it should be.
    """
    numbers = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)
    if isinstance(error, OSError):
        return error.errno in numbers
    text = str(error)
    torn = isinstance(error, RuntimeError) and ("unexpected pos" in text or "PytorchStreamWriter" in text)
    return torn or any(f"(os error {number})" in text for number in numbers)


def write_error(path: Path, error: Exception) -> OutputError:
    """The error of a place that cannot be written."""
    return OutputError(
        expected=f"to write {path}",
        found=getattr(error, "strerror", None) or str(error).splitlines()[0],
        fix="free space or name another place; nothing was left behind",
    )
