"""Laws of compression from end to end: the result is within its budget, and what cannot be is refused."""

from types import SimpleNamespace

import numpy as np
import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import compressing
import tiny
from attar import compress
from attar.compression.budget import budget_of
from attar.compression.pipeline import Compression
from attar.compression.preparation import _readable
from attar.compression.task_texts import check_teacher
from attar.data.tasks import Task
from attar.errors import ModelError, OutputError, RecipeError
from attar.evaluation.quality import judge
from attar.model.onnx import OnnxModel
from attar.report.report import Report
from attar.storage.locking import _held, locked


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return compressing.teacher_in(tmp_path_factory.mktemp("compress"))


@pytest.fixture
def seconds(monkeypatch):
    compressing.without_time(monkeypatch)


def test_a_compressed_model_is_within_its_budget_and_loads_for_a_stranger(teacher, seconds, tmp_path):
    model, rows = teacher
    options = {
        "data": rows,
        "to": "2.2x smaller",
        "precision": "fp32",
        "formats": ["fp32"],
        "work": tmp_path / "work",
    }
    report = compress(model, time=40, out=tmp_path / "small", **options)
    whole = AutoModelForSequenceClassification.from_pretrained(model).num_parameters()
    small = AutoModelForSequenceClassification.from_pretrained(tmp_path / "small")
    assert small.num_parameters() <= whole / 2.2
    assert report.settings["fits"]
    assert report.settings["measured"]["parameters"] == small.num_parameters()
    assert report.settings["measured"]["latency"] == pytest.approx(1e3 * report.student.p50)
    assert report.settings["measured"]["speedup"] == report.student.speedup.value
    inputs = AutoTokenizer.from_pretrained(tmp_path / "small")(
        ["a good film", "a bad plot"], return_tensors="pt"
    )
    ours = small.eval()(**inputs).logits.detach().numpy()
    assert abs(OnnxModel(tmp_path / "small" / "onnx")(inputs) - ours).max() < 1e-3
    assert report.student.metrics["agreement"] > 0.8
    again = Report.from_json((tmp_path / "small" / "report.json").read_text())
    assert again.frontier == report.frontier
    states = [point.state for point in report.frontier.points]
    assert states.count("chosen") == 1
    assert "teacher" in states


def test_two_runs_do_not_share_a_work_directory(teacher, tmp_path):
    model, rows = teacher
    options = {"to": "2x smaller", "time": 0, "work": tmp_path / "work", "precision": "fp32"}
    with locked(tmp_path / "work"):
        _held.set(frozenset())  # what another process would ask with: this one may pass its own lock
        with pytest.raises(OutputError, match="one run at a time"):
            compress(model, data=rows, out=tmp_path / "small", **options)
    assert not (tmp_path / "small").exists()


def test_a_budget_that_nothing_meets_says_the_smallest(teacher, seconds, tmp_path):
    model, rows = teacher
    with pytest.raises(RecipeError) as caught:
        compress(
            model,
            data=rows,
            to="10 params",
            time=0,
            out=tmp_path / "small",
            formats=["fp32"],
            precision="fp32",
        )
    assert "at least" in caught.value.expected
    assert not (tmp_path / "small").exists()


def test_a_budget_above_the_model_needs_nothing(teacher, seconds, tmp_path):
    model, rows = teacher
    with pytest.raises(RecipeError, match="nothing to do"):
        compress(
            model, data=rows, to="1000 MB", time=0, out=tmp_path / "small", formats=["fp32"], precision="fp32"
        )


def test_in_int8_alone_the_model_itself_may_be_the_best_that_fits(teacher, seconds, tmp_path):
    model, rows = teacher
    options = {"to": "1000 MB", "time": 0, "formats": ["int8"], "vocabulary": "all", "precision": "fp32"}
    report = compress(model, data=rows, out=tmp_path / "small", **options)
    chosen = report.settings["candidate"]
    assert (chosen["way"], chosen["layers"], chosen["precision"]) == ("drop", 2, "int8")
    assert report.settings["fits"]
    assert any(note.startswith("int8: scales ") for note in report.notes)
    weights = [
        AutoModelForSequenceClassification.from_pretrained(place).state_dict()
        for place in (model, tmp_path / "small")
    ]
    assert all(weights[0][name].equal(weight) for name, weight in weights[1].items())


@pytest.mark.parametrize(("noise", "refused"), [(0.5, False), (1e6, True)])
def test_scores_that_have_nothing_to_do_with_the_labels_are_chance(noise, refused):
    rng = np.random.default_rng(0)
    labels = rng.normal(size=400)
    said = labels + noise * rng.normal(size=400)
    task = Task("regression", ("score",))
    found = judge(task, said[:, None], labels)
    if refused:
        with pytest.raises(ModelError, match="chance"):
            check_teacher(task, found)
    else:
        assert check_teacher(task, found) is None


def test_a_run_that_goes_on_reads_as_many_texts_and_has_the_same_rungs(tmp_path):
    """Whatever pace is measured the second time: another number would be another record, other rungs another search."""
    assert _readable(tmp_path, 1000) == 1000
    assert _readable(tmp_path, 700) == 1000
    assert _readable(tmp_path, 2500) == 2500
    run = SimpleNamespace(place=tmp_path, budget=budget_of("5 ms"), clock=SimpleNamespace(given=60.0))
    first = Compression._first_rung(run, 1600)
    assert Compression._first_rung(run, 300) == first == 128
    run.clock.given = 600.0
    assert Compression._first_rung(run, 300) < first


def test_a_teacher_at_chance_is_refused(tmp_path):
    model = tiny.model(hidden_size=64)
    rows = tiny.sentiment(100).map(lambda row: {"label": "LABEL_1" if row["label"] == "good" else "LABEL_0"})
    with pytest.raises(ModelError, match="most frequent label"):
        compress(model, tokenizer=tiny.tokenizer(), data=rows, to="2x smaller", out=tmp_path / "small")
    assert not (tmp_path / "small").exists()
