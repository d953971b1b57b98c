"""Laws of what is measured of candidates and of their exports, and of the page that shows it."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import compressing
import tiny
from attar.anatomy.resolve import resolve
from attar.compression import shipping
from attar.compression.budget import Budget
from attar.compression.candidate import Architecture, Candidate, teacher_architecture
from attar.compression.candidate_costs import CandidateCosts
from attar.compression.data import split
from attar.compression.export_costs import ExportCosts
from attar.compression.exports import Exports
from attar.compression.outcome import Finalist, Outcome
from attar.compression.search import Tried
from attar.compression.task_texts import TaskTexts
from attar.compression.vocabularies import Vocabularies
from attar.data.model_task import task_of
from attar.distillation.student import student
from attar.evaluation.counting import flops
from attar.exporting.onnx import export
from attar.maths.statistics import Interval
from attar.model.checkpoint import load
from attar.report.report import Report, Row


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return compressing.teacher_in(tmp_path_factory.mktemp("compress"))


def counted(model, bound, **options):
    """What candidates of a model cost, by its sizes alone."""
    learning = SimpleNamespace(
        bound=bound,
        texts=SimpleNamespace(loaded=SimpleNamespace(model=model)),
        form=lambda a: a.student_form(bound, bound.shape.vocab),
    )
    exports = ExportCosts(learning, Path("none"), length=32, batch=2, threads=1)
    sizes = {"vocabularies": {"all": bound.shape.vocab}, "tokenizer_bytes": {"all": 0}}
    found = CandidateCosts(learning, exports, exact=(), **sizes, **options)
    found.latency.learn(learning.form(teacher_architecture(bound)), "fp32", 1.0)
    return found


@pytest.mark.parametrize("embedding", [64, 16])
def test_operations_of_a_candidate_are_those_of_its_student(embedding):
    """A budget in operations is heeded before anything is built."""
    teacher = tiny.model(hidden_size=64, num_hidden_layers=4, intermediate_size=128)
    bound = resolve(teacher)
    costs_of = counted(teacher, bound)
    sizes = {"layers": 2, "hidden": 32, "heads": 4, "ffn": 48, "embedding": min(embedding, 32)}
    expected = flops(student(teacher, init="random", **sizes).model, 2, 32)
    found = costs_of(Candidate(Architecture("distil", **sizes)))["flops"]
    assert found == pytest.approx(expected, rel=1e-3 if embedding == 64 else 0.02)


def test_int8_with_fixed_scales_is_another_export_and_the_better_one_counts(teacher, tmp_path, monkeypatch):
    """Calibrated on training texts; what is within the budget counts before what is near to the teacher."""
    model, rows = teacher
    loaded = load(model)
    task = task_of(loaded.model)
    tables = split(
        task, data=rows, texts=None, dev=rows, test=rows, columns=None, sample_by="line", seed=0, rows=40
    )
    texts = TaskTexts(loaded, tables, max_length=16, stride=8, seed=0)
    options = {"length": 16, "batch": 1, "threads": 1, "max_drop": 1.0}
    candidate = Candidate(teacher_architecture(resolve(loaded.model)), "all", "int8")
    found = shipping.ship(
        loaded.model, loaded.tokenizer, candidate, tmp_path / "static", texts, **options, static=True
    )
    assert json.loads((tmp_path / "static" / "export.json").read_text())["precision"] == "int8-static"
    assert found.metrics["agreement"] > 0.8
    near = replace(found, costs={"latency": 3.0, "speedup": 1.0}, metrics={"agreement": 0.99})
    cheap = replace(found, costs={"latency": 1.0, "speedup": 3.0}, metrics={"agreement": 0.9})
    for limit, best in ((2.0, cheap), (4.0, near), (0.5, cheap)):
        assert min(near, cheap, key=judging(Budget(latency=limit)).rank) is best


def judging(budget):
    """Exports that are only judged, beside a teacher of 1000 parameters."""
    options = {"bound": None, "place": None, "vocabularies": None, "call": {}, "training": True}
    found = Exports(None, budget=budget, **options)
    found.teacher["fp32"] = shipping.Shipped(Path("teacher"), {"parameters": 1000.0}, {})
    return found


def test_a_multiple_of_the_teachers_speed_is_that_of_both_timed_in_turns():
    """On a machine that is half as fast as when the teacher alone was timed, 4x faster is still that."""
    exports = judging(Budget(faster=4.0, smaller=2.0))
    costs = {"parameters": 400.0, "latency": 10.0, "speedup": 4.2}
    assert exports.over(costs) == {}
    assert exports.over({**costs, "speedup": 3.2}) == {"latency": pytest.approx(4 / 3.2)}
    assert exports.over({**costs, "parameters": 600.0}) == {"parameters": pytest.approx(1.2)}
    both = judging(Budget(faster=4.0, latency=8.0))
    assert both.over(costs) == {"latency": pytest.approx(10 / 8)}


def test_an_export_is_timed_in_turns_with_the_teachers(teacher, tmp_path, monkeypatch):
    """A call of each in every round; a round's ratio does not change where the whole machine slows down."""
    loaded = load(teacher[0])
    export(loaded.model, tmp_path / "whole", tokenizer=loaded.tokenizer, max_length=16)
    rounds = []

    def interleaved(calls, *, repeats, clock):
        rounds.append((set(calls), [call() for call in calls.values()]))
        slower = np.linspace(1.0, 3.0, repeats)
        return {"export": 0.002 * slower, "teacher": 0.01 * slower}

    monkeypatch.setattr(shipping, "interleaved", interleaved)
    texts, call = SimpleNamespace(loaded=loaded), {"length": 16, "batch": 1, "threads": 1}
    found = shipping.speed(lambda: "called", tmp_path / "whole", texts, **call)
    assert found["speedup"] == pytest.approx(5)
    assert rounds[0][0] == {"export", "teacher"}
    assert rounds[0][1][0] == "called"
    assert rounds[0][1][1].shape == (1, 2)


