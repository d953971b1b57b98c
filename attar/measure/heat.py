"""A map of what a metric changes by when parts of a model are switched off."""

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, TypeGuard

from attar.measure.svg import box, drawing, words

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_WIDTH, _LEFT, _TOP, _CELL, _LEGEND = 880, 74, 26, 28, 30
_SHADES = "·░▒▓█"


@dataclass(frozen=True)
class Heat:
    """Changes of a metric, a cell for each part that was switched off alone.

    Attributes:
        title: what changes, and in which unit.
        rows: names of the rows, layers.
        columns: names of the columns, parts of a layer.
        values: of each row a change in each column; below 0 is a loss, above 0 the model is better without the part,
            None where there is no such part.
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]

    @property
    def largest(self) -> float:
        """The change furthest from 0."""
        return max((abs(v) for row in self.values for v in row if _there(v)), default=0.0)


def heat_svg(heat: Heat) -> str:
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
                parts.append(f"<g>{tip}{_cell(_LEFT + n * step, y, step, value, heat.largest)}</g>")
    y = height - 8
    parts.append(box(_LEFT, y - 10, 12, 12, "bad"))
    parts.append(words(_LEFT + 18, y, "worse without it", "muted", anchor="start"))
    parts.append(box(_LEFT + 130, y - 10, 12, 12, "good") + _dot(_LEFT + 136, y - 4, "card"))
    parts.append(words(_LEFT + 148, y, "better without it", "muted", anchor="start"))
    return drawing(heat.title, _WIDTH, height, parts)


def heat_text(heat: Heat, width: int = 80) -> "Table":
    """The same for a terminal of `width` letters: numbers where they find room, shades where they do not."""
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(heat.title, style="bold"),
        title_justify="left",
        header_style="dim",
        box=None,
        pad_edge=False,
    )
    longest = max([len(name) for name in heat.rows], default=0)
    cells = [[_number(v, heat.largest) for v in row] for row in heat.values]
    columns = zip(*cells, strict=True)
    needed = longest + sum(
        2 + max(len(name), *map(len, column)) for name, column in zip(heat.columns, columns, strict=True)
    )
    table.add_column("")
    for name in heat.columns:
        table.add_column(name, justify="right" if needed <= width else "center", no_wrap=True)
    if needed > width:
        table.padding = (0, 1, 0, 0)
        table.caption = "░▒▓█ worse without it, + better without it"
        table.caption_justify = "left"
    for name, values in zip(heat.rows, heat.values, strict=True):
        table.add_row(name, *(_text(v, heat.largest, shade=needed > width) for v in values))
    return table


def _there(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _gain(value: float, largest: float) -> bool:
    """Whether a change is a gain to be seen: not one that is written as 0."""
    return _number(value, largest).startswith("+")


def _strength(value: float, largest: float) -> float:
    """0 to 1; the root, for what a head changes to be seen beside what a layer does."""
    return math.sqrt(abs(value) / largest) if largest else 0.0


def _number(value: float | None, largest: float) -> str:
    """As many digits as tell cells apart: -12, -1.2, -.012."""
    if not _there(value):
        return ""
    digits = 0 if largest >= 100 else 1 if largest >= 1 else 3
    text = f"{value:+.{digits}f}"
    if not float(text):
        return "0"
    return text if largest >= 1 else text.replace("0.", ".", 1)


def _cell(x: float, y: float, step: float, value: float, largest: float) -> str:
    number, gain = _number(value, largest), _gain(value, largest)
    colour, strength = "good" if gain else "bad", 0.8 * _strength(value, largest)
    ground = [
        box(x + 1.5, y + 1.5, step - 3, _CELL - 3, paint, opacity=opacity, round_=4)
        for paint, opacity in (("soft", 1), (colour, strength))
    ]
    text = words(x + step / 2, y + 18, number, "ink", size=min(11.5, step / 3.4), bare=True)
    return "".join(ground) + text + (_dot(x + step - 7, y + 7, "ink") if gain else "")


def _dot(x: float, y: float, colour: str) -> str:
    return f'<circle class="gain" cx="{x:.1f}" cy="{y:.1f}" r="2.2" fill="var(--{colour})"/>'


def _text(value: float | None, largest: float, *, shade: bool) -> "Text":
    from rich.text import Text

    if not _there(value):
        return Text("")
    style = "bold green" if _gain(value, largest) else "red" if _strength(value, largest) > 0.5 else ""
    if not shade:
        return Text(_number(value, largest), style=style)
    level = round(_strength(value, largest) * (len(_SHADES) - 1))
    return Text("+" if _gain(value, largest) else _SHADES[level], style=style)
