"""The one place that reads a model's inside: hidden states, attention scores, queries, keys and values."""

from collections.abc import Collection, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from attar.anatomy.resolve import family
from attar.errors import ModelError
from attar.model.training_attention import attend

Part = Literal["hidden", "scores", "queries", "keys", "values"]


@dataclass(frozen=True)
class Need:
    """What a View shall hold, by layer: 0 is the embedding (hidden only), 1 … L the layers."""

    hidden: frozenset[int] = frozenset()
    scores: frozenset[int] = frozenset()
    relations: frozenset[int] = frozenset()  # queries, keys and values
    # Heads that these are regrouped into to be compared: a cache may keep the relations in their place. 0: it may not.
    relation_heads: int = 0

    @property
    def attention(self) -> bool:
        """Whether anything of the inside of attention is asked for."""
        return bool(self.scores or self.relations)


@dataclass(frozen=True)
class View:
    """What was asked of one forward pass.

    Attributes:
        logits: the model's first output, (B, C), or (B, T, C) of a task that asks tokens; of a base model the
            last hidden state, (B, T, D).
        hidden: layer -> (N, D), the N real tokens of the batch, row after row; layer 0 is what enters the first layer.
        scores: layer -> (B, H, T, T), q kᵀ / sqrt(d_k) before mask and softmax; of a decoder they are there for tokens
            that follow, too, though it never uses them.
        queries, keys, values: layer -> (B, H, T, e), as attention gets them: after rotary positions, of OPT with the
            queries scaled already. Keys and values that a group of heads shares are repeated for each of its heads.
        scaling: layer -> what q kᵀ is multiplied by in its scores, of layers whose queries are there.
        relations: layer -> those of queries, keys and values before softmax, (B, R, T, T) each, where a cache keeps
            them in place of the vectors (`maths.losses.relation`).
        mask: (B, T), True at real tokens; None where no row is padded.
    """

    logits: Tensor
    mask: Tensor | None = None
    hidden: Mapping[int, Tensor] = field(default_factory=dict)
    scores: Mapping[int, Tensor] = field(default_factory=dict)
    queries: Mapping[int, Tensor] = field(default_factory=dict)
    keys: Mapping[int, Tensor] = field(default_factory=dict)
    values: Mapping[int, Tensor] = field(default_factory=dict)
    scaling: Mapping[int, float] = field(default_factory=dict)
    relations: Mapping[int, tuple[Tensor, ...]] = field(default_factory=dict)


@dataclass
class _Probe:
    """Collects one forward pass; held only by that call, so nothing outlives the batch."""

    need: Need
    layer: int = 0
    parts: dict[Part, dict[int, Tensor]] = field(
        default_factory=lambda: {"scores": {}, "queries": {}, "keys": {}, "values": {}}
    )
    scaling: dict[int, float] = field(default_factory=dict)


_probe: ContextVar[_Probe | None] = ContextVar("attar_probe", default=None)
NAME = "attar"


def call(model: PreTrainedModel, inputs: Mapping[str, Tensor], need: Need | None = None) -> View:
    """Run a model and return what was asked for, gradients included.

    Args:
        inputs: keyword arguments of the model, (B, T) each, with `attention_mask`. Keys that the model does not take
            (`token_type_ids` of a DistilBERT) are left out, none that it takes is.
        need: what to keep; logits only where None.

    Raises:
        ModelError: attention was asked of a model that does not route it through `AttentionInterface`.
    """
    need = need or Need()
    mask = inputs["attention_mask"].bool()
    padded = None if bool(mask.all()) else mask
    with _watch(model, need) as probe:
        output = model(**accepted(model, inputs), output_hidden_states=bool(need.hidden), return_dict=True)
    # ALBERT may run several layers in each of its steps.
    layers = model.config.num_hidden_layers * getattr(model.config, "inner_group_num", 1)
    if need.attention and probe.layer != layers:
        raise ModelError(
            expected=f"{layers} layers of {type(model).__name__} to call the registered attention function",
            found=f"{probe.layer} calls",
            fix="turn gradient checkpointing off; a family that does not use transformers' AttentionInterface "
            'can be distilled with attention="none"',
        )
    rows = None if padded is None else padded.flatten().nonzero().squeeze(1)
    hidden = {m: _pack(output.hidden_states[m], rows) for m in sorted(need.hidden)}
    return View(outputs(output), padded, hidden, **probe.parts, scaling=probe.scaling)


