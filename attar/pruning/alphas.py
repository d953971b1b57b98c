"""schuBERT's pruning parameters: one alpha for each unit, multiplied into every matrix that the unit is a slice of."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from attar.anatomy.form import Dimension, Form, factorised, form_of, modules, slots
from attar.anatomy.resolve import resolve
from attar.pruning.selection import INSIDE, Cost, Scores


class Alphas(nn.Module):
    """One alpha for each unit of the axes that may be cut, 1 at first (2005.06628, section 4).

    alpha_h is one vector, shared by the embedding and all layers; of each layer i there are alpha_a (heads), alpha_k
    and alpha_v (dimensions inside a head, shared by its heads) and alpha_f. K and Q are multiplied by alpha_k, alpha_a
    and alpha_h, V and the output projection by alpha_v, alpha_a and alpha_h, both FFN matrices by alpha_f and alpha_h;
    the embedding, the pooler and the heads, which the paper leaves open, by alpha_h on every side that is hidden.
    Biases and norms are not multiplied.

    Args:
        form: of the model.
        axes: of "hidden", "embedding", "heads", "key", "value", "ffn"; there is no alpha for the others.
        shared: the layers are one and the same (ALBERT), and so are their alphas.
    """

    def __init__(self, form: Form, axes: Sequence[str], *, shared: bool = False) -> None:
        super().__init__()
        self.form = form
        self.outer = nn.ParameterDict()
        for axis in ("hidden", "embedding"):
            if axis in axes:
                self.outer[axis] = nn.Parameter(torch.ones(getattr(form, axis)))
        layers = form.layers[:1] if shared else form.layers
        self.layers = nn.ModuleList(
            nn.ParameterDict(
                {axis: nn.Parameter(torch.ones(getattr(layer, axis))) for axis in INSIDE if axis in axes}
            )
            for layer in layers
        )

    def along(self, dimension: Dimension, layer: int | None) -> Tensor | None:
        """(n,) alphas along a dimension of a weight; None where it has none."""
        parts = [self._axis(axis, layer) for axis in dimension]
        if all(part is None for part in parts):
            return None
        sizes = [self._size(axis, layer) for axis in dimension]
        return torch.cat([torch.ones(n) if p is None else p for p, n in zip(parts, sizes, strict=True)])

    def _axis(self, axis: str, layer: int | None) -> Tensor | None:
        if axis in {"hidden", "embedding"}:
            return self.outer[axis] if axis in self.outer else None
        if layer is None:
            return None
        own = cast(nn.ParameterDict, self.layers[layer])
        if axis == "ffn":
            return own["ffn"] if "ffn" in own else None
        inside, size = ("key" if axis == "query" else "value"), self.form.layers[layer]
        if "heads" not in own and inside not in own:
            return None
        heads = own["heads"] if "heads" in own else torch.ones(size.heads)
        dims = own[inside] if inside in own else torch.ones(getattr(size, inside))
        return torch.outer(heads, dims).flatten()

    def _size(self, axis: str, layer: int | None) -> int:
        if axis in {"hidden", "embedding"}:
            return int(getattr(self.form, axis))
        assert layer is not None
        size = self.form.layers[layer]
        return size.ffn if axis == "ffn" else size.heads * (size.key if axis == "query" else size.value)

    def scores(self) -> Scores:
        """|alpha| of each unit."""
        return Scores(
            {axis: a.detach().abs() for axis, a in self.outer.items()},
            tuple({axis: a.detach().abs() for axis, a in cast(Any, layer).items()} for layer in self.layers),
        )

    def penalty(self, betas: Sequence[float]) -> Tensor:
        """sum_j beta_j |alpha_j|, with one beta for each group of alphas, in the order of `parameters()`."""
        return torch.stack([b * a.abs().sum() for a, b in zip(self.parameters(), betas, strict=True)]).sum()


def alphas_for(model: PreTrainedModel, axes: Sequence[str]) -> Alphas:
    """The alphas of a model."""
    bound = resolve(model)
    if factorised(bound) is False:
        axes = [axis for axis in axes if axis != "embedding"]
    return Alphas(form_of(model.config), axes, shared=bound.anatomy.shared)


def betas(alphas: Alphas, cost: Cost) -> list[float]:
    """Beta of each group of alphas, in the order of `parameters()`: what one unit costs, relative to one head.

    The cost of a unit is the difference that taking an eighth of its group makes, a unit of it: costs measured on a
    machine rise in steps, and one unit alone may cost nothing. Relative to one head of the first layer of BERT-base in
    parameters: a 1.0, h 0.73, k = v 0.093, f 0.0078 (2005.06628, section 4).
    """
    form, whole = alphas.form, cost(alphas.form)

    def without(axis: str, layer: int | None) -> float:
        size: Any = getattr(form if layer is None else form.layers[layer], axis)
        gone: Any = max(1, size // 8)
        if size == gone:
            return 0.0
        if layer is None:
            less = replace(form, **{axis: size - gone})
            if axis == "hidden" and form.embedding == form.hidden and "embedding" not in alphas.outer:
                less = replace(less, embedding=size - gone)
        else:
            every = len(alphas.layers) < len(form.layers)
            less = replace(
                form,
                layers=tuple(
                    replace(x, **{axis: size - gone}) if every or n == layer else x
                    for n, x in enumerate(form.layers)
                ),
            )
        return float(max(0.0, whole - cost(less)) / gone)

    size = form.layers[0]
    one = replace(form, layers=tuple(replace(x, heads=max(1, x.heads - 1)) for x in form.layers))
    head = (whole - cost(one)) / len(form.layers) or whole / len(form.layers) / size.heads
    found = [without(axis, None) for axis in alphas.outer]
    found += [without(axis, n) for n, layer in enumerate(alphas.layers) for axis in cast(Any, layer)]
    return [value / head for value in found]


@contextmanager
def gated(model: PreTrainedModel, alphas: Alphas) -> Iterator[None]:
    """The model with its matrices multiplied by alphas, without touching them.

    What is multiplied are a matrix's inputs and outputs, not the matrix: x ↦ α_out ⊙ W(α_in ⊙ x) + b. No matrix is
    written and none needs a gradient, so a step costs less than one of fine-tuning.
    """
    reads = _Reads()
    # What was read is let go with the pass, or it would hold the batch's graph until the next.
    handles: list[Any] = [model.register_forward_hook(lambda *_: reads.clear())]
    for module, layer, dims in modules(model).values():
        if isinstance(module, nn.Embedding):
            handles.append(module.register_forward_hook(_Outputs(alphas, dims[-1], layer, None)))
        elif isinstance(module, nn.Linear):
            handles.append(module.register_forward_pre_hook(_Inputs(alphas, dims[1], layer, reads)))
            handles.append(module.register_forward_hook(_Outputs(alphas, dims[0], layer, module.bias)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Reads:
    """The last input that was multiplied: query, key and value read the same one."""

    given: Tensor | None = None
    by: tuple[str, ...] | None = None
    made: Tensor | None = None

    def clear(self) -> None:
        self.given, self.by, self.made = None, None, None


class _Inputs:
    def __init__(self, alphas: Alphas, dimension: Dimension, layer: int | None, reads: _Reads) -> None:
        self.alphas, self.dimension, self.layer, self.reads = alphas, dimension, layer, reads

    def __call__(self, _: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        alpha = self.alphas.along(self.dimension, self.layer)
        if alpha is None:
            return None
        x, reads = given[0], self.reads
        if reads.given is not x or reads.by != self.dimension:
            reads.given, reads.by, reads.made = x, self.dimension, x * alpha.to(x.dtype)
        return (cast(Tensor, reads.made),)


class _Outputs:
    def __init__(self, alphas: Alphas, dimension: Dimension, layer: int | None, bias: Tensor | None) -> None:
        self.alphas, self.dimension, self.layer, self.bias = alphas, dimension, layer, bias

    def __call__(self, _: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
        alpha = self.alphas.along(self.dimension, self.layer)
        if alpha is None:
            return out
        alpha = alpha.to(out.dtype)
        if self.bias is None:
            return out * alpha
        # The bias came with the product; it is not multiplied.
        return torch.addcmul((self.bias * (1 - alpha)).to(out.dtype), out, alpha)


@torch.no_grad()
def fold(model: PreTrainedModel, alphas: Alphas) -> None:
    """Multiply the alphas into the matrices for good: the model then computes what `gated` computed."""
    seen: set[int] = set()
    state = dict(model.named_parameters(remove_duplicate=False))
    for slot in slots(model):
        weight = state.get(slot.name)
        if weight is None or len(slot.dims) < 2 or id(weight) in seen:
            continue  # a bias, a norm, or a matrix that is tied to one that is done
        seen.add(id(weight))
        for axis, dimension in enumerate(slot.dims):
            alpha = alphas.along(dimension, slot.layer)
            if alpha is not None:
                weight.mul_(alpha[:, None] if axis == 0 else alpha[None, :])
