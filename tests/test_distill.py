"""Laws of distillation: labels do not teach, a copy has nothing to learn, caching and resuming change nothing."""

import logging
import re

import numpy as np
import pytest
import torch
from datasets import Dataset
from scipy import stats

import tiny
from attar import distill, finetune
from attar.anatomy.resolve import shape_of
from attar.data.batches import Counts
from attar.data.model_task import task_of
from attar.data.tasks import Task
from attar.distillation.cache import LiveTeacher
from attar.distillation.objective import Intermediate, match, prediction
from attar.distillation.phases import Distiller, learn
from attar.errors import DataError, RecipeError
from attar.evaluation.prediction import predict
from attar.maths import losses
from attar.maths.mapping import layer_map
from attar.model.checkpoint import load, read_lineage, save
from attar.model.views import call

BINARY = Task("single_label", ("bad", "good"))
SMALL = {"layers": 1, "hidden": 16, "ffn": 20, "init": "random"}
PHASES = {
    "intermediate": {"epochs": 2, "lr": 1e-3, "batch_size": 8},
    "prediction": {"epochs": 2, "lr": 1e-3, "batch_size": 8},
}


def run(out, teacher=None, **options):
    given = {"student": SMALL, **PHASES, "precision": "fp32", "max_length": 32}
    if not {"data", "texts"} & set(options):
        given |= {"data": tiny.table(32, seed=1), "dev": tiny.table(16, seed=2)}
    return distill(teacher or tiny.model(seed=1), tokenizer=tiny.tokenizer(), out=out, **{**given, **options})


def student_of(out):
    return load(out).model


def learner(student, teacher, *, identity=False, task=None, **compared):
    ours, theirs = shape_of(student.config), shape_of(teacher.config)
    layers = layer_map(ours.layers, theirs.layers)
    found = match(ours, theirs, layers, **compared)
    start = {m: torch.eye(ours.hidden, theirs.hidden) for m in range(ours.layers + 1)} if identity else None
    return Distiller(
        student,
        LiveTeacher(teacher, found.teacher, precision="fp32"),
        intermediate=Intermediate(found, ours, theirs, start=start),
        task=task,
    ).train()


@pytest.mark.parametrize("attention", ["scores", "relations"])
@pytest.mark.parametrize("family", ["bert", "electra", "distilbert", "modernbert", "albert"])
def test_a_copy_of_the_teacher_starts_at_no_loss(family, attention):
    module = learner(tiny.model(family), tiny.model(family), identity=True, attention=attention)
    batch = next(iter(tiny.batches(tiny.texts(9), family)))
    parts = module(batch)
    assert set(parts) == {"embedding", "hidden", "attention"}
    assert all(part.abs().item() < 1e-5 for part in parts.values())
    sum(parts.values()).backward()
    gradients = [p.grad.abs().max().item() for p in module.parameters() if p.grad is not None]
    assert gradients
    assert max(gradients) < 1e-4


@pytest.mark.parametrize("kind", ["single_label", "multi_label", "regression"])
def test_a_copy_has_nothing_to_learn_of_predictions(kind):
    teacher = torch.randn(6, 1 if kind == "regression" else 3)
    student = teacher.clone().requires_grad_()
    loss = prediction(student, teacher, kind, temperature=2.0, count=6.0)
    entropy = 0.0
    if kind == "single_label":
        entropy = torch.distributions.Categorical(logits=teacher / 2).entropy().mean().item()
    assert loss.item() == pytest.approx(entropy, abs=1e-5)
    assert torch.autograd.grad(loss, student)[0].abs().max() < 1e-6


def test_parts_are_the_papers_sums():
    student, teacher = tiny.model(num_hidden_layers=2), tiny.model(seed=1, num_hidden_layers=4)
    module = learner(student, teacher, task=BINARY)
    batch = next(iter(tiny.batches(tiny.texts(9))))
    parts = module(batch)
    need = module.intermediate.match
    ours, theirs = call(student, batch.inputs, need.student), call(teacher, batch.inputs, need.teacher)
    weight = module.intermediate.projections
    assert need.layers == (2, 4)
    hidden = sum(
        ((ours.hidden[m] @ weight[str(m)] - theirs.hidden[n]) ** 2).mean() for m, n in ((1, 2), (2, 4))
    )
    embedding = ((ours.hidden[0] @ weight["0"] - theirs.hidden[0]) ** 2).mean()
    attention = sum(
        losses.attention_error(ours.scores[m], theirs.scores[n], batch.mask) for m, n in ((1, 2), (2, 4))
    )
    soft = -(theirs.logits.softmax(-1) * ours.logits.log_softmax(-1)).sum(-1).mean()
    for name, expected in (
        ("hidden", hidden),
        ("embedding", embedding),
        ("attention", attention),
        ("prediction", soft),
    ):
        torch.testing.assert_close(parts[name], expected, rtol=1e-4, atol=1e-6)


