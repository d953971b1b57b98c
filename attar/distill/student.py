"""Build a student: any number of layers, hidden size, heads, FFN and embedding size, from any supported teacher."""

import copy
from collections.abc import Mapping as MappingType
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers import ElectraConfig, PreTrainedModel

from attar.anatomy.form import Form, LayerForm
from attar.anatomy.resolve import Bound, Shape, resolve
from attar.distill.projection import project
from attar.distill.weights import position_offset
from attar.errors import ModelError
from attar.maths.mapping import Mapping, layer_map
from attar.model.checkpoint import HEADS, Head
from attar.model.data import Batches
from attar.model.slim import config_for

Init = Literal["project", "layers", "random"]
TASK_KEYS = ("id2label", "label2id", "problem_type")


@dataclass(frozen=True)
class Student:
    """A student model, and where the projections of its losses start.

    Attributes:
        model: of a stock transformers class, in evaluation mode.
        projections: for each student layer m = 0 … M (0 is the input of the first layer) a matrix (d, D) with
            `H_S @ W ≈ H_T`, the teacher's hidden states of layer g(m); None unless the student was projected.
    """

    model: PreTrainedModel
    projections: dict[int, Tensor] | None = None


def student(
    teacher: PreTrainedModel,
    *,
    layers: int | None = None,
    hidden: int | None = None,
    heads: int | None = None,
    ffn: int | None = None,
    embedding: int | None = None,
    init: Init = "project",
    mapping: Mapping = "uniform",
    texts: Batches | None = None,
    seed: int = 0,
) -> Student:
    """Build a student with the teacher's tokenizer, task and kind of head; a size that is None is the teacher's own.

    The student is of the teacher's family where that can express the sizes. An embedding size other than the hidden
    size makes it an ELECTRA (stock, factorised embedding), and so does a teacher that shares its layers (ALBERT) where
    the student's layers are of another shape.

    Args:
        layers, hidden, heads, ffn: M, d, A and the inner size of the FFN; `hidden` is a multiple of `heads`.
        embedding: E of a factorised embedding, V·E + E·d parameters in place of V·d.
        init: "project", the teacher's weights on the leading directions of its hidden states (see `projection`);
            "layers", the layers that `mapping` names, copied; "random", the class's own initialisation.
        mapping: the teacher layer for each student layer, as in `attar.maths.mapping.layer_map`.
        texts: real text for init="project": a thousand sentences of the kind the student will read.
        seed: of every random choice.

    Raises:
        ModelError: sizes that no stock class can express, a head that attar does not know, sizes that `init` cannot
            fill, or no text to project on.
        RecipeError: a bad mapping.
    """
    bound = resolve(teacher)
    _startable(bound, init)
    shape = _shape(bound.shape, layers, hidden, heads, ffn, embedding)
    if init not in get_args(Init):
        raise ModelError(
            expected=f"init to be one of {', '.join(get_args(Init))}",
            found=repr(init),
            fix="name one of them",
        )
    chosen = layer_map(shape.layers, bound.shape.layers, mapping)
    config = _config(bound, shape, chosen)
    model = _fresh(config, head_of(teacher), seed)
    if init == "random":
        return Student(model)
    same_class = type(model) is type(teacher)
    if init == "layers" or (same_class and bound.anatomy.shared):
        if not same_class or _sizes(shape) != _sizes(bound.shape):
            raise ModelError(
                expected=f"the teacher's own sizes with init='layers', to copy layers whole: {_sizes(bound.shape)}",
                found=str(_sizes(shape)),
                fix="init='project' fits the teacher's weights into other sizes",
            )
        _copy_layers(bound, model, chosen)
        return Student(model)
    if texts is None or len(texts) == 0:
        raise ModelError(
            expected="texts with init='project': the teacher's directions are those it takes on real text",
            found="none",
            fix="pass texts=Batches(…) of a thousand sentences or more, or init='layers' or 'random'",
        )
    return Student(model, project(teacher, model, chosen, texts, seed=seed))


def parameters(model: nn.Module) -> int:
    """Number of parameters; one that is shared counts once."""
    return sum(p.numel() for p in model.parameters())


def head_of(model: PreTrainedModel) -> Head:
    """Which head a model has.

    Raises:
        ModelError: one that distillation does not know.
    """
    name = type(model).__name__
    if name.endswith("ForSequenceClassification"):
        return "sequence-classification"
    if name.endswith("ForMaskedLM"):
        return "masked-lm"
    if model.base_model is model:
        return "base"
    raise ModelError(
        expected="a teacher for sequence classification or masked language modelling, or one without a head",
        found=name,
        fix="load it with head='base' (its layers alone) or head='masked-lm'",
    )


def _startable(bound: Bound, init: Init) -> None:
    if bound.shape.each and init != "random":
        raise ModelError(
            expected="a teacher whose layers are alike, to start a student from its weights",
            found=f"{type(bound.model).__name__}, which was cut unevenly",
            fix="init='random', the model that it was cut from as the teacher, or a student that exists already",
        )


