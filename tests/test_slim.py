"""Slim directories load anywhere: after `import attar`, where there is no attar, and as ONNX; verbs take them."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

import attar
import slims
import tiny
from attar.anatomy.families import ENCODERS
from attar.anatomy.form import form_of
from attar.anatomy.resolve import shape_of
from attar.distillation.objective import match
from attar.distillation.student import student
from attar.errors import ModelError, RecipeError
from attar.model.checkpoint import digest, load, read_lineage, save
from attar.model.slim import is_slim, travelling
from attar.pruning.apply import apply
from attar.pruning.units import Kept, KeptLayer
from attar.report.card import card
from attar.verbs import anatomy

TASKS = (
    "Model",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMaskedLM",
)
SAVED = [("bert", head) for head in TASKS]
SAVED += [(family, "ForSequenceClassification") for family in ENCODERS if family != "bert"]
STRANGER = Path(__file__).with_name("stranger.py")


def keep(model, family, place, name):
    """Save a model, and beside it what it says."""
    save(model, tiny.tokenizer(family), place / name, lineage={"stage": "test"})
    note(model, family, place / f"{name}.npz")


def note(model, family, file):
    given = slims.inputs(model, family)
    with torch.no_grad():
        said = {k: v.numpy() for k, v in model(**given).items() if isinstance(v, torch.Tensor)}
    np.savez(file, **said, **{f"in.{k}": v.numpy() for k, v in given.items()})


def uniform():
    """A BERT of half the heads, cut so that a stock config says it."""
    model = slims.model("bert")
    form, half = form_of(model.config), tuple(range(12))
    six = tuple(range(6))
    layers = tuple(KeptLayer(n, (0, 2), six, six, half) for n in range(len(form.layers)))
    return apply(model, Kept(half, half, tuple(range(form.vocab)), layers))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Directories of slim models and of a stock one, and what their models said."""
    where = tmp_path_factory.mktemp("slim")
    for family, head in SAVED:
        keep(slims.slim(family, head), family, where / "models", f"{family}-{head}")
    keep(uniform(), "bert", where / "stock", "bert-ForSequenceClassification")
    return where


