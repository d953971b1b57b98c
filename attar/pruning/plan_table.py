"""A plan as a table for people."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attar.anatomy.form import Form
from attar.pruning.plan_parts import ModelCost, ranges
from attar.pruning.units import Kept, KeptLayer
from attar.report.formatting import count, duration, percent, size

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

# More heads than these are counted, not listed by their numbers.
LISTED = 4


def group(title: str, before: Form, kept: Kept, lines: Sequence[str]) -> "Group":
    """The whole plan: a title, its layers, and lines of what all layers share and of costs."""
    from rich.console import Group
    from rich.text import Text

    return Group(Text(title, style="bold"), layers(before, kept), Text("\n".join(lines), style="default"))


def layers(before: Form, kept: Kept) -> "Table":
    """Layer by layer what is retained of what there was, with the heads that are pruned.

    Layers and heads are counted from 1 for the reader; the plan's file counts from 0.
    """
    from rich.table import Table

    made = Table(header_style="dim", box=None)
    made.pad_edge = False
    made.add_column("layer", justify="right")
    for axis in ("heads", "key", "value", "ffn"):
        made.add_column(axis, justify="right", no_wrap=True)
    left = {layer.layer: layer for layer in kept.layers}
    sizes = before.layers
    if len(left) < len(sizes) or any(len(x.heads) < sizes[x.layer].heads for x in kept.layers):
        made.add_column("goes")
    for number, old in enumerate(sizes):
        if number not in left:
            made.add_row(str(number + 1), *"––––", "the whole layer", style="dim")
            continue
        own = left[number]
        pairs = [(len(getattr(own, x)), getattr(old, x)) for x in ("heads", "key", "value", "ffn")]
        cells = [f"{new:,}" if new == all_ else f"{new:,} of {all_:,}" for new, all_ in pairs]
        made.add_row(str(number + 1), *cells, *[_goes(own, old.heads)][: len(made.columns) - 5])
    return made


def title(model: str, method: str, before: ModelCost, after: ModelCost) -> str:
    """One line: the model and what part of its parameters stays."""
    return f"{model}: {percent(after.parameters / before.parameters)} of its parameters stay, by {method}"


def cost_lines(before: ModelCost, after: ModelCost, length: int) -> list[str]:
    """Lines of costs before and after; FLOPs and latency are of one text of `length` tokens."""
    costs = [
        (
            "parameters",
            count(before.parameters),
            count(after.parameters),
            before.parameters,
            after.parameters,
        ),
        ("FLOPs", count(before.flops), count(after.flops), before.flops, after.flops),
        ("fp32 weights", size(before.bytes), size(after.bytes), before.bytes, after.bytes),
    ]
    timed = before.latency is not None
    if before.latency is not None and after.latency is not None:
        old, new = before.latency, after.latency
        costs.append(("latency", duration(old), duration(new), old, new))
    lines = [f"{name:<13} {old:>8} → {new:>8}  {percent(b / a):>6}" for name, old, new, a, b in costs]
    return [*lines, f"FLOPs{' and latency' * timed} of one text of {length} tokens"]


def kind(stock: bool) -> str:
    """Which class the result is saved as."""
    name = "a stock class of transformers" if stock else "a slim class, whose code goes with the model"
    return f"saved as {name}"


def _goes(layer: KeptLayer, heads: int) -> str:
    gone = sorted(set(range(heads)) - set(layer.heads))
    if not gone:
        return ""
    if len(gone) > LISTED:
        return f"{len(gone)} heads"
    return f"head{'s' * (len(gone) > 1)} {ranges([n + 1 for n in gone])}"
