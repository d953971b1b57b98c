"""Options of the stages that make a model smaller from its own weights: pruning, and sharing layers."""

from typing import Annotated, Literal

from pydantic import Field

from attar.options.base import Count, Options, Rate

# What may be cut: units of one axis, or schuBERT's variants.
Axis = Literal["hidden", "embedding", "heads", "key", "value", "ffn"]
Variant = Literal["all", "h", "f", "a"]
Loss = Literal["distill", "task", "mlm"]


class Prune(Options):
    """Options of `attar.prune`: what stays by a plan's file, a budget, a published shape, or what the texts use.

    `budget` up to 1 is a part of what the model costs in `cost`, else a number of parameters or operations. `axes` are
    schuBERT's variants, or a list. `loss` teaches the alphas, in `rounds` rounds of `steps` steps; `fold` multiplies
    them into the weights. After each cut, `reconstruct` fits what stays by least squares, and `recover_steps` steps of
    `recover` follow ("distill" stays close to the model; null for none). `rounding` makes sizes multiples of a number,
    or of what the latency `table` advises ("auto").

    A `distill` stage right after this one recovers: the model before the pruning teaches, and the pruned one is the
    student. Any other stage goes on from the pruned one.
    """

    plan: str | None = None
    budget: Annotated[float, Field(gt=0)] | None = None
    axes: Axis | Variant | Annotated[tuple[Axis, ...], Field(min_length=1)] = "all"
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
    ] = "schubert"
    shape: (
        Literal[
            "schubert-99m",
            "schubert-88m",
            "schubert-77m",
            "schubert-66m",
            "schubert-55m",
            "schubert-43m",
            "schubert-33m",
        ]
        | None
    ) = None
    cost: Literal["params", "flops", "latency"] = "params"
    loss: Loss = "distill"
    rounds: Count = 1
    steps: Count = 100
    lr: Annotated[float, Field(gt=0)] = 0.02
    gamma: Annotated[float, Field(ge=0)] | None = None
    fold: bool = False
    reconstruct: bool = True
    recover: Loss | None = "distill"
    recover_steps: Annotated[int, Field(ge=0)] = 200
    recover_lr: Rate = 5e-5
    rounding: Count | Literal["auto"] | None = None
    length: Count = 128
    max_length: Count = 128
    batch_size: Count = 32
    seed: int = 0
    table: str | None = None


class Share(Options):
    """Options of `attar.share`: one layer in place of all, of `groups` runs of neighbours, or in cycles of `groups`.

    `embedding` under the hidden size factorises the embedding. A `distill` stage right after this one recovers, as
    after `prune`: the model before teaches the one whose layers are shared.
    """

    how: Literal["all", "groups", "cycles"] = "all"
    groups: Count | None = None
    embedding: Count | None = None
    start: Literal["last", "mean"] = "last"
    seed: int = 0
