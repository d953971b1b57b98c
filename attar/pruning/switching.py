"""Parts of a model switched off, many at a time: hooks alone, the modelling code and the weights stay as they are."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from attar.anatomy.form import form_of
from attar.anatomy.resolve import Bound, resolve
from attar.data.batches import Batch, Batches
from attar.evaluation.quality import Array
from attar.model.views import call
from attar.progress import track

Kind = Literal["head", "attention", "ffn", "layer"]
# Tokens, padding included, that run at once: bounds what the copies of a batch take at some 200 MB of a BERT-base.
TOKENS = 8192
_WORDS = {"head": "head", "attention": "attention", "ffn": "FFN", "layer": "layer"}


@dataclass(frozen=True)
class Part:
    """What can be switched off.

    - "head": its values do not enter the output projection.
    - "attention", "ffn": the sublayer adds nothing to the residual stream, not even its bias.
    - "layer": what enters it leaves it.

    Attributes:
        kind: which of the four.
        layer: from 1; None where all layers are one (ALBERT): a head, attention or FFN is then off in every run of it,
            since it could only be cut from all, and "layer" is one run fewer, the same one whichever is left out.
        head: from 1; None for the other kinds.
    """

    kind: Kind
    layer: int | None
    head: int | None = None

    @property
    def name(self) -> str:
        """For people: "layer 3 head 7", "layer 3 FFN", "layer 3"."""
        if self.kind == "layer":
            return "one run of the layer" if self.layer is None else f"layer {self.layer}"
        where = "every layer's" if self.layer is None else f"layer {self.layer}"
        return f"{where} {_WORDS[self.kind]}" + ("" if self.head is None else f" {self.head}")


def parts_of(model: PreTrainedModel) -> tuple[Part, ...]:
    """All parts of a model: of each layer its heads, attention, FFN and the layer itself."""
    form, shared = form_of(model.config), resolve(model).anatomy.shared
    found: list[Part] = []
    for number, layer in enumerate(form.layers[: 1 if shared else None], start=1):
        place = None if shared else number
        found += [Part("head", place, head) for head in range(1, layer.heads + 1)]
        found += [Part("attention", place), Part("ffn", place), Part("layer", place)]
    return tuple(found)


@torch.inference_mode()
def logits_without(bound: Bound, batches: Batches, parts: Sequence[Part], tokens: int = TOKENS) -> Array:
    """(1 + P, N, C): logits of the whole model, then without each of P parts; `tokens` run at once, padding included.

    For each batch the layers below a part run once for all its variants, and the variants of a layer run stacked.
    """
    of_layer = [
        [n for n, part in enumerate(parts) if (part.layer or 1) == i + 1] for i in range(len(_blocks(bound)))
    ]
    shape = (1 + len(parts), len(batches.lengths), bound.model.config.num_labels)
    found = np.full(shape, np.nan, dtype=np.float32)
    steps = len(batches) * len(of_layer)
    for batch, layer, entering, whole in track(_layers(bound, batches), f"{len(parts)} parts off", steps):
        found[0, batch.index] = whole
        at_once = max(1, tokens // batch.inputs["input_ids"].numel())
        numbers = of_layer[layer]
        for start in range(0, len(numbers), at_once):
            chosen = numbers[start : start + at_once]
            off = [parts[n] for n in chosen]
            said = _without(bound, batch, layer, entering, off).cpu().numpy()
            for n, logits in zip(chosen, said, strict=True):
                found[1 + n, batch.index] = logits
    return found


def _layers(bound: Bound, batches: Batches) -> Iterator[tuple[Batch, int, Tensor, Array]]:
    """Each batch with each layer, what enters the layer there (B, T, D), and the whole model's logits (B, C)."""
    blocks = _blocks(bound)
    for batch in (batch.to(bound.model.device) for batch in batches):
        with _watched(blocks) as entering:
            whole = call(bound.model, batch.inputs).logits.float().cpu().numpy()
        for layer in range(len(blocks)):
            yield batch, layer, entering[layer], whole


