"""Laws of pruning: plan and cut agree, and every task and family is cut, recovered and measured."""

import json

import pytest
import torch
import yaml
from datasets import Dataset
from pruning import FAST, TASKS, plan
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForTokenClassification,
    BertTokenizer,
)
from typer.testing import CliRunner

import attar
import tiny
from attar import cli
from attar.anatomy.form import form_of
from attar.model.checkpoint import load, read_lineage
from attar.pruning import measuring, pruner
from attar.pruning.apply import apply
from attar.pruning.cost import Parameters
from attar.pruning.round import Way, axes_of
from attar.pruning.rounds import rounds
from attar.training import loop as train


def prune(model, plan=None, **options):
    given = {"texts": tiny.texts(32), "steps": 5, "recover_steps": 4, **FAST, **options}
    return attar.prune(model, plan, tokenizer=tiny.tokenizer(), **given)


# Cutting


def test_prune_by_a_plan_is_apply(tmp_path):
    model = tiny.model()
    found = plan(model, budget=0.6, method="magnitude")
    report = prune(model, found.write(tmp_path / "plan.json"), out=tmp_path / "small", texts=None)
    small = load(tmp_path / "small").model
    assert tiny.identical(small, apply(model, found.kept))
    assert attar.Plan.read(tmp_path / "small" / "plan.json") == found
    assert report.shapes == (found.shape("small"),)
    assert report.rows[1].parameters == found.after.parameters == small.num_parameters()
    assert read_lineage(tmp_path / "small")["stage"] == "prune"


@pytest.mark.parametrize(
    ("options", "axes"),
    [
        ({"budget": 0.8, "axes": "auto"}, ["heads", "ffn"]),
        ({"budget": 0.15, "axes": "auto", "rounds": 2}, ["hidden", "heads", "key", "value", "ffn"]),
        ({"budget": 0.8, "axes": "auto", "method": "top"}, []),
    ],
)
def test_the_lineage_names_the_axes_that_were_ranked(tmp_path, options, axes):
    report = prune(tiny.model(num_hidden_layers=3), out=tmp_path / "small", recover=None, **options)
    assert read_lineage(tmp_path / "small")["options"]["axes"] == axes
    before, after = (row.parameters for row in report.rows)
    assert after <= options["budget"] * before


def test_rounds_compose(tmp_path):
    model = tiny.model()
    way = Way("magnitude", axes_of(model, "all"))
    cost = Parameters(model)
    made = rounds(model, way, cost, 0.4 * cost(form_of(model.config)), count=3, place=tmp_path)
    assert form_of(made.model.config) == made.kept.form
    assert cost(made.kept.form) <= 0.4 * cost(form_of(model.config))
    assert tiny.difference(made.model, apply(model, made.kept)) < 1e-6


def test_recovery_comes_closer_to_the_model_before(tmp_path):
    model, dev = tiny.model(), tiny.table(40, 1)
    options = {"budget": 0.7, "dev": dev, "texts": tiny.texts(64), "steps": 20, "recover_lr": 2e-3}
    ways = {
        "plain": {"recover": None, "reconstruct": False},
        "fitted": {"recover": None},
        "trained": {"recover_steps": 40, "reconstruct": False},
    }
    found = {name: prune(model, out=tmp_path / name, **options, **way) for name, way in ways.items()}
    far = {name: report.rows[1].metrics["kl"] for name, report in found.items()}
    assert max(far["fitted"], far["trained"]) < far["plain"]
    assert {name for name, report in found.items() if "recover" in report.curves} == {"trained"}


@pytest.mark.parametrize("kind", TASKS)
def test_every_task_prunes(tmp_path, kind):
    model, data = tiny.model(**TASKS[kind]), tiny.table(40, kind=kind)
    options = {"texts": None, "data": data, "dev": tiny.table(20, 1, kind=kind)}
    report = prune(model, out=tmp_path / "out", budget=0.7, loss="task", recover="task", **options)
    assert load(tmp_path / "out").model.config.num_labels == TASKS[kind]["num_labels"]
    assert report.rows[1].parameters <= 0.7 * report.rows[0].parameters
    assert report.main in report.rows[1].metrics


@pytest.mark.parametrize(
    ("head", "loss"), [("masked-lm", "mlm"), ("masked-lm", "distill"), ("base", "distill")]
)
def test_models_without_a_task_prune(tmp_path, head, loss):
    report = prune(tiny.model(head=head), out=tmp_path / "out", budget=0.7, rounds=2, loss=loss, recover=loss)
    assert list(report.curves) == ["recover 1", "recover 2"]
    assert load(tmp_path / "out").model.num_parameters() == report.rows[1].parameters
    metrics = [row.metrics.keys() for row in report.rows]
    if head == "base":
        assert report.notes == ("sizes alone: a BertModel has no head whose answers could be compared",)
        assert metrics == [set(), set()]
    else:
        assert report.notes[0].startswith("measured on 3 texts, held out")
        assert all({"masked_accuracy", "mlm_loss"} <= found for found in metrics)


