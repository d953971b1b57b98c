"""A plan as a table for people."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attar.pruning.plan import LayerPlan, Plan, ranges
from attar.report.formatting import count, duration, percent, size

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

# More heads than these are not told by their numbers.
TOLD = 4


def shown(plan: Plan) -> "Group":
    """The whole plan: its layers, and what it costs before and after."""
    from rich.console import Group
    from rich.text import Text

    return Group(
        Text(title(plan), style="bold"), layers(plan), Text("\n".join(totals(plan)), style="default")
    )


def layers(plan: Plan) -> "Table":
    """Layer by layer what stays of what there was, with the heads that go by number.

    Layers and heads are counted from 1 for the reader; the plan's file counts from 0.
    """
    from rich.table import Table

    made = Table(header_style="dim", box=None)
    made.pad_edge = False
    made.add_column("layer", justify="right")
    for axis in ("heads", "key", "value", "ffn"):
        made.add_column(axis, justify="right", no_wrap=True)
    left = {layer.layer: layer for layer in plan.layers}
    sizes = plan.source.layers
    if len(left) < len(sizes) or any(len(x.heads) < sizes[x.layer].heads for x in plan.layers):
        made.add_column("goes")
    for number, old in enumerate(sizes):
        if number not in left:
            made.add_row(str(number + 1), *"––––", "the whole layer", style="dim")
            continue
        own = left[number]
        pairs = [(len(getattr(own, x)), getattr(old, x)) for x in ("heads", "key", "value", "ffn")]
        cells = [f"{kept:,}" if kept == all_ else f"{kept:,} of {all_:,}" for kept, all_ in pairs]
        made.add_row(str(number + 1), *cells, *[_goes(own, old.heads)][: len(made.columns) - 5])
    return made


def title(plan: Plan) -> str:
    """One line: the model and what part of its parameters stays."""
    part = percent(plan.after.parameters / plan.before.parameters)
    return f"{plan.model}: {part} of its parameters stay, by {plan.method}"


def totals(plan: Plan) -> list[str]:
    """Lines of what all layers share, and of costs before and after."""
    before, after = plan.before, plan.after
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
    lines.append(f"FLOPs{' and latency' * timed} of one text of {plan.length} tokens")
    kind = "a stock class of transformers" if plan.stock else "a slim class, whose code goes with the model"
    return [plan.shape().around(), *lines, f"saved as {kind}"]


def _goes(layer: LayerPlan, heads: int) -> str:
    gone = _others(layer.heads, heads)
    if not gone:
        return ""
    if len(gone) > TOLD:
        return f"{len(gone)} heads"
    return f"head{'s' * (len(gone) > 1)} {ranges([n + 1 for n in gone])}"


def _others(kept: Sequence[int], size: int) -> list[int]:
    there = set(kept)
    return [n for n in range(size) if n not in there]
