"""One round of pruning: score the units, choose which go, fold what was learned, cut."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import nn
from transformers import PreTrainedModel

from attar.anatomy.form import factorised, form_of
from attar.anatomy.resolve import resolve
from attar.errors import PlanError
from attar.pruning.alphas import alphas_for, betas, fold
from attar.pruning.schubert import VARIANTS, learn_alphas
from attar.pruning.scores import (
    Drop,
    activation,
    drop_layers,
    fitting_layers,
    magnitude,
    per_cost,
    taylor,
)
from attar.pruning.selection import Cost, check_budget, in_order, uniform
from attar.pruning.units import Kept
from attar.training.loop import Precision, Source

Method = Literal[
    "schubert",
    "schubert-uniform",
    "magnitude",
    "taylor",
    "activation",
    "alternate",
    "top",
    "bottom",
    "similarity",
]
# Batches that scores are measured on, where a method measures.
MEASURED = 32
ALPHAS = ("schubert", "schubert-uniform")
LOOKS = (*ALPHAS, "taylor", "activation", "similarity")  # at texts


@dataclass(frozen=True)
class Way:
    """How units are chosen: the options of one round that do not depend on the round.

    Attributes:
        method: "schubert" learns alphas and cuts the smallest wherever they are, "schubert-uniform" shrinks every
            dimension alike and uses them inside each, "taylor" ranks by first-order Taylor a unit of cost, "magnitude"
            and "activation" shrink every dimension alike; "alternate", "top", "bottom" and "similarity" drop layers.
        axes: that may be cut.
        steps, lr, gamma: of learning alphas, see `learn_alphas`.
        rounding: axis -> the sizes are multiples of this.
        fold: multiply what stays by its alphas, as the paper does. The cost has pulled those down, too, and a short
            recovery does not lift them again: without folding they only choose, and the weights are as they were.
    """

    method: Method = "schubert"
    axes: tuple[str, ...] = VARIANTS["all"]
    steps: int = 100
    lr: float = 0.02
    gamma: float | None = None
    rounding: Mapping[str, int] | None = None
    seed: int = 0
    precision: Precision = "auto"
    fold: bool = False


def axes_of(model: PreTrainedModel, wanted: str | Sequence[str]) -> tuple[str, ...]:
    """The axes of a name ("auto"; "all", "h", "f", "a": schuBERT's variants) or a list, checked against the family.

    Raises:
        PlanError: no such axis, or one that the family does not have.
    """
    bound = resolve(model)
    uncut = dict(bound.anatomy.uncut)
    if not factorised(bound):
        uncut["embedding"] = "its embedding is as wide as its hidden states, and is cut with them: hidden"
    if isinstance(wanted, str) and wanted in VARIANTS:
        return tuple(axis for axis in VARIANTS[wanted] if axis not in uncut)
    names = (wanted,) if isinstance(wanted, str) else tuple(wanted)
    for name in names:
        if name not in VARIANTS["all"]:
            raise PlanError(
                expected=f"axes among {', '.join(VARIANTS['all'])}, or one of {', '.join(VARIANTS)}",
                found=f"{name!r} (nearest: {get_close_matches(str(name), VARIANTS['all'], 1, 0.0)[0]!r})",
                fix="name others; layers are dropped by method='alternate', 'top', 'bottom' or 'similarity'",
            )
        if name in uncut:
            raise PlanError(
                expected=f"an axis that {bound.anatomy.name} has",
                found=f"{name}: {uncut[name]}",
                fix="leave it out, or choose axes='all'",
            )
    return names


def check(model: PreTrainedModel, way: Way, cost: Cost, budget: float) -> None:
    """Refuse what cannot be done, before anything is learned.

    Raises:
        PlanError: a budget that cannot be met, or layers to drop in a family that has only one.
    """
    form, anatomy = form_of(model.config), resolve(model).anatomy
    if way.method not in get_args(Drop):
        check_budget(form, alphas_for(model, way.axes).scores(), cost, budget, steps=way.rounding)
    elif anatomy.shared:
        raise PlanError(
            expected="a family whose layers can be dropped",
            found=f"{anatomy.name}: {dict(anatomy.uncut)['layers']}",
            fix="cut other axes (method='schubert'), or distil into fewer layers (attar distill --layers)",
        )
    else:
        fitting_layers(form, cost, budget)


def choose(
    model: PreTrainedModel,
    way: Way,
    cost: Cost,
    budget: float,
    *,
    loss: nn.Module | None = None,
    batches: Source | None = None,
    checkpoint: Path | None = None,
) -> tuple[Kept, PreTrainedModel]:
    """Choose what stays, at a cost of at most `budget`.

    Args:
        loss: named loss parts of a batch, through `model`; methods that learn need it.
        batches: texts, for methods that look at them.

    Returns:
        What stays, and the model to cut: the model itself, into which learned alphas are folded where `way` says so.

    Raises:
        PlanError: a budget that cannot be met. TrainingError: alphas diverge.
    """
    form = form_of(model.config)
    if way.method in get_args(Drop):
        texts = batches.epoch() if batches is not None else ()
        return drop_layers(model, way.method, cost, budget, batches=islice(texts, MEASURED)), model  # type: ignore[arg-type]
    if way.method == "magnitude":
        return uniform(form, magnitude(model, way.axes), cost, budget, steps=way.rounding), model
    assert batches is not None  # the caller asked for texts
    if way.method == "activation":
        scores = activation(model, way.axes, islice(batches.epoch(), MEASURED))
        return uniform(form, scores, cost, budget, steps=way.rounding), model
    assert loss is not None
    if way.method == "taylor":
        model.eval()
        scores = taylor(
            model,
            way.axes,
            islice(batches.epoch(), MEASURED),
            lambda batch: torch.stack(list(loss(batch).values())).sum(),
        )
        ranked = per_cost(scores, betas(alphas_for(model, way.axes), cost))
        return in_order(form, ranked, cost, budget, steps=way.rounding), model
    alphas = learn_alphas(
        model,
        way.axes,
        loss,
        batches,
        cost,
        steps=way.steps,
        lr=way.lr,
        gamma=way.gamma,
        seed=way.seed,
        precision=way.precision,
        checkpoint=checkpoint,
    )
    pick = in_order if way.method == "schubert" else uniform
    kept = pick(form, alphas.scores(), cost, budget, steps=way.rounding)
    if way.fold:
        fold(model, alphas)
    return kept, model