WHOLE, PART = (Candidate(Architecture("drop", layers, 64, 4, 128, 64)) for layers in (2, 1))
COMMON = {"size": 4.0, "parameters": 100.0}


def outcome():
    """The teacher in two precisions, a winner and one baseline."""
    made = {
        name: shipping.Shipped(Path(name), {**COMMON, "latency": ms, "speedup": ratio}, {"agreement": 0.9})
        for name, ms, ratio in (
            ("fp32", 8.0, 1.0), ("int8", 4.0, 2.0), ("small", 2.0, 4.0), ("other", 5.0, 1.6),
        )
    }  # fmt: skip
    tried = Tried(PART, {**COMMON, "latency": 2.2}, [0.1], 10, 0.9)
    return Outcome(
        budget=Budget(latency=1.6),
        kept=lambda metrics: metrics["agreement"],
        main="agreement",
        teacher={name: made[name] for name in ("fp32", "int8")},
        tried=[Tried(WHOLE, {**COMMON, "latency": 8.0}, [0.1]), tried],
        chosen=tried,
        final=Finalist(tried, made["small"]),
        neighbours=[],
        baselines={"other": made["other"]},
    )


@pytest.mark.parametrize("name", ["small", "teacher", "teacher in int8", "other"])
def test_every_export_has_a_row_whatever_the_output_is_called(name):
    rows = outcome().rows(name)
    assert sorted(str(made.directory) for _, made in rows.values()) == ["fp32", "int8", "other", "small"]
    student = next(row for row, (role, _) in rows.items() if role == "student")
    assert student.startswith(name)
    assert rows[student][1].directory == Path("small")
    assert rows["teacher"][1].directory == Path("fp32")
    fewer = replace(outcome(), precisions=False).rows(name)
    assert list(fewer.values())[2:] == [("baseline", rows["other"][1])]


def test_what_the_page_shows_was_timed_at_one_time():
    """What the report did not time keeps its ratio to the teacher, and so do predictions and a limit that is one."""
    rows = {
        "teacher": Row("teacher", "teacher", p50=0.016, speedup=Interval(1.0, 1.0, 1.0)),
        "small": Row("small", "student", p50=0.0032, speedup=Interval(5.0, 4.9, 5.1)),
        "other": Row("other", "baseline", p50=0.012, speedup=Interval(1.5, 1.4, 1.6)),
    }
    now = outcome().timed_in_turns(Budget(faster=5.0), rows)
    assert now.final.shipped.costs == {**COMMON, "latency": pytest.approx(3.2), "speedup": 5.0}
    shown = {point.name: 1e3 * point.latency for point in now.frontier().points}
    measured = {"teacher, fp32": 16.0, "teacher, int8": 8.0, "other": 12.0, str(PART): 3.2}
    assert shown == pytest.approx({**measured, str(WHOLE): 16.0})
    assert now.frontier().limits["latency"] == pytest.approx(0.0032)
    (note,) = now.notes({"latency": 1.25}, Report("a report"))
    assert note.startswith("latency is 25% over its limit: 3.2 ms, 5x faster than the model")
    (note,) = now.notes({"latency": 1.001}, Report("a report"))
    assert note.startswith("latency is 0.1% over its limit")