def _shape(
    own: Shape,
    layers: int | None,
    hidden: int | None,
    heads: int | None,
    ffn: int | None,
    embedding: int | None,
) -> Shape:
    factorised = own.embedding != own.hidden
    size = hidden if hidden is not None else own.hidden
    shape = Shape(
        layers=layers if layers is not None else own.layers,
        hidden=size,
        heads=heads if heads is not None else own.heads,
        ffn=ffn if ffn is not None else own.ffn,
        embedding=embedding if embedding is not None else own.embedding if factorised else size,
        vocab=own.vocab,
    )
    for name in ("layers", "hidden", "heads", "ffn", "embedding"):
        if getattr(shape, name) < 1:
            raise ModelError(
                expected=f"{name} of the student to be at least 1",
                found=str(getattr(shape, name)),
                fix=f"mend {name}",
            )
    if shape.hidden % shape.heads:
        fitting = [h for h in range(1, shape.hidden + 1) if shape.hidden % h == 0]
        near = min(fitting, key=lambda h: abs(h - shape.heads))
        raise ModelError(
            expected="hidden to be a multiple of heads",
            found=f"hidden={shape.hidden}, heads={shape.heads}",
            fix=f"heads={near}, or hidden={max(1, round(shape.hidden / shape.heads)) * shape.heads}",
        )
    return shape


def _sizes(shape: Shape) -> dict[str, int]:
    return {"hidden": shape.hidden, "heads": shape.heads, "ffn": shape.ffn, "embedding": shape.embedding}


def _config(bound: Bound, shape: Shape, chosen: tuple[int, ...]) -> Any:
    """The config of the smallest change to the teacher's that says the shape."""
    anatomy, own = bound.anatomy, bound.shape
    factorised = shape.embedding != shape.hidden
    unshared = anatomy.shared and _sizes(shape) != _sizes(own)
    if (factorised and not anatomy.sizes.embedding) or unshared:
        if anatomy.pre_norm:
            raise ModelError(
                expected=f"embedding to equal hidden in a {anatomy.name} student: no stock class factorises it",
                found=f"embedding={shape.embedding}, hidden={shape.hidden}",
                fix="leave embedding out, or make hidden smaller",
            )
        return _electra(bound, shape)
    config = _uniform(bound.model.config, shape) if own.each else copy.deepcopy(bound.model.config)
    for name in ("layers", "hidden", "heads", "ffn", "embedding"):
        if key := getattr(anatomy.sizes, name):
            setattr(config, key, getattr(shape, name))
    if getattr(config, "layer_types", None):
        # A student layer attends as far as the teacher layer it learns from.
        config.layer_types = [bound.model.config.layer_types[n - 1] for n in chosen]
    if anatomy.pre_norm and shape.head_dim % 2:
        raise ModelError(
            expected="an even head size, since rotary positions turn pairs of dimensions",
            found=f"{shape.head_dim} (hidden={shape.hidden}, heads={shape.heads})",
            fix="choose hidden as an even multiple of heads",
        )
    config.name_or_path = ""
    return config


def _uniform(config: Any, shape: Shape) -> Any:
    """The stock config of a slim teacher's family that says the shape."""
    layer = LayerForm(shape.heads, shape.head_dim, shape.head_dim, shape.ffn)
    return config_for(config, Form(shape.hidden, shape.embedding, shape.vocab, (layer,) * shape.layers))


def _electra(bound: Bound, shape: Shape) -> ElectraConfig:
    """ELECTRA's config with what a BERT-like teacher of another family has."""
    own, sizes = bound.model.config, bound.anatomy.sizes
    hidden_dropout, attention_dropout = (getattr(own, key) for key in sizes.dropouts[:2])
    config = ElectraConfig(
        vocab_size=shape.vocab,
        embedding_size=shape.embedding,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.ffn,
        hidden_act=getattr(own, "hidden_act", None) or own.activation,
        hidden_dropout_prob=hidden_dropout,
        attention_probs_dropout_prob=attention_dropout,
        classifier_dropout=getattr(own, "classifier_dropout", None),
        max_position_embeddings=own.max_position_embeddings - position_offset(own),
        type_vocab_size=getattr(own, "type_vocab_size", 1),
        initializer_range=own.initializer_range,
        layer_norm_eps=getattr(own, "layer_norm_eps", 1e-12),
        **{key: getattr(own, key, None) for key in ("pad_token_id", "bos_token_id", "eos_token_id")},
    )
    for key in TASK_KEYS:
        setattr(config, key, copy.copy(getattr(own, key)))
    return config


def _fresh(config: Any, head: Head, seed: int) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = HEADS[head].from_config(config, dtype=torch.float32)
    model.config.architectures = [type(model).__name__]
    return model.eval()


def _copy_layers(bound: Bound, model: PreTrainedModel, chosen: tuple[int, ...]) -> None:
    """Everything of the teacher but its layers, and the layers g(m)."""
    prefix = "" if bound.base is bound.model else bound.model.base_model_prefix + "."
    prefix += bound.anatomy.layers + "."
    source = bound.model.state_dict()
    found: MappingType[str, Tensor] = {
        name: value for name, value in source.items() if not name.startswith(prefix)
    }
    copies = enumerate(chosen) if not bound.anatomy.shared else [(0, 1)]
    layers = {
        f"{prefix}{m}{name.removeprefix(f'{prefix}{n - 1}')}": value
        for m, n in copies
        for name, value in source.items()
        if name.startswith(f"{prefix}{n - 1}.")
    }
    missing, unexpected = model.load_state_dict({**found, **layers}, strict=False)
    # A pre-norm model has no norm before its first layer: one copied there has no place.
    if missing or any(not bound.anatomy.pre_norm or ".0." not in name for name in unexpected):
        raise ModelError(
            expected=f"the weights of a {bound.anatomy.name} teacher to fit its student",
            found=f"missing {missing[:3]}, left over {unexpected[:3]}",
            fix="report this as a bug of attar, with the teacher's config.json",
        )
