"""Read and set the weights of the modules that an anatomy names."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from attar.anatomy.resolve import Bound
from attar.maths.norms import fit_gain


def position_offset(config: Any) -> int:
    """Rows of the position table before that of the first token: RoBERTa numbers positions from `pad + 1`."""
    return int(config.pad_token_id) + 1 if config.model_type in {"roberta", "xlm-roberta", "camembert"} else 0


def fit_norm(norm: nn.Module, z: Tensor, goal: Tensor, prior: Tensor) -> Tensor:
    """Set a norm's gain and bias so that it maps z (N, d) as nearly to the goal as it can; return what it gives."""
    layer_norm = cast(nn.LayerNorm, norm)
    own_bias: Tensor | None = layer_norm.bias
    plain = nn.functional.layer_norm(z, z.shape[1:], eps=layer_norm.eps)
    gain, bias = fit_gain(plain, goal, prior)
    if own_bias is None:
        gain = (plain * goal).sum(0) / plain.square().sum(0).clamp_min(1e-12)
    else:
        own_bias.data.copy_(bias)
    layer_norm.weight.data.copy_(gain)
    return cast(Tensor, layer_norm(z))


def norm_gain(norm: nn.Module, basis: Tensor) -> Tensor:
    """The diagonal of a norm's gain in other coordinates, diag(Uᵀ Γ U)."""
    return (basis.square() * weight_of(norm)[:, None]).sum(0)


def set_linear(module: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    """Set a linear layer from W (p, q) that multiplies from the right."""
    module.weight.data.copy_(weight.T)
    own: Tensor | None = module.bias
    if own is not None:
        own.data.copy_(bias)


def weight_of(module: nn.Module) -> Tensor:
    """A module's weight in float32 on the CPU."""
    return cast(Tensor, module.weight).detach().float().cpu()


def bias_of(module: nn.Module) -> Tensor:
    """The bias of a linear layer or norm, 0 where it has none."""
    bias: Tensor | None = getattr(module, "bias", None)
    return torch.zeros(len(weight_of(module))) if bias is None else bias.detach().float().cpu()


def module_at(bound: Bound, part: str, layer: int | None = None) -> nn.Module:
    """The module of a part of the anatomy that is known to be there."""
    return cast(nn.Module, bound.at(getattr(bound.anatomy, part), layer))