def test_padding_changes_no_part():
    texts = tiny.texts(6)
    long = [*texts, " ".join(tiny.WORDS[:20])]
    module = learner(tiny.model(), tiny.model(seed=1), task=BINARY)
    short, padded = (tiny.batches(rows, batch_size=9) for rows in (texts, long))
    one = short.rows(np.arange(6))
    other = padded.rows(np.arange(7))  # then without its long row, but with the padding that it brought
    from dataclasses import replace

    other = replace(
        other, inputs={k: v[:6] for k, v in other.inputs.items()}, counts=Counts.of(padded.lengths[:6])
    )
    assert other.inputs["input_ids"].shape[1] > one.inputs["input_ids"].shape[1]
    expected, found = module(one), module(other)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)


def test_a_batch_in_halves_gives_the_same_parts():
    source = tiny.batches(tiny.texts(8), batch_size=8)
    module = learner(tiny.model(), tiny.model(seed=1), task=BINARY)
    whole = source.rows(np.arange(8))
    halves = [source.rows(rows, whole.counts) for rows in (np.arange(3), np.arange(3, 8))]
    expected, split = module(whole), [module(half) for half in halves]
    for name, value in expected.items():
        torch.testing.assert_close(split[0][name] + split[1][name], value, rtol=1e-4, atol=1e-6)


def test_the_teacher_is_neither_trained_nor_saved():
    teacher = tiny.model(seed=1)
    module = learner(tiny.model(), teacher)
    assert not any(name.startswith("teacher") for name in module.state_dict())
    sum(module(next(iter(tiny.batches()))).values()).backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert not teacher.training


def test_dropout_is_off_unless_asked_for():
    for dropout in (False, True):
        module = Distiller(tiny.model(), None, task=BINARY, dropout=dropout).train()
        assert module.student.training == dropout
        assert not module.eval().student.training


def test_unequal_heads_are_compared_by_relations():
    ours, theirs = shape_of(tiny.config(num_attention_heads=2)), shape_of(tiny.config())
    found = match(ours, theirs, (1, 2))
    assert found.attention == "relations"
    assert found.student.relations == found.teacher.relations == {2}
    assert not found.student.scores
    assert match(theirs, theirs, (1, 2)).attention == "scores"
    with pytest.raises(RecipeError, match="4 heads in the student"):
        match(ours, theirs, (1, 2), attention="scores")
    with pytest.raises(RecipeError, match="relation heads"):
        match(ours, theirs, (1, 2), attention="relations", relation_heads=5)


def test_a_shared_projection_is_one_matrix():
    ours, theirs = shape_of(tiny.config(hidden_size=16)), shape_of(tiny.config())
    found = match(ours, theirs, (1, 2))
    shared = Intermediate(found, ours, theirs, projection="shared")
    each = Intermediate(found, ours, theirs)
    assert [tuple(p.shape) for p in shared.parameters()] == [(16, 24)]
    assert sorted(each.projections) == ["0", "1", "2"]
    weights = shared.weights()
    assert sorted(weights) == [0, 1, 2]
    assert weights[0].equal(weights[2])


def test_texts_are_enough_and_agreement_is_measured(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(tiny.texts(40)), encoding="utf-8")
    report = run(tmp_path / "out", texts=file)
    assert report.main == "agreement"
    assert report.rows[0].metrics["agreement"] == 1.0
    assert set(report.rows[1].metrics) == {"agreement", "kl"}
    assert set(report.curves) == {"intermediate", "prediction"}
    assert read_lineage(tmp_path / "out")["stage"] == "distill"


def test_the_metric_that_is_named_decides_which_epoch_of_the_prediction_phase_is_best(tmp_path, caplog):
    data, dev = tiny.table(96, seed=1, longest=3), tiny.table(48, seed=2, longest=3)
    options = {"lr": 4e-3, "epochs": 8, "batch_size": 8, "precision": "fp32", "max_length": 32}
    finetune(tiny.model(), data, dev=dev, tokenizer=tiny.tokenizer(), out=tmp_path / "teacher", **options)
    caplog.set_level("INFO", logger="attar")
    phase = {"epochs": 8, "lr": 1e-3, "batch_size": 8, "metric": "matthews"}
    parts = {"student": {"layers": 1, "init": "layers"}, "intermediate": None, "prediction": phase}
    # Of rows that are nearly all of one label an epoch that never says the other is as good as any, by accuracy.
    rare = Dataset.from_list([row for n, row in enumerate(dev) if row["label"] == 0 or n % 2 == 0])
    report = run(tmp_path / "out", load(tmp_path / "teacher").model, data=data, dev=rare, **parts)
    said = [float(found) for found in re.findall(r"prediction, .*dev matthews (-?[\d.]+)", caplog.text)]
    assert len(said) == 8
    assert said[-1] < max(said)
    assert said[1] == 0.0
    assert report.rows[1].metrics["matthews"] == pytest.approx(max(said), abs=1e-4)


