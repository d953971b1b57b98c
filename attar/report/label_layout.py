"""Room on a plot: points set side by side, labels where nothing else is. Plain geometry in pixels."""

import math
import unicodedata
from collections.abc import Sequence

import numpy as np

Box = tuple[float, float, float, float]  # left, bottom, right, top
# Where a label may stand from its point, the best first, and how far.
_DIRECTIONS = ((1, 0), (-1, 0), (0.8, 0.7), (0.8, -0.7), (-0.8, 0.7), (-0.8, -0.7), (0, 1), (0, -1))
_DISTANCES = (11.0, 22.0, 38.0, 58.0, 82.0, 110.0, 142.0)


def dodge(places: np.ndarray, room: float) -> np.ndarray:
    """Move points (n, 2), in pixels, sideways until all are `room` apart on the x axis, each group about its centre."""
    order = np.argsort(places[:, 0], kind="stable")
    x = places[order, 0].copy()
    groups: list[list[int]] = []
    for i in range(len(x)):
        groups.append([i])
        while len(groups) > 1 and _span(x, groups[-2], room)[1] + room > _span(x, groups[-1], room)[0]:
            last = groups.pop()
            groups[-1] += last
    moved = places.copy()
    for group in groups:
        start, end = _span(x, group, room)
        moved[order[group], 0] = np.linspace(start, end, len(group))
    return moved


def _span(x: np.ndarray, group: list[int], room: float) -> tuple[float, float]:
    half = room * (len(group) - 1) / 2
    centre = float(x[group].mean())
    return centre - half, centre + half


def free_spot(
    x: float, y: float, wide: float, high: float, taken: list[Box], frame: Box, lines: Sequence[float]
) -> Box:
    """The nearest place for a label of a point where it covers least; better not on the level `lines` either."""
    best, lowest = (x, y, x + wide, y + high), math.inf
    for ring, distance in enumerate(_DISTANCES):
        for turn, (dx, dy) in enumerate(_DIRECTIONS):
            left = x + dx * distance - (wide if dx < -0.3 else 0 if dx > 0.3 else wide / 2)
            bottom = y + dy * distance - (high if dy < -0.3 else 0 if dy > 0.3 else high / 2)
            spot = (left, bottom, left + wide, bottom + high)
            outside = max(0.0, frame[0] - spot[0], frame[1] - spot[1], spot[2] - frame[2], spot[3] - frame[3])
            crossed = sum(spot[1] - 2 < line < spot[3] + 2 for line in lines)
            covered = sum(10 + _overlap(spot, other) for other in taken if _overlap(spot, other))
            cost = ring + 0.1 * turn + 2.5 * crossed + 1000 * outside + covered
            if cost < lowest:
                best, lowest = spot, cost
    return best


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + 4) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + 2)


def width(text: str, size: float) -> float:
    """Estimated pixels of a text: the page's font is the reader's, so a little more than most fonts take."""
    return size * sum(1.05 if unicodedata.east_asian_width(c) in "WF" else 0.6 for c in text)
