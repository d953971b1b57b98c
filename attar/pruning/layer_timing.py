"""Layers of many sizes, timed in turns; classes and kernels are those that will serve."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

from attar.anatomy.form import Form, LayerForm, factorised, form_of
from attar.anatomy.resolve import resolve
from attar.evaluation.timing import WARMUP, interleaved, torch_threads
from attar.model.slim import class_for, config_for

Call = Callable[[], Any]
Point = tuple[int, ...]
Inputs = dict[str, Tensor]
# Parts of the model's own sizes that are measured; in between the table is linear, as the work nearly is.
QUARTERS = (1 / 4, 1 / 2, 3 / 4, 1)
FFN = (1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8, 1)
# Neighbours of a size, for `Latency.step`: multiples of 32, of 16, of 8, and others.
NEIGHBOURS = (0, 1, 5, 8, 11, 16, 21, 24, 27, 31, 32)
FEWEST, MOST = 5, 8
FEW_TOKENS = 16


@dataclass(frozen=True)
class MeasuredSizes:
    """The sizes at which layers are measured, and the sizes of the largest layer of the model."""

    form: Form
    full: LayerForm
    hidden: Point
    heads: Point
    head: Point
    ffn: Point
    factorised: bool
    rotary: bool

    def layer(self, heads: int = 1, size: int = 0, ffn: int = 0) -> LayerForm:
        """A layer that is as small as any that is measured, but for what is given."""
        size = size or self.head[-1]
        return LayerForm(heads, size, size, ffn or self.ffn[0])

    def attention(self) -> Iterable[Point]:
        """(hidden, heads, size of key and value) of each layer whose attention is timed."""
        return product(self.hidden, self.heads, self.head)

    def outside(self) -> Iterable[Point]:
        """(hidden, embedding, vocab) of each model whose embedding and head are timed."""
        vocab = _parts(self.form.vocab, (1 / 2, 1))
        if self.factorised:
            return product(self.hidden, _parts(self.form.embedding, (1 / 2, 1)), vocab)
        return ((h, h, v) for h, v in product(self.hidden, vocab))

    def half(self) -> Form:
        """The model with layers of half their sizes, as far as sizes are measured."""
        h, ffn = self.hidden[len(self.hidden) // 2 - 1], self.ffn[len(self.ffn) // 2]
        layer = self.layer(self.heads[len(self.heads) // 2], ffn=ffn)
        embedding = self.form.embedding if self.factorised else h
        return Form(h, embedding, self.form.vocab, (layer,) * len(self.form.layers))

    def neighbours(self) -> dict[tuple[str, int], tuple[int, LayerForm]]:
        """(axis, size) -> hidden size and layer that are timed for that size; none of axes below 32."""
        h, full = self.form.hidden, self.full
        wide = self.layer(full.heads)
        makes: dict[str, tuple[int, Callable[[int], tuple[int, LayerForm]]]] = {
            "hidden": (h, lambda n: (n, self.layer(full.heads, ffn=full.ffn))),
            "ffn": (full.ffn, lambda n: (h, self.layer(ffn=n))),
            "value": (full.value, lambda n: (h, replace(wide, key=wide.key if self.rotary else n, value=n))),
        }
        found: dict[tuple[str, int], tuple[int, LayerForm]] = {}
        for axis, (size, make) in makes.items():
            start = max(0, (3 * size // 4 - 16) // 32 * 32)
            sizes = [start + n for n in NEIGHBOURS] if size >= 32 else []
            found |= {(axis, n): make(n) for n in sizes if 0 < n <= size}
        return found


def time_layers(
    model: PreTrainedModel, *, length: int, batch: int, threads: int, seconds: float
) -> tuple[MeasuredSizes, dict[Any, float]]:
    """Median seconds of layers of many sizes, of the whole model and of one of half its sizes.

    Returns:
        The sizes, and seconds by what was called: ("attention", hidden, heads, size), ("ffn", hidden, ffn),
        ("uneven", heads), ("outside", hidden, embedding, vocab), ("neighbour", axis, size), ("whole",), ("half",).
    """
    ids = torch.full((batch, length), FEW_TOKENS - 1)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    sizes = _sizes(model)
    with torch_threads(threads), torch.inference_mode():
        calls = _calls(model.eval(), sizes, inputs)
        return sizes, _timed(calls, seconds, cpu=threads == 1)


def _sizes(model: PreTrainedModel) -> MeasuredSizes:
    bound, form = resolve(model), form_of(model.config)
    full = LayerForm(*(max(getattr(x, k) for x in form.layers) for k in ("heads", "key", "value", "ffn")))
    return MeasuredSizes(
        form=form,
        full=full,
        hidden=_parts(form.hidden, QUARTERS),
        heads=_parts(full.heads, (0, *QUARTERS), unit=1),
        head=_parts(max(full.key, full.value), QUARTERS),
        ffn=_parts(full.ffn, FFN),
        factorised=factorised(bound),
        rotary=any(axis == "key" for axis, _ in bound.anatomy.uncut),
    )


def _parts(size: int, parts: Sequence[float], unit: int = 0) -> Point:
    """Sizes near parts of a size: multiples of 8, of 2 where it is small (rotary positions take pairs)."""
    unit = unit or (8 if size >= 32 else 2)
    near = {min(size, max(unit, round(size * part / unit) * unit)) for part in parts if part < 1}
    return tuple(sorted(near | {size}))


def _calls(model: PreTrainedModel, sizes: MeasuredSizes, inputs: Inputs) -> dict[Any, Call]:
    """All that is timed, by what it is."""

    def layer(hidden: int, own: LayerForm) -> Call:
        embedding = sizes.form.embedding if sizes.factorised else hidden
        return _layer_call(_made(model, Form(hidden, embedding, FEW_TOKENS, (own,))), inputs)

    half = _made(model, sizes.half())
    calls: dict[Any, Call] = {("whole",): partial(model, **inputs), ("half",): partial(half, **inputs)}
    for h, heads, size in sizes.attention():
        calls["attention", h, heads, size] = layer(h, sizes.layer(heads, size))
    for h, ffn in product(sizes.hidden, sizes.ffn):
        calls["ffn", h, ffn] = layer(h, sizes.layer(ffn=ffn))
    for heads in sizes.heads:
        own = replace(sizes.layer(heads), value=sizes.head[0])
        calls["uneven", heads] = layer(sizes.hidden[0], own)
    for h, embedding, vocab in sizes.outside():
        made = _made(model, Form(h, embedding, vocab, (sizes.layer(),)))
        calls["outside", h, embedding, vocab] = partial(made, **inputs)
    for (axis, n), (h, own) in sizes.neighbours().items():
        calls["neighbour", axis, n] = layer(h, own)
    return calls


def _made(model: PreTrainedModel, form: Form) -> PreTrainedModel:
    """A model of a form with weights that are nothing in particular, which no kernel minds."""
    config = config_for(model.config, form)
    if config.pad_token_id is not None:
        config.pad_token_id = 0  # its own may be beyond a small vocabulary
    with no_init_weights():
        made: PreTrainedModel = class_for(model, config)(config)
    for weight in made.parameters():
        weight.data.fill_(0.01)  # memory as it was found may hold denormal numbers, which are slow
    return made.eval()


def _layer_call(made: PreTrainedModel, inputs: Inputs) -> Call:
    """A call of a model's layer alone, with what the model hands it."""
    bound = resolve(made)
    layer: Any = bound.at(bound.anatomy.layers)
    layer, caught = layer[0], []
    hook = layer.register_forward_pre_hook(lambda _, *given: caught.append(given), with_kwargs=True)
    made(**inputs)
    hook.remove()
    args, kwargs = caught[0]
    return partial(layer, *args, **kwargs)


def _timed(calls: dict[Any, Call], seconds: float, *, cpu: bool) -> dict[Any, float]:
    """Median seconds of each call, of as many rounds as there is time for."""
    for call in calls.values():
        call()
    start = time.perf_counter()
    for call in calls.values():
        call()
    once = time.perf_counter() - start
    repeats = int(np.clip((seconds / once - WARMUP) / 2, FEWEST, MOST))
    named = {str(n): call for n, call in enumerate(calls.values())}
    clock: Any = "cpu" if cpu else "wall"
    found = interleaved(named, repeats=repeats, clock=clock, description="time layers")
    return {name: float(np.median(found[str(n)])) for n, name in enumerate(calls)}