@pytest.mark.parametrize("metric", ["bleu", "kl"])
def test_a_metric_that_cannot_decide_is_named_before_anything_learns(tmp_path, metric, caplog):
    caplog.set_level("INFO", logger="attar")
    with pytest.raises(DataError, match=rf"(?s)accuracy.*found '{metric}'"):
        run(tmp_path / "out", prediction={"metric": metric})
    assert "building the student" in caplog.text
    assert "epoch" not in caplog.text


def test_labels_do_not_teach(tmp_path):
    data, dev = tiny.table(32, seed=1), tiny.texts(16, seed=2)
    wrong = data.remove_columns("label").add_column("label", [1 - y for y in data["label"]])
    dev = Dataset.from_dict({"text": dev})
    for name, table in (("right", data), ("wrong", wrong), ("none", data.remove_columns("label"))):
        run(tmp_path / name, data=table, dev=dev)
    right, wrong, none = (student_of(tmp_path / name) for name in ("right", "wrong", "none"))
    assert tiny.identical(right, wrong)
    assert tiny.identical(right, none)


def test_a_regression_student_learns_the_teachers_score(tmp_path):
    teacher = tiny.model(seed=1, num_labels=1, initializer_range=0.4)
    data = tiny.table(32, seed=1, kind="regression", longest=5)
    run(
        tmp_path / "out",
        teacher,
        data=data.remove_columns("label").add_column("label", [-100.0] * 32),
        dev=tiny.table(16, seed=2, kind="regression"),
        student={"layers": 1},
        intermediate=None,
        prediction={"epochs": 10, "lr": 4e-3, "batch_size": 8},
    )
    seen = tiny.batches(data, batch_size=16)
    said, theirs = (predict(model, seen)[:, 0] for model in (student_of(tmp_path / "out"), teacher))
    assert stats.pearsonr(said, theirs).statistic > 0.5
    assert np.abs(said - theirs).mean() < theirs.std()


@pytest.mark.parametrize("pair", [False, True], ids=["sentence", "pair"])
def test_a_multi_label_student(tmp_path, pair):
    teacher = tiny.model(seed=1, num_labels=3)
    Task("multi_label", ("a", "b", "c")).configure(teacher.config)
    data, dev = (tiny.table(24, seed=n, kind="multi_label", pair=pair) for n in (1, 2))
    report = run(tmp_path / "out", teacher, data=data, dev=dev)
    assert report.main == "micro_f1"
    assert task_of(student_of(tmp_path / "out").config) == Task("multi_label", ("a", "b", "c"))


@pytest.mark.parametrize(
    "options",
    [
        {"student": {**SMALL, "heads": 2}},
        {"projection": "shared"},
        {"student": {**SMALL, "embedding": 8}},
        {"student": {"layers": 2, "hidden": 16}, "mapping": [1, 2]},
        {"student": {"layers": 1, "init": "layers"}, "mapping": "top"},
        {"attention": "none", "embedding": False},
        {"intermediate": None},
        {"prediction": None},
        {"augment": {"copies": 1, "k": 3}},
    ],
    ids=",".join,
)
def test_each_way_gives_a_model(tmp_path, options):
    report = run(tmp_path / "out", **options)
    assert all(np.isfinite(list(p.values())).all() for curve in report.curves.values() for _, p in curve)
    assert set(report.curves) == {"intermediate", "prediction"} - {k for k, v in options.items() if v is None}
    assert student_of(tmp_path / "out").config.num_labels == 2


def test_a_student_that_exists_already(tmp_path):
    tiny.saved(tmp_path / "student", "distilbert")
    tiny.tokenizer().save_pretrained(tmp_path / "student")
    run(tmp_path / "out", student=tmp_path / "student")
    assert student_of(tmp_path / "out").config.model_type == "distilbert"


def test_the_cache_changes_nothing_but_rounding(tmp_path):
    curves = {}
    for name, cache in (("live", False), ("read", True)):
        torch.rand(3)
        curves[name] = run(tmp_path / name, cache=cache).curves
    for phase, ((_, live),) in curves["live"].items():
        ((_, read),) = curves["read"][phase]
        assert read == pytest.approx(live, rel=1e-3)
    # Rounding to 8 bits, after some steps of training; to bf16 it was half of that.
    assert tiny.difference(student_of(tmp_path / "live"), student_of(tmp_path / "read")) < 2e-3


