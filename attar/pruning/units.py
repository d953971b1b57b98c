"""Units: slices that vanish together. What stays of a model is a `Kept`, and a `Kept` indexes every weight."""

from dataclasses import dataclass

import torch
from torch import Tensor

from attar.anatomy.form import Dimension, Form, LayerForm, Slot

Numbers = tuple[int, ...]


@dataclass(frozen=True)
class KeptLayer:
    """What stays of layer `layer` of the source: unit numbers from 0; key and value are dimensions inside a head."""

    layer: int
    heads: Numbers
    key: Numbers
    value: Numbers
    ffn: Numbers


@dataclass(frozen=True)
class Kept:
    """What stays of a model; a unit is named by its number in the source.

    A hidden unit is one dimension of the residual stream: its column or row in every matrix of every layer, of the
    embedding, the pooler and the heads, and its entry in every norm. `embedding` equals `hidden` where the embedding is
    not factorised.
    """

    hidden: Numbers
    embedding: Numbers
    vocab: Numbers
    layers: tuple[KeptLayer, ...]

    @property
    def form(self) -> Form:
        """The sizes of what stays."""
        layers = tuple(LayerForm(len(x.heads), len(x.key), len(x.value), len(x.ffn)) for x in self.layers)
        return Form(len(self.hidden), len(self.embedding), len(self.vocab), layers)

    def after(self, first: "Kept") -> "Kept":
        """This, made for the model that `first` leaves, in the numbers of the model that `first` was made for."""

        def through(ours: Numbers, theirs: Numbers) -> Numbers:
            return tuple(theirs[i] for i in ours)

        layers = []
        for own in self.layers:
            old = first.layers[own.layer]
            names = ("heads", "key", "value", "ffn")
            layers.append(KeptLayer(old.layer, *(through(getattr(own, n), getattr(old, n)) for n in names)))
        return Kept(
            through(self.hidden, first.hidden),
            through(self.embedding, first.embedding),
            through(self.vocab, first.vocab),
            tuple(layers),
        )


def everything(form: Form) -> Kept:
    """The `Kept` of a model that nothing is cut from."""
    layers = tuple(
        KeptLayer(i, *(tuple(range(n)) for n in (x.heads, x.key, x.value, x.ffn)))
        for i, x in enumerate(form.layers)
    )
    hidden, embedding, vocab = (tuple(range(n)) for n in (form.hidden, form.embedding, form.vocab))
    return Kept(hidden, embedding, vocab, layers)


class Indexer:
    """Which rows and columns of each weight stay."""

    def __init__(self, source: Form, kept: Kept) -> None:
        self.source, self.kept = source, kept
        self.place = {layer.layer: n for n, layer in enumerate(kept.layers)}

    def take(self, slot: Slot, tensor: Tensor) -> Tensor:
        """What stays of a weight."""
        for axis, dimension in enumerate(slot.dims):
            rows = self.rows(dimension, slot.layer)
            if rows is not None:
                tensor = tensor.index_select(axis, rows.to(tensor.device))
        return tensor.clone()

    def rows(self, dimension: Dimension, layer: int | None) -> Tensor | None:
        """Indexes along a dimension; None where all of it stays."""
        found, offset = [], 0
        for axis in dimension:
            rows, size = self._axis(axis, layer)
            if rows is None:
                return None
            found.append(rows + offset)
            offset += size
        rows = torch.cat(found)
        return None if len(rows) == offset else rows

    def mask(self, dimension: Dimension, layer: int | None, size: int) -> Tensor:
        """(size,), 1 where a unit stays and 0 where it goes."""
        rows = self.rows(dimension, layer)
        if rows is None:
            return torch.ones(size)
        return torch.zeros(size).index_fill(0, rows, 1.0)

    def _axis(self, axis: str, layer: int | None) -> tuple[Tensor | None, int]:
        """Indexes along one axis, and its size in the source."""
        if axis == "-":
            return None, 0
        if layer is None:
            return torch.tensor(getattr(self.kept, axis)), getattr(self.source, axis)
        if axis == "hidden":
            return torch.tensor(self.kept.hidden), self.source.hidden
        own, size = self.kept.layers[self.place[layer]], self.source.layers[layer]
        if axis == "ffn":
            return torch.tensor(own.ffn), size.ffn
        inside, width = (own.key, size.key) if axis == "query" else (own.value, size.value)
        rows = torch.tensor(own.heads)[:, None] * width + torch.tensor(inside)[None, :]
        return rows.flatten(), size.heads * width
