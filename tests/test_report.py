"""Laws of the report: it round trips, opens offline, escapes what people wrote, and no label covers another."""

import dataclasses
import itertools
import json
import math
import re
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from attar.errors import OutputError
from attar.maths import statistics
from attar.maths.statistics import Interval, paired_bootstrap
from attar.report import formatting, plots
from attar.report.card import card, write_card
from attar.report.frontier import Frontier, FrontierPoint, frontier_svg
from attar.report.label_layout import dodge, free_spot
from attar.report.page import render
from attar.report.report import Example, ModelPrediction, Report, Row

EVIL = "<script>alert('x')</script> & \"quoted\" $x^2$ 재미없다"


def _row(name: str, role: str, runtime: str, accuracy: float, parameters: int, p50: float) -> Row:
    around = Interval(accuracy, accuracy - 0.01, accuracy + 0.01)
    share = accuracy / 0.86
    kept = None if role == "teacher" else Interval(share, share - 0.01, share + 0.01)
    metrics = {"accuracy": accuracy, "kl": 0.1}
    size, rate = 4 * parameters, 1 / p50
    return Row(name, role, runtime, metrics, around, kept, parameters, size, 2e9, p50, 1.1 * p50, rate, 10**8)


def _report(name: str = "small") -> Report:
    said = (ModelPrediction("big", "teacher", "good", 0.9), ModelPrediction(name, "student", EVIL, 0.6))
    curve = tuple((i, {"hidden": 1 / (i + 1), "loss": 2 / (i + 1)}) for i in range(400))
    return Report(
        "Reviews",
        rows=(
            _row("big", "teacher", "torch fp32", 0.86, 22_700_000, 0.030),
            _row("big", "teacher", "ONNX Runtime fp32", 0.86, 22_700_000, 0.025),
            _row(name, "student", "ONNX Runtime fp32", 0.84, 2_900_000, 0.0025),
            _row(name, "student", "ONNX Runtime int8", 0.83, 2_900_000, 0.0015),
            _row("same size", "baseline", "ONNX Runtime fp32", 0.79, 2_900_000, 0.0025),
        ),
        curves={EVIL: curve, "prediction": curve[:1]},
        examples=(Example(EVIL, "good", said, text_pair=EVIL), Example("fine", None, said)),
        settings={"latency": "batch 1, 128 tokens", "student": {"layers": 4}, EVIL: [EVIL]},
        versions={"torch": "2"},
        machine={"cores": "2"},
        notes=(EVIL,),
    )


def test_json_is_one_line_and_round_trips() -> None:
    report = _report()
    text = report.to_json()
    assert "\n" not in text
    assert Report.from_json(text) == report
    assert json.loads(text)["rows"][2]["retained"]["value"] == pytest.approx(0.84 / 0.86)
    unknown = dataclasses.replace(
        report, rows=(Row("x", "teacher", metrics={"spearman": np.float64("nan")}),), curves={}
    )
    assert json.loads(unknown.to_json())["rows"][0]["metrics"] == {"spearman": None}
    assert math.isnan(Report.from_json(unknown.to_json()).rows[0].metrics["spearman"])


def test_headline_compares_in_one_runtime() -> None:
    report = _report()
    assert report.headline() == (
        "The student keeps 97.7% of the teacher's accuracy (96.7 to 98.7), is 7.8× smaller and 10.0× faster."
    )
    assert "Accuracy 84.0% against 86.0%" in report.footing()
    assert "As ONNX Runtime int8 it runs 20.0× as fast as the teacher in torch fp32" in report.footing()
    assert report.speedup(report.rows[0]) == 1
    assert Report("Only a title").headline() == "Only a title"
    larger = dataclasses.replace(
        report,
        main="agreement",
        rows=(
            report.rows[0],
            dataclasses.replace(
                report.rows[2], p50=0.06, parameters=45_400_000, bytes=2 * report.rows[0].bytes
            ),
        ),
    )
    assert (
        larger.headline()
        == "The student agrees with the teacher on 97.7% of the texts (96.7 to 98.7), is 2.0× larger and 2.0× slower."
    )


def test_a_teacher_that_agrees_with_itself_needs_no_reason_for_its_interval() -> None:
    ones = Interval.without(1.0, "every resample gives the same")
    teacher, _, student = _report().rows[:3]
    rows = (dataclasses.replace(teacher, quality=ones), student)
    report = dataclasses.replace(_report(), rows=rows, main="agreement", notes=())
    assert report.remarks() == ()
    wrong = dataclasses.replace(student, quality=ones)
    assert dataclasses.replace(report, rows=(teacher, wrong)).remarks() == (ones.missing,)


