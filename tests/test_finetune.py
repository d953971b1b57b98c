"""Laws of fine-tuning: each kind of task is learned, names are kept, the best epoch wins."""

import json
import math
import re

import pytest
import torch
from datasets import Dataset
from transformers import pipeline

import tiny
from attar import finetune
from attar.data.model_task import task_of
from attar.errors import DataError, RecipeError
from attar.model.checkpoint import load, read_lineage
from attar.training.resuming import BestEpoch, TrainingCurve, work_directory

OPTIONS = {"epochs": 8, "lr": 4e-3, "batch_size": 8, "max_length": 32, "precision": "fp32"}


def tune(out, data, dev=None, family="bert", labels=2, **options):
    return finetune(
        tiny.model(family, num_labels=labels),
        data,
        dev=dev,
        out=out,
        tokenizer=tiny.tokenizer(family),
        **{**OPTIONS, **options},
    )


@pytest.mark.parametrize(
    ("kind", "pair", "labels", "main", "reached"),
    [
        ("single_label", False, 2, "accuracy", 0.8),
        ("single_label", True, 2, "accuracy", 0.7),
        ("multi_label", False, 3, "micro_f1", 0.5),
        ("regression", False, 1, "spearman", 0.25),
    ],
)
def test_each_kind_of_task_is_learned(tmp_path, kind, pair, labels, main, reached):
    data, dev = (
        tiny.table(rows, seed=seed, pair=pair, kind=kind, longest=3) for rows, seed in ((96, 1), (48, 2))
    )
    if kind == "multi_label":
        data, dev = (_named(table) for table in (data, dev))
    report = tune(tmp_path / "out", data, dev, labels=labels, lr=5e-3, patience=None)
    assert report.main == main
    assert report.rows[0].metrics[main] > reached
    task = task_of(load(tmp_path / "out").model.config)
    assert (task.kind, len(task.labels)) == (kind, labels)
    curve = report.curves["fine-tuning"]
    assert sum(curve[-1][1].values()) < 0.85 * sum(curve[0][1].values())


def _named(table):
    names = [
        [name for name, on in zip(("good", "bad", "long"), row, strict=True) if on] for row in table["label"]
    ]
    return table.remove_columns("label").add_column("label", ["|".join(row) for row in names])


def test_one_label_a_row_is_learned_as_several_where_that_is_asked_for(tmp_path):
    data = _named(tiny.table(32, seed=1, kind="multi_label", longest=3))
    data = data.filter(lambda row: "|" not in row["label"])
    asked = {"problem_type": "multi_label_classification", "epochs": 1}
    report = tune(tmp_path / "out", data, labels=3, **asked)
    assert report.main == "micro_f1"
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["problem_type"] == read_lineage(tmp_path / "out")["options"]["problem_type"]
    assert (config["problem_type"], len(config["id2label"])) == ("multi_label_classification", 3)
    with pytest.raises(RecipeError, match="multi_label_classification"):
        tune(tmp_path / "other", data, problem_type="multi_label")


def test_class_names_are_kept_for_strangers(tmp_path):
    data = tiny.table(32, seed=1)
    named = data.remove_columns("label").add_column("label", [("rotten", "fresh")[y] for y in data["label"]])
    tune(tmp_path / "out", named, epochs=1)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["id2label"] == {"0": "fresh", "1": "rotten"}
    assert config["problem_type"] == "single_label_classification"
    said = pipeline("text-classification", model=str(tmp_path / "out"))("the film is good")
    assert said[0]["label"] in {"fresh", "rotten"}
    lineage = read_lineage(tmp_path / "out")
    assert (lineage["stage"], lineage["options"]["epochs"]) == ("finetune", 1)


def test_the_best_epoch_is_kept(tmp_path):
    best = BestEpoch(tmp_path, patience=2)
    models = [tiny.model(seed=n) for n in range(5)]
    exhausted = []
    for epoch, value in enumerate([0.5, 0.7, 0.7, 0.6, 0.6]):
        best.add(epoch, value, models[epoch])
        exhausted.append(best.exhausted)
    assert exhausted == [False, False, False, True, True]
    again = BestEpoch(tmp_path, patience=2)  # as a killed run finds it
    assert again.history == best.history
    found = tiny.model(seed=9)
    again.restore(found)
    assert tiny.identical(found, models[1])
    again.add(1, 0.7, models[1])  # an epoch that is repeated after a kill
    again.restore(found)
    assert tiny.identical(found, models[1])


def test_a_metric_that_is_no_number_is_worse_than_any(tmp_path):
    best = BestEpoch(tmp_path, patience=None)
    models = [tiny.model(seed=n) for n in range(3)]
    for epoch, value in enumerate([math.nan, -0.3, math.nan]):
        best.add(epoch, value, models[epoch])
    found = tiny.model(seed=9)
    best.restore(found)
    assert tiny.identical(found, models[1])
    assert BestEpoch(tmp_path, patience=None).history[1] == -0.3


