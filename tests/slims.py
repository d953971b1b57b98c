"""Tiny models with every head, what of them may stay, and slim ones that were cut from them."""

import inspect
from functools import cache

import torch
import transformers
from hypothesis import assume
from hypothesis import strategies as st
from transformers import PreTrainedModel

import tiny
from attar.anatomy.families import ENCODERS
from attar.anatomy.form import Form, form_of
from attar.anatomy.parts import Anatomy
from attar.anatomy.resolve import family as family_of
from attar.model.modeling_slim import HEADS
from attar.pruning.apply import apply
from attar.pruning.units import Kept, KeptLayer, everything


def kind(family: str, head: str) -> type[PreTrainedModel] | None:
    """The stock class of a family with a head, as transformers names them."""
    name = tiny.CONFIGS[family][0].__name__.removesuffix("Config")
    return getattr(transformers, name + head, None)


ALL = [(family, head) for family in ENCODERS for head in HEADS if kind(family, head)]


@cache
def model(family: str, head: str = "ForSequenceClassification", seed: int = 0, **changes) -> PreTrainedModel:
    """A random model, the same for the same seed, with biases and gains that a mistake would show in; not to change."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = kind(family, head)(tiny.config(family, **changes)).eval()
        for parameter in made.parameters():
            if parameter.ndim == 1:
                parameter.data += 0.1 * torch.randn_like(parameter)
    return made


def uneven(form: Form, anatomy: Anatomy) -> Kept:
    """Fewer of everything; of layer n one head more than of layer n + 1 where layers may differ."""
    hidden = tuple(range(1, form.hidden, 2))[:11]
    layers = tuple(
        KeptLayer(
            n,
            tuple(range(3 if anatomy.shared else 3 - n)),
            tuple(range(x.key)) if _whole(anatomy, "key") else tuple(range(1, x.key)),
            tuple(range(2, x.value)),
            tuple(range(3 if anatomy.shared else n, x.ffn)),
        )
        for n, x in enumerate(form.layers)
    )
    embedding = tuple(range(form.embedding)) if anatomy.sizes.embedding else hidden
    return Kept(hidden, embedding, tuple(range(form.vocab)), layers)


def slim(family: str, head: str = "ForSequenceClassification", **changes) -> PreTrainedModel:
    """A slim model of two layers."""
    whole = model(family, head, **changes)
    return apply(whole, uneven(form_of(whole.config), ENCODERS[family]))


@st.composite
def kepts(draw, config) -> Kept:
    """Any `Kept` that `apply` takes for a model of a config; all of the vocabulary stays."""
    form, anatomy = form_of(config), family_of(config.model_type)

    def some(size: int, least: tuple[int, ...] = ()) -> tuple[int, ...]:
        units = st.sets(st.integers(0, size - 1), min_size=0 if least else 1)
        return tuple(sorted(draw(units) | set(least)))

    def layer(number: int) -> KeptLayer:
        x = form.layers[number]
        key = tuple(range(x.key)) if _whole(anatomy, "key") else some(x.key)
        return KeptLayer(number, some(x.heads), key, some(x.value), some(x.ffn))

    count = len(form.layers)
    if anatomy.shared:
        one = layer(0)
        layers = tuple(KeptLayer(n, one.heads, one.key, one.value, one.ffn) for n in range(count))
    else:
        layers = tuple(layer(n) for n in some(count, (0,) if anatomy.pre_norm else ()))
    hidden = some(form.hidden)
    embedding = some(form.embedding) if anatomy.sizes.embedding else hidden
    # Stock ELECTRA has a matrix between embedding and layers only where their sizes differ.
    assume(anatomy.name != "electra" or len(hidden) != len(embedding))
    return Kept(hidden, embedding, everything(form).vocab, layers)


def _whole(anatomy: Anatomy, axis: str) -> bool:
    return axis in dict(anatomy.uncut)


@cache
def texts(family: str) -> dict[str, torch.Tensor]:
    """A batch of texts of unequal lengths."""
    return next(iter(tiny.batches(tiny.texts(6), family, batch_size=6))).inputs


def inputs(of: PreTrainedModel, family: str) -> dict[str, torch.Tensor]:
    """`texts`, as far as a model takes them."""
    known = inspect.signature(of.forward).parameters
    return {name: value for name, value in texts(family).items() if name in known}
