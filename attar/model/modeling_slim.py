"""Encoders whose layers differ in size: heads, key, value and feed-forward sizes of their own, any hidden size.

This file is copied beside the weights of such a model, so that `trust_remote_code=True` loads it where attar is not
installed. It therefore imports torch and transformers alone. A slim class is the stock class of its family with the
linear layers that its config's `per_layer_config` sizes; everything else is the stock code. Made by attar
(Apache-2.0).
"""

from typing import Any

import transformers
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.albert.modeling_albert import AlbertAttention
from transformers.models.bert.modeling_bert import BertSelfAttention, eager_attention_forward
from transformers.models.camembert.modeling_camembert import CamembertSelfAttention
from transformers.models.distilbert.modeling_distilbert import DistilBertSelfAttention
from transformers.models.electra.modeling_electra import ElectraSelfAttention
from transformers.models.modernbert.modeling_modernbert import ModernBertAttention, apply_rotary_pos_emb
from transformers.models.roberta.modeling_roberta import RobertaSelfAttention
from transformers.models.xlm_roberta.modeling_xlm_roberta import XLMRobertaSelfAttention

# Families as transformers spells them in its class names, and the heads that a slim model may have.
FAMILIES = ("Bert", "Roberta", "XLMRoberta", "Camembert", "Electra", "DistilBert", "Albert", "ModernBert")
HEADS = {
    "Model": "AutoModel",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForTokenClassification": "AutoModelForTokenClassification",
    "ForQuestionAnswering": "AutoModelForQuestionAnswering",
    "ForMaskedLM": "AutoModelForMaskedLM",
    "ForPreTraining": "AutoModelForPreTraining",
}
# Of each layer in `config.per_layer_config`; `slim_parts` of the config says where in the layer they apply.
SIZES = ("slim_heads", "slim_key", "slim_value", "slim_ffn")


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """Attention over (B, T, H·k), (B, T, H·k) and (B, T, H·v); (B, T, H·v) and, of the eager kind, the weights."""
    shape = (*query.shape[:-1], module.slim_heads, -1)
    q, k, v = (part.view(shape).transpose(1, 2) for part in (query, key, value))
    if (rotary := kwargs.pop("position_embeddings", None)) is not None:
        q, k = apply_rotary_pos_emb(q, k, *rotary, unsqueeze_dim=1)
    kind, size = module.config._attn_implementation, v.shape[-1]
    if kind == "sdpa" and q.shape[-1] != size:
        # torch's fast kernels want one size for all three: zeros change neither the scores nor the sums they weigh.
        wide = max(q.shape[-1], size)
        q, k, v = (nn.functional.pad(part, (0, wide - part.shape[-1])) for part in (q, k, v))
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(kind, eager_attention_forward)
    dropped = dropout if module.training else 0.0
    out, weights = attend(module, q, k, v, mask, dropout=dropped, scaling=module.scaling, **kwargs)
    return out[..., :size].reshape(*query.shape[:-1], -1), weights


