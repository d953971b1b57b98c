"""Losses over a large vocabulary, a few positions at a time, so that no tensor of all logits is ever held."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# Logits of one chunk: 2²³ of them are 32 MiB in fp32, and a loss holds some five tensors of that size.
LOGITS = 2**23

# (n, V) logits of the positions of a slice -> the named parts of the loss, stacked: (P,), each a sum over positions.
Loss = Callable[[Tensor, slice], Tensor]


def chunked(
    features: Tensor, weight: Tensor, bias: Tensor | None, loss: Loss, *, logits: int = LOGITS
) -> Tensor:
    """Parts of a loss of the logits `features @ weight.T + bias`, with gradients, chunk by chunk over positions.

    The gradient of a chunk's logits is carried on to features, weight and bias as soon as its loss is known, and the
    logits are dropped: memory for them does not grow with N, and no product is computed twice.

    Args:
        features: (N, D).
        weight, bias: of the output layer, (V, D) and (V,).
        loss: of one chunk; a sum over positions, so that the chunks' parts add up.
        logits: entries of the largest chunk.

    Returns:
        (P,) the parts. Only their sum may be differentiated: that is what the gradient was computed of.
    """
    return _Chunked.apply(features, weight, bias, loss, max(1, logits // weight.shape[0]))  # type: ignore[no-any-return]


def slices(length: int, size: int) -> Iterator[slice]:
    """Slices of `size` that cover `length`."""
    return (slice(begin, min(begin + size, length)) for begin in range(0, length, size))


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None, loss: Loss, size: int
    ) -> Tensor:
        wanted = ctx.needs_input_grad[:3]
        to_features = torch.empty_like(features, dtype=torch.float32) if wanted[0] else None
        to_weight = torch.zeros_like(weight, dtype=torch.float32) if wanted[1] else None
        to_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and wanted[2] else None
        total: Tensor | None = None
        for part in slices(len(features), size):
            own = features[part].detach()
            z = F.linear(own, weight.detach(), None if bias is None else bias.detach())
            with torch.enable_grad():
                z.requires_grad_(any(wanted))
                parts = loss(z, part)
                (slope,) = torch.autograd.grad(parts.sum(), z) if any(wanted) else (z,)
            total = parts.detach() if total is None else total + parts.detach()
            if to_features is not None:
                torch.mm(slope.float(), weight.detach().float(), out=to_features[part])
            if to_weight is not None:
                to_weight.addmm_(slope.float().T, own.float())
            if to_bias is not None:
                to_bias += slope.float().sum(0)
        ctx.save_for_backward(to_features, to_weight, to_bias)
        ctx.kinds = (features.dtype, weight.dtype, None if bias is None else bias.dtype)
        return features.new_zeros(0, dtype=torch.float32) if total is None else total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        if len(grad) and not bool((grad == grad[0]).all()):
            raise RuntimeError("only the sum of the parts may be differentiated, or a multiple of it")
        scale = grad[0] if len(grad) else grad.new_ones(())
        pairs = zip(ctx.saved_tensors, ctx.kinds, strict=True)
        return *(None if saved is None else (saved * scale).to(kind) for saved, kind in pairs), None, None
