"""Plots as SVG text to be set into a page: the page's own fonts and colours, the same bytes for the same figures."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from attar.report.formatting import metric_name
from attar.report.label_layout import Box, dodge, free_spot, width
from attar.report.rows import Point, Row
from attar.report.svg_plots import COLOURS, LABEL, axes_of, escape, latency_ticks, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINES = 6
_MARKERS = {"teacher": "D", "student": "o", "baseline": "s"}
# Points further than this apart on the latency axis need no room made between their interval bars.
_DODGE = 13.0
_CURVE_POINTS = 160


def quality_latency(rows: Sequence[Row], main: str) -> str:
    """Metric over median latency (logarithmic), with interval bars, one labelled point a row; "" without two rows.

    Points at nearly the same latency are set side by side so that their bars can be distinguished.
    """
    shown = [row for row in rows if row.p50 and math.isfinite(row.metrics.get(main, math.nan))]
    if len(shown) < 2:
        return ""
    figure, axes = axes_of(880, 430, left=62, right=26, top=18, bottom=52)
    unit = 1.0 if main in {"matthews", "pearson", "spearman"} else 100.0
    xs = np.array([1e3 * (row.p50 or 0.0) for row in shown])
    ys = np.array([unit * row.metrics[main] for row in shown])
    around = [row.quality if row.quality and not row.quality.missing else None for row in shown]
    lows = np.array([unit * at.low if at else y for at, y in zip(around, ys, strict=True)])
    highs = np.array([unit * at.high if at else y for at, y in zip(around, ys, strict=True)])
    axes.set_xscale("log")
    axes.set_xlim(xs.min() / 1.8, xs.max() * 2.1)
    room = max(highs.max() - lows.min(), 1e-3 * unit)
    axes.set_ylim(lows.min() - 0.16 * room, highs.max() + 0.16 * room)
    latency_ticks(axes)
    axes.set_xlabel("median latency, ms (logarithmic)")
    axes.set_ylabel(metric_name(main) + (", %" if unit > 1 else ""))
    teacher = next((y for row, y in zip(shown, ys, strict=True) if row.role == "teacher"), None)
    if teacher is not None:
        axes.axhline(teacher, color=COLOURS["teacher"], linewidth=1, dashes=(2, 4), zorder=1)
    places = dodge(axes.transData.transform(np.stack([xs, ys], axis=1)), _DODGE)
    points = axes.transData.inverted().transform(places)
    taken: list[Box] = []
    for row, (x, y), low, high in zip(shown, points, lows, highs, strict=True):
        colour = COLOURS[row.role]
        axes.vlines(x, low, high, color=colour, linewidth=1.6, alpha=0.55, zorder=2)
        axes.plot([x], [y], marker=_MARKERS[row.role], color=colour, markersize=9 if row.role == "student" else 8,
                  markeredgecolor=COLOURS["card"], markeredgewidth=1.4, zorder=4)  # fmt: skip
        (px, bottom), (_, top) = axes.transData.transform([[x, low], [x, high]])
        taken.append((px - 3, bottom, px + 3, top))
    taken += [(x - 7, y - 7, x + 7, y + 7) for x, y in places]
    line = [] if teacher is None else [float(axes.transData.transform((1.0, teacher))[1])]
    _label_points(axes, shown, places, taken, line)
    return svg(figure, "quality", f"{metric_name(main)} over latency")


def curve(stage: str, points: Sequence[Point], names: Sequence[str]) -> str:
    """Parts of the loss over steps, on a logarithmic axis; `names` fixes the colour of each part on the whole page."""
    figure, axes = axes_of(400, 230, left=48, right=12, top=10, bottom=46)
    axes.set_yscale("log")
    lows, highs = [], []
    for i, name in enumerate(names):
        steps, values = _thin(points, name)
        if not len(steps):
            continue
        total = name == "loss"
        style: dict[str, Any] = {"color": COLOURS["ink" if total else f"c{i % LINES}"]}
        style["linestyle"] = "-" if i < LINES or total else "--"
        axes.plot(steps, values, linewidth=1.7, zorder=3, marker="o" if len(steps) == 1 else None, **style)
        lows.append(values.min())
        highs.append(values.max())
    if lows:
        low, high = min(lows), max(highs)
        axes.set_ylim(
            low / 1.25 if high / low > 1.2 else low / 1.6, high * (1.25 if high / low > 1.2 else 1.6)
        )
    _loss_ticks(axes)
    axes.set_xlabel("step")
    return svg(figure, f"curve-{stage}", f"training curves of {stage}")


def part_names(curves: Mapping[str, Sequence[Point]]) -> list[str]:
    """Names of all parts of all stages in order of appearance, the summed loss last."""
    found = {name: None for points in curves.values() for _, parts in points for name in parts}
    return [name for name in found if name != "loss"] + (["loss"] if "loss" in found else [])


def _loss_ticks(axes: "Axes") -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = axes.get_ylim()
    subs = (
        (1.0,)
        if high / low > 50
        else (1.0, 2.0, 5.0)
        if high / low > 4
        else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    )
    axes.yaxis.set_major_locator(LogLocator(10, subs=subs, numticks=8))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:.2g}" if value < 1e4 else f"{value:.0e}")
    )


def _label_points(
    axes: "Axes", rows: Sequence[Row], places: np.ndarray, taken: list[Box], lines: Sequence[float]
) -> None:
    """Write name and runtime beside each point, where neither points, bars nor other labels are; else with a leader."""
    box = axes.get_window_extent()
    frame = (box.x0, box.y0, box.x1 + 20, box.y1 + 12)
    for i in sorted(range(len(rows)), key=lambda i: rows[i].role != "student"):
        row, (x, y) = rows[i], places[i]
        wide = max(width(row.name, LABEL) * 1.06, width(row.runtime, LABEL - 1.5))
        spot = free_spot(x, y, wide, 2.4 * LABEL, taken, frame, lines)
        taken.append(spot)
        left, bottom, right, top = spot
        near = (min(max(x, left), right), min(max(y, bottom), top))
        if math.dist(near, (x, y)) > 16:
            arrow = {"arrowstyle": "-", "color": COLOURS["muted"], "linewidth": 0.8, "shrinkA": 7}
            where: Any = {"xycoords": "figure pixels", "textcoords": "figure pixels"}
            axes.annotate("", near, (x, y), zorder=1.5, arrowprops=arrow, **where)
        align: Any = "left" if left >= x - 1 else "right" if right <= x + 1 else "center"
        at = {"left": left, "right": right, "center": (left + right) / 2}[align]
        for text, height, size, colour, weight in (
            (row.name, top - LABEL, LABEL, row.role, "bold"),
            (row.runtime, bottom + 3, LABEL - 1.5, "muted", "normal"),
        ):
            axes.annotate(escape(text), (at, height), xycoords="figure pixels", ha=align, va="baseline", fontsize=size,
                          color=COLOURS[colour], fontweight=weight, annotation_clip=False, zorder=5)  # fmt: skip


def _thin(points: Sequence[Point], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one part where a logarithm has them, averaged down to `_CURVE_POINTS`."""
    found = [
        (s, parts[name])
        for s, parts in points
        if name in parts and math.isfinite(parts[name]) and parts[name] > 0
    ]
    pieces = np.array_split(
        np.array(found, dtype=np.float64).reshape(-1, 2), min(len(found), _CURVE_POINTS) or 1
    )
    means = np.array([piece.mean(axis=0) for piece in pieces if len(piece)]).reshape(-1, 2)
    return means[:, 0], means[:, 1]