def test_models_of_tags_and_answers_are_measured_where_there_is_something_to_ask(tmp_path):
    tagger = AutoModelForTokenClassification.from_config(tiny.config(num_labels=3))
    report = prune(tagger, out=tmp_path / "plain", budget=0.7)
    assert {"agreement", "kl"} <= report.rows[1].metrics.keys()
    rows = [{"tokens": text.split(), "tags": ["LABEL_0"] * len(text.split())} for text in tiny.texts(32)]
    report = prune(tagger, out=tmp_path / "table", budget=0.7, texts=None, data=Dataset.from_list(rows))
    assert {"accuracy", "agreement", "kl"} <= report.rows[1].metrics.keys()

    reader = AutoModelForQuestionAnswering.from_config(tiny.config())
    report = prune(reader, out=tmp_path / "texts", budget=0.7)
    assert report.notes == ("sizes alone: questions and their contexts are needed to measure (data or dev)",)
    columns = {"question": tiny.texts(32), "context": tiny.texts(32, 1)}
    asked = Dataset.from_dict(columns)
    report = prune(reader, out=tmp_path / "asked", budget=0.7, texts=None, data=asked, max_length=32)
    assert {"agreement", "kl"} <= report.rows[1].metrics.keys()


@pytest.mark.parametrize("way", ["rounds", "plan"])
def test_nothing_is_learned_from_the_texts_that_are_measured(tmp_path, monkeypatch, way):
    learned, measured = set(), set()

    def watch(place, seen, of):
        real = getattr(place, of)
        found = 1 if of == "measure" else 0

        def wrapped(*given, **options):
            seen.update(given[found]["text"][:])
            return real(*given, **options)

        monkeypatch.setattr(place, of, wrapped)

    watch(pruner, learned, "encode")
    watch(measuring, measured, "measure")
    model, texts = tiny.model(), list(dict.fromkeys(tiny.texts(80)))
    chosen = {"budget": 0.7} if way == "rounds" else {"plan": plan(model, budget=0.7, texts=texts, seed=3)}
    report = prune(model, out=tmp_path / "small", texts=texts, seed=5, **chosen)
    assert len(measured) == len(texts) // 10
    assert learned == set(texts) - measured
    assert {"agreement", "kl"} <= report.rows[1].metrics.keys()
    assert report.remarks()[1].startswith(f"too few texts for an interval: {len(measured)}; about")


def test_labels_count_where_some_of_the_texts_are_held_out(tmp_path):
    report = prune(tiny.model(), out=tmp_path / "out", budget=0.7, texts=None, data=tiny.table(400))
    assert {"accuracy", "agreement", "kl"} <= report.rows[1].metrics.keys()
    assert not report.rows[1].retained.missing
    report = prune(tiny.model(), out=tmp_path / "one", budget=0.7, texts=tiny.texts(1))
    assert report.notes == ("sizes alone: there are no texts to measure on",)


@pytest.mark.parametrize("family", sorted(set(tiny.CONFIGS) - {"bert", "camembert", "xlm-roberta"}))
def test_every_family_prunes(tmp_path, family):
    model = tiny.model(family)
    options = {"texts": tiny.texts(16), "steps": 3, "recover_steps": 2, **FAST}
    attar.prune(model, tokenizer=tiny.tokenizer(family), out=tmp_path / "out", budget=0.7, **options)
    assert load(tmp_path / "out").model.num_parameters() <= 0.7 * model.num_parameters()


def test_a_killed_pruning_ends_as_an_uninterrupted_one(tmp_path, monkeypatch):
    model = tiny.model(hidden_dropout_prob=0.3)
    options = {"budget": 0.5, "rounds": 2, "texts": tiny.texts(40), "seed": 3}
    prune(model, out=tmp_path / "whole", **options)
    inner = train._step
    for last in (3, 7, 12):  # in the alphas, the recovery, and the second round
        count = [0]

        def interrupted(*arguments, count=count, last=last):
            count[0] += 1
            if count[0] > last:
                raise KeyboardInterrupt
            return inner(*arguments)

        monkeypatch.setattr(train, "_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prune(model, out=tmp_path / "killed", **options)
        assert not (tmp_path / "killed").exists()
        monkeypatch.undo()
    prune(model, out=tmp_path / "killed", **options)
    assert tiny.identical(*(load(tmp_path / name).model for name in ("whole", "killed")))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "whole"]


