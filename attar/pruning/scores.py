"""Scores of units without learning anything: magnitude, first-order Taylor, activations; and which layers to drop."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from attar.anatomy.form import Dimension, Form, Slot, form_of, modules, slots
from attar.data.batches import Batch
from attar.errors import PlanError
from attar.model.views import Need, call
from attar.pruning.alphas import Alphas, alphas_for, gated
from attar.pruning.selection import Cost, Scores, above
from attar.pruning.units import Kept, everything

Drop = Literal["alternate", "top", "bottom", "similarity"]


@torch.no_grad()
def magnitude(model: PreTrainedModel, axes: Sequence[str]) -> Scores:
    """The L2 norm of all weights that vanish with a unit; comparable inside one axis of one layer only."""
    sums = alphas_for(model, axes)
    for group in sums.parameters():
        group.zero_()
    state = model.state_dict()
    for slot in _once(model):
        squares = state[slot.name].float().square()
        for axis, dimension in enumerate(slot.dims):
            others = [i for i in range(squares.ndim) if i != axis]
            _add(sums, dimension, slot.layer, squares.sum(others) if others else squares)
    return _root(sums)


def taylor(
    model: PreTrainedModel, axes: Sequence[str], batches: Iterable[Batch], loss: Callable[[Batch], Tensor]
) -> Scores:
    """|sum over the unit's weights of weight x gradient|, averaged over batches (Molchanov et al. 1906.10771, eq. 8).

    That sum is the gradient of the loss in the unit's alpha at 1, so the alphas measure it and no weight needs a
    gradient.

    Args:
        loss: of a batch, through `model`.
    """
    alphas = alphas_for(model, axes)
    sums = [torch.zeros_like(a) for a in alphas.parameters()]
    count = 0
    with gated(model, alphas), frozen(model):
        for batch in batches:
            gradients = torch.autograd.grad(loss(batch), list(alphas.parameters()), allow_unused=True)
            sums = [s if g is None else s + g.abs() for s, g in zip(sums, gradients, strict=True)]
            count += 1
    with torch.no_grad():
        for group, total in zip(alphas.parameters(), sums, strict=True):
            group.copy_(total / max(1, count))
    return alphas.scores()


@torch.no_grad()
def activation(model: PreTrainedModel, axes: Sequence[str], batches: Iterable[Batch]) -> Scores:
    """Root mean square of what a unit puts out over real tokens: the outputs of the matrices that it is a row of.

    A hidden unit is seen where norms put it out; comparable inside one axis of one layer only.
    """
    sums = alphas_for(model, axes)
    for group in sums.parameters():
        group.zero_()
    mask: dict[str, Tensor] = {}

    def seen(dimension: Dimension, layer: int | None) -> Any:
        def hook(_: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
            if out.shape[:2] == mask["mask"].shape:
                _add(sums, dimension, layer, out[mask["mask"]].float().square().sum(0))

        return hook

    handles = []
    for module, layer, dims in modules(model).values():
        norm = isinstance(module, nn.LayerNorm)
        if (
            (norm or dims[0] != ("hidden",))
            and dims[0] != ("vocab",)
            and not isinstance(module, nn.Embedding)
        ):
            handles.append(module.register_forward_hook(seen(dims[0], layer)))
    try:
        for batch in batches:
            mask["mask"] = batch.mask
            call(model, batch.inputs)
    finally:
        for handle in handles:
            handle.remove()
    return _root(sums)


def drop_layers(
    model: PreTrainedModel,
    how: Drop,
    cost: Cost,
    budget: float,
    *,
    batches: Iterable[Batch] = (),
) -> Kept:
    """Keep as many whole layers as the budget allows.

    Args:
        how: "alternate" keeps layers spread evenly (every second of twelve, as DistilBERT does), "top" drops the last,
            "bottom" the first, "similarity" those whose output is most like their input (by cosine, over `batches`).

    Raises:
        PlanError: see `fitting_layers`.
    """
    form = form_of(model.config)
    whole = everything(form)
    total = len(whole.layers)

    def keep(chosen: Sequence[int]) -> Kept:
        return Kept(
            whole.hidden, whole.embedding, whole.vocab, tuple(whole.layers[i] for i in sorted(chosen))
        )

    count = fitting_layers(form, cost, budget)
    if how == "top":
        return keep(range(count))
    if how == "bottom":
        return keep(range(total - count, total))
    if how == "alternate":
        return keep([(i * total) // count for i in range(count)])
    alike = similarity(model, batches)
    return keep(torch.argsort(alike)[:count].tolist())


def fitting_layers(form: Form, cost: Cost, budget: float) -> int:
    """How many of a model's layers fit into a budget; all cost alike.

    Raises:
        PlanError: not even one, or the budget is above the model.
    """
    costs = [cost(replace(form, layers=form.layers[:n])) for n in range(1, len(form.layers) + 1)]
    if budget < costs[0]:
        raise PlanError(
            expected=f"a budget of at least {costs[0]:.4g} ({costs[0] / costs[-1]:.1%} of the model): one layer",
            found=f"{budget:.4g} ({budget / costs[-1]:.1%})",
            fix="raise the budget, or cut other axes than layers",
        )
    if budget > costs[-1]:
        raise above(costs[-1], budget)
    return max(n for n, one in enumerate(costs, start=1) if one <= budget)


@torch.no_grad()
def similarity(model: PreTrainedModel, batches: Iterable[Batch]) -> Tensor:
    """(L,) mean cosine between what enters a layer and what leaves it, over real tokens."""
    count = len(form_of(model.config).layers)
    sums, tokens = torch.zeros(count), 0
    need = Need(hidden=frozenset(range(count + 1)))
    for batch in batches:
        hidden = call(model, batch.inputs, need).hidden
        sums += torch.stack(
            [
                F.cosine_similarity(hidden[n].float(), hidden[n + 1].float(), dim=-1).sum()
                for n in range(count)
            ]
        ).cpu()
        tokens += len(hidden[0])
    return sums / max(1, tokens)


def per_cost(scores: Scores, betas: Sequence[float]) -> Scores:
    """Scores for each unit of cost; `betas` as `attar.pruning.alphas.betas` gives them."""
    given = iter(betas)

    def divided(values: Tensor) -> Tensor:
        return values / max(next(given), 1e-12)

    shared = {axis: divided(values) for axis, values in scores.shared.items()}
    return Scores(shared, tuple({axis: divided(v) for axis, v in layer.items()} for layer in scores.layers))


def _once(model: PreTrainedModel) -> list[Slot]:
    """The slots of weights, a tied one once."""
    seen: set[int] = set()
    found = []
    state = model.state_dict()
    for slot in slots(model):
        if state[slot.name].data_ptr() not in seen:
            seen.add(state[slot.name].data_ptr())
            found.append(slot)
    return found


def _add(sums: Alphas, dimension: Dimension, layer: int | None, values: Tensor) -> None:
    """Add values along a dimension of a weight to the units that they belong to."""
    start = 0
    for axis in dimension:
        if axis in {"-", "vocab"}:
            return
        size = sums._size(axis, layer)
        part = values[start : start + size].to(torch.float32)
        start += size
        if axis in {"hidden", "embedding"}:
            if axis in sums.outer:
                sums.outer[axis] += part
            continue
        assert layer is not None
        own = cast(Any, sums.layers[layer])
        if axis == "ffn":
            if "ffn" in own:
                own["ffn"] += part
            continue
        table = part.view(sums.form.layers[layer].heads, -1)
        inside = "key" if axis == "query" else "value"
        if "heads" in own:
            own["heads"] += table.sum(1)
        if inside in own:
            own[inside] += table.sum(0)


@torch.no_grad()
def _root(sums: Alphas) -> Scores:
    for group in sums.parameters():
        group.sqrt_()
    return sums.scores()


class frozen:  # noqa: N801  # reads as a statement
    """Parameters of a model without gradients inside the block."""

    def __init__(self, model: nn.Module) -> None:
        self.parameters = [p for p in model.parameters() if p.requires_grad]

    def __enter__(self) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(False)

    def __exit__(self, *error: object) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(True)
