"""One layer's attention from its own matrices, outside the model: the heads' outputs on text."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attar.anatomy.resolve import Bound
from attar.distill.weights import bias_of, weight_of
from attar.model.data import Batch


def split(bound: Bound, layer: int) -> list[tuple[Tensor, Tensor]]:
    """Query, key and value of a layer (from 0): matrix (A·e, D) and bias (A·e,), 0 where there is none."""
    found = []
    for i, part in enumerate(("query", "key", "value")):
        module = cast(nn.Linear, bound.at(getattr(bound.anatomy, part), layer))
        weight = weight_of(module)
        bias = bias_of(module)
        rows = slice(None)
        if bound.anatomy.fused_qkv:
            size = len(weight) // 3
            rows = slice(i * size, (i + 1) * size)
        found.append((weight[rows], bias[rows]))
    return found


def assign(bound: Bound, layer: int, weights: list[Tensor], biases: list[Tensor] | None) -> None:
    """Set query, key and value of a layer from matrices (D, A·e) that multiply from the right."""
    for i, part in enumerate(("query", "key", "value")):
        module = cast(nn.Linear, bound.at(getattr(bound.anatomy, part), layer))
        size = weights[i].shape[1]
        rows = slice(i * size, (i + 1) * size) if bound.anatomy.fused_qkv else slice(None)
        module.weight.data[rows] = weights[i].T
        if biases is not None:
            module.bias.data[rows] = biases[i]


def context(bound: Bound, layer: int, read: Tensor, batches: list[Batch]) -> Tensor:
    """The heads' outputs before the output matrix, (N, A·e), for what the layer (from 0) reads, (N, D)."""
    parts = split(bound, layer)
    rows = []
    start = 0
    for batch in batches:
        mask = batch.mask
        count = int(mask.sum())
        padded = torch.zeros(*mask.shape, read.shape[1])
        padded[mask] = read[start : start + count]
        start += count
        q, k, v = (_heads(F.linear(padded, w, b), bound.shape.heads) for w, b in parts)
        allowed = mask[:, None, None, :]
        if bound.anatomy.pre_norm:
            q, k = _turn(bound, layer, q, k)
            allowed = allowed & _near(bound, layer, mask.shape[1])
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        rows.append(out.transpose(1, 2).flatten(2)[mask])
    return torch.cat(rows)


def rotary_pairs(left: Tensor, right: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Query and key columns (D, t) of a rotary head cut to `size`: the pairs that turn nearest to as fast.

    Pair i of t dimensions turns at base^(-2i/t), so pair j of a smaller head takes pair j·t/size of the larger.
    Pairs that a larger head has more are 0.
    """
    own = left.shape[1]
    pairs = [min(round(j * own / size), own // 2 - 1) for j in range(size // 2)]
    fresh = torch.tensor([pair not in pairs[:j] for j, pair in enumerate(pairs)], dtype=left.dtype)
    columns = torch.tensor(pairs + [pair + own // 2 for pair in pairs])
    scale = (size / own) ** 0.25 * torch.cat([fresh, fresh])
    return left[:, columns] * scale, right[:, columns] * scale


def _heads(x: Tensor, heads: int) -> Tensor:
    found: Tensor = x.unflatten(-1, (heads, -1)).transpose(1, 2)
    return found


def _turn(bound: Bound, layer: int, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Apply rotary positions as the layer does."""
    kind = bound.model.config.layer_types[layer]
    position = torch.arange(q.shape[2])[None]
    cos, sin = cast(nn.Module, bound.base.rotary_emb)(q, position, kind)

    def turn(x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        turned = torch.cat([-second, first], -1)
        found: Tensor = x * cos[:, None].cpu() + turned * sin[:, None].cpu()
        return found

    return turn(q), turn(k)


def _near(bound: Bound, layer: int, length: int) -> Tensor:
    """(T, T), True within the layer's window; all True where it attends everywhere."""
    config = bound.model.config
    if config.layer_types[layer] != "sliding_attention":
        return torch.ones(length, length, dtype=torch.bool)
    position = torch.arange(length)
    near: Tensor = (position[:, None] - position[None, :]).abs() <= config.sliding_window
    return near
