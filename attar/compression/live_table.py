"""The search as it goes, for a terminal: which candidates came furthest, how many are on each rung, the time left."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from attar.progress import duration

if TYPE_CHECKING:
    from rich.table import Table

    from attar.compression.search import Clock, Tried

ROWS = 12
STYLES = {"running": "bold", "finalist": "", "no time": "dim", "behind": "dim"}


def state(one: "Tried", rungs: int) -> str:
    """What a candidate does, in a word, where there are so many rungs in all."""
    if one.stopped:
        return "behind" if one.stopped.startswith("behind") else "no time"
    return "finalist" if len(one.rungs) == rungs else "running"


def _name(one: "Tried") -> str:
    """The precision first, since the end may be cut off."""
    words = str(one.candidate).rsplit(", ", 1)
    return f"{words[1]}: {words[0]}"


def live_table(tried: Mapping[int, "Tried"], rungs: Sequence[int], clock: "Clock") -> Callable[[], "Table"]:
    """Makes the table of a search as it is now; on 80 columns the end of a candidate's name is cut off.

    Args:
        rungs: steps of each.
    """
    from rich.table import Table

    def now() -> "Table":
        found = list(tried.values())  # another thread adds to them
        running = [one for one in found if state(one, len(rungs)) == "running"]
        rest = [one for one in found if one.rungs and one not in running]
        rest.sort(key=lambda one: (-len(one.rungs), one.rungs[-1]))
        table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
        table.add_column("candidate", no_wrap=True, overflow="ellipsis", ratio=1)
        for name in ("steps", "kept", "size", "p50"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("state", no_wrap=True)
        for one in [*running, *rest][:ROWS]:
            said = state(one, len(rungs))
            kept = f"{one.kept:.1%}" if one.rungs else ""
            cost = f"{one.costs['size']:.3g} MB", f"{one.costs['latency']:.3g} ms"
            table.add_row(_name(one), f"{one.steps:,}", kept, *cost, said, style=STYLES[said])
        reached = [sum(len(one.rungs) > n for one in found) for n in range(len(rungs))]
        counts = ", ".join(f"{steps:,}: {count}" for steps, count in zip(rungs, reached, strict=True))
        left = f"{duration(max(0.0, clock.left))} left" if clock.given else f"{duration(clock.used)} used"
        table.caption = f"candidates after so many steps: {counts} · {left}"
        table.caption_justify = "left"
        return table

    return now