# Vocabularies

FEW = ["good film", "a bad plot", "the cast was lovely"]


@pytest.mark.parametrize("last", [False, True], ids=["pad first", "pad last"])
def test_a_vocabulary_goes_through_a_plan_and_gives_the_same_logits(tmp_path, last):
    words = tiny.VOCABULARY[1:] + tiny.VOCABULARY[:1] if last else tiny.VOCABULARY
    tokenizer = BertTokenizer(vocab={piece: i for i, piece in enumerate(words)})
    model = tiny.model(pad_token_id=words.index("[PAD]"))
    found = attar.plan(model, tokenizer=tokenizer, method="vocabulary", texts=FEW)
    assert found.after.parameters == found.before.parameters - 24 * (tiny.VOCAB - len(found.vocab))
    file = found.write(tmp_path / "plan.json")
    attar.prune(model, file, tokenizer=tokenizer, out=tmp_path / "out")
    small = load(tmp_path / "out")
    assert len(small.tokenizer) == small.model.config.vocab_size == len(found.vocab) < tiny.VOCAB
    assert small.model.config.pad_token_id == small.tokenizer.pad_token_id
    said = [
        m.model(**m.tokenizer(FEW, return_tensors="pt", padding=True)).logits
        for m in (small, type(small)(model, tokenizer, ""))
    ]
    assert torch.allclose(*said, atol=1e-5)


# On the command line, in recipes


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    where = tmp_path_factory.mktemp("prune")
    tiny.saved(where / "model")
    tiny.table(40).to_csv(where / "train.csv")
    (where / "texts.txt").write_text("\n".join(tiny.texts(32)) + "\n")
    return where


def test_the_command_line_plans_then_cuts(place, tmp_path):
    def run(*words):
        shown = CliRunner().invoke(cli.app, [str(word) for word in words])
        assert shown.exit_code == 0, shown.output
        return shown.output

    model, texts, file = place / "model", ["--texts", place / "texts.txt"], tmp_path / "plan.json"
    asked = ["--budget", 0.6, "--axes", "ffn,heads", "--steps", 4]
    shown = run("plan", model, *asked, *texts, "--out", file)
    found = attar.Plan.read(file)
    assert all(word in shown for word in ("layer", "heads", "ffn", "parameters", "█"))
    assert found.hidden == tuple(range(24))
    assert "parameters" in run("prune", model, *asked, *texts, "--plan-only")
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]
    shown = run("prune", model, "--plan", file, *texts, "--recover-steps", 3, "--out", tmp_path / "small")
    assert "smaller" in shown
    assert load(tmp_path / "small").model.num_parameters() == found.after.parameters
    told = CliRunner().invoke(cli.app, ["plan", str(model), "--budget", "0.6", "--out", str(file)])
    assert told.exit_code == 1
    assert "--overwrite" in told.output + told.stderr


@pytest.mark.parametrize("after", ["distill", "finetune"])
def test_a_recipe_prunes_and_goes_on(place, tmp_path, after):
    learning = {"epochs": 1, "batch_size": 8}
    then = {
        "distill": {"intermediate": learning, "prediction": learning, "max_length": 32},
        "finetune": {**learning, "max_length": 32},
    }[after]
    recipe = {
        "name": "small",
        "model": str(place / "model"),
        "data": {"train": str(place / "train.csv"), "dev": str(place / "train.csv")},
        "stages": [
            {"prune": {"budget": 0.7, "steps": 3, "recover_steps": 2, "max_length": 32}},
            {after: then},
            {"evaluate": {"max_length": 32}},
        ],
    }
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    assert CliRunner().invoke(cli.app, ["check", str(file)]).exit_code == 0
    attar.run(file, out=tmp_path / "run")
    pruned, last = (tmp_path / "run" / name for name in ("1-prune", f"2-{after}"))
    parent = {"distill": place / "model", "finetune": pruned}[after]
    assert read_lineage(last)["parent"] == str(parent)
    small, again = (load(path).model for path in (pruned, last))
    assert form_of(small.config) == form_of(again.config)
    assert not tiny.identical(small, again)
    assert json.loads((pruned / "report.json").read_text())["shapes"]


def test_texts_may_come_as_a_dataset():
    found = plan(tiny.model(), budget=0.8, texts=None, data=Dataset.from_dict({"text": tiny.texts(20)}))
    assert found.after.parameters <= 0.8 * found.before.parameters
