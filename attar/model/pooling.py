"""Pooling: one vector of a text from those of its tokens, as sentence-transformers does it."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def pool(hidden: Tensor, mask: Tensor, modes: Sequence[str]) -> Tensor:
    """Pooled hidden states, those of several modes side by side.

    Args:
        hidden: (B, T, D).
        mask: (B, T), 1 at real tokens.
        modes: of `MODES`.

    Returns:
        (B, M·D) for M modes.
    """
    found = [MODES[mode](hidden, mask) for mode in modes]
    return found[0] if len(found) == 1 else torch.cat(found, dim=-1)


def _weighted(hidden: Tensor, weights: Tensor) -> Tensor:
    """(B, D), the mean over tokens with weights (B, T)."""
    weights = weights.to(hidden.dtype).unsqueeze(-1)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    return _weighted(hidden, mask)


def _mean_sqrt(hidden: Tensor, mask: Tensor) -> Tensor:
    mask = mask.to(hidden.dtype).unsqueeze(-1)
    return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9).sqrt()


def _weighted_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Later tokens weigh more (SGPT, 2202.08904): token t of a text weighs t."""
    return _weighted(hidden, mask.cumsum(1) * mask)


def _max(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden.masked_fill(mask.unsqueeze(-1) == 0, torch.finfo(hidden.dtype).min).amax(1)


def _cls(hidden: Tensor, mask: Tensor) -> Tensor:
    """The first real token; texts may be padded on the left."""
    return _at(hidden, mask.to(torch.int32).argmax(1))


def _last(hidden: Tensor, mask: Tensor) -> Tensor:
    position = torch.arange(mask.shape[1], device=mask.device)
    return _at(hidden, (position * (mask != 0)).amax(1))


def _at(hidden: Tensor, position: Tensor) -> Tensor:
    """(B, D), each row's hidden state at its position (B,)."""
    index = position.reshape(-1, 1, 1).expand(-1, 1, hidden.shape[2])
    return hidden.gather(1, index.long()).squeeze(1)


MODES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": _mean,
    "cls": _cls,
    "max": _max,
    "lasttoken": _last,
    "mean_sqrt_len_tokens": _mean_sqrt,
    "weightedmean": _weighted_mean,
}
