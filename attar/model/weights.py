"""Read and set the weights of the modules that an anatomy names."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from attar.anatomy.parts import Anatomy
from attar.anatomy.resolve import Bound, matrix
from attar.maths.norms import fit_gain


def position_offset(config: Any) -> int:
    """Rows of the position table before that of the first token: RoBERTa numbers positions from `pad + 1`."""
    return int(config.pad_token_id) + 1 if config.model_type in {"roberta", "xlm-roberta", "camembert"} else 0


def fit_norm(norm: nn.Module, z: Tensor, goal: Tensor, prior: Tensor, *, floor: bool = True) -> Tensor:
    """Set a norm's gain and bias so that it maps z (N, d) as nearly to the goal as it can; return what it gives.

    See `fit_gain` for `floor`.
    """
    weight, own_bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
    if weight is None:
        return cast(Tensor, norm(z))
    weight.data.fill_(1.0)
    if own_bias is not None:
        own_bias.data.zero_()
    plain = cast(Tensor, norm(z))
    gain, bias = fit_gain(plain, goal, prior, floor=floor)
    if own_bias is None:
        gain = (plain * goal).sum(0) / plain.square().sum(0).clamp_min(1e-12)
    else:
        own_bias.data.copy_(bias)
    weight.data.copy_(gain)
    return cast(Tensor, norm(z))


def norm_gain(norm: nn.Module, basis: Tensor) -> Tensor:
    """The diagonal of a norm's gain in other coordinates, diag(Uᵀ Γ U); 1 where it has none."""
    if getattr(norm, "weight", None) is None:
        return torch.ones(basis.shape[1])
    return (basis.square() * weight_of(norm)[:, None]).sum(0)


def set_linear(module: nn.Module, weight: Tensor, bias: Tensor) -> None:
    """Set a linear layer from W (p, q) that multiplies from the right."""
    matrix(module).data.copy_(weight.T)
    own = cast("Tensor | None", module.bias)
    if own is not None:
        own.data.copy_(bias)


def weight_of(module: nn.Module) -> Tensor:
    """A module's weight in float32 on the CPU, outputs first."""
    return matrix(module).detach().float().cpu()


def bias_of(module: nn.Module) -> Tensor:
    """The bias of a linear layer or norm, 0 where it has none."""
    bias: Tensor | None = getattr(module, "bias", None)
    return torch.zeros(len(weight_of(module))) if bias is None else bias.detach().float().cpu()


def inner(bound: Bound, layer: int) -> tuple[Tensor, Tensor]:
    """First matrix (f, D) and bias of a layer's FFN; where it is gated (2·f, D), what is activated above."""
    modules = _inner(bound, layer)
    return torch.cat([weight_of(m) for m in modules]), torch.cat([bias_of(m) for m in modules])


def set_inner(bound: Bound, layer: int, weight: Tensor, bias: Tensor) -> None:
    """Set what `inner` gives; a bias goes only where the layer has one."""
    modules = _inner(bound, layer)
    parts = zip(modules, weight.chunk(len(modules)), bias.chunk(len(modules)), strict=True)
    for module, own_weight, own_bias in parts:
        set_linear(module, own_weight.T, own_bias)


def _inner(bound: Bound, layer: int) -> list[nn.Module]:
    return [module_at(bound, part, layer) for part in ("ffn_in", "ffn_up") if getattr(bound.anatomy, part)]


def rotary_size(anatomy: Anatomy, config: Any, head_dim: int) -> int:
    """How many of a head's dimensions rotary positions turn: its first ones, all of them in most families."""
    part = (getattr(config, "rope_parameters", None) or {}).get("partial_rotary_factor", 1.0)
    return int(head_dim * part) if anatomy.rotary else 0


def attention_scale(config: Any, m: int, n: int) -> float:
    """What student layer m (from 0) has to scale its queries by to attend as teacher layer n (from 1) does.

    A GPT-2 may divide scores by the number of the layer.
    """
    return (m + 1) / n if getattr(config, "scale_attn_by_inverse_layer_idx", False) else 1.0


def module_at(bound: Bound, part: str, layer: int | None = None) -> nn.Module:
    """The module of a part of the anatomy that is known to be there."""
    return cast(nn.Module, bound.at(getattr(bound.anatomy, part), layer))