class _Enough(Exception):  # noqa: N818  # no error: it ends a forward pass
    """What was wanted has been seen."""


def embedding(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Tensor:
    """(N, D) hidden state 0 of the real tokens, as `call` gives it: what enters the first layer, and no layer runs."""
    found: list[Tensor] = []

    def keep(_module: torch.nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        found.append(arguments[0] if arguments else named["hidden_states"])
        raise _Enough

    first = model.base_model.get_submodule(f"{family(model.config.model_type).layers}.0")
    hook = first.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        with suppress(_Enough):
            model(**accepted(model, inputs), return_dict=True)
    finally:
        hook.remove()
    mask = inputs["attention_mask"].bool()
    return _pack(found[0], None if bool(mask.all()) else mask.flatten().nonzero().squeeze(1))


def accepted(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of the inputs that a model takes."""
    return {name: value for name, value in inputs.items() if name in _arguments(model)}


def outputs(output: Any) -> Tensor:
    """A model's logits: (B, C), or (B, T, C) of tokens; a start and an end of an answer are two logits of a token."""
    if "start_logits" in output:
        return torch.stack((output.start_logits, output.end_logits), dim=-1)
    logits: Tensor = output.logits if "logits" in output else output[0]
    return logits


def _pack(hidden: Tensor, rows: Tensor | None) -> Tensor:
    flat = hidden.reshape(-1, hidden.shape[-1])
    return flat if rows is None else flat.index_select(0, rows)


def _arguments(model: PreTrainedModel) -> Collection[str]:
    known: Collection[str] | None = model.__dict__.get("_attar_arguments")
    if known is None:
        import inspect

        known = frozenset(inspect.signature(model.forward).parameters)
        if (
            "input_ids" not in known
        ):  # wrapped in a function that says nothing of its arguments: it gets them all
            known = frozenset({"input_ids", "attention_mask", "token_type_ids"})
        model.__dict__["_attar_arguments"] = known
    return known


@contextmanager
def _watch(model: PreTrainedModel, need: Need) -> Any:
    probe = _Probe(need)
    if not need.attention:
        yield probe
        return
    before = model.config._attn_implementation
    token = _probe.set(probe)
    model.config._attn_implementation = NAME
    try:
        yield probe
    finally:
        model.config._attn_implementation = before
        _probe.reset(token)


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention that hands its inside to the probe; the plain SDPA kernel in layers of which no scores are asked."""
    probe = _probe.get()
    if probe is None:
        raise ModelError(
            expected="attention implementation 'attar' only inside attar.model.views.call",
            found="a model whose config kept it",
            fix="model.set_attn_implementation('sdpa')",
        )
    probe.layer += 1
    layer, need = probe.layer, probe.need
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if layer in need.scores or layer in need.relations:
        wide_key, wide_value = (repeat_kv(x, query.shape[1] // x.shape[1]) for x in (key, value))
    if layer in need.relations:
        probe.parts["queries"][layer], probe.scaling[layer] = query, scale
        probe.parts["keys"][layer], probe.parts["values"][layer] = wide_key, wide_value
    # Where no row is padded a decoder's mask may be None, which says causal.
    causal = attention_mask is None and getattr(module, "is_causal", False)
    if layer not in need.scores:
        kwargs["is_causal"] = causal
        return attend(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    scores = torch.matmul(query * scale, wide_key.transpose(-1, -2))
    probe.parts["scores"][layer] = scores
    if causal:
        attention_mask = torch.ones_like(scores[0, 0], dtype=torch.bool).tril()
    weights = (
        scores
        if attention_mask is None
        else scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    )
    weights = weights.softmax(-1)
    if dropout:
        weights = F.dropout(weights, dropout)
    return torch.matmul(weights, wide_value).transpose(1, 2).contiguous(), None


# Registration is what `import attar` may do; both names must be known to transformers before a config asks for them.
AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
