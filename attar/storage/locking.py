"""One run at a time writes an output; a lock ends with its process, however that ends."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from attar.errors import OutputError
from attar.progress import say
from attar.storage.faults import FORBIDDEN, write_error

# Where torchrun, `accelerate launch` and MPI write the number of a process among those of its run.
RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
# Outputs that are locked around this call: a verb may call another that writes the same.
_held: ContextVar[frozenset[Path]] = ContextVar("attar_held", default=frozenset())


@contextmanager
def locked(out: str | Path | None) -> Iterator[None]:
    """Keep other runs from writing `out`, a file or a directory, while the block runs; None is no output.

    The lock is on a file beside `out`, which is removed when the block ends. Where a killed process left one, nothing
    locks it any more. Of the processes of one run the main one has the lock. Parents of `out` are made, and removed
    again where they are empty in the end.

    Raises:
        OutputError: another run writes `out`, or nothing can be written there.
    """
    held = _held.get()
    place = None if out is None else Path(out).resolve()
    if place is None or place in held or any(os.environ.get(name, "0") != "0" for name in RANKS):
        yield
        return
    made = [parent for parent in place.parents if not os.path.lexists(parent)]
    token = _held.set(held | {place})
    try:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            lock = _acquire(place)
        except OSError as error:
            raise write_error(place, error) from error
        try:
            yield
        finally:
            if lock is not None:
                _release(*lock, place)
    finally:
        _held.reset(token)
        for parent in made:
            with suppress(OSError):
                parent.rmdir()


def _acquire(place: Path) -> tuple[int, Path] | None:
    """What is locked, opened, and its path; None on a file system without locks."""
    while True:
        opened, path = _open(place)
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(opened), path.stat()):
                _sign(opened)
                return opened, path
        except FileNotFoundError:
            pass  # the run that had the lock ended, and removed the file, after it was opened here
        except BlockingIOError:
            raise _taken(place, opened) from None
        except OSError as error:
            say(f"no lock on {place} ({error.strerror}): let no other run write it at the same time")
            _release(opened, path, place)
            return None
        os.close(opened)


def _open(place: Path) -> tuple[int, Path]:
    """The file beside an output, or a directory that is there already where nothing can be written beside it."""
    beside = place.with_name(f".{place.name}.lock")
    try:
        return os.open(beside, os.O_RDWR | os.O_CREAT, 0o666), beside
    except OSError as error:
        if error.errno not in (*FORBIDDEN, errno.EROFS) or not place.is_dir():
            raise
        return os.open(place, os.O_RDONLY), place


def _release(opened: int, path: Path, place: Path) -> None:
    # Removed before it is unlocked: who opened it meanwhile sees that it is gone, and makes another.
    if path != place:
        with suppress(OSError):
            path.unlink()
    with suppress(OSError):  # closing is not enough where a child that was forked has it open still
        fcntl.flock(opened, fcntl.LOCK_UN)
    os.close(opened)


def _sign(opened: int) -> None:
    """Write who has the lock, for the error of who does not get it."""
    with suppress(OSError):  # a directory, or a full disk
        os.ftruncate(opened, 0)
        os.write(opened, f"process {os.getpid()} on {os.uname().nodename}".encode())


def _taken(place: Path, opened: int) -> OutputError:
    who = ""
    with suppress(OSError):
        who = os.read(opened, 200).decode(errors="replace")
    os.close(opened)
    return OutputError(
        expected=f"one run at a time to write {place}",
        found=f"{who or 'another process'}, which is writing it",
        fix="wait until it has ended, or name another output",
    )
