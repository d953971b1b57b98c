"""Where long work tells how far it is: silent in a library, bars and lines where the CLI attached a console."""

import logging
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")
log = logging.getLogger("attar")
_tracking: ContextVar[bool] = ContextVar("attar_tracking", default=False)
_console: ContextVar["Console | None"] = ContextVar("attar_console", default=None)


def attach(console: "Console | None") -> None:
    """Show progress on `console` from now on (the CLI does); None is silent again."""
    _console.set(console)


def say(message: str) -> None:
    """Tell one line of what happens and why."""
    console = _console.get()
    if console is None:
        log.info(message)
    else:
        console.print(f"[dim]·[/dim] {message}")


def track(iterable: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield from `iterable`, with a bar on the attached console (`total` items; from `len()` where None).

    Inside another bar there is none: one long step, one bar.
    """
    console = _console.get()
    if console is None or _tracking.get():
        yield from iterable
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("  {task.description:<28}"), BarColumn(bar_width=30), MofNCompleteColumn())
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    _tracking.set(True)
    try:
        with Progress(*columns, *times, console=console) as bar:
            yield from bar.track(iterable, total=total, description=description)
    finally:
        _tracking.set(False)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Replaced when the branch of progress is merged."""
    yield
