"""What a teacher does on real text, token by token: all that projecting its weights needs to see."""

from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from attar.anatomy.resolve import Bound
from attar.data.batches import Batch, Batches
from attar.model.views import outputs
from attar.progress import track

# Tokens that the fits are made on. Least squares over up to 4·hidden features wants several times as many rows;
# more than this costs memory (tokens x hidden floats, three times a layer) and gives nothing that was measured.
TOKENS = 12_000
BATCH = 32


@dataclass
class LayerActivations:
    """One teacher layer on the N tokens, (N, D) each.

    Attributes:
        attention_in: what query, key and value read.
        middle: after attention: normed in a post-norm family, the residual stream in a pre-norm one.
        ffn_in: what the FFN reads; `middle` itself in a post-norm family.
        out: the layer's output before any final norm.
    """

    attention_in: Tensor
    middle: Tensor
    ffn_in: Tensor
    out: Tensor


@dataclass
class Activations:
    """A teacher on text.

    Attributes:
        batches: the text, padded; each batch is a list of whole sentences.
        normed: (N, E) embeddings after their norm (where there is one), before any projection to hidden size.
        hidden: layer -> (N, D) hidden states as `output_hidden_states` gives them, for 0 and the layers that were
            asked for.
        last: (N, D) hidden states of the last layer, after any final norm.
        layers: layer -> what it saw.
        logits: (S, C) of a classifier, (N, C) of one that is asked for tokens.
    """

    batches: list[Batch]
    normed: Tensor
    hidden: dict[int, Tensor]
    last: Tensor
    layers: dict[int, LayerActivations] = field(default_factory=dict)
    logits: Tensor | None = None
    head: dict[str, Tensor] = field(default_factory=dict)


def sample(texts: Batches, *, seed: int, tokens: int = TOKENS) -> list[Batch]:
    """Random sentences of up to `tokens` tokens in all (at least one), those of like length together."""
    rows = np.random.default_rng(seed).permutation(len(texts.lengths))
    count = max(1, int((np.cumsum(texts.lengths[rows]) <= tokens).sum()))
    rows = rows[:count]
    rows = rows[np.argsort(texts.lengths[rows], kind="stable")]
    return [texts.rows(rows[i : i + BATCH]) for i in range(0, count, BATCH)]


def inputs_of(model: PreTrainedModel, batch: Batch) -> dict[str, Tensor]:
    """The batch's inputs that this model takes, on its device (a DistilBERT has no token types)."""
    known = signature(type(model).forward).parameters
    return {name: value.to(model.device) for name, value in batch.inputs.items() if name in known}


class _Enough(Exception):  # noqa: N818  # no error: it ends a forward pass
    """What was wanted has been seen."""


@torch.no_grad()
def capture(
    model: PreTrainedModel,
    batches: list[Batch],
    *,
    entering: dict[str, nn.Module],
    leaving: dict[str, nn.Module] | None = None,
    hidden: bool = False,
    until: str = "",
    say: str = "",
) -> dict[str, list[Tensor]]:
    """Run a model and keep what enters and leaves some modules.

    Args:
        until: name of the module at which each pass ends; the whole model runs where it is empty.

    Returns:
        For each name one tensor for each call of the module (a shared layer is called many times), real tokens only
        where it is (B, T, …); "hidden" has one for each hidden state, "logits" one; all over all batches.
    """
    found: dict[str, list[list[Tensor]]] = {}
    now: dict[str, list[Tensor]] = {}

    def keep(name: str, value: Any) -> None:
        tensor = value[0] if isinstance(value, tuple) else value
        now.setdefault(name, []).append(tensor.detach().float())
        if name == until:
            raise _Enough

    hooks = [
        module.register_forward_pre_hook(
            lambda _m, args, kwargs, n=name: keep(n, args[0] if args else next(iter(kwargs.values()))),
            with_kwargs=True,
        )
        for name, module in entering.items()
    ]
    hooks += [
        module.register_forward_hook(lambda _m, _a, output, n=name: keep(n, output))
        for name, module in (leaving or {}).items()
    ]
    training = model.training
    model.eval()
    try:
        for batch in track(batches, say) if say else batches:
            now = {}
            try:
                output = model(**inputs_of(model, batch), output_hidden_states=hidden)
                now["hidden"] = list(output.hidden_states) if hidden else []
                now["logits"] = [outputs(output).float()]
            except _Enough:
                pass
            mask = batch.mask
            for name, values in now.items():
                flat = [_real(value.cpu(), mask) for value in values]
                if len(flat) > len(found.setdefault(name, [[] for _ in flat])):
                    raise RuntimeError(f"{name} was called a varying number of times")
                for kept, value in zip(found[name], flat, strict=True):
                    kept.append(value)
    finally:
        for hook in hooks:
            hook.remove()
        model.train(training)
    return {name: [torch.cat(parts) for parts in calls] for name, calls in found.items()}


def _real(value: Tensor, mask: Tensor) -> Tensor:
    """The real tokens' rows of what has a row for each token: (B, T, …), or flat as OPT's FFN has it."""
    if value.dim() > 2 and value.shape[:2] == mask.shape:
        return value[mask]
    return value[mask.flatten()] if len(value) == mask.numel() else value


def collect_activations(
    bound: Bound, wanted: tuple[int, ...], batches: list[Batch], head: dict[str, nn.Module]
) -> Activations:
    """Run the teacher once and keep what is needed of the embeddings, the wanted layers and the head.

    Args:
        wanted: teacher layers, counted from 1.
        head: modules of the head whose inputs are kept, by name; "final" makes the logits.
    """
    a = bound.anatomy
    entering: dict[str, nn.Module] = {}
    for n in {1} if a.shared else set(wanted):
        for part in ("query", "ffn_in", "ffn_norm") if a.pre_norm else ("query", "ffn_in"):
            entering[f"{n}.{part}"] = bound.at(getattr(a, part), n - 1)  # type: ignore[assignment]
    final, norm = bound.at(a.final_norm), bound.at(a.embedding_norm)
    if final is not None:
        entering["final"] = final
    entering |= {f"head.{name}": module for name, module in head.items()}
    # A language model's logits are as wide as the vocabulary: none are made.
    classifier = "final" in head
    run = bound.model if classifier else bound.base
    got = capture(
        run,
        batches,
        entering=entering,
        leaving={} if norm is None else {"normed": norm},
        hidden=True,
        say="teacher on a sample",
    )
    hidden = got["hidden"]
    seen = Activations(
        batches,
        hidden[0] if norm is None else got["normed"][0],
        {n: hidden[n] for n in {0, *wanted}},
        hidden[-1],
        logits=got["logits"][0] if classifier else None,
    )
    for n in set(wanted):
        name, call = ("1", n - 1) if a.shared else (str(n), 0)
        ffn_in = got[f"{name}.ffn_in"][call]
        middle = got[f"{name}.ffn_norm"][call] if a.pre_norm else ffn_in
        last = final is not None and n == bound.shape.layers
        out = got["final"][0] if last else hidden[n]
        seen.layers[n] = LayerActivations(got[f"{name}.query"][call], middle, ffn_in, out)
    seen.head = {name: got[f"head.{name}"][0] for name in head}
    return seen