def run(mode, place, tmp_path):
    done = subprocess.run(
        [sys.executable, str(STRANGER), mode, str(place)],
        env={**tiny.surroundings(), "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def same(found, module, prefix):
    """Whether every model gave what it gave in memory; how many there were, and pipelines of them."""
    scores = {}
    for name, one in found.items():
        assert one["gap"] < 1e-5, name
        assert one["class"].startswith(prefix), name
        assert one["module"].startswith(module), name
        assert one["tokens"] == tiny.tokenizer()("the film is good")["input_ids"]
        scores |= {name: [answer["score"] for answer in one["score"]]} if "score" in one else {}
    assert all(sum(answer) == pytest.approx(1.0, abs=1e-5) for answer in scores.values())
    return len(found), len(scores)


def test_after_import_attar(place, tmp_path):
    found = run("attar", place, tmp_path)
    assert found["late"]
    assert found["quick"]  # only tokenizing, nobody waits for the models of every family
    assert same(found["models"], "attar.model.modeling_slim", "Slim") == (len(SAVED), 1)


def test_where_attar_is_not_installed(place, tmp_path):
    found = run("alone", place, tmp_path)
    for said in found["refused"]:
        assert "trust_remote_code=True" in said
        assert "custom code" in said
    assert same(found["models"], "transformers_modules.", "Slim") == (len(SAVED), 1)
    # What a stock config can say needs no trust.
    assert same(found["stock"], "transformers.models.bert.", "BertForSequenceClassification") == (1, 1)


def test_a_uniform_result_leaves_no_code_behind(place):
    files = {path.name for path in (place / "stock" / "bert-ForSequenceClassification").iterdir()}
    assert not any(name.endswith(".py") for name in files)
    config = json.loads((place / "stock/bert-ForSequenceClassification/config.json").read_text())
    assert config["model_type"] == "bert"
    assert not {"auto_map", "per_layer_config", "slim_parts", "slim_stock"} & config.keys()
    assert travelling(uniform()) == {}


@pytest.mark.parametrize(("family", "head"), slims.ALL)
def test_every_head_comes_back_with_the_head_it_was_saved_with(tmp_path, family, head):
    model = slims.slim(family, head)
    before = digest(model)
    save(model, tiny.tokenizer(family), tmp_path / "out", lineage={"stage": "test"})
    assert digest(model) == before
    again = load(tmp_path / "out").model
    # A masked language model goes on from a pretraining checkpoint, as stock ones do; ELECTRA's is a discriminator.
    continued = head == "ForPreTraining" and family != "electra"
    assert type(again).__name__ == type(model).__name__.replace(
        *("ForPreTraining", "ForMaskedLM") if continued else ("", "")
    )
    assert form_of(again.config) == form_of(model.config)
    assert continued or tiny.identical(model, again)
    assert read_lineage(tmp_path / "out")["stage"] == "test"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A slim classifier that was fine-tuned from its base's directory, and its tables."""
    where = tmp_path_factory.mktemp("verbs")
    save(slims.slim("bert", "Model"), tiny.tokenizer(), where / "base", lineage={})
    for name, seed in (("train", 0), ("dev", 1)):
        tiny.table(32, seed).to_csv(where / f"{name}.csv")
    options = {"dev": where / "dev.csv", "epochs": 1, "batch_size": 8, "lr": 1e-3}
    attar.finetune(where / "base", where / "train.csv", out=where / "tuned", **options)
    return where


def test_a_slim_model_is_finetuned_evaluated_exported_and_compared(teacher, tmp_path):
    tuned = load(teacher / "tuned").model
    assert is_slim(tuned.config)
    assert not tiny.identical(tuned.base_model, load(teacher / "base").model)
    alone = attar.evaluate(teacher / "tuned", teacher / "dev.csv")
    out, options = tmp_path / "onnx", {"max_drop": 1.0, "max_length": 32}
    attar.export(teacher / "tuned", data=teacher / "dev.csv", out=out, **options)
    models = [teacher / "tuned", out / "fp32", out / "int8"]
    both = attar.compare(models, teacher / "dev.csv", latency_length=8)
    assert both.rows[0].metrics["accuracy"] == alone.rows[0].metrics["accuracy"]
    assert {row.flops for row in both.rows} == {both.rows[0].flops}
    assert both.rows[1].metrics["agreement"] == 1.0
    # The file is enough for a stranger; and its directory is a whole one, whose config loads with trust.
    note(tuned, "bert", out / "fp32" / "model.npz")
    assert run("onnx", out / "fp32" / "model.onnx", tmp_path)["gap"] < 1e-4
    assert (out / "fp32" / "modeling_slim.py").is_file()


@pytest.mark.parametrize("attention", ["auto", "relations"])
def test_a_slim_model_is_a_student_of_the_model_it_was_cut_from(teacher, tmp_path, attention):
    whole = slims.model("bert")
    attar.distill(
        whole,
        tokenizer=tiny.tokenizer(),
        data=tiny.table(24),
        dev=tiny.table(12, 1),
        student=teacher / "tuned",
        intermediate={"epochs": 1, "batch_size": 8},
        prediction={"epochs": 1, "batch_size": 8},
        attention=attention,
        out=tmp_path / "out",
        max_length=32,
        precision="fp32",
    )
    found = load(tmp_path / "out").model
    assert form_of(found.config) == form_of(load(teacher / "tuned").model.config)
    assert not tiny.identical(found, load(teacher / "tuned").model)


def test_a_slim_model_is_a_teacher_as_well(teacher, tmp_path):
    attar.distill(
        teacher / "tuned",
        data=tiny.table(24),
        dev=tiny.table(12, 1),
        student={"layers": 1, "hidden": 10, "heads": 2, "ffn": 16, "init": "random"},
        intermediate={"epochs": 1, "batch_size": 8},
        prediction={"epochs": 1, "batch_size": 8},
        attention="relations",
        out=tmp_path / "out",
        max_length=32,
    )
    assert load(tmp_path / "out").model.config.model_type == "bert"


def test_what_does_not_fit_is_not_compared():
    theirs = shape_of(slims.model("bert").config)
    ours = shape_of(
        slims.slim("bert").config
    )  # 3 and 2 heads, hidden 11; keys of 5 and values of 4 dimensions
    assert ours.each == ((3, 5, 4, 40), (2, 5, 4, 39))
    found = match(ours, theirs, (1, 2))
    assert found.attention == "relations"  # 10 and 8 of the last layer, 24 of the teacher's
    assert found.relation_heads == 2
    with pytest.raises(RecipeError, match="4 heads in the student"):
        match(ours, theirs, (1, 2), attention="scores")
    with pytest.raises(RecipeError, match="10 and 8 and 24"):
        match(ours, theirs, (1, 2), attention="relations", relation_heads=3)
    odd = shape_of(slims.slim("albert").config)  # keys of 3 x 5 and values of 3 x 4 dimensions
    assert match(odd, theirs, (1, 2)).relation_heads == 3
    one = KeptLayer(0, (0,), (0, 1, 2, 3, 4), (0, 1, 2), (0,))
    narrow = shape_of(
        apply(slims.model("bert"), Kept((0, 1), (0, 1), tuple(range(tiny.VOCAB)), (one,))).config
    )
    found = match(narrow, theirs, (2,))
    assert (found.attention, found.hidden, found.embedding) == ("none", True, True)
    assert match(narrow, theirs, (2,), hidden=False, embedding=False).attention == "relations"
    even = [KeptLayer(n, (0, 1, 2, 3), (0, 1), (0, 1, 2), (0,)) for n in range(2)]
    full = Kept((0, 1), (0, 1), tuple(range(tiny.VOCAB)), tuple(even))
    assert match(shape_of(apply(slims.model("bert"), full).config), theirs, (1, 2)).attention == "scores"


def test_a_student_is_not_started_from_an_uneven_teacher():
    with pytest.raises(ModelError, match="init='random'"):
        student(slims.slim("bert"), layers=1, hidden=12, heads=2, texts=tiny.batches())
    for family in ("bert", "modernbert"):
        made = student(slims.slim(family), layers=1, hidden=12, heads=2, init="random").model
        assert not is_slim(made.config)
        assert shape_of(made.config).hidden == 12


def test_people_are_told_what_it_is(place):
    directory = place / "models" / "bert-ForSequenceClassification"
    told = io.StringIO()
    Console(file=told, width=200).print(anatomy(directory))
    assert "3 5 4 40, 2 5 4 39" in told.getvalue()
    text = card("small", lineage=read_lineage(directory), slim=True)
    assert text.count("trust_remote_code=True") == 1
    assert "modeling_slim.py" in text
    assert "trust" not in card("small", lineage={})
