"""The sizes of a student, and the stock config that says them."""

import copy
from typing import Any

from transformers import ElectraConfig

from attar.anatomy.form import Form, LayerForm
from attar.anatomy.resolve import Bound, Shape
from attar.errors import ModelError
from attar.model.embedding import KEY
from attar.model.sentence_modules import RERANKER
from attar.model.slim import config_for
from attar.model.weights import position_offset, rotary_size

# Of embedding models the head, too, and what a reranker's scores go through.
TASK_KEYS = ("id2label", "label2id", "problem_type", KEY, *RERANKER)


def shape_for(
    bound: Bound,
    layers: int | None,
    hidden: int | None,
    heads: int | None,
    ffn: int | None,
    embedding: int | None,
) -> Shape:
    """A student's shape; a size that is None is the teacher's own.

    Raises:
        ModelError: sizes that do not go together.
    """
    own, config, sizes = bound.shape, bound.model.config, bound.anatomy.sizes
    factorised = own.embedding != own.hidden
    size = hidden if hidden is not None else own.hidden
    keeps_heads = bool(own.own_head_dim or bound.anatomy.query_norm)
    if ffn is None:
        ffn = own.ffn if getattr(config, sizes.ffn) else 4 * size
    shape = Shape(
        layers=layers if layers is not None else own.layers,
        hidden=size,
        heads=heads if heads is not None else own.heads,
        ffn=ffn,
        embedding=embedding if embedding is not None else own.embedding if factorised else size,
        vocab=own.vocab,
        group=own.group,
        own_head_dim=own.head_dim if keeps_heads else None,
    )
    for name in ("layers", "hidden", "heads", "ffn", "embedding"):
        if getattr(shape, name) < 1:
            raise ModelError(
                expected=f"{name} of the student to be at least 1",
                found=str(getattr(shape, name)),
                fix=f"mend {name}",
            )
    if embedding is not None and embedding > size:
        raise ModelError(
            expected=f"an embedding of at most the hidden size, {size}",
            found=str(embedding),
            fix="name a smaller embedding, or leave it out",
        )
    if shape.heads % own.group:
        raise ModelError(
            expected=f"heads in whole groups of {own.group}, which share keys and values",
            found=str(shape.heads),
            fix=f"heads={max(1, round(shape.heads / own.group)) * own.group}",
        )
    # Llama's config asks for it even where heads have a size of their own.
    if shape.hidden % shape.heads and not bound.anatomy.query_norm:
        fitting = [h for h in range(own.group, shape.hidden + 1, own.group) if shape.hidden % h == 0]
        near = min(fitting, key=lambda h: abs(h - shape.heads), default=None)
        whole = f"hidden={max(1, round(shape.hidden / shape.heads)) * shape.heads}"
        raise ModelError(
            expected="hidden to be a multiple of heads",
            found=f"hidden={shape.hidden}, heads={shape.heads}",
            fix=f"heads={near}, or {whole}" if near else whole,
        )
    return shape


def widths(shape: Shape) -> dict[str, int]:
    """All sizes of a shape but its depth."""
    return {"hidden": shape.hidden, "heads": shape.heads, "ffn": shape.ffn, "embedding": shape.embedding}


def config_of(bound: Bound, shape: Shape, chosen: tuple[int, ...]) -> Any:
    """The config of the smallest change to the teacher's that says the shape.

    Args:
        chosen: teacher layer, from 1, for each student layer.

    Raises:
        ModelError: no stock class of the family has that shape.
    """
    anatomy, own = bound.anatomy, bound.shape
    factorised = shape.embedding != shape.hidden
    unshared = anatomy.shared and widths(shape) != widths(own)
    if (factorised and not anatomy.sizes.embedding) or unshared:
        if anatomy.pre_norm or anatomy.causal:
            raise ModelError(
                expected=f"embedding to equal hidden in a {anatomy.name} student: no stock class factorises it",
                found=f"embedding={shape.embedding}, hidden={shape.hidden}",
                fix="leave embedding out, or make hidden smaller",
            )
        return _electra(bound, shape)
    config = _uniform(bound.model.config, shape) if own.each else copy.deepcopy(bound.model.config)
    for name in ("layers", "hidden", "heads", "ffn", "embedding", "kv_heads", "head_dim"):
        if key := getattr(anatomy.sizes, name):
            setattr(config, key, getattr(shape, name))
    # llama.cpp reads no n_inner, and takes a GPT-2's FFN to be 4·n_embd.
    if getattr(bound.model.config, anatomy.sizes.ffn) is None and shape.ffn == 4 * shape.hidden:
        setattr(config, anatomy.sizes.ffn, None)
    _follow(config, own.layers, chosen)
    turned = rotary_size(anatomy, config, shape.head_dim)
    if turned % 2:
        raise ModelError(
            expected="an even head size, since rotary positions turn pairs of dimensions",
            found=f"{turned} of {shape.head_dim} dimensions (hidden={shape.hidden}, heads={shape.heads})",
            fix="choose hidden as an even multiple of heads",
        )
    config.name_or_path = ""
    return config


def _follow(config: Any, layers: int, chosen: tuple[int, ...]) -> None:
    """Have what a config lists layer by layer follow the chosen ones: a student layer attends as far as its teacher."""
    for name, listed in list(vars(config).items()):
        if "layer" in name and isinstance(listed, list) and len(listed) == layers:
            setattr(config, name, [listed[n - 1] for n in chosen])
    if hasattr(config, "max_window_layers") and getattr(config, "layer_types", None):
        config.max_window_layers = config.layer_types.count("full_attention")


def _uniform(config: Any, shape: Shape) -> Any:
    """The stock config of a slim teacher's family that says the shape."""
    layer = LayerForm(shape.heads, shape.head_dim, shape.head_dim, shape.ffn)
    return config_for(config, Form(shape.hidden, shape.embedding, shape.vocab, (layer,) * shape.layers))


def _electra(bound: Bound, shape: Shape) -> ElectraConfig:
    """ELECTRA's config with what a BERT-like teacher of another family has."""
    classifier_dropout = getattr(bound.model.config, "classifier_dropout", None)
    return kin(ElectraConfig, bound, shape, classifier_dropout=classifier_dropout)


def kin(made: type[Any], bound: Bound, shape: Shape, **further: Any) -> Any:
    """The config of a class with BERT's computation and a factorised embedding, for a BERT-like teacher of any family.

    Args:
        made: the config's class, ELECTRA's or ALBERT's, which say sizes by the same names.
        further: what that class has beyond the other.
    """
    own, sizes = bound.model.config, bound.anatomy.sizes
    hidden_dropout, attention_dropout = (getattr(own, key) for key in sizes.dropouts[:2])
    config = made(
        vocab_size=shape.vocab,
        embedding_size=shape.embedding,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.ffn,
        hidden_act=getattr(own, "hidden_act", None) or own.activation,
        hidden_dropout_prob=hidden_dropout,
        attention_probs_dropout_prob=attention_dropout,
        max_position_embeddings=own.max_position_embeddings - position_offset(own),
        type_vocab_size=getattr(own, "type_vocab_size", 1),
        initializer_range=own.initializer_range,
        layer_norm_eps=getattr(own, "layer_norm_eps", 1e-12),
        **{key: getattr(own, key, None) for key in ("pad_token_id", "bos_token_id", "eos_token_id")},
        **further,
    )
    for key in TASK_KEYS:
        if hasattr(own, key):
            setattr(config, key, copy.copy(getattr(own, key)))
    return config
