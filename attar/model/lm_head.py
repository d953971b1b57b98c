"""The end of a language model, taken apart: last hidden states, what the output matrix reads, and that matrix.

Whole, a model gives (B, T, V) logits; taken apart, its logits can be computed for some positions and a few at a time.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

from attar.anatomy.resolve import family
from attar.errors import ModelError
from attar.model.views import accepted

# Families whose masks do not heed position_ids: documents that share a row would see each other.
MASKED_APART = {"opt"}


def last_hidden(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Tensor:
    """(B, T, D), the last hidden states, after the final norm where there is one.

    Args:
        inputs: (B, T) each. With `position_ids` that begin anew inside a row and no `attention_mask`, what begins
            there does not see what is before it.
    """
    given: dict[str, Any] = accepted(model.base_model, inputs)
    if "position_ids" in given and "attention_mask" not in given:
        given["use_cache"] = False
        if model.config.model_type in MASKED_APART:
            given["attention_mask"] = apart(given["position_ids"])
    hidden: Tensor = model.base_model(**given, return_dict=True).last_hidden_state
    return hidden


def apart(position_ids: Tensor) -> Tensor:
    """(B, 1, T, T), True where a token may look: itself and what is before it since positions last began anew."""
    number = (position_ids.diff(dim=-1, prepend=position_ids[:, :1] - 1) != 1).cumsum(-1)
    same = number[:, None, :, None] == number[:, None, None, :]
    return same & torch.ones_like(same[0, 0]).tril()


def features(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """What the output matrix reads, (N, E), from hidden vectors (N, D): of a masked model its head's dense layer."""
    if family(model.config.model_type).causal:
        return hidden
    dense, norm = (model.get_submodule(path) for path in family(model.config.model_type).language)
    return cast(Tensor, norm(_activation(model)(dense(hidden))))


def output(model: PreTrainedModel) -> tuple[Tensor, Tensor | None]:
    """The output matrix (V, E) and its bias (V,), or None.

    Raises:
        ModelError: a model without a language-model head.
    """
    layer = model.get_output_embeddings()
    if layer is None:
        raise ModelError(
            expected="a model with a language-model head (masked or causal)",
            found=type(model).__name__,
            fix="name a language model; attar pretrain gives an encoder that head",
        )
    return cast(Tensor, layer.weight), cast("Tensor | None", layer.bias)


def _activation(model: PreTrainedModel) -> nn.Module:
    if model.config.model_type in {"roberta", "xlm-roberta", "camembert", "electra"}:
        return cast(nn.Module, ACT2FN["gelu"])  # whatever their layers have
    keys = ("classifier_activation", "hidden_act", "activation")
    name = next(getattr(model.config, key) for key in keys if hasattr(model.config, key))
    return cast(nn.Module, ACT2FN[name])
