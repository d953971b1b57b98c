"""Where long work shows how far it is: silent in a library, bars or lines where the command line attached a console."""

import logging
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

T = TypeVar("T")
log = logging.getLogger("attar")
_tracking: ContextVar[bool] = ContextVar("attar_tracking", default=False)
_console: ContextVar["Console | None"] = ContextVar("attar_console", default=None)
# What is written below a picture that is on the screen; none is where None.
_below: ContextVar["list[str] | None"] = ContextVar("attar_below", default=None)
# Where the output is no terminal, seconds between two lines; and work shorter than this leaves no line, nor a bar.
EVERY, SHORT = 30.0, 5.0
# Steps after which the rate is known, and how many seconds must be left for an estimate to be worth a line.
FIRST, LONG = 10, 20.0


def attach(console: "Console | None") -> None:
    """Show progress on `console` from now on (the command line does); None is silent again."""
    _console.set(console)


def heard() -> bool:
    """Whether what is said goes anywhere."""
    return _console.get() is not None or log.isEnabledFor(logging.INFO)


def say(message: str) -> None:
    """One line of what happens and why."""
    console, below = _console.get(), _below.get()
    if console is None:
        log.info(message)
    elif below is not None:
        below[:] = [message]
    else:  # a log has whole lines
        console.print(f"[dim]·[/dim] {message}", soft_wrap=not console.is_terminal)


def track(
    iterable: Iterable[T],
    description: str,
    total: int | None = None,
    *,
    done: Callable[[T], int] | None = None,
) -> Iterator[T]:
    """Yield from `iterable`, with a bar on the attached console; where that is no terminal, with a line now and then.

    Long work says once how long it will take, from the rate of its first steps. Inside another bar there is none: one
    long step, one bar.

    Args:
        iterable: what is worked through.
        description: of the work, a few words.
        total: items; from `len()` where None.
        done: how many items are done with this one, for work that resumes and does not begin at the first; counted
            where None.
    """
    console = _console.get()
    if console is None or _tracking.get():
        yield from iterable
        return
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    show = _counts if _below.get() is not None else _bar if console.is_terminal else _lines
    _tracking.set(True)
    try:
        yield from show(_counted(iterable, total, done), description, total, console)
    finally:
        _tracking.set(False)


def _counted(
    iterable: Iterable[T], total: int | None, done: Callable[[T], int] | None
) -> Iterator[tuple[int, T]]:
    """Each item with how many are done once it is; says early how long the rest will take."""
    began, first = 0.0, 0
    for number, item in enumerate(iterable, 1):
        count = number if done is None else done(item)
        now = time.monotonic()
        if number == 1:
            began, first = now, count  # the first step also makes what later ones use
        elif number == FIRST + 1 and total is not None:
            rate = (count - first) / max(1e-9, now - began)
            left = (total - count) / rate
            if left > LONG:
                say(f"about {duration(left)} left: {total - count:,} steps at {_rate(rate)}")
        yield count, item


def _bar(
    items: Iterator[tuple[int, T]], description: str, total: int | None, console: "Console"
) -> Iterator[T]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("  {task.description:<28}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    left = (TextColumn("·"), TimeRemainingColumn(), TextColumn("left"))
    began = time.monotonic()
    with Progress(*columns, *left, console=console) as bar:
        task, started = bar.add_task(description, total=total), False
        for count, item in items:
            if not started and count > 1:  # resumed: what was done before is no rate of now
                bar.reset(task, total=total, completed=count - 1)
            started = True
            yield item
            bar.update(task, completed=count)
        bar.columns = columns  # nothing is left
        bar.live.transient = time.monotonic() - began < SHORT


def _lines(
    items: Iterator[tuple[int, T]], description: str, total: int | None, console: "Console"
) -> Iterator[T]:
    began = last = time.monotonic()
    first, count = None, 0
    for count, item in items:
        first = count - 1 if first is None else first
        yield item
        now = time.monotonic()
        if now - last >= EVERY:
            rate = (count - first) / (now - began)
            left = "" if total is None else f", {duration((total - count) / rate)} left"
            of = "" if total is None else f" of {total:,}"
            line = f"  {description}: {count:,}{of}, {_rate(rate)}{left}"
            console.print(line, highlight=False, soft_wrap=True)
            last = now
    seconds = time.monotonic() - began
    if seconds >= SHORT:
        line = f"  {description}: {count:,} done in {duration(seconds)}"
        console.print(line, highlight=False, soft_wrap=True)


def _counts(
    items: Iterator[tuple[int, T]], description: str, total: int | None, console: "Console"
) -> Iterator[T]:
    """The count below a picture."""
    below = _below.get()
    assert below is not None
    of = "" if total is None else f" of {total:,}"
    for count, item in items:
        below[:] = [f"{description}: {count:,}{of}"]
        yield item


@contextmanager
def picture(draw: Callable[[], "RenderableType"]) -> Iterator[None]:
    """Keep a picture of long work on the attached console, drawn anew all the time, and leave its last state there.

    What is said meanwhile, and how far the step at hand is, stands below it, the latest line alone. Where the output is
    no terminal there is no picture, and lines are printed as ever.

    Args:
        draw: makes the picture; called from another thread.
    """
    console = _console.get()
    if console is None or not console.is_terminal:
        yield
        return
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    below: list[str] = [""]

    def drawn() -> Group:
        return Group(
            draw(), Text(f"· {below[0]}" if below[0] else "", style="dim", no_wrap=True, overflow="ellipsis")
        )

    before = _below.set(below)
    try:
        with Live(get_renderable=drawn, console=console, refresh_per_second=2):
            yield
            below[0] = ""
    finally:
        _below.reset(before)


def duration(seconds: float) -> str:
    """Seconds in words, as exact as an estimate is."""
    if seconds < 100:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 6000 else f"{seconds / 3600:.1f} hours"


def _rate(rate: float) -> str:
    return f"{rate:.3g} a second" if rate >= 1 else f"{1 / rate:.3g} seconds each"


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep progress bars and notes of transformers, datasets and huggingface_hub off, and give back what was set."""
    from datasets.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from huggingface_hub.utils.tqdm import progress_bar_states
    from transformers.utils import logging as models

    loggers = [logging.getLogger(name) for name in ("transformers", "accelerate", "model2vec", "skeletoken")]
    levels = [logger.level for logger in loggers]
    bars = models.is_progress_bar_enabled(), are_progress_bars_disabled(), dict(progress_bar_states)
    with warnings.catch_warnings():  # where an environment variable has the last word, each of these warns
        warnings.simplefilter("ignore")
        models.disable_progress_bar()
        disable_progress_bars()
    for logger, level in zip(loggers, levels, strict=True):
        if logger.getEffectiveLevel() >= logging.WARNING:  # who asked for more gets it
            logger.setLevel(max(level, logging.ERROR))
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if bars[0]:
                models.enable_progress_bar()
            if not bars[1]:
                enable_progress_bars()
        progress_bar_states.clear()
        progress_bar_states.update(bars[2])
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
