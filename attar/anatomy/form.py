"""The form of an encoder: every size of every layer, and which axis of it each dimension of each weight lies along."""

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from attar.anatomy.parts import Anatomy
from attar.anatomy.resolve import Bound, family, layer_sizes, resolve, shape_of
from attar.errors import ModelError


@dataclass(frozen=True)
class LayerForm:
    """Sizes of one layer: heads a, key size k and value size v of a head, feed-forward size f."""

    heads: int
    key: int
    value: int
    ffn: int


@dataclass(frozen=True)
class Form:
    """Sizes of an encoder; `embedding` equals `hidden` where the embedding is not factorised.

    ALBERT's one layer stands once in `layers` for each time that it runs.
    """

    hidden: int
    embedding: int
    vocab: int
    layers: tuple[LayerForm, ...]

    def stock(self, anatomy: Anatomy) -> bool:
        """Whether a stock config of the family can say it: layers alike, heads that make up the hidden size."""
        first = self.layers[0]
        alike = all(layer == first for layer in self.layers)
        whole = first.key == first.value and first.heads * first.key == self.hidden
        even = not any(axis == "key" for axis, _ in anatomy.uncut) or first.key % 2 == 0
        return alike and whole and even


def form_of(config: Any) -> Form:
    """The form that a config says, stock or slim.

    Raises:
        ModelError: the config of a decoder, which attar does not prune.
    """
    _encoder(family(config.model_type))
    shape = shape_of(config)
    layers = tuple(LayerForm(*sizes) for sizes in layer_sizes(config))
    return Form(shape.hidden, shape.embedding, shape.vocab, layers)


# A dimension of a weight is one axis, or several end to end (a fused qkv matrix, the two halves of a gated FFN).
# Axes: hidden, embedding, vocab; of a layer query (heads x key), value (heads x value), ffn; "-" is never cut.
Dimension = tuple[str, ...]


@dataclass(frozen=True)
class Slot:
    """A weight and what its dimensions are: `layer` is None outside the layers, `dims` one entry a dimension."""

    name: str
    layer: int | None
    dims: tuple[Dimension, ...]


def slots(model: PreTrainedModel) -> tuple[Slot, ...]:
    """What every weight of a model's state dict lies along.

    Raises:
        ModelError: the anatomy of the family does not say it of some weight; cutting around it would break the model;
            or the model is a decoder, which attar does not prune.
    """
    bound = resolve(model)
    _encoder(bound.anatomy)
    dims = _dims(bound)
    found, unknown = [], []
    for name, tensor in model.state_dict().items():
        module, _, kind = name.rpartition(".")
        if module in dims and kind in {"weight", "bias"}:
            layer, axes = dims[module]
            # A bias lies along the outputs, and so does the gain of a norm.
            found.append(Slot(name, layer, axes if tensor.ndim == len(axes) else axes[:1]))
        else:
            unknown.append(name)
    if unknown:
        raise ModelError(
            expected=f"every weight of a {bound.anatomy.name} model to be one that attar knows how to cut",
            found=", ".join(unknown[:4]) + ("…" if unknown[4:] else ""),
            fix=f"name it in the literal of {bound.anatomy.name} in anatomy/families.py",
        )
    return tuple(found)


def _encoder(anatomy: Anatomy) -> None:
    if anatomy.causal:
        raise ModelError(
            expected="an encoder (BERT and its kin) to prune",
            found=f"{anatomy.name}, a decoder",
            fix="distil a smaller student from it instead, with fewer layers or of another width",
        )


def factorised(bound: Bound) -> bool:
    """Whether a matrix stands between embedding and hidden states."""
    path = bound.anatomy.embedding_projection.split(".")
    module: Any = bound.base
    for name in path:
        module = getattr(module, name, None) if name else None
    return module is not None


def _dims(bound: Bound) -> dict[str, tuple[int | None, tuple[Dimension, ...]]]:
    """Module name -> (layer, axes of its weight)."""
    a, base = bound.anatomy, "" if bound.base is bound.model else bound.model.base_model_prefix + "."
    width = "embedding" if factorised(bound) else "hidden"
    outside = [
        (base + a.word_embeddings, f"vocab {width}"),
        (base + a.position_embeddings, f"- {width}"),
        (base + a.type_embeddings, f"- {width}"),
        (base + a.embedding_norm, width),
        (base + a.embedding_projection, "hidden embedding"),
        (base + a.final_norm, "hidden"),
        (base + a.pooler, "hidden hidden"),
        *a.tail,
    ]
    found: dict[str, tuple[int | None, tuple[Dimension, ...]]] = {}
    for path, axes in outside:
        if path and not path.endswith("."):
            found[path] = (None, tuple((width if x == "embedding" else x,) for x in axes.split()))
    # An embedding model's Dense layers: the first reads what each mode of pooling makes of the hidden states.
    for n in range(len(getattr(bound.model, "dense", ()))):
        modes = len(bound.model.config.sentence_embedding["pooling"])
        found[f"dense.{n}"] = (None, (("-",), ("hidden",) * modes if n == 0 else ("-",)))
    wide: dict[str, Dimension] = {"query": ("query",), "key": ("query",), "value": ("value",)}
    if a.fused_qkv:
        wide = {"query": ("query", "query", "value")}
    inner: Dimension = ("ffn", "ffn") if a.gated_ffn else ("ffn",)
    inside: dict[str, tuple[Dimension, ...]] = {
        **{part: (out, ("hidden",)) for part, out in wide.items()},
        "attention_out": (("hidden",), ("value",)),
        "attention_norm": (("hidden",),),
        "ffn_in": (inner, ("hidden",)),
        "ffn_out": (("hidden",), ("ffn",)),
        "ffn_norm": (("hidden",),),
    }
    for layer in range(1 if a.shared else bound.shape.layers):
        for part, axes_ in inside.items():
            found[f"{base}{a.layers}.{layer}.{getattr(a, part)}"] = (layer, axes_)
    return found


def modules(model: PreTrainedModel) -> dict[str, tuple[nn.Module, int | None, tuple[Dimension, ...]]]:
    """Every module of a model that has weights to cut: name -> (module, layer, axes of its weight)."""
    bound = resolve(model)
    _encoder(bound.anatomy)
    dims, there = _dims(bound), dict(model.named_modules())
    return {name: (there[name], *dims[name]) for name in dims if name in there and _weighted(there[name])}


def _weighted(module: nn.Module) -> bool:
    return getattr(module, "weight", None) is not None
