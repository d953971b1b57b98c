"""Quality against cost of every candidate that a search tried, with the limits of the budget."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from attar.report.label_layout import Box, free_spot, width
from attar.report.svg_plots import COLOURS, LABEL, axes_of, escape, latency_ticks, svg

if TYPE_CHECKING:
    from rich.table import Table

State = Literal["chosen", "neighbour", "tried", "stopped", "baseline", "teacher"]
# How a state is drawn: colour, marker, size. What was stopped is grey.
_DRAWN: dict[str, tuple[str, str, float]] = {
    "teacher": ("teacher", "D", 8),
    "baseline": ("baseline", "s", 8),
    "stopped": ("muted", "o", 4.5),
    "tried": ("c0", "o", 6),
    "neighbour": ("c1", "o", 7),
    "chosen": ("student", "o", 9),
}
_NAMED = ("teacher", "baseline", "chosen")


@dataclass(frozen=True)
class FrontierPoint:
    """One candidate.

    Attributes:
        name: what it is.
        state: what became of it.
        kept: part of the teacher's figure on the dev table, after `steps` steps.
        latency: seconds of one call: measured where it was exported, else predicted.
        bytes: on disk, likewise.
        steps: that it learned for.
        why: why it went no further; empty where it did.
    """

    name: str
    state: State
    kept: float
    latency: float
    bytes: float
    steps: int = 0
    why: str = ""


@dataclass(frozen=True)
class Frontier:
    """Every candidate that was tried, and what was asked for.

    Attributes:
        points: in the order in which they were tried.
        kept: what `kept` of the points is a part of ("accuracy of the teacher", "agreement with the teacher").
        limits: `latency` in seconds, `bytes`, and `keep`, those that were asked for.
    """

    points: tuple[FrontierPoint, ...]
    kept: str
    limits: Mapping[str, float] = field(default_factory=dict)

    @property
    def heights(self) -> tuple[float, float]:
        """What the drawing reaches from and to, in per cent: a few that cannot be mended do not press the others."""
        kept = [100 * point.kept for point in self.points]
        low, top = float(np.quantile(kept, 0.05)), max(100.0, *kept)
        return low - 0.12 * max(top + 0.5 - low, 1.0), top

    @property
    def beyond(self) -> bool:
        """Whether some keep less than the drawing reaches."""
        return 100 * min(point.kept for point in self.points) < self.heights[0]

    def table(self, rows: int = 12) -> "Table":
        """The candidates that came furthest, for a terminal."""
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="dim")
        for name, align in (
            ("candidate", "left"),
            ("keeps", "right"),
            ("p50", "right"),
            ("size", "right"),
            ("steps", "right"),
        ):
            table.add_column(name, justify=align)  # type: ignore[arg-type]
        order = sorted(self.points, key=lambda point: (point.state != "chosen", -point.steps, -point.kept))
        for point in order[:rows]:
            style = {"chosen": "bold", "stopped": "dim"}.get(point.state, "")
            cells = (
                f"{point.kept:.1%}",
                f"{1e3 * point.latency:.3g} ms",
                f"{point.bytes / 1e6:.3g} MB",
                f"{point.steps:,}",
            )
            table.add_row(point.name, *cells, style=style)
        return table


def frontier_svg(frontier: Frontier, cost: Literal["latency", "bytes"]) -> str:
    """What is kept over latency in ms or size in MB (logarithmic); the limits are lines. "" without two points.

    What keeps far less than nearly all others stands at the lower edge, as a triangle.
    """
    scale, label = {"latency": (1e3, "median latency, ms"), "bytes": (1e-6, "size on disk, MB")}[cost]
    points = sorted(frontier.points, key=lambda point: list(_DRAWN)[::-1].index(point.state), reverse=True)
    if len(points) < 2:
        return ""
    xs = np.array([scale * getattr(point, cost) for point in points])
    ys = np.array([100 * point.kept for point in points])
    figure, axes = axes_of(880, 400, left=62, right=26, top=18, bottom=52)
    axes.set_xscale("log")
    limit = frontier.limits.get(cost)
    spread = np.append(xs, scale * limit) if limit else xs
    axes.set_xlim(spread.min() / 1.5, spread.max() * 1.9)
    floor, top = frontier.heights
    room = top - floor
    # Below what is lowest there is room for the whole of its marker.
    axes.set_ylim(floor - 0.05 * room, top + 0.1 * room)
    latency_ticks(axes)
    axes.set_xlabel(f"{label} (logarithmic)")
    axes.set_ylabel(f"% of the {frontier.kept}")
    line: Any = {"color": COLOURS["ink"], "linewidth": 1, "dashes": (4, 3), "zorder": 1}
    if limit:
        axes.axvline(scale * limit, **line)
    if keep := frontier.limits.get("keep"):
        axes.axhline(100 * keep, **line)
    taken: list[Box] = []
    for point, x, y in zip(points, xs, ys, strict=True):
        colour, marker, size = _DRAWN[point.state]
        axes.plot([x], [max(y, floor)], marker="v" if y < floor else marker, color=COLOURS[colour], markersize=size,
                  alpha=0.45 if point.state == "stopped" else 1.0, markeredgewidth=0, zorder=3)  # fmt: skip
    places = axes.transData.transform(np.stack([xs, np.maximum(ys, floor)], axis=1))
    taken += [(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    frame_box = axes.get_window_extent()
    frame = (frame_box.x0, frame_box.y0, frame_box.x1 + 20, frame_box.y1 + 12)
    for point, (x, y) in zip(points, places, strict=True):
        if point.state not in _NAMED:
            continue
        wide = width(point.name, LABEL) * 1.06
        spot = free_spot(x, y, wide, 1.3 * LABEL, taken, frame, [])
        taken.append(spot)
        text: dict[str, Any] = {
            "color": COLOURS[_DRAWN[point.state][0]],
            "fontsize": LABEL,
            "fontweight": "bold",
        }
        where: dict[str, Any] = {
            "xycoords": "figure pixels",
            "va": "baseline",
            "annotation_clip": False,
            "zorder": 5,
        }
        axes.annotate(escape(point.name), (spot[0], spot[1] + 3), **where, **text)
    return svg(figure, f"frontier-{cost}", f"quality over {label}")
