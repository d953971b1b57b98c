"""Build a student: any number of layers, hidden size, heads, FFN and embedding size, from any supported teacher."""

import copy
from collections.abc import Mapping as MappingType
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from transformers import PreTrainedModel

from attar.anatomy.resolve import Bound, Shape, resolve, shape_of
from attar.anatomy.sizes import exceeding
from attar.data.batches import Batches
from attar.distillation import static_start
from attar.distillation.activations import Activations
from attar.distillation.embedding_head import fit as fit_dense
from attar.distillation.embedding_head import student_head
from attar.distillation.head_outputs import assign, split
from attar.distillation.projection import project
from attar.distillation.student_config import config_of, shape_for, widths
from attar.errors import ModelError
from attar.maths.mapping import Mapping, layer_map
from attar.model.checkpoint import HEADS, SAVED, Head
from attar.model.embedding import KEY, SentenceEncoder
from attar.model.weights import attention_scale
from attar.progress import say

Init = Literal["project", "layers", "random", "static"]
# How the classes of models are called that have a head which distillation knows.
ENDINGS: dict[str, Head] = {name: head for name, head in SAVED.items() if name != "ForPreTraining"}


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
    texts: Batches | Activations | None = None,
    vectors: Tensor | None = None,
    dense: bool = True,
    seed: int = 0,
) -> Student:
    """Build a student with the teacher's tokenizer, task and kind of head; a size that is None is the teacher's own.

    The student is of the teacher's family where that can express the sizes. An embedding size other than the hidden
    size makes it an ELECTRA (stock, factorised embedding), and so does a teacher that shares its layers (ALBERT) where
    the student's layers are of another shape. A decoder's output matrix is tied to its embedding as the teacher's is.

    Args:
        layers, hidden, heads, ffn: M, d, A and the inner size of the FFN; `hidden` is a multiple of `heads`. Where
            groups of heads share keys and values, whole groups stay. The size of a head is d / A; the teacher's own
            where that is another than D / heads, or where its queries and keys are normed (Qwen3). Where GPT-2 leaves
            its FFN's size open it is 4·d.
        embedding: E of a factorised embedding, V·E + E·d parameters in place of V·d.
        init: "project", the teacher's weights on the leading directions of its hidden states (see `projection`);
            "layers", the layers that `mapping` names, copied; "random", the class's own initialisation; "static", of
            an embedding model: what a static model with `vectors` computes (see `static_start`).
        mapping: the teacher layer for each student layer, as in `attar.maths.mapping.layer_map`.
        texts: real text for init="project": a thousand sentences of the kind the student will read, or what the
            teacher does on them (`projection.observe`); for init="static" batches, on which the Dense layer is fitted.
        vectors: (V, n), of the teacher's tokens, for init="static".
        dense: of an embedding model: lead to the teacher's dimensions, where `hidden` is another, by a Dense layer.
        seed: of every random choice.

    Raises:
        ModelError: sizes that no stock class can express, a head that attar does not know, sizes that `init` cannot
            fill, or no text to project on.
        RecipeError: a bad mapping.
    """
    bound = resolve(teacher)
    _startable(bound, init)
    shape = shape_for(bound, layers, hidden, heads, ffn, embedding)
    if init not in get_args(Init):
        raise ModelError(
            expected=f"init to be one of {', '.join(get_args(Init))}",
            found=repr(init),
            fix="name one of them",
        )
    chosen = layer_map(shape.layers, bound.shape.layers, mapping)
    config = config_of(bound, shape, chosen)
    if isinstance(teacher, SentenceEncoder):
        setattr(config, KEY, student_head(teacher, shape.hidden, dense=dense).written)
    model = _fresh(config, head_of(teacher), seed)
    if bound.anatomy.causal and teacher.can_generate():
        model.generation_config = copy.deepcopy(teacher.generation_config)
    if init == "random":
        return Student(model)
    if init == "static":
        _static(teacher, model, texts, vectors, seed)
        return Student(model)
    same_class = type(model) is type(teacher)
    if init == "layers" or (same_class and bound.anatomy.shared):
        if not same_class or widths(shape) != widths(bound.shape):
            raise ModelError(
                expected=f"the teacher's own sizes with init='layers', to copy layers whole: {widths(bound.shape)}",
                found=str(widths(shape)),
                fix="init='project' fits the teacher's weights into other sizes",
            )
        _copy_layers(bound, model, chosen)
        return Student(model)
    if texts is None or (isinstance(texts, Batches) and len(texts) == 0):
        raise ModelError(
            expected="texts with init='project': the teacher's directions are those it takes on real text",
            found="none",
            fix="pass texts=Batches(…) of a thousand sentences or more, or init='layers' or 'random'",
        )
    _projectable(bound, shape)
    maps = project(teacher, model, chosen, texts, seed=seed)
    if isinstance(teacher, SentenceEncoder) and isinstance(model, SentenceEncoder) and model.head.dense:
        read = texts.batches if isinstance(texts, Activations) else texts
        fit_dense(teacher, model, maps[len(chosen)], read)
    return Student(model, maps)


