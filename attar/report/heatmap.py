"""A map of what a metric changes by when parts of a model are switched off."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, TypeGuard

from attar.report.svg import box, drawing, words

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_WIDTH, _LEFT, _TOP, _CELL, _LEGEND = 880, 74, 26, 28, 30
_SHADES = "·░▒▓█"


@dataclass(frozen=True)
class HeatMap:
    """Changes of a metric, a cell for each part that was switched off alone.

    Attributes:
        title: what changes, and in which unit.
        rows: names of the rows, layers.
        columns: names of the columns, parts of a layer.
        values: of each row a change in each column; below 0 is a loss, above 0 the model is better without the part,
            None where there is no such part.
        sure: of each value whether it is more than chance; empty where nobody knows, and all are shown as if they were.
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    sure: tuple[tuple[bool, ...], ...] = ()

    @property
    def largest(self) -> float:
        """The change furthest from 0."""
        return max((abs(v) for row in self.values for v in row if _there(v)), default=0.0)

    def certain(self, row: int, column: int) -> bool:
        """Whether a value is to be shown as more than chance."""
        return self.sure[row][column] if self.sure else True


def heatmap_svg(heat: HeatMap) -> str:
    """Cells in two colours, one for losses and one for gains, stronger the further from 0; gains have a dot."""
    step = (_WIDTH - _LEFT) / max(1, len(heat.columns))
    height = _TOP + _CELL * len(heat.rows) + _LEGEND
    parts = []
    for n, name in enumerate(heat.columns):
        size = min(11.5, 1.6 * step / max(1, len(name)))
        parts.append(words(_LEFT + (n + 0.5) * step, 16, name, "muted", size=size))
    for r, (name, values) in enumerate(zip(heat.rows, heat.values, strict=True)):
        y = _TOP + r * _CELL
        parts.append(words(_LEFT - 10, y + 18, name, "muted", anchor="end"))
        for n, (column, value) in enumerate(zip(heat.columns, values, strict=True)):
            if _there(value):
                tip = f"<title>{escape(f'{name}, {column}: {value:+.4g}')}</title>"
                parts.append(
                    f"<g>{tip}{_cell(_LEFT + n * step, y, step, value, heat, heat.certain(r, n))}</g>"
                )
    y = height - 8
    parts.append(box(_LEFT, y - 10, 12, 12, "bad"))
    parts.append(words(_LEFT + 18, y, "worse without it", "muted", anchor="start"))
    parts.append(box(_LEFT + 130, y - 10, 12, 12, "good") + _dot(_LEFT + 136, y - 4, "card"))
    parts.append(words(_LEFT + 148, y, "better without it", "muted", anchor="start"))
    if heat.sure:
        parts.append(words(_LEFT + 270, y, "pale: may be chance", "muted", anchor="start"))
    return drawing(heat.title, _WIDTH, height, parts)


def heatmap_text(heat: HeatMap, width: int = 80) -> "Table":
    """The same for a terminal of `width` letters: numbers where they find room, shades where not even short ones do."""
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(heat.title, style="bold"),
        title_justify="left",
        header_style="dim",
        box=None,
        pad_edge=False,
    )
    names, cells, gap = heat.rows, _cells(heat, 9), 2
    if _width(names, cells, heat.columns, gap) > width:
        names, cells, gap = tuple(name.split()[-1] for name in names), _cells(heat, 4), 1
    shade = _width(names, cells, heat.columns, gap) > width
    table.padding = (0, 1, 0, 0) if gap == 1 else (0, 1)
    table.add_column("")
    for name in heat.columns:
        table.add_column(name, justify="center" if shade else "right", no_wrap=True)
    legend = ["░▒▓█ worse without it, + better without it"] if shade else []
    legend += ["dim: may be chance"] if heat.sure else []
    if legend:
        table.caption, table.caption_justify = "; ".join(legend), "left"
    for r, name in enumerate(names):
        row = [
            _text(value, heat.largest, cells[r][n], shade=shade, sure=heat.certain(r, n))
            for n, value in enumerate(heat.values[r])
        ]
        table.add_row(name, *row)
    return table


def _cells(heat: HeatMap, longest: int) -> list[list[str]]:
    """The values as numbers of so many letters at most; an integer may be longer."""
    found = []
    for row in heat.values:
        texts = [_number(v, heat.largest) for v in row]
        found.append(
            [_number(v, heat.largest, 1) if len(t) > longest else t for v, t in zip(row, texts, strict=True)]
        )
    return found


def _width(names: Sequence[str], cells: Sequence[Sequence[str]], columns: Sequence[str], gap: int) -> int:
    """Letters that a table of numbers needs."""
    parts = [max(len(name), *(len(row[n]) for row in cells)) for n, name in enumerate(columns)]
    return max(map(len, names), default=0) + sum(gap + part for part in parts)


def _there(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _gain(value: float, largest: float) -> bool:
    """Whether a change is a gain to be seen: not one that is written as 0."""
    return _number(value, largest).startswith("+")


def _strength(value: float, largest: float) -> float:
    """0 to 1; the root, for what a head changes to be seen beside what a layer does."""
    return math.sqrt(abs(value) / largest) if largest else 0.0


def _number(value: float | None, largest: float, fewer: int = 0) -> str:
    """As many digits as distinguish cells: -12, -1.2, -.012; some fewer where there is no room."""
    if not _there(value):
        return ""
    digits = max(0, (0 if largest >= 100 else 1 if largest >= 1 else 3) - fewer)
    text = f"{value:+.{digits}f}"
    if not float(text):
        return "0"
    return text if largest >= 1 else text.replace("0.", ".", 1)


def _cell(x: float, y: float, step: float, value: float, heat: HeatMap, sure: bool) -> str:
    number, gain = _number(value, heat.largest), _gain(value, heat.largest)
    colour, strength = "good" if gain else "bad", (0.8 if sure else 0.2) * _strength(value, heat.largest)
    ground = [
        box(x + 1.5, y + 1.5, step - 3, _CELL - 3, paint, opacity=opacity, round_=4)
        for paint, opacity in (("soft", 1), (colour, strength))
    ]
    text = words(
        x + step / 2, y + 18, number, "ink" if sure else "muted", size=min(11.5, step / 3.4), bare=True
    )
    return "".join(ground) + text + (_dot(x + step - 7, y + 7, "ink") if gain and sure else "")


def _dot(x: float, y: float, colour: str) -> str:
    return f'<circle class="gain" cx="{x:.1f}" cy="{y:.1f}" r="2.2" fill="var(--{colour})"/>'


def _text(value: float | None, largest: float, number: str, *, shade: bool, sure: bool) -> "Text":
    from rich.text import Text

    if not _there(value):
        return Text("")
    gain = _gain(value, largest)
    style = "bold green" if gain else "red" if _strength(value, largest) > 0.5 else ""
    if not shade:
        return Text(number, style=style if sure else "dim")
    level = round(_strength(value, largest) * (len(_SHADES) - 1))
    mark = ("+" if sure else _SHADES[0]) if gain else _SHADES[level]
    return Text(mark, style=style if sure else "dim")
