"""The shape of a pruned encoder, layer by layer: what stays, solid, over what there was, pale."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attar.report.svg import box, drawing, words

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from attar.anatomy.form import Form

LayerSizes = tuple[int, int, int, int]
# Of a layer, in the order of its sizes, and the page's colour of each.
AXES = (("heads", "c0"), ("key", "c1"), ("value", "c3"), ("ffn", "c2"))
_WIDTH, _LEFT, _RIGHT, _ROW, _GAP, _TOP, _BAR = 880, 74, 12, 74, 30, 44, 46
_CELLS = 8
_EIGHTHS = " ▏▎▍▌▋▊▉█"


@dataclass(frozen=True)
class Sizes:
    """Sizes of an encoder; of each layer its heads, key and value size of a head, and feed-forward size."""

    hidden: int
    embedding: int
    vocab: int
    layers: tuple[LayerSizes, ...]


@dataclass(frozen=True)
class Shape:
    """An encoder before and after pruning.

    Attributes:
        name: of the model.
        before: its sizes.
        after: what is left of them.
        numbers: of the layers before, from 0, that the layers after are.
    """

    name: str
    before: Sizes
    after: Sizes
    numbers: tuple[int, ...]

    @classmethod
    def of(cls, name: str, before: "Form", after: "Form", numbers: Sequence[int]) -> "Shape":
        """The shape of two forms."""
        return cls(name, _sizes(before), _sizes(after), tuple(numbers))

    @property
    def left(self) -> dict[int, LayerSizes]:
        """Sizes after by the number that a layer had before."""
        return dict(zip(self.numbers, self.after.layers, strict=True))

    def around(self) -> str:
        """What all layers share, in a line."""
        b, a = self.before, self.after
        parts = [("layers", len(b.layers), len(a.layers)), ("hidden", b.hidden, a.hidden)]
        if (b.embedding, a.embedding) != (b.hidden, a.hidden):
            parts.append(("embedding", b.embedding, a.embedding))
        parts.append(("vocabulary", b.vocab, a.vocab))
        return " · ".join(
            f"{name} {old:,}" + (f" → {new:,}" if new != old else "") for name, old, new in parts
        )


def shape_svg(shape: Shape) -> str:
    """Bars of every layer: a row an axis, a column a layer; a layer that is gone leaves its place empty."""
    count, left = len(shape.before.layers), shape.left
    step = (_WIDTH - _LEFT - _RIGHT) / count
    height = _TOP + len(AXES) * (_ROW + _GAP) + 12
    parts = [words(0, 14, shape.around(), "ink", anchor="start", size=13)]
    for axis, (name, colour) in enumerate(AXES):
        largest = max(sizes[axis] for sizes in shape.before.layers)
        floor = _TOP + (axis + 1) * (_ROW + _GAP) - _GAP + 14
        parts.append(words(0, floor - _ROW / 2, name, colour, anchor="start", size=13, bold=True))
        parts.append(words(0, floor - _ROW / 2 + 15, f"of {largest:,}", "muted", anchor="start", size=11))
        for n, sizes in left.items():
            old = shape.before.layers[n][axis]
            x = _LEFT + (n + 0.5) * step
            tip = f"<title>layer {n + 1}: {sizes[axis]:,} of {old:,} {name}</title>"
            parts.append(f"<g>{tip}{_bar(x, floor, step, sizes[axis], old, largest, colour)}</g>")
    for n in range(count):
        x, gone = _LEFT + (n + 0.5) * step, n not in left
        number = f"✗{n + 1}" if gone else f"{n + 1}"
        parts.append(words(x, height - 6, number, "muted", size=_letters(number, step), faint=gone))
    parts.append(words(0, height - 6, "layer", "muted", anchor="start", size=11))
    return drawing(f"sizes of the layers of {shape.name}", _WIDTH, height, parts)


def shape_text(shape: Shape) -> "Table":
    """The same for a terminal of 80 columns."""
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(shape.name, style="bold"),
        title_justify="left",
        header_style="dim",
        box=None,
        pad_edge=False,
    )
    table.caption, table.caption_justify = shape.around(), "left"
    table.add_column("layer", justify="right")
    for name, _ in AXES:
        table.add_column(name, no_wrap=True)
    largest = [max(sizes[axis] for sizes in shape.before.layers) for axis in range(len(AXES))]
    left = shape.left
    for n, old in enumerate(shape.before.layers):
        if n in left:
            cells = [_cells(*of) for of in zip(left[n], old, largest, strict=True)]
            table.add_row(str(n + 1), *cells)
        else:
            table.add_row(Text(f"✗{n + 1}", style="dim"), *(Text("–", style="dim") for _ in AXES))
    return table


def _sizes(form: "Form") -> Sizes:
    layers = tuple((x.heads, x.key, x.value, x.ffn) for x in form.layers)
    return Sizes(form.hidden, form.embedding, form.vocab, layers)


def _bar(x: float, floor: float, step: float, kept: int, old: int, largest: int, colour: str) -> str:
    """A column: pale for what there was, solid for what stays, with its number above."""
    wide = min(_BAR, 0.66 * step)
    high, solid = _ROW * old / largest, _ROW * kept / largest
    pale = box(x - wide / 2, floor - high, wide, high, colour, opacity=0.17)
    full = box(x - wide / 2, floor - solid, wide, solid, colour)
    cut = "ink" if kept < old else "muted"
    return pale + full + words(x, floor - high - 5, str(kept), cut, size=_letters(str(kept), step))


def _letters(text: str, step: float) -> float:
    """A size at which a text finds room in a column."""
    return min(11.5, step / (0.8 * len(text)))


def _cells(kept: int, old: int, largest: int) -> "Text":
    """A bar in eighths of a letter, dots up to what there was, and the two numbers."""
    from rich.text import Text

    eighths = max(1, round(8 * _CELLS * kept / largest))
    solid = "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
    there = max(len(solid), round(_CELLS * old / largest))
    bar = Text(solid, style="magenta" if kept < old else "cyan")
    bar.append("·" * (there - len(solid)) + " " * (_CELLS - there + 1), style="dim")
    bar.append(str(kept).rjust(len(str(largest))))
    return bar.append(f"/{old}", style="dim") if kept != old else bar
