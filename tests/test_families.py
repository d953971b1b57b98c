"""One conformance test for every family: the facts of its literal hold on a tiny model, up to a student."""

from pathlib import Path

import pytest
import torch

import tiny
from attar.anatomy.families import ENCODERS
from attar.anatomy.resolve import family, resolve, shape_of
from attar.data.model_task import task_of
from attar.data.tasks import Task
from attar.distillation.cache import LiveTeacher
from attar.distillation.objective import Intermediate, match
from attar.distillation.phases import Distiller
from attar.distillation.student import student
from attar.errors import ModelError
from attar.maths.mapping import layer_map
from attar.model.checkpoint import load, save
from attar.model.views import Need, call
from attar.training.finetuning import Supervised
from attar.training.loop import fit

BINARY = Task("single_label", ("bad", "good"))
PARTS = ("query", "key", "value", "attention_out", "ffn_in", "ffn_out", "ffn_norm")
SIZES = {"same": {}, "narrow": {"hidden": 16, "ffn": 20}, "factorised": {"hidden": 16, "embedding": 8}}
# Layers are copied whole, and no stock class factorises ModernBERT's embedding. Two are RoBERTa by another name.
STARTS = [
    (name, init, size)
    for name in ENCODERS
    for init in ("random", "layers", "project")
    for size in SIZES
    if not (init == "layers" and size != "same")
    and not (size == "factorised" and name == "modernbert")
    and (name not in {"xlm-roberta", "camembert"} or (init, size) == ("project", "narrow"))
]


@pytest.fixture(params=ENCODERS)
def name(request):
    return request.param


@pytest.mark.parametrize("head", ["sequence-classification", "masked-lm", "base"])
def test_every_path_and_size_of_the_literal_is_there(name, head):
    model = tiny.model(name, head)
    bound = resolve(model)
    anatomy, shape = bound.anatomy, bound.shape
    assert (shape.layers, shape.hidden, shape.heads, shape.ffn, shape.vocab) == (2, 24, 4, 40, tiny.VOCAB)
    assert shape.embedding == (16 if name in {"electra", "albert"} else 24)
    assert shape.head_dim == 6
    for layer in range(shape.layers):
        for part in PARTS:
            assert bound.at(getattr(anatomy, part), layer) is not None, part
    for part in (
        "embedding_norm",
        "position_embeddings",
        "type_embeddings",
        "embedding_projection",
        "final_norm",
    ):
        path = getattr(anatomy, part)
        assert (bound.at(path) is None) == (path == "")
    if head == "sequence-classification":
        inner = dict(model.named_modules())
        assert all(path in inner for path in anatomy.heads)
        for dropout in anatomy.sizes.dropouts:
            assert hasattr(model.config, dropout)


def test_query_key_and_value_are_what_the_model_computes_with(name):
    bound = resolve(tiny.model(name))
    one = next(iter(tiny.batches(["the film is good"], name)))
    seen = {}
    for part in ("query", "key", "value"):
        module = bound.at(getattr(bound.anatomy, part), 0)
        module.register_forward_hook(lambda _m, _i, out, part=part: seen.setdefault(part, out))
    view = call(bound.model, one.inputs, Need(relations=frozenset({1})))
    flat = {p: x[1].transpose(1, 2).flatten(2) for p, x in (("value", view.values), ("query", view.queries))}
    if bound.anatomy.fused_qkv:
        query, _, value = seen["query"].chunk(3, dim=-1)
        torch.testing.assert_close(flat["value"], value)
        assert query.norm().item() == pytest.approx(
            flat["query"].norm().item(), rel=1e-4
        )  # rotation keeps lengths
    else:
        torch.testing.assert_close(flat["value"], seen["value"])
        torch.testing.assert_close(flat["query"], seen["query"])


def test_a_fine_tuning_step_lowers_the_loss(name):
    source = tiny.batches(tiny.table(16), name, batch_size=16)
    steps = list(
        fit(Supervised(tiny.model(name), BINARY), source, epochs=6, lr=2e-3, precision="fp32", warmup=0.0)
    )
    assert steps[-1].loss < steps[0].loss


def test_a_model_is_saved_and_loaded(name, tmp_path):
    model = tiny.model(name)
    BINARY.configure(model.config)
    save(model, tiny.tokenizer(name), tmp_path / "out", lineage={})
    again = load(tmp_path / "out")
    assert tiny.identical(model, again.model)
    assert task_of(again.model.config) == BINARY
    text = "the film is good"
    assert again.tokenizer(text)["input_ids"] == tiny.tokenizer(name)(text)["input_ids"]


@pytest.mark.parametrize(("name", "init", "size"), STARTS)
def test_a_student_learns_one_step(name, init, size):
    teacher = tiny.model(name, seed=1)
    source = tiny.batches(tiny.texts(32), name, batch_size=16)
    made = student(teacher, layers=1, init=init, texts=source, **SIZES[size])
    ours, theirs = shape_of(made.model.config), shape_of(teacher.config)
    compared = match(ours, theirs, layer_map(ours.layers, theirs.layers))
    learner = Distiller(
        made.model,
        LiveTeacher(teacher, compared.teacher, precision="fp32"),
        intermediate=Intermediate(compared, ours, theirs, start=made.projections),
        task=BINARY,
    )
    steps = list(fit(learner, source, epochs=3, lr=1e-3, precision="fp32"))
    assert set(steps[0].parts) == {"embedding", "hidden", "attention", "prediction"}
    assert all(torch.tensor(list(s.parts.values())).isfinite().all() for s in steps)
    assert sum(s.loss for s in steps[-2:]) < sum(s.loss for s in steps[:2])


def test_a_config_that_belongs_to_other_weights_is_told(name):
    model = tiny.model(name)
    key = ENCODERS[name].sizes.ffn
    setattr(model.config, key, 44)
    with pytest.raises(ModelError, match=r"44|88") as caught:
        resolve(model)
    assert name in caught.value.expected


@pytest.mark.parametrize("name", [name for name in ENCODERS if not ENCODERS[name].shared])
def test_a_layer_that_is_not_there_is_told(name):
    model = tiny.model(name)
    setattr(model.config, ENCODERS[name].sizes.layers, 3)
    with pytest.raises(ModelError, match="no such module"):
        resolve(model)


@pytest.mark.parametrize(
    ("unknown", "nearest"),
    [("deberta", "'bert'"), ("roberta-prelayernorm", "roberta"), ("modern_bert", "modernbert")],
)
def test_an_unknown_family_names_the_nearest(unknown, nearest):
    with pytest.raises(ModelError, match="add a family") as caught:
        family(unknown)
    assert "nearest" in caught.value.found
    assert nearest.strip("'") in caught.value.found


def test_the_checklist_that_the_error_names_is_there():
    text = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert "add a family" in text.lower()
