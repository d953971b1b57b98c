"""One layer's attention from its own matrices, outside the model: the heads' outputs on text."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from attar.anatomy.resolve import Bound, matrix
from attar.data.batches import Batch
from attar.distillation.activations import capture
from attar.model.weights import bias_of, module_at, weight_of


def split(bound: Bound, layer: int) -> list[tuple[Tensor, Tensor]]:
    """Query, key and value of a layer (from 0): matrix (A·e, D) and bias (A·e,), 0 where there is none.

    Heads are one below the other, however the model stores them; keys and values have those that groups share once.
    """
    found = []
    for i, part in enumerate(("query", "key", "value")):
        module = module_at(bound, part, layer)
        weight, bias = weight_of(module), bias_of(module)
        rows = _rows(bound, i, len(weight))
        found.append((weight[rows], bias[rows]))
    return found


def assign(bound: Bound, layer: int, weights: list[Tensor], biases: list[Tensor] | None) -> None:
    """Set query, key and value of a layer from matrices (D, A·e) that multiply from the right."""
    for i, part in enumerate(("query", "key", "value")):
        module = module_at(bound, part, layer)
        rows = _rows(bound, i, len(matrix(module)))
        matrix(module).data[rows] = weights[i].T
        if biases is not None:
            cast(Tensor, module.bias).data[rows] = biases[i]


def _rows(bound: Bound, part: int, total: int) -> slice | Tensor:
    """Where query (0), key (1) or value (2) are in the `total` rows of the module that holds them."""
    if not bound.anatomy.fused_qkv:
        return slice(None)
    if bound.anatomy.qkv_by_head:
        return torch.arange(total).view(bound.shape.heads, 3, -1)[:, part].flatten()
    return slice(part * total // 3, (part + 1) * total // 3)


def context(bound: Bound, layer: int, read: Tensor, batches: list[Batch]) -> Tensor:
    """The heads' outputs before the output matrix, (N, A·e), for what the layer (from 0) reads, (N, D)."""
    if bound.anatomy.causal:
        # It reads this where all before it is filled, and its own code knows its positions, windows, norms and groups.
        end = {"out": module_at(bound, "attention_out", layer)}
        return capture(cast(PreTrainedModel, bound.base), batches, entering=end, until="out")["out"][0]
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

    Queries may be those of several heads (D, g·t), which all read the same key.

    Pair i of t dimensions turns at base^(-2i/t), so pair j of a smaller head takes pair j·t/size of the larger.
    Pairs that a larger head has more are 0.
    """
    own = right.shape[1]
    pairs = [min(round(j * own / size), own // 2 - 1) for j in range(size // 2)]
    fresh = torch.tensor([pair not in pairs[:j] for j, pair in enumerate(pairs)], dtype=left.dtype)
    columns = torch.tensor(pairs + [pair + own // 2 for pair in pairs], dtype=torch.long)
    kept = torch.cat([fresh, fresh])
    lefts = left.unflatten(1, (-1, own))[:, :, columns] * kept
    return lefts.flatten(1), right[:, columns] * kept


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
