"""Commands that tell what of a model can go, and cut it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from attar.cli.frame import (
    ColumnNames,
    Length,
    Model,
    Overwrite,
    Seed,
    Table,
    columns_of,
    console,
    show,
    verb,
)
from attar.errors import OutputError, RecipeError

Budget = Annotated[
    float | None,
    typer.Option(help="What may stay: up to 1 a part of the model's cost, else parameters or FLOPs."),
]
Axes = Annotated[
    str, typer.Option(help="What may be cut: all, h, f, a (schuBERT's variants), or ffn,heads,… as a list.")
]
Method = Annotated[
    str,
    typer.Option(
        help="schubert, schubert-uniform, taylor, magnitude, activation; alternate, top, bottom, similarity drop "
        "whole layers; vocabulary drops tokens that the texts do not use."
    ),
]
ShapeName = Annotated[
    str | None, typer.Option("--shape", help="A published shape of BERT-base: schubert-99m to schubert-33m.")
]
Texts = Annotated[str | None, typer.Option(help="Texts of the task, one a line; labels are not needed.")]
CostName = Annotated[
    str, typer.Option("--cost", help="What the budget counts: params, flops, or latency, measured here.")
]
Loss = Annotated[str, typer.Option(help="What teaches which units matter: distill, task (labels), mlm.")]
Rounds = Annotated[int, typer.Option(help="Of learning, cutting and recovering, each by an equal part.")]
Steps = Annotated[int, typer.Option(help="Of learning which units matter, a round.")]
Rounding = Annotated[
    str | None, typer.Option(help="Sizes are multiples of this; auto as this machine's latencies advise.")
]
LatencyTable = Annotated[
    Path | None, typer.Option("--table", help="File of latencies; with --cost latency written where missing.")
]


@verb
def plan(
    model: Model,
    budget: Budget = None,
    axes: Axes = "all",
    method: Method = "schubert",
    shape: ShapeName = None,
    data: Table = None,
    texts: Texts = None,
    columns: ColumnNames = None,
    cost: CostName = "params",
    loss: Loss = "distill",
    rounds: Rounds = 1,
    steps: Steps = 100,
    rounding: Rounding = None,
    table: LatencyTable = None,
    max_length: Length = 128,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="File to write the plan to, to look at and edit.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Show which units of a model can go within a budget; nothing is touched."""
    import attar

    if out is not None and out.exists() and not overwrite:
        raise OutputError(
            expected=f"{out} to be new", found="a file", fix="name another file, or pass --overwrite"
        )
    found = attar.plan(
        model,
        budget=budget,
        data=data,
        columns=columns_of(columns),
        **_options(axes, method, shape, texts, cost, loss, rounds, steps, rounding, table, max_length, seed),
    )
    _print(found)
    if out is not None:
        console.print(f"plan: {found.write(out)}", highlight=False)


@verb
def prune(
    model: Model,
    plan: Annotated[
        Path | None, typer.Option(help="A plan that `attar plan` wrote, instead of a budget.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory to write; it appears whole or not at all.")
    ] = None,
    budget: Budget = None,
    axes: Axes = "all",
    method: Method = "schubert",
    shape: ShapeName = None,
    data: Table = None,
    texts: Texts = None,
    dev: Table = None,
    columns: ColumnNames = None,
    cost: CostName = "params",
    loss: Loss = "distill",
    rounds: Rounds = 1,
    steps: Steps = 100,
    fold: Annotated[
        bool, typer.Option(help="Multiply what was learned into the weights, as the paper does.")
    ] = False,
    reconstruct: Annotated[
        bool, typer.Option(help="Fit what stays to what went by least squares, after each cut.")
    ] = True,
    recover: Annotated[str, typer.Option(help="After each cut: distill, task, mlm, or none.")] = "distill",
    recover_steps: Annotated[int, typer.Option(help="Of recovering, after each cut.")] = 200,
    recover_lr: float = 5e-5,
    rounding: Rounding = None,
    table: LatencyTable = None,
    max_length: Length = 128,
    seed: Seed = 0,
    plan_only: Annotated[bool, typer.Option(help="Show the plan and stop; nothing is written.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Cut a model for real, by a plan or down to a budget, and recover what it lost."""
    import attar

    options = _options(
        axes, method, shape, texts, cost, loss, rounds, steps, rounding, table, max_length, seed
    )
    options |= {"budget": budget, "data": data, "columns": columns_of(columns)}
    if plan_only:
        _print(attar.plan(model, **options) if plan is None else attar.Plan.read(plan))
        return
    if out is None:
        raise RecipeError(
            expected="a directory to write", found="no --out", fix="pass --out small, or --plan-only to look"
        )
    options |= {"fold": fold, "reconstruct": reconstruct}
    options |= {"recover": None if recover == "none" else recover, "recover_steps": recover_steps}
    report = attar.prune(model, plan, out=out, dev=dev, recover_lr=recover_lr, overwrite=overwrite, **options)
    _print(attar.Plan.read(out / "plan.json"))
    show(report)


def _options(
    axes: str,
    method: str,
    shape: str | None,
    texts: str | None,
    cost: str,
    loss: str,
    rounds: int,
    steps: int,
    rounding: str | None,
    table: Path | None,
    max_length: int,
    seed: int,
) -> dict[str, Any]:
    """Options that both commands have, as the library's functions take them."""
    return {
        "axes": tuple(axis.strip() for axis in axes.split(",")) if "," in axes else axes,
        "method": method,
        "shape": shape,
        "texts": None
        if texts is None
        else Path(texts),  # a name that is no file would be taken for a sentence
        "cost": cost,
        "loss": loss,
        "rounds": rounds,
        "steps": steps,
        "rounding": int(rounding) if rounding and rounding.isdigit() else rounding,
        "table": table,
        "max_length": max_length,
        "seed": seed,
    }


def _print(plan: Any) -> None:
    from attar.report.shape import shape_text

    console.print(plan, highlight=False)
    picture = shape_text(plan.shape())
    picture.title = picture.caption = None  # both were told above
    console.print()
    console.print(picture)
