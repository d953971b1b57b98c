"""One literal a family: the only place to touch to teach attar a new one (see CONTRIBUTING, "add a family")."""

from dataclasses import replace

from attar.anatomy.parts import Anatomy, Sizes

# Heads that several families have under the same names.
_TASKS = (("classifier", "- hidden"), ("qa_outputs", "- hidden"))
_DENSE_TASKS = (
    ("classifier.dense", "hidden hidden"),
    ("classifier.out_proj", "- hidden"),
    *_TASKS,
)

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
    language=("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm"),
    tail=(
        *_TASKS,
        ("cls.predictions.transform.dense", "hidden hidden"),
        ("cls.predictions.transform.LayerNorm", "hidden"),
        ("cls.predictions.decoder", "vocab hidden"),
        ("cls.predictions", "vocab"),
        ("cls.seq_relationship", "- hidden"),
    ),
)

ROBERTA = replace(
    BERT,
    name="roberta",
    heads=("classifier.dense", "classifier.out_proj"),
    language=("lm_head.dense", "lm_head.layer_norm"),
    tail=(
        *_DENSE_TASKS,
        ("lm_head.dense", "hidden hidden"),
        ("lm_head.layer_norm", "hidden"),
        ("lm_head.decoder", "vocab hidden"),
        ("lm_head", "vocab"),
    ),
)
XLM_ROBERTA = replace(ROBERTA, name="xlm-roberta")
CAMEMBERT = replace(ROBERTA, name="camembert")

ELECTRA = replace(
    BERT,
    name="electra",
    embedding_projection="embeddings_project",
    pooler="",
    heads=("classifier.dense", "classifier.out_proj"),
    language=("generator_predictions.dense", "generator_predictions.LayerNorm"),
    tail=(
        *_DENSE_TASKS,
        ("generator_predictions.dense", "embedding hidden"),
        ("generator_predictions.LayerNorm", "embedding"),
        ("generator_lm_head", "vocab embedding"),
        ("discriminator_predictions.dense", "hidden hidden"),
        ("discriminator_predictions.dense_prediction", "- hidden"),
    ),
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
    language=("vocab_transform", "vocab_layer_norm"),
    tail=(
        ("pre_classifier", "hidden hidden"),
        *_TASKS,
        ("vocab_transform", "hidden hidden"),
        ("vocab_layer_norm", "hidden"),
        ("vocab_projector", "vocab hidden"),
    ),
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
    language=("predictions.dense", "predictions.LayerNorm"),
    tail=(
        *_TASKS,
        ("predictions.dense", "embedding hidden"),
        ("predictions.LayerNorm", "embedding"),
        ("predictions.decoder", "vocab embedding"),
        ("predictions", "vocab"),
        ("sop_classifier.classifier", "- hidden"),
    ),
    uncut=(("layers", "its layers are one layer that runs several times"),),
    shared=True,
    sizes=Sizes(
        embedding="embedding_size",
        inner="inner_group_num",
        groups="num_hidden_groups",
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
    language=("head.dense", "head.norm"),
    tail=(
        ("head.dense", "hidden hidden"),
        ("head.norm", "hidden"),
        *_TASKS,
        ("decoder", "vocab hidden"),
    ),
    uncut=(("key", "rotary positions turn pairs of its dimensions, each by an angle of its own"),),
    fused_qkv=True,
    gated_ffn=True,
    pre_norm=True,
    sizes=Sizes(dropouts=("embedding_dropout", "attention_dropout", "mlp_dropout", "classifier_dropout")),
)

GPT2 = Anatomy(
    name="gpt2",
    word_embeddings="wte",
    position_embeddings="wpe",
    type_embeddings="",
    embedding_norm="",
    embedding_projection="",
    layers="h",
    query="attn.c_attn",
    key="attn.c_attn",
    value="attn.c_attn",
    attention="attn",
    attention_out="attn.c_proj",
    attention_norm="ln_1",
    ffn_in="mlp.c_fc",
    ffn_out="mlp.c_proj",
    ffn_norm="ln_2",
    final_norm="ln_f",
    causal=True,
    fused_qkv=True,
    pre_norm=True,
    sizes=Sizes(
        layers="n_layer",
        hidden="n_embd",
        heads="n_head",
        ffn="n_inner",
        dropouts=("resid_pdrop", "attn_pdrop", "embd_pdrop"),
    ),
)

GPT_NEOX = Anatomy(
    name="gpt_neox",
    word_embeddings="embed_in",
    position_embeddings="",
    type_embeddings="",
    embedding_norm="",
    embedding_projection="",
    layers="layers",
    query="attention.query_key_value",
    key="attention.query_key_value",
    value="attention.query_key_value",
    attention="attention",
    attention_out="attention.dense",
    attention_norm="input_layernorm",
    ffn_in="mlp.dense_h_to_4h",
    ffn_out="mlp.dense_4h_to_h",
    ffn_norm="post_attention_layernorm",
    final_norm="final_layer_norm",
    causal=True,
    fused_qkv=True,
    qkv_by_head=True,
    pre_norm=True,
    switches=(("parallel", "use_parallel_residual"),),
    sizes=Sizes(dropouts=("hidden_dropout", "attention_dropout", "classifier_dropout")),
)

OPT = Anatomy(
    name="opt",
    word_embeddings="decoder.embed_tokens",
    position_embeddings="decoder.embed_positions",
    type_embeddings="",
    embedding_norm="",
    embedding_projection="decoder.project_in",
    layers="decoder.layers",
    query="self_attn.q_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    attention="self_attn",
    attention_out="self_attn.out_proj",
    attention_norm="self_attn_layer_norm",
    ffn_in="fc1",
    ffn_out="fc2",
    ffn_norm="final_layer_norm",
    final_norm="decoder.final_layer_norm",
    causal=True,
    switches=(("pre_norm", "do_layer_norm_before"),),
    output_projection="decoder.project_out",
    sizes=Sizes(ffn="ffn_dim", embedding="word_embed_proj_dim", dropouts=("dropout", "attention_dropout")),
)

LLAMA = Anatomy(
    name="llama",
    word_embeddings="embed_tokens",
    position_embeddings="",
    type_embeddings="",
    embedding_norm="",
    embedding_projection="",
    layers="layers",
    query="self_attn.q_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    attention="self_attn",
    attention_out="self_attn.o_proj",
    attention_norm="input_layernorm",
    ffn_in="mlp.gate_proj",
    ffn_out="mlp.down_proj",
    ffn_norm="post_attention_layernorm",
    final_norm="norm",
    causal=True,
    ffn_up="mlp.up_proj",
    pre_norm=True,
    sizes=Sizes(kv_heads="num_key_value_heads", head_dim="head_dim", dropouts=("attention_dropout",)),
)
MISTRAL = replace(LLAMA, name="mistral")
QWEN2 = replace(LLAMA, name="qwen2", sizes=replace(LLAMA.sizes, head_dim=""))
QWEN3 = replace(LLAMA, name="qwen3", query_norm="self_attn.q_norm", key_norm="self_attn.k_norm")

# What model2vec's config says of its static models, which have no layers to know.
STATIC = "model2vec"

ENCODERS: dict[str, Anatomy] = {
    family.name: family
    for family in (BERT, ROBERTA, XLM_ROBERTA, CAMEMBERT, ELECTRA, DISTILBERT, ALBERT, MODERNBERT)
}
DECODERS: dict[str, Anatomy] = {
    family.name: family for family in (GPT2, GPT_NEOX, OPT, LLAMA, QWEN2, QWEN3, MISTRAL)
}
FAMILIES: dict[str, Anatomy] = ENCODERS | DECODERS