@contextmanager
def _watched(blocks: nn.ModuleList) -> Iterator[list[Tensor]]:
    """What enters each layer, (B, T, D), as the model runs."""
    entering: list[Tensor] = []
    hooks = [block.register_forward_pre_hook(lambda _, given: entering.append(given[0])) for block in blocks]
    try:
        yield entering
    finally:
        for hook in hooks:
            hook.remove()


def _without(bound: Bound, batch: Batch, layer: int, entering: Tensor, off: Sequence[Part]) -> Tensor:
    """(V, B, C): logits without each of V parts of a layer, from what enters the layer (B, T, D)."""
    copies = len(off)
    inputs = {name: value.repeat(copies, 1) for name, value in batch.inputs.items()}
    with _from(bound, layer, entering.repeat(copies, 1, 1)), _off(bound, layer, off, len(entering)):
        logits = call(bound.model, inputs).logits.float()
    return logits.view(copies, len(entering), -1)


@contextmanager
def _from(bound: Bound, layer: int, entering: Tensor) -> Iterator[None]:
    """The model from a layer on: the layers below pass on what they get, and this one gets `entering` (B, T, D)."""
    blocks = _blocks(bound)
    with ExitStack() as undo:
        for block in blocks[:layer]:
            undo.callback(_shadow(block))
        if layer:  # the first gets it anyway, and one that is all layers gets it in its first run only
            hook = blocks[layer].register_forward_pre_hook(lambda _, given: (entering, *given[1:]))
            undo.callback(hook.remove)
        yield


def _shadow(block: nn.Module) -> Callable[[], None]:
    """Let one module, not its class, give back what it gets; returns what undoes that.

    A hook can change what a module gives, but not save its work.
    """
    own = vars(block).get("forward")  # of a model that accelerate has spread over devices
    block.forward = _same

    def undo() -> None:
        del block.forward
        if own is not None:
            block.forward = own

    return undo


def _same(hidden: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden


@contextmanager
def _off(bound: Bound, layer: int, off: Sequence[Part], rows: int) -> Iterator[None]:
    """Hooks that switch one part off in each copy of a batch, of `rows` rows each, that are stacked."""
    heads, _, width, _ = bound.shape.layer(layer + 1)
    inside = torch.ones(len(off), heads, width)
    for n, part in enumerate(off):
        if part.head is not None:
            inside[n, part.head - 1] = 0

    def of(kind: Kind) -> Tensor:
        """(V·B, 1, 1): True where a part of this kind is off."""
        return torch.tensor([part.kind == kind for part in off]).repeat_interleave(rows)[:, None, None]

    where, a = bound.model.device, bound.anatomy
    kept = inside.flatten(1).repeat_interleave(rows, 0)[:, None].to(where, bound.model.dtype)
    attention, ffn, skipped = (of(kind).to(where) for kind in ("attention", "ffn", "layer"))
    runs, last = count(1), bound.shape.layers if a.shared else 1

    def skip(_: nn.Module, given: tuple[Any, ...], out: Tensor) -> Tensor:
        return torch.where(skipped, given[0], out) if next(runs) == last else out

    out_of_heads = cast(nn.Module, bound.at(a.attention_out, layer))
    hooks = (
        out_of_heads.register_forward_pre_hook(lambda _, given: (given[0] * kept, *given[1:])),
        out_of_heads.register_forward_hook(lambda _, given, out: out.masked_fill(attention, 0)),
        cast(nn.Module, bound.at(a.ffn_out, layer)).register_forward_hook(
            lambda _, given, out: out.masked_fill(ffn, 0)
        ),
        _blocks(bound)[layer].register_forward_hook(skip),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _blocks(bound: Bound) -> nn.ModuleList:
    """The layers; of an ALBERT the one that runs several times."""
    return cast(nn.ModuleList, bound.at(bound.anatomy.layers))