def test_patience_ends_training_early(tmp_path):
    data, dev = tiny.table(32, seed=1), tiny.table(16, seed=2)
    long = tune(tmp_path / "long", data, dev, epochs=6, patience=None, lr=1e-6)
    short = tune(tmp_path / "short", data, dev, epochs=6, patience=1, lr=1e-6)
    assert long.curves["fine-tuning"][-1][0] == 24
    assert (
        short.curves["fine-tuning"][-1][0] == 8
    )  # nothing changes at this rate, so the second epoch is the last


def test_the_same_seed_gives_the_same_model_and_no_dev_table_is_needed(tmp_path):
    data = tiny.table(30, seed=1)
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        tune(tmp_path / name, data, epochs=1, seed=seed)
    one, same, other = (load(tmp_path / name).model for name in ("one", "same", "other"))
    assert tiny.identical(one, same)
    assert not tiny.identical(one, other)


def test_files_and_directories_are_what_objects_are(tmp_path):
    data = tiny.table(24, seed=1)
    data.to_csv(tmp_path / "train.csv")
    tiny.saved(tmp_path / "model")
    options = {**OPTIONS, "epochs": 1}
    finetune(tmp_path / "model", tmp_path / "train.csv", out=tmp_path / "names", **options)
    finetune(tiny.model(), data, tokenizer=tiny.tokenizer(), out=tmp_path / "objects", **options)
    assert tiny.identical(load(tmp_path / "names").model, load(tmp_path / "objects").model)


def test_a_base_model_gets_a_new_head(tmp_path):
    tiny.saved(tmp_path / "model", head="masked-lm")
    data = Dataset.from_list([{"text": "good", "label": label} for label in "abc"] * 6)
    for name, seed in (("out", 0), ("same", 0), ("other", 1)):
        torch.rand(
            3
        )  # the head is drawn by the seed, whatever was drawn before: a killed run finds its place again
        finetune(
            tmp_path / "model",
            data,
            out=tmp_path / name,
            **{**OPTIONS, "epochs": 1, "seed": seed, "lr": 1e-6},
        )
    out, same, other = (load(tmp_path / name).model for name in ("out", "same", "other"))
    assert out.config.num_labels == 3
    assert tiny.identical(out, same)
    assert (out.classifier.weight - other.classifier.weight).abs().max() > 0.1


def test_a_curve_is_whole_after_a_kill(tmp_path):
    from attar.training.loop import Step

    curve = TrainingCurve(tmp_path / "curve.json")
    for index in range(1, 46):
        curve.add(Step(index, 0, 2.0 * index, {"a": 1.0 * index, "b": 1.0 * index}, 0.1, 0.1, index == 40))
    again = TrainingCurve(tmp_path / "curve.json")
    assert sorted(again.steps) == list(range(1, 41))
    for index in range(41, 46):
        again.add(Step(index, 1, 0.0, {"a": 1.0 * index, "b": 1.0 * index}, 0.1, 0.1, last_of_epoch=False))
    assert again.points() == curve.points()
    assert [index for index, _ in curve.points()] == [20, 40, 45]
    assert curve.points()[0][1] == {"a": 10.5, "b": 10.5}
    assert curve.recent() == pytest.approx(2 * sum(range(26, 46)) / 20)


def test_the_work_directory_goes_when_all_is_done_and_stays_when_not(tmp_path):
    with work_directory(tmp_path / "out") as place:
        (place / "x").write_text("x")
    assert not list(tmp_path.iterdir())
    with pytest.raises(RuntimeError), work_directory(tmp_path / "out") as place:  # noqa: PT012
        (place / "x").write_text("x")
        raise RuntimeError
    assert [path.name for path in tmp_path.rglob("*")] == [".out.work", "x"]


def test_the_metric_that_is_named_decides_which_epoch_is_best(tmp_path, caplog):
    data, dev = tiny.table(96, seed=1, longest=3), tiny.table(48, seed=2, longest=3)
    # One label in five rows: to call all the other one is right often, and says nothing.
    rare = [row for n, row in enumerate(dev) if row["label"] == 0 or n % 4 == 0]
    caplog.set_level("INFO", logger="attar")
    report = tune(tmp_path / "out", data, Dataset.from_list(rare), metric="matthews", patience=None, lr=5e-3)
    said = [float(found) for found in re.findall(r"dev matthews (-?[\d.]+)", caplog.text)]
    assert len(said) == OPTIONS["epochs"]
    assert len(set(said)) > 2
    assert report.rows[0].metrics["matthews"] == pytest.approx(max(said), abs=1e-4)


def test_a_metric_that_the_task_does_not_have_is_named_before_training(tmp_path):
    with pytest.raises(DataError, match=r"(?s)accuracy.*found 'bleu'"):
        tune(tmp_path / "out", tiny.table(16), metric="bleu")
    assert not (tmp_path / "out").exists()
