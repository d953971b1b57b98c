"""After a cut, by least squares: the weights that stay take over what they can of what went."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from attar.anatomy.form import form_of, slots
from attar.anatomy.resolve import Bound, resolve
from attar.data.batches import Batch
from attar.maths.directions import Ridge
from attar.model.views import call
from attar.model.weights import fit_norm, module_at, set_linear, weight_of
from attar.progress import track
from attar.pruning.apply import rescaled
from attar.pruning.units import Indexer, Kept

# Real tokens that are looked at: a few for each column of the widest matrix of a BERT-base.
TOKENS = 2**13
# The pull towards the weights that were there (see Ridge): few texts say little of rare directions.
PENALTY = 0.01
# Matrices that read the stream, by the norm before them in a pre-norm family, and the one that writes it again.
SUBLAYERS = (
    ("attention_norm", ("query", "key", "value"), "attention_out"),
    ("ffn_norm", ("ffn_in",), "ffn_out"),
)


@torch.no_grad()
def reconstruct(
    small: PreTrainedModel,
    model: PreTrainedModel,
    kept: Kept,
    batches: Iterable[Batch],
    *,
    tokens: int = TOKENS,
    penalty: float = PENALTY,
) -> bool:
    """Fit a cut model's layers, in place, to what those of the whole model say (layer-wise reconstruction, 1707.06168).

    Matrix by matrix, in the order in which they run: each reads what the cut model really says there, and gets the
    weights that come closest, in squares over real tokens, to what the whole model's rows say. The matrices that write
    the residual stream, with the norms after them, come closest to the stream itself, so that they also mend what the
    matrices before them left. No labels and no gradients; embeddings and heads stay as they are.

    Args:
        small: `apply(model, kept)`, in main memory, as that gives it; its dropout is off afterwards.
        model: before the cut, on any device, with its dropout off.
        batches: texts; as many are read as hold `tokens` real tokens.
        penalty: of leaving the weights that are there, see `Ridge`.

    Returns:
        Whether it was done: a family whose layers share their weights (ALBERT) is left alone, and so is a model
        without texts.
    """
    source, own = resolve(model), resolve(small)
    texts = list(_few(batches, tokens))
    if source.anatomy.shared or not texts:
        return False
    fit = _Fit(source, own, Indexer(form_of(model.config), kept), penalty)
    theirs, ours = _Stream(source, texts), _Stream(own, texts)
    for layer in track(range(source.shape.layers), "fit what stays"):
        place = fit.index.place.get(layer)
        before = theirs.real(theirs.hidden)
        seen = theirs.step(layer, () if place is None else fit.parts)
        if place is not None:
            fit.layer(ours, seen, before, layer, place)
    final = source.at(source.anatomy.final_norm)
    if final is not None:
        fit.norm("final_norm", ours.real(ours.hidden), theirs.real(map(final, theirs.hidden)))
    return True


def _few(batches: Iterable[Batch], tokens: int) -> Iterator[Batch]:
    seen = 0
    for batch in batches:
        if seen >= tokens:
            return
        seen += int(batch.mask.sum())
        yield batch


class _Seen(Exception):  # noqa: N818
    """A layer has come to what was asked for; the rest of it need not run."""


class _Stream:
    """A model that is run on some texts a layer at a time."""

    def __init__(self, bound: Bound, texts: list[Batch]) -> None:
        self.bound, self.masks = bound, [batch.mask for batch in texts]
        self.layers = cast(nn.ModuleList, bound.at(bound.anatomy.layers))
        self.hidden: list[Tensor] = []
        # What each layer is given beside the hidden states: masks, positions.
        self.beside: list[list[tuple[tuple[Any, ...], dict[str, Any]]]] = [[] for _ in self.layers]
        hooks = [
            x.register_forward_pre_hook(self._keep(n), with_kwargs=True) for n, x in enumerate(self.layers)
        ]
        hooks.append(self.layers[0].register_forward_hook(self._first))
        model = cast(PreTrainedModel, bound.base).eval()
        try:
            for layer in self.layers[1:]:  # only what they are given is wanted here
                layer.forward = lambda *_, **__: self.out
            for batch in texts:
                call(model, {name: value.to(model.device) for name, value in batch.inputs.items()})
        finally:
            for layer in self.layers[1:]:
                layer.__dict__.pop("forward", None)
            for hook in hooks:
                hook.remove()

    def _first(self, _: nn.Module, given: Any, out: Any) -> None:
        self.out = out

    def _keep(self, number: int) -> Any:
        def hook(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            named = dict(named)
            hidden = given[0] if given else named.pop("hidden_states")
            self.beside[number].append((given[1:], named))
            if number == 0:
                self.hidden.append(hidden)

        return hook

    def step(self, layer: int, parts: Iterable[str]) -> dict[str, Tensor]:
        """Go on to what a layer gives; what its parts give, (N, m) each."""
        seen: dict[str, list[Tensor]] = {part: [] for part in parts}
        hooks = [
            module_at(self.bound, part, layer).register_forward_hook(
                lambda _, given, out, found=found: found.append(out)
            )
            for part, found in seen.items()
        ]
        try:
            outs = [self._run(layer, number) for number in range(len(self.hidden))]
        finally:
            for hook in hooks:
                hook.remove()
        self.hidden = [out[0] if isinstance(out, tuple) else out for out in outs]
        return {part: self.real(tensors) for part, tensors in seen.items()}

    def enters(self, layer: int, part: str) -> Tensor:
        """What a part of a layer reads, (N, n)."""
        found: list[Tensor] = []

        def stop(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            found.append(given[0])
            raise _Seen

        hook = module_at(self.bound, part, layer).register_forward_pre_hook(stop)
        try:
            for number in range(len(self.hidden)):
                with suppress(_Seen):
                    self._run(layer, number)
        finally:
            hook.remove()
        return self.real(found)

    def put(self, rows: Tensor) -> None:
        """Set the hidden states of the real tokens, (N, D); those of padding, which nobody reads, stay."""
        start = 0
        for mask, hidden in zip(self.masks, self.hidden, strict=True):
            count = int(mask.sum())
            hidden[mask.to(hidden.device)] = rows[start : start + count].to(hidden.dtype)
            start += count

    def real(self, tensors: Iterable[Tensor]) -> Tensor:
        """(N, D) the real tokens of (B, T, D) or (B·T, D) each, in main memory."""
        pairs = zip(self.masks, tensors, strict=True)
        return torch.cat(
            [x.cpu().reshape(-1, x.shape[-1])[mask.flatten().cpu()].float() for mask, x in pairs]
        )

    def _run(self, layer: int, number: int) -> Any:
        """What a layer gives for one of the texts' batches."""
        given, named = self.beside[layer][number]
        return self.layers[layer](self.hidden[number], *given, **named)


