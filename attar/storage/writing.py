"""Writing to disk: whole or not at all, and over nothing that is the user's."""

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
from attar.storage.faults import is_write_error, write_error

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
    make_directory(out.parent)
    try:
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


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that becomes `path` when the block ends well; the directory is made.

    Raises:
        OutputError: nothing can be written there, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) or is_write_error(error):
            raise write_error(path, error) from error
        raise


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all."""
    with new_file(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def save_tensors(state: Any, path: Path) -> None:
    """Write tensors whole or not at all."""
    # A file of Python's says what is wrong with the disk; one that torch opens itself does not.
    with new_file(path) as temporary, temporary.open("wb") as file:
        torch.save(state, file)


def check_directory(out: str | Path) -> None:
    """Raise OutputError where `out`, a directory that may be there already, is a file: before the work, not after."""
    if (place := Path(out)).is_file():
        raise write_error(place, FileExistsError(errno.EEXIST, ""))


def make_directory(place: Path) -> None:
    """Make a directory that may be there already, and its parents.

    Raises:
        OutputError: a file is in its place, or nothing can be written there.
    """
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(place, error) from error


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
