"""One literal a family: the only place to touch to teach attar a new one (see CONTRIBUTING, "add a family")."""

from dataclasses import replace

from attar.anatomy.parts import Anatomy, Sizes

BERT = Anatomy(
    name="bert",
    word_embeddings="embeddings.word_embeddings",
    position_embeddings="embeddings.position_embeddings",
    type_embeddings="embeddings.token_type_embeddings",
    embedding_norm="embeddings.LayerNorm",
    embedding_projection="",
    layers="encoder.layer",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention="attention.self",
    attention_out="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    ffn_in="intermediate.dense",
    ffn_out="output.dense",
    ffn_norm="output.LayerNorm",
    pooler="pooler.dense",
    heads=("classifier",),
)

ROBERTA = replace(BERT, name="roberta", heads=("classifier.dense", "classifier.out_proj"))
XLM_ROBERTA = replace(ROBERTA, name="xlm-roberta")
CAMEMBERT = replace(ROBERTA, name="camembert")

ELECTRA = replace(
    BERT,
    name="electra",
    embedding_projection="embeddings_project",
    pooler="",
    heads=("classifier.dense", "classifier.out_proj"),
    sizes=Sizes(embedding="embedding_size"),
)

DISTILBERT = Anatomy(
    name="distilbert",
    word_embeddings="embeddings.word_embeddings",
    position_embeddings="embeddings.position_embeddings",
    type_embeddings="",
    embedding_norm="embeddings.LayerNorm",
    embedding_projection="",
    layers="transformer.layer",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    attention="attention",
    attention_out="attention.out_lin",
    attention_norm="sa_layer_norm",
    ffn_in="ffn.lin1",
    ffn_out="ffn.lin2",
    ffn_norm="output_layer_norm",
    heads=("pre_classifier", "classifier"),
    sizes=Sizes(
        layers="n_layers",
        hidden="dim",
        heads="n_heads",
        ffn="hidden_dim",
        dropouts=("dropout", "attention_dropout", "seq_classif_dropout"),
    ),
)

ALBERT = Anatomy(
    name="albert",
    word_embeddings="embeddings.word_embeddings",
    position_embeddings="embeddings.position_embeddings",
    type_embeddings="embeddings.token_type_embeddings",
    embedding_norm="embeddings.LayerNorm",
    embedding_projection="encoder.embedding_hidden_mapping_in",
    layers="encoder.albert_layer_groups.0.albert_layers",
    query="attention.query",
    key="attention.key",
    value="attention.value",
    attention="attention",
    attention_out="attention.dense",
    attention_norm="attention.LayerNorm",
    ffn_in="ffn",
    ffn_out="ffn_output",
    ffn_norm="full_layer_layer_norm",
    pooler="pooler",
    heads=("classifier",),
    shared=True,
    sizes=Sizes(
        embedding="embedding_size",
        dropouts=("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout_prob"),
    ),
)

MODERNBERT = Anatomy(
    name="modernbert",
    word_embeddings="embeddings.tok_embeddings",
    position_embeddings="",
    type_embeddings="",
    embedding_norm="embeddings.norm",
    embedding_projection="",
    layers="layers",
    query="attn.Wqkv",
    key="attn.Wqkv",
    value="attn.Wqkv",
    attention="attn",
    attention_out="attn.Wo",
    attention_norm="attn_norm",
    ffn_in="mlp.Wi",
    ffn_out="mlp.Wo",
    ffn_norm="mlp_norm",
    final_norm="final_norm",
    heads=("head.dense", "classifier"),
    fused_qkv=True,
    gated_ffn=True,
    pre_norm=True,
    sizes=Sizes(dropouts=("embedding_dropout", "attention_dropout", "mlp_dropout", "classifier_dropout")),
)

FAMILIES: dict[str, Anatomy] = {
    family.name: family
    for family in (BERT, ROBERTA, XLM_ROBERTA, CAMEMBERT, ELECTRA, DISTILBERT, ALBERT, MODERNBERT)
}
