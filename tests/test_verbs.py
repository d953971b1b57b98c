"""The command line and the library are one; recipes run their stages once; the package shows what it names."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import attar
import tiny
from attar import cli
from attar.errors import OutputError
from attar.model.checkpoint import load, read_lineage
from attar.report.report import Report

# Of the recipe below.
TEACHER, STUDENT, ONNX = "run/1-finetune", "run/2-distill", "run/3-export"
QUICK = {"intermediate": {"epochs": 1, "batch_size": 8}, "prediction": {"epochs": 1, "batch_size": 8}}


def recipe(place: Path) -> dict:
    """Fine-tune, distil, export, evaluate."""
    return {
        "name": "tiny",
        "model": str(place / "base"),
        "data": {"train": str(place / "train.csv"), "dev": str(place / "dev.csv")},
        "stages": [
            {"finetune": {"epochs": 1, "batch_size": 8, "max_length": 64, "lr": 1e-3}},
            {"distill": {"student": {"layers": 1, "init": "layers"}, "max_length": 64, **QUICK}},
            {"export": {"max_drop": 1.0}},
            {"evaluate": {"max_length": 64}},
        ],
    }


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Where the recipe was run, beside its base model and tables; and its report."""
    where = tmp_path_factory.mktemp("verbs")
    tiny.saved(where / "base", head="base")
    for name, seed in (("train", 0), ("dev", 1)):
        tiny.table(32, seed).to_csv(where / f"{name}.csv")
    (where / "recipe.yaml").write_text(yaml.safe_dump(recipe(where)))
    return where, attar.run(where / "recipe.yaml", out=where / "run")


@pytest.fixture(scope="module")
def place(ran):
    return ran[0]


def run(*words: object):
    """The command line, in this process."""
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def test_the_package_shows_its_names_and_no_more():
    shown = subprocess.run(
        [
            sys.executable,
            "-c",
            "import attar, sys; print(sorted(n for n in dir(attar)), 'torch' in sys.modules)",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.strip() == f"{sorted(attar.__all__)} False"
    for name in attar.__all__:
        assert getattr(attar, name).__doc__


def test_alone_it_prints_three_commands():
    shown = run()
    assert shown.exit_code == 0
    assert all(f"attar {verb}" in shown.output for verb in ("demo", "distill", "compare"))


def test_texts_are_enough_on_the_command_line(place, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(tiny.texts(24, 5)) + "\n")
    settings = [
        "--set",
        "intermediate.epochs=1",
        "--set",
        "prediction.epochs=1",
        "--set",
        "prediction.batch_size=8",
    ]
    shown = run(
        "distill",
        place / TEACHER,
        "--texts",
        texts,
        "--layers",
        1,
        "--hidden",
        12,
        "--ffn",
        16,
        "--out",
        tmp_path / "small",
        *settings,
    )
    assert shown.exit_code == 0, shown.output
    assert "agree" in shown.output
    small = load(tmp_path / "small")
    assert (small.model.config.num_hidden_layers, small.model.config.hidden_size) == (1, 12)
    options = read_lineage(tmp_path / "small")["options"]
    assert options["prediction"]["batch_size"] == 8
    assert options["intermediate"]["epochs"] == 1


def test_evaluate_and_compare_by_name_say_the_same_quality(place):
    alone = attar.evaluate(place / TEACHER, place / "dev.csv")
    both = attar.compare([place / TEACHER, place / TEACHER], place / "dev.csv", latency_length=8)
    assert alone.rows[0].metrics["accuracy"] == both.rows[0].metrics["accuracy"]
    assert both.rows[1].retained.value == 1.0
    assert both.rows[1].metrics["agreement"] == 1.0
    shown = run("evaluate", place / TEACHER, "--data", place / "dev.csv")
    assert shown.exit_code == 0, shown.output
    assert f"{100 * alone.rows[0].metrics['accuracy']:.1f}%" in shown.output


def test_export_writes_a_directory_a_format(place):
    report = Report.from_json((place / ONNX / "report.json").read_text())
    assert [row.runtime for row in report.rows[1:]] == ["ONNX Runtime fp32", "ONNX Runtime int8"]
    fp32, int8, torch = (
        attar.evaluate(place / name, place / "dev.csv").rows[0].metrics
        for name in (f"{ONNX}/fp32", f"{ONNX}/int8", STUDENT)
    )
    assert fp32 == torch
    assert report.rows[2].metrics == {"accuracy": int8["accuracy"]}


def test_a_model_and_its_exports_are_compared_in_turns(place):
    report = attar.compare([place / STUDENT, place / ONNX / "fp32"], place / "dev.csv", latency_length=8)
    assert [row.runtime for row in report.rows] == ["torch fp32", "ONNX Runtime fp32"]
    assert report.rows[1].metrics["agreement"] == 1.0
    assert all(row.p50 > 0 for row in report.rows)


def test_augment_writes_the_rows_and_their_copies(place, tmp_path):
    out = tmp_path / "more.csv"
    shown = run(
        "augment", place / "train.csv", "--model", place / "base", "--copies", 2, "--k", 3, "--out", out
    )
    assert shown.exit_code == 0, shown.output
    more, task = attar.data.tables.read_table(out)
    assert len(more) > 32
    assert task.labels == ("0", "1")
    assert more["text"][:32] == tiny.table(32, 0)["text"][:]


def test_an_error_is_three_lines_and_exit_code_1(place, tmp_path):
    shown = run(
        "finetune",
        place / "base",
        "--data",
        place / "train.csv",
        "--columns",
        "text=txt",
        "--out",
        tmp_path / "x",
    )
    assert shown.exit_code == 1
    said = shown.output if "expected" in shown.output else shown.stderr
    assert [line.split()[0] for line in said.splitlines() if line.startswith(("  ", " "))][:3] == [
        "expected",
        "found",
        "do",
    ]
    assert "text=text" in said
    assert not (tmp_path / "x").exists()


def test_a_recipe_runs_its_stages_once(ran):
    place, first = ran
    file, out = place / "recipe.yaml", place / "run"
    assert run("check", file).exit_code == 0
    names = ["1-finetune", "2-distill", "3-export", "4-evaluate"]
    assert list(json.loads((out / "stages.json").read_text())) == names
    assert read_lineage(out / "2-distill")["parent"] == str(out / "1-finetune")
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert attar.run(file, out=out).rows == first.rows
    shown = run("run", file, "--out", out, "--set", "finetune.lr=1e-4")
    assert "other options" in shown.stderr
    assert run("run", file, "--out", out).exit_code == 0
    with pytest.raises(OutputError, match="other options"):
        attar.run(file, out=out, **{"finetune.lr": 1e-4})
    assert written == {path: path.stat().st_mtime_ns for path in out.rglob("*")}


def test_check_names_what_is_wrong(place, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({**recipe(place), "model": str(place / "nowhere")}))
    shown = run("check", file)
    assert shown.exit_code == 1
    assert "nowhere" in shown.output + shown.stderr
