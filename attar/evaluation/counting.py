"""Parameters and operations of a model, counted without running it."""

from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def parameters(model: nn.Module) -> int:
    """Number of parameters; a weight that two modules share counts once."""
    return sum(weight.numel() for weight in model.parameters())


def flops(model: nn.Module, batch_size: int = 1, length: int = 128) -> float:
    """Operations of one forward pass of a transformers model: 2 x the multiply-adds of its matrix products.

    Counted by torch on a weightless copy, so nothing is computed. For one encoder layer of width h and inner width f
    that is B * (T * (8 h^2 + 4 h f) + 4 T^2 h).
    """
    return flops_by_module(model, batch_size, length)[""]


def flops_by_module(model: nn.Module, batch_size: int = 1, length: int = 128) -> dict[str, float]:
    """Operations of one forward pass, as `flops` counts them, of each module that has any; "" is the whole model."""
    ours: Any = model
    config = type(ours.config).from_dict(ours.config.to_dict())
    config._attn_implementation = "eager"
    with torch.device("meta"), torch.no_grad():
        empty = type(ours)(config).eval()
        # It would look for padding among tokens that have no value.
        empty.base_model.warn_if_padding_and_no_attention_mask = lambda *_: None
        ids = torch.ones((batch_size, length), dtype=torch.long)
        with FlopCounterMode(display=False) as counter:
            empty(input_ids=ids)  # a mask would be asked for its values, which nothing here has
    # Torch writes the class of the model before the names of its modules.
    found = {name.partition(".")[2]: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    return {name: float(count) for name, count in found.items()} | {"": float(counter.get_total_flops())}
