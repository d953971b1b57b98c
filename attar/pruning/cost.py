"""What a form costs without making the model: counted, or looked up in a table of times."""

from collections import Counter
from itertools import product
from math import prod
from pathlib import Path
from typing import Literal, Protocol

from transformers import PreTrainedModel

from attar.anatomy.form import Dimension, Form, slots
from attar.anatomy.resolve import resolve
from attar.evaluation.counting import flops_by_module
from attar.pruning.latency import Latency

# How often each product of axes is in a sum: {("ffn", "hidden"): 2, ("hidden",): 1} is 2 f h + h.
Terms = Counter[tuple[str, ...]]


class CostModel(Protocol):
    """What a form costs: parameters, operations or seconds."""

    def __call__(self, form: Form, /) -> float:
        """The cost of a form."""
        ...


class Parameters:
    """How many parameters a model of a form has, exactly: tied weights count once, and so does ALBERT's layer."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._shared = resolve(model).anatomy.shared
        self._counted = _Counted()
        weights = dict(model.named_parameters())  # a weight of two names has the first of them here
        for slot in slots(model):
            if slot.name in weights:
                self._counted.add(slot.layer, _terms(slot.dims, tuple(weights[slot.name].shape)))

    def __call__(self, form: Form, /) -> int:
        """Number of parameters."""
        return self._counted(form, runs=1 if self._shared else len(form.layers))

    def weight_bytes(self, form: Form) -> int:
        """Bytes of the weights in fp32."""
        return 4 * self(form)


class Operations:
    """Operations of one call on one text, exactly what `flops` counts: 2 x the multiply-adds of matrix products.

    Args:
        model: that forms are of; on how many tokens each layer of its head is called, one or all, is counted on it.
        length: tokens of the text, T.
    """

    def __init__(self, model: PreTrainedModel, length: int = 128) -> None:
        self.length = length
        self._counted = _Counted()
        weights, done = model.state_dict(), flops_by_module(model, 1, length)
        for slot in slots(model):
            module, _, kind = slot.name.rpartition(".")
            if kind == "weight" and done.get(module):
                shape = tuple(weights[slot.name].shape)
                # A layer that all share was called for each of its places, and is counted at each of them.
                tokens = length if slot.layer is not None else round(done[module] / (2 * prod(shape)))
                self._counted.add(slot.layer, _terms(slot.dims, shape, times=2 * tokens))
        for terms in self._counted.layers.values():  # the scores, and the sums of the values that they weigh
            terms.update({("query",): 2 * length**2, ("value",): 2 * length**2})

    def __call__(self, form: Form, /) -> float:
        """2 x the multiply-adds of all matrix products."""
        return float(self._counted(form, runs=len(form.layers)))


def cost_model(
    name: Literal["params", "flops", "latency"],
    model: PreTrainedModel,
    *,
    length: int = 128,
    threads: int | None = None,
    table: Latency | str | Path | None = None,
) -> CostModel:
    """What forms of a model cost, in the unit of that name: parameters, operations or seconds of one call.

    Args:
        name: of the cost.
        model: that forms are of.
        length: tokens per text, for operations and latency.
        threads: that compute, for latency; torch's present number where None.
        table: for latency, one that was measured, or its file; one is measured now where None.

    Raises:
        PlanError: the table is of another model, call or machine.
    """
    if name == "params":
        return Parameters(model)
    if name == "flops":
        return Operations(model, length)
    if table is None:
        return Latency.measure(model, length=length, threads=threads)
    if isinstance(table, Latency):
        table.check(model, length=length, threads=threads)
        return table
    return Latency.read(table, model, length=length, threads=threads)


class _Counted:
    """A sum of products of sizes: some that all layers share, some of each layer.

    Layers have the same weights wherever they stand but for the first (ModernBERT's has no norm before its attention),
    and that one always stays.
    """

    def __init__(self) -> None:
        self.outside: Terms = Counter()
        self.layers: dict[int, Terms] = {}

    def add(self, layer: int | None, terms: Terms) -> None:
        """Add the terms of one weight."""
        (self.outside if layer is None else self.layers.setdefault(layer, Counter())).update(terms)

    def __call__(self, form: Form, *, runs: int) -> int:
        """The sum for a form of which the first `runs` layers count."""
        shared = {"hidden": form.hidden, "embedding": form.embedding, "vocab": form.vocab}
        total = _sum(self.outside, shared)
        for place, layer in enumerate(form.layers[:runs]):
            wide = {"query": layer.heads * layer.key, "value": layer.heads * layer.value, "ffn": layer.ffn}
            total += _sum(self.layers[min(place, len(self.layers) - 1)], {"hidden": form.hidden, **wide})
        return total


def _sum(terms: Terms, sizes: dict[str, int]) -> int:
    return sum(count * prod([sizes[axis] for axis in axes]) for axes, count in terms.items())


def _terms(dims: tuple[Dimension, ...], shape: tuple[int, ...], *, times: int = 1) -> Terms:
    """The size of a weight; dimensions that nothing cuts are factors, those of several axes are sums."""
    cut = [axes for axes in dims if axes != ("-",)]
    uncut = prod([size for size, axes in zip(shape, dims, strict=True) if axes == ("-",)])
    alike = Counter(tuple(sorted(axes)) for axes in product(*cut))
    return Counter({axes: times * uncut * count for axes, count in alike.items()})