def _bert_like(
    self: Any,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    past_key_values: Any = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention over (B, T, D) of a layer, as the stock class's."""
    query, key, value = (part(hidden_states) for part in (self.query, self.key, self.value))
    return _attend(self, query, key, value, attention_mask, self.dropout.p, **kwargs)


# `output_attentions` finds attention by class, so a slim attention stays one of its family's.
class SlimBertSelfAttention(BertSelfAttention):
    """BERT's attention with sizes of its own."""

    forward = _bert_like


class SlimRobertaSelfAttention(RobertaSelfAttention):
    """RoBERTa's attention with sizes of its own."""

    forward = _bert_like


class SlimXLMRobertaSelfAttention(XLMRobertaSelfAttention):
    """XLM-RoBERTa's attention with sizes of its own."""

    forward = _bert_like


class SlimCamembertSelfAttention(CamembertSelfAttention):
    """CamemBERT's attention with sizes of its own."""

    forward = _bert_like


class SlimElectraSelfAttention(ElectraSelfAttention):
    """ELECTRA's attention with sizes of its own."""

    forward = _bert_like


class SlimDistilBertSelfAttention(DistilBertSelfAttention):
    """DistilBERT's attention with sizes of its own."""

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """As the stock class's."""
        query, key, value = (part(hidden_states) for part in (self.q_lin, self.k_lin, self.v_lin))
        out, weights = _attend(self, query, key, value, attention_mask, self.dropout.p, **kwargs)
        return self.out_lin(out), weights


class SlimAlbertAttention(AlbertAttention):
    """ALBERT's attention with sizes of its own."""

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """As the stock class's."""
        query, key, value = (part(hidden_states) for part in (self.query, self.key, self.value))
        out, weights = _attend(self, query, key, value, attention_mask, self.attention_dropout.p, **kwargs)
        return self.LayerNorm(hidden_states + self.output_dropout(self.dense(out))), weights


class SlimModernBertAttention(ModernBertAttention):
    """ModernBERT's attention with sizes of its own."""

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """As the stock class's."""
        wide = self.slim_heads * self.slim_key
        sizes = [wide, wide, self.slim_heads * self.slim_value]
        query, key, value = self.Wqkv(hidden_states).split(sizes, dim=-1)
        own = {"sliding_window": self.sliding_window, "deterministic": self.deterministic_flash_attn}
        out, weights = _attend(
            self,
            query,
            key,
            value,
            attention_mask,
            self.attention_dropout,
            position_embeddings=position_embeddings,
            **own,
            **kwargs,
        )
        return self.out_drop(self.Wo(out)), weights


ATTENTION = {
    kind.__base__: kind
    for kind in (
        SlimBertSelfAttention,
        SlimRobertaSelfAttention,
        SlimXLMRobertaSelfAttention,
        SlimCamembertSelfAttention,
        SlimElectraSelfAttention,
        SlimDistilBertSelfAttention,
        SlimAlbertAttention,
        SlimModernBertAttention,
    )
}


def _resize(layer: nn.Module, path: str, rows: int | None, columns: int | None) -> None:
    parent, _, name = path.rpartition(".")
    holder = layer.get_submodule(parent)
    old = getattr(holder, name)
    rows, columns = (
        old.out_features if rows is None else rows,
        old.in_features if columns is None else columns,
    )
    bias = old.bias is not None
    setattr(holder, name, nn.Linear(columns, rows, bias, device=old.weight.device, dtype=old.weight.dtype))


def reshape(base: nn.Module, config: Any) -> None:
    """Give the layers of a stock base model the sizes of `config.per_layer_config`, with new weights."""
    parts = config.slim_parts
    layers: Any = base.get_submodule(parts["layers"])
    # One layer that runs several times has as many sizes, all alike.
    for layer, sizes in zip(layers, config.per_layer_config, strict=False):
        heads, key, value, ffn = (getattr(sizes, name) for name in SIZES)
        if parts["fused_qkv"]:
            _resize(layer, parts["query"], heads * (2 * key + value), None)
        else:
            for name, size in (("query", key), ("key", key), ("value", value)):
                _resize(layer, parts[name], heads * size, None)
        _resize(layer, parts["attention_out"], None, heads * value)
        _resize(layer, parts["ffn_in"], 2 * ffn if parts["gated_ffn"] else ffn, None)
        _resize(layer, parts["ffn_out"], None, ffn)
        attention = layer.get_submodule(parts["attention"])
        attention.__class__ = ATTENTION[type(attention)]
        attention.slim_heads, attention.slim_key, attention.slim_value = heads, key, value
        attention.scaling = key**-0.5


class Slim:
    """What a slim class adds to the stock class that it is mixed into."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        # The stock class refuses a hidden size that its heads do not divide, and would build matrices that go at once.
        heads, ffn = config.slim_stock
        before = {name: getattr(config, name) for name in (heads, ffn)}
        for name in before:
            setattr(config, name, 1)
        super().__init__(config, *args, **kwargs)  # type: ignore[call-arg]
        for name, size in before.items():
            setattr(config, name, size)
        reshape(self.base_model, config)  # type: ignore[attr-defined]
        self.post_init()  # type: ignore[attr-defined]  # the new matrices are drawn as the stock ones are


def _classes() -> dict[str, type]:
    found: dict[str, type] = {}
    for family in FAMILIES:
        stock = getattr(transformers, f"{family}Config")
        own = {"model_type": f"slim-{stock.model_type}", "__module__": __name__}
        config = type(f"Slim{family}Config", (stock,), own)
        found[config.__name__] = config
        for head in HEADS:
            base = getattr(transformers, family + head, None)
            if base is not None:
                inside = {"config_class": config, "__module__": __name__}
                found[f"Slim{family}{head}"] = type(f"Slim{family}{head}", (Slim, base), inside)
    return found


globals().update(_classes())
