"""Bind a family's facts to a model, and check every one of them before anybody relies on it."""

from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from attar.anatomy.families import FAMILIES, STATIC
from attar.anatomy.parts import Anatomy
from attar.errors import ModelError


@dataclass(frozen=True)
class Shape:
    """The sizes of a model; `embedding` equals `hidden` where the embedding is not factorised.

    Of a slim model, whose layers differ, `heads` and `ffn` are the largest, and `each` has the sizes of every layer.

    Attributes:
        group: query heads that share one head of keys and values.
        own_head_dim: the size of a head, where the config says another than hidden / heads.
    """

    layers: int
    hidden: int
    heads: int
    ffn: int
    embedding: int
    vocab: int
    each: tuple[tuple[int, int, int, int], ...] = ()
    group: int = 1
    own_head_dim: int | None = None

    @property
    def head_dim(self) -> int:
        """Width of one head of a stock model."""
        return self.own_head_dim or self.hidden // self.heads

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values of a stock model."""
        return self.heads // self.group

    def layer(self, number: int) -> tuple[int, int, int, int]:
        """Heads, key size, value size and feed-forward size of a layer, counted from 1."""
        even = (self.heads, self.head_dim, self.head_dim, self.ffn)
        return self.each[number - 1] if self.each else even


@dataclass(frozen=True)
class Bound:
    """A family's anatomy bound to one model."""

    anatomy: Anatomy
    model: PreTrainedModel
    shape: Shape

    @property
    def base(self) -> nn.Module:
        """The model without its head."""
        base: nn.Module = self.model.base_model
        return base

    def at(self, path: str, layer: int | None = None) -> nn.Module | None:
        """The module at a path of the anatomy, in a layer where one is given; None for an empty path."""
        if not path:
            return None
        if layer is None:
            return _find(self.base, path)
        group, inner = self.place(layer)
        layers = _find(
            self.base, self.anatomy.layers.replace(".0.", f".{group}.") if group else self.anatomy.layers
        )
        return _find(layers[inner], path)  # type: ignore[index]

    def place(self, layer: int) -> tuple[int, int]:
        """The group that a layer is in, and its number there: where those of two layers are equal, they are one."""
        if not self.anatomy.shared:
            return 0, layer
        config, sizes = self.model.config, self.anatomy.sizes
        step, inner = divmod(layer, getattr(config, sizes.inner))
        # As the model reckons it, rounding included.
        return int(step / (getattr(config, sizes.layers) / getattr(config, sizes.groups))), inner


def family(model_type: str) -> Anatomy:
    """The anatomy of a family; a slim model ("slim-bert") is one of its family.

    Raises:
        ModelError: attar does not know the family; the nearest name is in the message. A static model has none.
    """
    model_type = model_type.removeprefix("slim-")
    if model_type == STATIC:
        raise ModelError(
            expected="a model with layers",
            found="a static model: a vector for each token, and no layer to cut or to learn from",
            fix="name the model that it was made of; a static model goes through evaluate, compare, bench, export, "
            "dimensions, mine and finetune",
        )
    if model_type not in FAMILIES:
        close = get_close_matches(model_type, FAMILIES, n=1, cutoff=0.3)
        raise ModelError(
            expected=f"a model of one of the families {', '.join(FAMILIES)}",
            found=f"{model_type!r}" + (f" (nearest: {close[0]!r})" if close else ""),
            fix='add the family: CONTRIBUTING.md, "add a family"',
        )
    return FAMILIES[model_type]


def shape_of(config: Any) -> Shape:
    """The sizes that a config names."""
    sizes = family(config.model_type).sizes
    hidden, heads = getattr(config, sizes.hidden), getattr(config, sizes.heads)
    head_dim = getattr(config, sizes.head_dim, None) if sizes.head_dim else None
    return Shape(
        layers=getattr(config, sizes.layers) * (getattr(config, sizes.inner) if sizes.inner else 1),
        hidden=hidden,
        heads=heads,
        ffn=getattr(config, sizes.ffn) or 4 * hidden,  # GPT-2 may leave it out
        embedding=getattr(config, sizes.embedding) if sizes.embedding else hidden,
        vocab=config.vocab_size,
        each=_each(config),
        group=heads // getattr(config, sizes.kv_heads) if sizes.kv_heads else 1,
        own_head_dim=head_dim if head_dim and head_dim != hidden // heads else None,
    )


def resolve(model: PreTrainedModel) -> Bound:
    """Bind the family's anatomy to a model and check every path and size.

    Raises:
        ModelError: an unknown family, a path that is not there, or a matrix of another size than the config says.
    """
    anatomy = family(model.config.model_type)
    said: dict[str, Any] = {fact: bool(getattr(model.config, key)) for fact, key in anatomy.switches}
    anatomy = replace(anatomy, **said)
    bound = Bound(anatomy, model, shape_of(model.config))
    s = bound.shape
    _check(bound, "word_embeddings", (s.vocab, s.embedding))
    if bound.anatomy.output_projection and s.embedding != s.hidden:
        _check(bound, "embedding_projection", (s.hidden, s.embedding))
        _check(bound, "output_projection", (s.embedding, s.hidden))
    for layer, (heads, key, value, ffn) in enumerate(layer_sizes(model.config)):
        queries, values = heads * key, heads * value
        expected = {
            "query": (2 * queries + values if anatomy.fused_qkv else queries, s.hidden),
            "attention_out": (s.hidden, values),
            "ffn_in": (2 * ffn if anatomy.gated_ffn else ffn, s.hidden),
            "ffn_out": (s.hidden, ffn),
        }
        if not anatomy.fused_qkv:
            expected |= {"key": (queries // s.group, s.hidden), "value": (values // s.group, s.hidden)}
        if anatomy.ffn_up:
            expected["ffn_up"] = (ffn, s.hidden)
        for part, size in expected.items():
            _check(bound, part, size, layer)
    return bound


def matrix(module: Any) -> Tensor:
    """The weight of a layer as `nn.Linear` has it, outputs first: GPT-2's Conv1D has inputs first."""
    weight: Tensor = module.weight
    return weight.T if isinstance(module, Conv1D) else weight


def layer_sizes(config: Any) -> list[tuple[int, int, int, int]]:
    """Heads, key size, value size and feed-forward size of each layer that a config says, stock or slim."""
    shape = shape_of(config)
    return [shape.layer(n) for n in range(1, shape.layers + 1)]


def _each(config: Any) -> tuple[tuple[int, int, int, int], ...]:
    if not config.model_type.startswith("slim-"):
        return ()
    return tuple(
        (layer.slim_heads, layer.slim_key, layer.slim_value, layer.slim_ffn)
        for layer in config.per_layer_config
    )


def _check(bound: Bound, part: str, size: tuple[int, int], layer: int | None = None) -> None:
    path = getattr(bound.anatomy, part)
    try:
        module = bound.at(path, layer)
    except (AttributeError, IndexError, KeyError):
        module = None
    found = tuple(matrix(module).shape) if module is not None else None
    if found != size:
        where = path if layer is None else f"{bound.anatomy.layers}.{layer}.{path}"
        raise ModelError(
            expected=f"{where} of a {bound.anatomy.name} model to be {size}",
            found="no such module" if found is None else str(found),
            fix="check that the directory's weights and config.json belong together; a customised "
            'architecture needs a family of its own (CONTRIBUTING.md, "add a family")',
        )


def _find(module: nn.Module, path: str) -> nn.Module:
    for name in path.split("."):
        module = getattr(module, name)
    return module