class _Fit:
    """Fits the layers of a cut model to those of the whole one."""

    def __init__(self, source: Bound, own: Bound, index: Indexer, penalty: float) -> None:
        self.source, self.own, self.index, self.penalty = source, own, index, penalty
        self.pre = source.anatomy.pre_norm
        self.slots = {slot.name: slot for slot in slots(source.model)}
        self.names = {module: name for name, module in source.model.named_modules()}
        self.rows = index.rows(("hidden",), None)
        a = source.anatomy
        # A fused matrix is one part under three names.
        self.reads = {
            norm: tuple({getattr(a, part): part for part in reversed(reads)}.values())
            for norm, reads, _ in SUBLAYERS
        }
        self.parts = [part for norm, _, writes in SUBLAYERS for part in (norm, *self.reads[norm], writes)]

    def layer(
        self, ours: _Stream, seen: Mapping[str, Tensor], before: Tensor, layer: int, place: int
    ) -> None:
        """Fit the layer at a place to the one that it was.

        Args:
            seen: what the parts of that one say, (N, m) each; before: what enters it, (N, D).
        """
        stream, own = before, ours.real(ours.hidden)
        for norm, _, writes in SUBLAYERS:
            read = self.norm(norm, own, seen[norm], layer, place) if self.pre else own
            biased = getattr(module_at(self.own, self.reads[norm][0], place), "bias", None) is not None
            solver = Ridge(read, penalty=self.penalty, bias=biased)
            for part in self.reads[norm]:
                self._set(part, solver, self._rows(part, seen[part], layer), place)
            stream, features = stream + seen[writes], ours.enters(place, writes)
            own = self._writes(writes, features, own, self._kept(stream), place)
            if not self.pre:
                stream, own = seen[norm], self.norm(norm, own, seen[norm], layer, place)
        ours.put(own)

    def _rows(self, part: str, y: Tensor, layer: int) -> Tensor:
        """The outputs of a matrix that stay, as the cut model scales them."""
        slot = self.slots[self.names[module_at(self.source, part, layer)] + ".weight"]
        rows = self.index.rows(slot.dims[0], layer)
        factor = rescaled(slot, self.source.anatomy, self.index.source, self.index.kept, self.index)
        return (y if rows is None else y[:, rows]) * (
            factor.flatten() if isinstance(factor, Tensor) else factor
        )

    def _writes(self, part: str, x: Tensor, own: Tensor, goal: Tensor, place: int) -> Tensor:
        """A matrix that adds to the stream `own`; the stream after it."""
        solver = Ridge(x, penalty=self.penalty, bias=module_at(self.own, part, place).bias is not None)
        weight, bias = self._set(part, solver, goal - own, place)
        return own + x @ weight + bias

    def _set(self, part: str, solver: Ridge, goal: Tensor, place: int) -> tuple[Tensor, Tensor]:
        module = module_at(self.own, part, place)
        weight, bias = solver.fit(goal, prior=weight_of(module).T)
        set_linear(module, weight, bias)
        return weight, bias

    def norm(
        self, part: str, x: Tensor, goal: Tensor, layer: int | None = None, place: int | None = None
    ) -> Tensor:
        """Fit a norm of x to what the whole model's gives in the dimensions that stay; what it gives now."""
        whole = module_at(self.source, part, layer)
        there = getattr(whole, "weight", None) is not None
        gain = self._kept(weight_of(whole)) if there else torch.ones(x.shape[1])
        # A dimension that the whole model's norm switches off stays off.
        return fit_norm(module_at(self.own, part, place), x, self._kept(goal), gain, floor=False)

    def _kept(self, x: Tensor) -> Tensor:
        """The kept hidden units of (…, D)."""
        return x if self.rows is None else x[..., self.rows]
