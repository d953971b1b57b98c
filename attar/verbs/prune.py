"""`attar.prune`: a model without the units that a plan or a budget lets go."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from attar.options.base import (
    DATA,
    ColumnNames,
    Flag,
    ModelSource,
    OutputPath,
    Overwrite,
    Precision,
    Rate,
    TableSource,
    TextSource,
    Tokenizer,
)
from attar.options.registry import verb
from attar.options.signature import options_of
from attar.verbs.plan import Loss
from attar.verbs.plan import plan as planning_verb

if TYPE_CHECKING:
    from attar.pruning.plan import Plan
    from attar.report.report import Report
else:
    Plan = Any

RECOVERY = Flag(panel="After each cut")


@verb(stage=True, shares=planning_verb)
def prune(
    model: ModelSource,
    plan: Annotated[str | Path | Plan | None, Flag("--plan")] = None,
    *,
    out: OutputPath,
    data: TableSource | None = None,
    texts: TextSource | None = None,
    dev: Annotated[TableSource | None, DATA] = None,
    columns: ColumnNames = None,
    tokenizer: Tokenizer = None,
    fold: Annotated[bool, RECOVERY] = False,
    reconstruct: Annotated[bool, RECOVERY] = True,
    recover: Annotated[Loss | None, RECOVERY] = "distill",
    recover_steps: Annotated[int, Field(ge=0), RECOVERY] = 200,
    recover_lr: Annotated[Rate, RECOVERY] = 5e-5,
    precision: Precision = "auto",
    overwrite: Overwrite = False,
    **planning: Any,
) -> "Report":
    """Cut a model for real, by a plan or down to a budget, and recover what it lost (2005.06628, algorithm 1).

    Without texts nothing is recovered or reconstructed.

    Args:
        model: Model directory or hub name, or a model (then with its `tokenizer`).
        plan: A plan, or the file that `attar plan` wrote, instead of a budget.
        out: Directory to write; it appears whole or not at all, with `plan.json` in it.
        data: Table of the task's texts; the loss task needs labels.
        texts: Texts of the task, one a line; labels are not needed.
        dev: Table that the report measures on, against labels or as agreement with the model before.
        columns: Which column is what: text=sentence (also label, text_pair).
        tokenizer: Of a model that is given as an object.
        fold: Multiply the alphas into the weights that stay, as the paper does; needs a long recovery.
        reconstruct: Fit what stays to what went by least squares, after each cut.
        recover: Loss of the recovery after each cut: distill (stay close to the model before), task, mlm, or none.
        recover_steps: Steps of recovering, after each cut.
        recover_lr: Peak learning rate of the recovery.
        precision: Arithmetic of the training: bf16 where the machine has it (auto), fp32 or bf16.
        overwrite: Replace what attar wrote there before.
        planning: The other options of `attar.plan`: budget, axes, method, shape, cost, ….

    Returns:
        A report with the model before and after, their shapes, and the training curves.

    Raises:
        PlanError: a plan for another model, and as `attar.plan`.
        OutputError: `out` is taken.

    Examples:
        attar prune teacher --plan plan.json --texts texts.txt --out pruned

        attar prune teacher --budget 0.6 --texts texts.txt --dev dev.csv --out pruned
    """
    from attar.pruning.pipeline import prune as work

    options = options_of(prune, {**locals(), **planning})
    return work(
        model,
        plan,
        out=out,
        data=data,
        texts=texts,
        dev=dev,
        columns=columns,
        tokenizer=tokenizer,
        options=options,
        precision=precision,
        overwrite=overwrite,
    )
