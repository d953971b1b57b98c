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

QUICK = {"intermediate": {"epochs": 1, "batch_size": 8}, "prediction": {"epochs": 1, "batch_size": 8}}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A teacher that was fine-tuned by name, and its tables."""
    where = tmp_path_factory.mktemp("verbs")
    tiny.saved(where / "base", head="base")
    for name, seed in (("train", 0), ("dev", 1)):
        tiny.table(32, seed).to_csv(where / f"{name}.csv")
    attar.finetune(
        where / "base",
        where / "train.csv",
        dev=where / "dev.csv",
        out=where / "teacher",
        epochs=1,
        batch_size=8,
        lr=1e-3,
    )
    return where


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
        place / "teacher",
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
    alone = attar.evaluate(place / "teacher", place / "dev.csv")
    both = attar.compare([place / "teacher", place / "teacher"], place / "dev.csv", latency_length=8)
    assert alone.rows[0].metrics["accuracy"] == both.rows[0].metrics["accuracy"]
    assert both.rows[1].retained.value == 1.0
    assert both.rows[1].metrics["agreement"] == 1.0
    shown = run("evaluate", place / "teacher", "--data", place / "dev.csv")
    assert shown.exit_code == 0, shown.output
    assert f"{100 * alone.rows[0].metrics['accuracy']:.1f}%" in shown.output


def test_export_writes_a_directory_a_format(place, tmp_path):
    report = attar.export(place / "teacher", out=tmp_path / "onnx", data=place / "dev.csv", max_drop=1.0)
    assert [row.runtime for row in report.rows[1:]] == ["ONNX Runtime fp32", "ONNX Runtime int8"]
    fp32, torch = (
        attar.evaluate(source, place / "dev.csv") for source in (tmp_path / "onnx/fp32", place / "teacher")
    )
    assert fp32.rows[0].metrics == torch.rows[0].metrics
    assert report.rows[2].metrics == {
        "accuracy": attar.evaluate(tmp_path / "onnx/int8", place / "dev.csv").rows[0].metrics["accuracy"]
    }


def test_a_model_and_its_exports_are_compared_in_turns(place, tmp_path):
    attar.export(place / "teacher", out=tmp_path / "onnx", data=place / "dev.csv", formats=("fp32",))
    report = attar.compare([place / "teacher", tmp_path / "onnx/fp32"], place / "dev.csv", latency_length=8)
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


def recipe(place: Path) -> dict:
    """Fine-tune, distil, export, evaluate."""
    return {
        "name": "tiny",
        "model": str(place / "base"),
        "data": {"train": str(place / "train.csv"), "dev": str(place / "dev.csv")},
        "stages": [
            {"finetune": {"epochs": 1, "batch_size": 8, "max_length": 64}},
            {"distill": {"student": {"layers": 1, "init": "layers"}, "max_length": 64, **QUICK}},
            {"export": {"formats": ["fp32"]}},
            {"evaluate": {"max_length": 64}},
        ],
    }


def test_a_recipe_runs_its_stages_once(place, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe(place)))
    assert run("check", file).exit_code == 0
    first = attar.run(file, out=tmp_path / "run")
    names = ["1-finetune", "2-distill", "3-export", "4-evaluate"]
    assert list(json.loads((tmp_path / "run" / "stages.json").read_text())) == names
    assert read_lineage(tmp_path / "run" / "2-distill")["parent"] == str(tmp_path / "run" / "1-finetune")
    times = {name: (tmp_path / "run" / name / "report.json").stat().st_mtime_ns for name in names}
    again = attar.run(file, out=tmp_path / "run")
    assert again.rows == first.rows
    shown = run("run", file, "--out", tmp_path / "run", "--set", "finetune.lr=1e-4")
    assert "other options" in shown.stderr
    assert run("run", file, "--out", tmp_path / "run").exit_code == 0
    assert times == {name: (tmp_path / "run" / name / "report.json").stat().st_mtime_ns for name in names}
    with pytest.raises(OutputError, match="other options"):
        attar.run(file, out=tmp_path / "run", **{"finetune.lr": 1e-4})


def test_check_names_what_is_wrong(place, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({**recipe(place), "model": str(place / "nowhere")}))
    shown = run("check", file)
    assert shown.exit_code == 1
    assert "nowhere" in shown.output + shown.stderr