def test_an_export_of_another_call_is_timed_anew_and_not_made_again(teacher, tmp_path, monkeypatch):
    """A work directory may be of a run that timed shorter texts, or that had no limit of memory."""
    model, rows = teacher
    loaded = load(model)
    given = {"data": rows, "texts": None, "dev": rows, "test": rows, "columns": None, "sample_by": "line"}
    texts = TaskTexts(loaded, split(task_of(loaded.model), **given, seed=0), max_length=16, stride=8, seed=0)
    lengths = []

    def speed(call, teacher, texts, *, length, batch, threads):
        lengths.append(length)
        return {"latency": float(length), "speedup": 1.0}

    monkeypatch.setattr(shipping, "speed", speed)
    candidate = Candidate(teacher_architecture(resolve(loaded.model)))
    options = (loaded.model, loaded.tokenizer, candidate, tmp_path / "whole", texts)
    call = {"batch": 1, "threads": 1, "max_drop": 1.0}
    first = shipping.ship(*options, length=16, **call)
    written = (tmp_path / "whole" / "model.onnx").stat().st_mtime_ns
    assert shipping.ship(*options, length=16, **call) == first
    monkeypatch.setattr(shipping, "export", lambda *_, **__: pytest.fail("made again"))
    longer = shipping.ship(*options, length=8, **call)
    assert longer.costs["latency"] == 8
    assert longer.costs["flops"] < first.costs["flops"]
    assert longer.metrics == first.metrics
    assert shipping.ship(*options, length=8, memory_too=True, **call).costs["memory"] > 0
    assert lengths == [16, 8, 8]
    assert (tmp_path / "whole" / "model.onnx").stat().st_mtime_ns == written


def test_memory_is_predicted_by_what_the_teachers_export_takes_for_its_size():
    model = tiny.model(hidden_size=64, num_hidden_layers=4, intermediate_size=128)
    bound = resolve(model)
    costs_of = counted(model, bound, memory={"fp32": 1.5})
    half = costs_of(Candidate(Architecture("drop", 2, 64, 4, 128, 64)))
    assert half["memory"] == pytest.approx(1.5 * half["size"])
    limit = Budget(memory=0.9 * half["memory"])
    assert limit.broken(half) == {"memory": pytest.approx(1 / 0.9)}


def test_fixed_scales_are_measured_of_a_family_whose_attention_is_not_fused(tmp_path, monkeypatch):
    """ModernBERT's are exported, and one of both int8 exports is taken by what was measured of them."""
    loaded = load(tiny.model("modernbert"), tokenizer=tiny.tokenizer("modernbert"))
    bound, rows = resolve(loaded.model), tiny.table(40)
    given = {"data": rows, "texts": None, "dev": rows, "test": rows, "columns": None, "sample_by": "line"}
    tables = split(task_of(loaded.model), **given, seed=0)
    texts = TaskTexts(loaded, tables, max_length=16, stride=8, seed=0)
    call = {"length": 16, "batch": 1, "threads": 1}
    vocabularies = Vocabularies(texts, bound, tmp_path)
    exports = Exports(texts, bound, tmp_path, Budget(size=0.001), vocabularies, call, training=True)
    exports.of_teacher(["fp32"])
    made = student(loaded.model, layers=1, init="layers").model
    sizes = {name: getattr(bound.shape, name) for name in ("hidden", "heads", "ffn", "embedding")}
    candidate = Candidate(Architecture("drop", 1, **sizes), "all", "int8")
    monkeypatch.setattr(Exports, "rank", lambda self, one: -one.costs["size"])
    found = exports.made(made, candidate)
    places = sorted((tmp_path / "exports").glob("drop-*-int8-0*.json"))
    assert [json.loads((place.with_suffix("") / "export.json").read_text())["precision"] for place in places] == [
        "int8-static", "int8",
    ]  # fmt: skip
    assert found.costs["size"] == max(json.loads(place.read_text())["costs"]["size"] for place in places)