def test_what_is_stored_in_other_numbers_is_smaller_by_its_bytes() -> None:
    report = _report()
    teacher, student = report.teacher, report.student
    assert report.smaller == teacher.parameters / student.parameters
    int8 = dataclasses.replace(student, parameters=teacher.parameters, bytes=teacher.bytes // 4)
    quantized = dataclasses.replace(report, rows=(teacher, int8))
    assert quantized.smaller == pytest.approx(4, abs=1e-6)
    assert "4.0× smaller" in quantized.headline()
    assert "on disk" in render(quantized)
    unknown = dataclasses.replace(report, rows=(teacher, dataclasses.replace(int8, bytes=None)))
    assert unknown.smaller == 1


def test_too_few_texts_have_no_interval_anywhere() -> None:
    two = np.zeros(2, dtype=int)
    found = paired_bootstrap(statistics.accuracy, two, two, two)
    report = _report()
    row = dataclasses.replace(report.rows[2], quality=found, retained=found)
    report = dataclasses.replace(report, rows=(report.rows[0], row), main="agreement", notes=())
    why = "too few texts for an interval: 2; about 460 give ±2 points around 95%"
    assert report.headline().startswith(
        "The student agrees with the teacher on 100.0% of the texts (too few texts for an interval: 2), is"
    )
    assert report.remarks() == (why,)
    assert str(report).endswith(f"\n{why}")
    assert report.columns()["agreement"] == ["–", "100.0%"]
    assert "95% interval" not in report.footing()
    text = report.to_json()
    assert json.loads(text)["rows"][1]["retained"] == {
        "value": 1.0,
        "low": None,
        "high": None,
        "missing": why,
    }
    assert Report.from_json(text).to_json() == text
    page = render(report)
    assert page.count(why) == 2  # in the notes and beside the figure
    assert "95% interval" not in page
    assert "nan" not in re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL).lower()
    assert f"| retained | 100.0% ({why}) |" in card("x", lineage={}, row=row, report=report)


def test_table_leaves_out_what_nobody_measured() -> None:
    report = _report()
    assert {
        "model",
        "runtime",
        "accuracy",
        "KL",
        "retained",
        "params",
        "size",
        "p50",
        "speed-up",
    } <= report.columns().keys()
    assert report.table().row_count == 5
    for part in ("small", "97.7% (96.7 to 98.7)", "22.7M", "2.5 ms", "12.0×"):
        assert part in str(report)
    narrow = StringIO()
    Console(file=narrow, width=90).print(report.table(90))
    assert "…" not in narrow.getvalue()
    assert "a wider terminal also shows memory" in narrow.getvalue()
    bare = Report("t", rows=(Row("x", "teacher", metrics={"accuracy": 0.5}),))
    assert list(bare.columns()) == ["model", "runtime", "accuracy"]


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_page_opens_offline_and_escapes_what_people_wrote() -> None:
    text = render(_report(name=EVIL))
    page = _Page()
    page.feed(text)
    names = [tag for tag, _ in page.tags]
    assert "script" not in names
    assert not {"img", "iframe", "object", "embed", "base", "form"} & set(names)
    for _, attributes in page.tags:
        for key in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert (attributes.get(key) or "#").startswith("#")
    assert not re.search(r"@import|url\((?!#)", text)
    assert "&lt;script&gt;" in text
    assert "재미없다" in text
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for attribute in re.findall(r'(?:url\(|href=")#([^)"]+)', text):
        assert attribute in ids


def test_page_is_the_same_bytes_for_the_same_figures() -> None:
    assert render(_report()) == render(_report())


@pytest.mark.parametrize(
    "report",
    [
        Report("empty"),
        Report("no latency", rows=(Row("a", "teacher", metrics={"accuracy": 0.5}), Row("b", "student"))),
        Report("odd curve", curves={"s": ((1, {"loss": float("nan")}), (2, {"loss": 0.0})), "none": ()}),
        dataclasses.replace(
            _report(), examples=(Example("a", None, (ModelPrediction("x", "teacher", "0.31"),)),)
        ),
        dataclasses.replace(_report(), main="spearman"),
    ],
)
def test_page_of_less_than_everything(report: Report) -> None:
    text = render(report)
    assert report.title in text
    assert "nan" not in re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL).lower().split()


def test_drawings_are_whole_xml_in_the_pages_colours() -> None:
    report = _report(name=EVIL)
    drawn = [
        plots.quality_latency(report.rows, "accuracy"),
        plots.curve(EVIL, report.curves[EVIL], ["hidden", "loss"]),
    ]
    for svg in drawn:
        ElementTree.fromstring(svg)
        assert "var(--ink)" in svg or "var(--student)" in svg
        assert "#0102" not in svg
    assert EVIL.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") in drawn[0]
    assert plots.quality_latency(report.rows[:1], "accuracy") == ""


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 800), st.floats(0, 400)), min_size=1, max_size=12))
def test_points_side_by_side_keep_their_height_and_their_order(points: list[tuple[float, float]]) -> None:
    before = np.array(points)
    after = dodge(before, 13)
    assert np.array_equal(after[:, 1], before[:, 1])
    assert np.diff(np.sort(after[:, 0])).min(initial=13) >= 13 - 1e-6
    order = np.argsort(before[:, 0], kind="stable")
    assert (np.diff(after[order, 0]) > 0).all()
    assert after[:, 0].mean() == pytest.approx(before[:, 0].mean(), abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.floats(-0.5, 1.5), st.floats(1e-4, 10.0)), min_size=2, max_size=30))