def _static(
    teacher: PreTrainedModel, model: PreTrainedModel, texts: Any, vectors: Tensor | None, seed: int
) -> None:
    if not isinstance(teacher, SentenceEncoder) or not isinstance(model, SentenceEncoder) or vectors is None:
        raise ModelError(
            expected="an embedding model as the teacher, and vectors of its tokens, with init='static'",
            found=type(teacher).__name__ if vectors is not None else "no vectors",
            fix="init='project'",
        )
    static_start.fill(model, vectors, seed=seed)
    if model.head.dense and isinstance(texts, Batches):
        lift = torch.zeros(model.encoder.config.hidden_size, teacher.encoder.config.hidden_size)
        fit_dense(teacher, model, lift, texts)


def check_sizes(
    teacher: PreTrainedModel,
    *,
    layers: int | None = None,
    hidden: int | None = None,
    heads: int | None = None,
    ffn: int | None = None,
    embedding: int | None = None,
) -> None:
    """Refuse a student of more layers, or wider ones, than its teacher: as a size by name it is rarely meant.

    Raises:
        ModelError: such a student, or sizes that do not go together.
    """
    bound = resolve(teacher)
    wanted = shape_for(bound, layers, hidden, heads, ffn, embedding)
    if found := exceeding(vars(wanted), vars(bound.shape)):
        raise ModelError(
            expected="a student of at most the teacher's layers, hidden and ffn",
            found=", ".join(found),
            fix="name smaller sizes; a larger student that is meant is passed as a model or a directory",
        )


def larger_than(student: PreTrainedModel, teacher: Any, parameters: int) -> tuple[str, ...]:
    """What a reader has to know of a student that is larger than its teacher; each is said, too.

    Args:
        student: before it learns.
        teacher: its config.
        parameters: the teacher's.
    """
    ours, theirs = shape_of(student.config), shape_of(teacher)
    notes = []
    if found := exceeding(vars(ours), vars(theirs)):
        notes.append(f"the student is larger than its teacher, and slower: {', '.join(found)}")
    if (count := student.num_parameters()) > parameters:
        notes.append(f"the student has {count:,} parameters, more than the teacher's {parameters:,}")
    for note in notes:
        say(note)
    return tuple(notes)


def head_of(model: PreTrainedModel) -> Head:
    """Which head a model has.

    Raises:
        ModelError: one that distillation does not know.
    """
    name = type(model).__name__
    if found := next((head for ending, head in ENDINGS.items() if name.endswith(ending)), None):
        return found
    if model.base_model is model:
        return "base"
    raise ModelError(
        expected="a teacher for texts, words or answers, a masked or causal language model, or one without a head",
        found=name,
        fix="load it with head='base' (its layers alone), head='masked-lm' or head='causal-lm'",
    )


def _startable(bound: Bound, init: Init) -> None:
    if bound.place(bound.shape.layers - 1) != (0, 0) and bound.anatomy.shared:
        raise ModelError(
            expected="a teacher whose layers are all one, or each its own, to build a student of its kind",
            found=f"{type(bound.model).__name__} with layers in groups",
            fix="a student that exists already, or the model that the layers were shared in as the teacher",
        )
    if bound.shape.each and init not in ("random", "static"):
        raise ModelError(
            expected="a teacher whose layers are alike, to start a student from its weights",
            found=f"{type(bound.model).__name__}, which was cut unevenly",
            fix="init='random', the model that it was cut from as the teacher, or a student that exists already",
        )


def _projectable(bound: Bound, shape: Shape) -> None:
    """Refuse the decoders (OPT-350m) whose stream is normed layer by layer, or that narrow it at both ends."""
    if bound.anatomy.causal and not (bound.anatomy.pre_norm and shape.embedding == shape.hidden):
        raise ModelError(
            expected="a decoder with norms before its sublayers and an embedding as wide as its hidden states, "
            "to project",
            found=f"{bound.anatomy.name} with "
            + (f"embedding={shape.embedding}" if bound.anatomy.pre_norm else "norms after them"),
            fix="init='layers' (with the teacher's widths) or init='random'",
        )


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
    copied = resolve(model)
    for m, n in enumerate(chosen):
        if (scale := attention_scale(model.config, m, n)) != 1:
            weights, biases = map(list, zip(*split(copied, m), strict=True))
            factors = (scale, 1.0, 1.0)
            assign(
                copied,
                m,
                [f * weight.T for f, weight in zip(factors, weights, strict=True)],
                [f * bias for f, bias in zip(factors, biases, strict=True)],
            )
