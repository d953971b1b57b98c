"""The words for where a family keeps its parts: plain frozen facts, no behaviour."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sizes:
    """Config keys of the design dimensions; an empty key means that the family has no such dimension.

    Attributes:
        kv_heads: heads of keys and values, each shared by a group of query heads; where empty, each head has its own.
        head_dim: size of a head; hidden / heads where empty.
        inner: layers that run one after another in each of the `layers` steps; one where empty.
        groups: parts that the steps fall into, each with layers of its own; one where empty.
    """

    layers: str = "num_hidden_layers"
    hidden: str = "hidden_size"
    heads: str = "num_attention_heads"
    ffn: str = "intermediate_size"
    embedding: str = ""
    kv_heads: str = ""
    head_dim: str = ""
    inner: str = ""
    groups: str = ""
    dropouts: tuple[str, ...] = ("hidden_dropout_prob", "attention_probs_dropout_prob")


@dataclass(frozen=True)
class Anatomy:
    """Where the modules of a family are, as dotted paths.

    Paths of a layer (`query` … `ffn_norm`) are relative to that layer; all others to the base model
    (`model.base_model`), but those of `heads`, which are relative to the whole model. An empty path means that the
    family has no such part.

    Attributes:
        name: as in `config.model_type`.
        layers: the list of layers; of a `shared` family that of the first group.
        shared: one and the same module is run as several layers: ALBERT has one group of one layer, which runs
            `num_hidden_layers` times, or as many groups and layers in each as its config says.
        causal: a token sees none that follow it.
        fused_qkv: `query` names one matrix (3·heads·head_dim, hidden) that holds query, key and value in this order.
        qkv_by_head: that matrix holds query, key and value of the first head, then those of the second, and so on.
        query_norm, key_norm: norms of one head's queries and keys, before positions turn them.
        gated_ffn: `ffn_in` gives two halves (value and gate), so it has 2·ffn rows.
        ffn_up: a second matrix beside `ffn_in`, whose outputs are multiplied with the activated ones.
        pre_norm: norms stand before the sublayers, so hidden states are a residual stream that no norm bounds.
        parallel: attention and FFN both read what enters the layer, and their outputs are added to it together.
        switches: facts of these that are not the family's but the model's, and the config key that says each.
        output_projection: matrix from hidden states back to the embedding size, where that is another.
        heads: linear layers of task heads that read hidden vectors, relative to the whole model.
        language: dense layer and norm of the masked-language-model head, relative to the whole model.
        tail: every module of every head with the axes of its weight, outputs first ("hidden embedding" is a linear
            layer from the embedding size to the hidden size, "-" an axis that nothing cuts), relative to the whole
            model; those of heads that a model does not have are passed over.
        uncut: axes that pruning must leave alone in this family, and why.
        sizes: config key of each design dimension.
    """

    name: str
    word_embeddings: str
    position_embeddings: str
    type_embeddings: str
    embedding_norm: str
    embedding_projection: str
    layers: str
    query: str
    key: str
    value: str
    attention: str
    attention_out: str
    attention_norm: str
    ffn_in: str
    ffn_out: str
    ffn_norm: str
    final_norm: str = ""
    pooler: str = ""
    heads: tuple[str, ...] = ()
    language: tuple[str, str] = ("", "")
    tail: tuple[tuple[str, str], ...] = ()
    uncut: tuple[tuple[str, str], ...] = ()
    shared: bool = False
    causal: bool = False
    fused_qkv: bool = False
    qkv_by_head: bool = False
    query_norm: str = ""
    key_norm: str = ""
    gated_ffn: bool = False
    ffn_up: str = ""
    pre_norm: bool = False
    parallel: bool = False
    switches: tuple[tuple[str, str], ...] = ()
    output_projection: str = ""
    sizes: Sizes = field(default_factory=Sizes)

    @property
    def rotary(self) -> bool:
        """Whether positions turn queries and keys, and no table holds them."""
        return not self.position_embeddings
