"""`attar.plan`: which units of a model can go within a budget."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from attar.options.base import (
    BatchSize,
    ColumnNames,
    Count,
    Flag,
    MaxLength,
    ModelSource,
    OutputPath,
    Overwrite,
    Pooling,
    Precision,
    Seed,
    TableSource,
    TextSource,
    Tokenizer,
)
from attar.options.registry import verb
from attar.options.signature import options_of

if TYPE_CHECKING:
    from attar.pruning.latency import Latency
    from attar.pruning.plan import Plan
else:
    Latency = Any

# Units of one axis, what attar chooses, or schuBERT's variants.
Axis = Literal["hidden", "embedding", "heads", "key", "value", "ffn"]
Variant = Literal["auto", "all", "h", "f", "a"]
Loss = Literal["distill", "task", "mlm"]
SCORES = Flag(panel="Which units go")
COST = Flag(panel="Cost")


@verb()
def plan(
    model: ModelSource,
    *,
    budget: Annotated[float, Field(gt=0)] | None = None,
    axes: Annotated[Axis | Variant | Annotated[tuple[Axis, ...], Field(min_length=1)], SCORES] = "all",
    method: Literal[
        "schubert",
        "schubert-uniform",
        "magnitude",
        "taylor",
        "activation",
        "alternate",
        "top",
        "bottom",
        "similarity",
        "vocabulary",
    ] = "schubert",
    shape: Annotated[
        Literal[
            "schubert-99m",
            "schubert-88m",
            "schubert-77m",
            "schubert-66m",
            "schubert-55m",
            "schubert-43m",
            "schubert-33m",
        ]
        | None,
        SCORES,
    ] = None,
    min_count: Annotated[Count, SCORES] = 1,
    data: TableSource | None = None,
    texts: TextSource | None = None,
    columns: ColumnNames = None,
    tokenizer: Tokenizer = None,
    cost: Annotated[Literal["params", "flops", "latency"], COST] = "params",
    loss: Annotated[Loss, SCORES] = "distill",
    rounds: Annotated[Count, SCORES] = 1,
    steps: Annotated[Count, SCORES] = 100,
    lr: Annotated[float, Field(gt=0), SCORES] = 0.02,
    gamma: Annotated[Annotated[float, Field(ge=0)] | None, SCORES] = None,
    rounding: Annotated[Count | Literal["auto"] | None, COST] = None,
    length: Annotated[Count, COST] = 128,
    pooling: Pooling = None,
    max_length: MaxLength = 128,
    batch_size: BatchSize = 32,
    seed: Seed = 0,
    precision: Precision = "auto",
    table: Annotated[str | Path | Latency | None, COST] = None,
    out: OutputPath | None = None,
    overwrite: Overwrite = False,
) -> "Plan":
    """Show which units of a model can go within a budget; the model is not touched.

    One of a budget, a shape, and method vocabulary says how much goes.

    Args:
        model: Model directory or hub name, or a model (then with its `tokenizer`).
        budget: What may stay: up to 1 a part of the model's cost, else parameters or operations.
        axes: What may be cut: heads and feed-forward units, or all axes where these do not reach the budget (auto);
            all, h, f, a (schuBERT's variants); or a list such as ffn,hidden.
        method: How units are ranked; alternate, top, bottom and similarity drop layers, vocabulary unused tokens.
        shape: A published shape of BERT-base (2005.06628), its units ranked by magnitude.
        min_count: Of method vocabulary: how often a token occurs in the texts, at least, to stay.
        data: Table of the task's texts; the loss task needs labels.
        texts: Texts of the task, one a line; labels are not needed.
        columns: Which column is what: text=sentence (also label, text_pair).
        tokenizer: Of a model that is given as an object.
        cost: What the budget counts: params, flops (of one text), or latency, measured on this machine.
        loss: What the alphas learn from: distill (stay close to the model), task (labels), or mlm.
        rounds: Of learning, cutting and recovering, each by an equal part.
        steps: Steps of learning the alphas, in each round.
        lr: Learning rate of the alphas.
        gamma: Weight of the alphas' L1 penalty; chosen by the budget where left out.
        rounding: Sizes are multiples of this; auto as this machine's latencies advise.
        length: Tokens of the text that operations and latency are of.
        pooling: Makes an embedding model of an encoder alone; others say it themselves.
        max_length: Longest text in tokens.
        batch_size: Texts in a step.
        seed: Seed of every random choice.
        precision: Arithmetic of the training: bf16 where the machine has it (auto), fp32 or bf16.
        table: File of latencies measured before; for cost latency written where missing.
        out: File to write the plan to, to look at and edit.
        overwrite: Replace the file.

    Returns:
        The plan, which prints, and travels as JSON.

    Raises:
        PlanError: a budget that cannot be met, an axis or a shape that the model does not have.
        RecipeError: an option that the schema does not know.
        ModelError, DataError, TrainingError: see the functions that this one calls.

    Examples:
        attar plan teacher --budget 0.6 --texts texts.txt --out plan.json

        attar plan teacher --budget 0.5 --cost latency --table here.json --texts texts.txt
    """
    from attar.pruning.pipeline import plan as work

    options = options_of(plan, locals())
    return work(
        model,
        data=data,
        texts=texts,
        columns=columns,
        tokenizer=tokenizer,
        options=options,
        precision=precision,
        out=out,
        overwrite=overwrite,
    )