def test_every_candidate_is_inside_the_axes_with_the_whole_of_its_marker(places) -> None:
    states = itertools.cycle(("teacher", "baseline", "stopped", "tried", "neighbour", "chosen"))
    points = [
        FrontierPoint("it", state, kept, cost, 1e6 * cost)
        for (kept, cost), state in zip(places, states, strict=False)
    ]
    drawing = ElementTree.fromstring(frontier_svg(Frontier(tuple(points), "accuracy"), "latency"))
    names = {"": "http://www.w3.org/2000/svg"}
    axes = drawing.find(".//clipPath/rect", names)
    left, top, wide, high = (float(axes.get(name)) for name in ("x", "y", "width", "height"))
    paths = {path.get("id"): path.get("d") for path in drawing.iterfind(".//defs/path", names)}
    markers = drawing.findall(".//g[@clip-path]/use", names)
    assert len(markers) == len(points)
    for marker in markers:
        outline = paths[marker.get("{http://www.w3.org/1999/xlink}href").removeprefix("#")]
        reach = max(abs(float(number)) for number in re.findall(r"-?[\d.]+", outline))
        x, y = float(marker.get("x")), float(marker.get("y"))
        assert left <= x - reach < x + reach <= left + wide
        assert top <= y - reach < y + reach <= top + high


@pytest.mark.parametrize("seed", range(5))
def test_no_label_covers_another_or_a_point(seed: int) -> None:
    rng = np.random.default_rng(seed)
    places = dodge(rng.uniform((80, 80), (760, 360), size=(8, 2)), 13)
    marks = [(x - 7, y - 7, x + 7, y + 7) for x, y in places]
    taken = list(marks)
    for x, y in places:
        taken.append(free_spot(x, y, 110, 28, taken, (60, 50, 880, 430), [200.0]))
    for a, b in itertools.combinations(taken, 2):
        if a not in marks or b not in marks:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_figures_in_words() -> None:
    assert [formatting.count(x) for x in (22_713_216, 999_999, 1.2e9, 512, None)] == [
        "22.7M",
        "1M",
        "1.2G",
        "512",
        "–",
    ]
    assert formatting.size(90_900_000) == "90.9 MB"
    assert [formatting.duration(x) for x in (0.00785, 2.5, float("nan"))] == ["7.85 ms", "2.5 s", "–"]
    assert formatting.figure("accuracy", 0.8594) == "85.9%"
    assert formatting.figure("spearman", 0.8594) == "0.859"
    assert formatting.figure("spearman", float("nan")) == "–"


def test_write_leaves_both_files(tmp_path: Path) -> None:
    report = _report()
    assert report.write(tmp_path / "new" / "place") == tmp_path / "new" / "place" / "report.html"
    assert Report.from_json((tmp_path / "new/place/report.json").read_text(encoding="utf-8")) == report
    assert sorted(p.name for p in (tmp_path / "new/place").iterdir()) == ["report.html", "report.json"]


def test_card_has_a_head_that_the_hub_reads_and_all_figures(tmp_path: Path) -> None:
    report = _report()
    lineage = {
        "stage": "distill",
        "parent": {"stage": "finetune", "parent": "base", "options": {"epochs": 3}},
        "options": {"layers": 4},
        "versions": {"torch": "2"},
    }
    text = card("tiny: 4×144", lineage=lineage, row=report.student, report=report, labels=("bad", "good"),
                base_model="some/base", data="Reviews.", onnx="model.onnx")  # fmt: skip
    _, head, body = text.split("---\n", 2)
    found = yaml.safe_load(head)
    assert found["library_name"] == "transformers"
    assert found["base_model"] == "some/base"
    assert found["model-index"][0]["name"] == "tiny: 4×144"
    assert found["model-index"][0]["results"][0]["metrics"][0] == {
        "type": "accuracy",
        "value": 0.84,
        "name": "accuracy",
    }
    parts = (
        "This model keeps 97.7%",
        "| accuracy | 84.0% | 86.0% |",
        "1. **finetune** from base",
        "2. **distill**",
    )
    for part in (*parts, 'pipeline("text-classification"', "InferenceSession", "bad, good", "10.0×"):
        assert part in body
    assert write_card(tmp_path, text).read_text(encoding="utf-8") == text
    teacher = card("big", lineage={"stage": "finetune"}, row=report.teacher, report=report)
    assert "keeps" not in teacher
    assert "InferenceSession" not in teacher
    assert "## Figures" not in card("new", lineage={})
    with pytest.raises(OutputError):
        write_card(tmp_path / "README.md", text)  # a file, where a directory has to be
