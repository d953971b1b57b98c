"""Attention that a CPU trains fast in bf16: torch's fused kernel does not use its matrix units in the backward pass.

Forward and backward of (64 texts, 8 heads, 26 tokens, 32 dimensions) in bf16 on one core with AMX took 50 ms with the
fused kernel, 12 ms with the same kernel in fp32, and 5 ms as two products of matrices; of (16, 12, 384, 32) 216, 163
and 552 ms.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "attar_training"
# Tokens up to which products that hold all scores in memory are faster than the fused kernel.
SHORT = 96


@contextmanager
def training_attention(learner: nn.Module) -> Iterator[None]:
    """Within the block the models of a learner that use torch's fused kernel use this one, which computes the same."""
    configs = {id(m.config): m.config for m in learner.modules() if isinstance(m, PreTrainedModel)}
    found = [config for config in configs.values() if config._attn_implementation == "sdpa"]
    for config in found:
        config._attn_implementation = NAME
    try:
        yield
    finally:
        for config in found:
            config._attn_implementation = "sdpa"


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers' interface asks for it; the fused kernel wherever that is fast."""
    given: dict[str, Any] = {"dropout": dropout, "scaling": scaling, **kwargs}
    slow = query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.requires_grad
    if not slow:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **given)  # type: ignore[no-any-return]
    plain = (
        not getattr(module, "is_causal", False)
        if attention_mask is None
        else attention_mask.dtype == torch.bool
    )
    if query.shape[2] > SHORT or not plain:
        wide = (x.float() for x in (query, key, value))
        with torch.autocast("cpu", enabled=False):
            found, _ = sdpa_attention_forward(module, *wide, attention_mask, **given)
        return found.to(query.dtype), None
    key, value = (repeat_kv(x, query.shape[1] // x.shape[1]) for x in (key, value))
    scores = torch.matmul(query, key.transpose(-1, -2)) * (
        query.shape[-1] ** -0.5 if scaling is None else scaling
    )
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1, dtype=torch.float32).to(value.dtype)
    if dropout:
        weights = F.dropout(weights, dropout)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
