"""Laws of distillation: labels do not teach, and caching, resuming and announcing change nothing."""

import logging
import re

import numpy as np
import pytest
import torch
from datasets import Dataset
from scipy import stats

import tiny
from attar import distill, finetune
from attar.data.model_task import task_of
from attar.data.tasks import Task
from attar.errors import DataError
from attar.evaluation.prediction import predict
from attar.model.checkpoint import load, read_lineage, save

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