def test_a_seed_decides_everything(tmp_path):
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        torch.rand(3)
        run(tmp_path / name, seed=seed, student={"layers": 1, "hidden": 16})
    one, same, other = (student_of(tmp_path / name) for name in ("one", "same", "other"))
    assert tiny.identical(one, same)
    assert not tiny.identical(one, other)


@pytest.mark.parametrize("streaming", [False, True])
def test_the_general_stage_goes_first_and_its_projections_are_kept(tmp_path, streaming):
    file = tmp_path / "plain.txt"
    file.write_text("\n".join(tiny.texts(40, seed=7)), encoding="utf-8")
    general = {
        "texts": str(file),
        "epochs": 1,
        "batch_size": 8,
        "streaming": streaming,
        "steps": 5,
        "lr": 1e-3,
    }
    report = run(tmp_path / "out", general=general)
    assert list(report.curves) == ["general", "intermediate", "prediction"]
    assert report.curves["general"][-1][0] == 5
    run(tmp_path / "again", general=general)
    assert tiny.identical(student_of(tmp_path / "out"), student_of(tmp_path / "again"))


def test_the_pre_trained_model_teaches_in_general(tmp_path):
    tiny.saved(tmp_path / "pretrained", head="masked-lm")
    save(
        tiny.model(seed=1),
        tiny.tokenizer(),
        tmp_path / "teacher",
        lineage={"parent": str(tmp_path / "pretrained")},
    )
    general = {"texts": [str(_file(tmp_path))], "epochs": 1, "batch_size": 8}
    report = distill(
        tmp_path / "teacher",
        data=tiny.table(24),
        student=SMALL,
        general=general,
        out=tmp_path / "out",
        precision="fp32",
        **PHASES,
    )
    assert "general" in report.curves


def _file(place):
    file = place / "plain.txt"
    file.write_text("\n".join(tiny.texts(24, seed=7)), encoding="utf-8")
    return file


def test_a_stream_that_was_interrupted_goes_on(tmp_path, monkeypatch):
    from attar.training import loop as train

    general = {"texts": str(_file(tmp_path)), "epochs": 3, "batch_size": 4, "streaming": True, "steps": 4}
    run(tmp_path / "whole", general=general)
    inner, count = train._step, [0]

    def interrupted(*arguments):
        count[0] += 1
        if count[0] == 7:
            raise KeyboardInterrupt
        return inner(*arguments)

    monkeypatch.setattr(train, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", general=general)
    count[0] = -1000
    begun = []
    monkeypatch.setattr(train, "_step", lambda *a: (begun.append(a[3]), inner(*a))[1])
    run(tmp_path / "cut", general=general)
    assert begun[0] == 5  # not 1: the state after the first epoch was found
    assert tiny.identical(student_of(tmp_path / "whole"), student_of(tmp_path / "cut"))


def test_a_phase_that_is_done_is_read_from_disk(tmp_path):
    source = tiny.batches(tiny.texts(16), batch_size=8)
    options = {"place": tmp_path / "phase", "epochs": 2, "lr": 1e-3, "precision": "fp32"}
    first = learner(tiny.model(), tiny.model(seed=1))
    curve = learn("test", first, source, **options)
    again = learner(tiny.model(), tiny.model(seed=1))
    again.__dict__["teacher"] = None  # would be asked by a step
    assert learn("test", again, source, **options) == curve
    assert tiny.identical(first, again)


def test_the_time_of_a_run_is_said_before_it_begins_and_changes_nothing(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("attar.distillation.duration.SHORT", 0)
    texts = {"general": {"texts": tiny.texts(24), "epochs": 1, "batch_size": 8}}
    options = {"student": {**SMALL, "init": "project"}, "dropout": True, **texts}
    run(tmp_path / "silent", **options)
    caplog.set_level(logging.INFO, logger="attar")
    run(tmp_path / "said", **options)
    lines = [record.message for record in caplog.records]
    said = next(n for n, line in enumerate(lines) if " in all: " in line)
    assert re.search(r"intermediate \(8 steps\) \d+ seconds, prediction \(8 steps\)", lines[said])
    assert not any("epoch 1" in line for line in lines[:said])
    assert tiny.identical(student_of(tmp_path / "said"), student_of(tmp_path / "silent"))


def test_passes_over_layers_follow_the_rows_and_their_copies(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("attar.distillation.defaults.ROWS", 300)
    caplog.set_level(logging.INFO, logger="attar")
    options = {"intermediate": {"batch_size": 16}, "prediction": None}
    run(tmp_path / "few", **options)
    run(tmp_path / "many", **options, augment={"copies": 3, "source": "embeddings"})
    epochs = re.findall(r"intermediate, epoch 1 of (\d+)", caplog.text)
    assert epochs == ["9", "3"]  # 300 / 32 rows; 300 / 128 would be 2, and 3 is the least
