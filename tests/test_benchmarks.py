"""What all benchmarks have in common: options, closing line, where they work and what is kept."""

import ast
import importlib.util
import json
import platform
import runpy
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import attar

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
spec = importlib.util.spec_from_file_location("benchmark_common", BENCHMARKS / "common.py")
common = importlib.util.module_from_spec(spec)
spec.loader.exec_module(common)

# Run by a Python in which attar is not installed: jobs of prune_peers.py.
JOBS = {"prune_textpruner", "prune_torchpruning"}
SCRIPTS = {
    path.stem: ast.parse(path.read_text(encoding="utf-8"))
    for path in BENCHMARKS.glob("*.py")
    if "__main__" in path.read_text(encoding="utf-8") and path.stem not in JOBS
}
OFFERED = {"Figure", "Result", "benchmark", "committed", "figure", "once", "remembered"}


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a benchmark with arguments; its closing line. Results go to `tmp_path / results`."""
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    made = []

    def main(options, work):
        number = common.remembered(work / "number.json", lambda: made.append(0) or len(made))
        figures = {"ratio": common.figure(7.6, 7.5), "runs": common.figure(number)}
        return common.Result(figures, {"out": Path("/a/b"), "gap": float("nan")}, {"ratio.svg": "<svg/>"})

    def call(*words, options=None):
        monkeypatch.setattr("sys.argv", ["/somewhere/benchmarks/shapes.py", *words])
        own = options or {"--rows": {"type": int, "default": 5}, "--place": {"type": Path}}
        common.benchmark(main, "About.", quick="few", threads=1, seeds=True, options=own)
        return json.loads(capsys.readouterr().out.splitlines()[-1], parse_constant=pytest.fail)

    return call


@pytest.mark.parametrize(
    ("value", "target", "at_least", "met"),
    [
        (2, 1, True, True),
        (1, 1, True, True),
        (0.9, 1, True, False),
        (0.9, 1, False, True),
        (2, 1, False, False),
        (2, None, True, None),
        (float("nan"), 1, True, False),
        (float("nan"), 1, False, False),
        (float("inf"), 1, True, False),
        (None, 1, True, None),
    ],
)
def test_a_figure_is_held_against_its_target(value, target, at_least, met):
    assert common.figure(value, target, at_least=at_least)["met"] is met


def test_the_last_line_is_one_json_object_with_options_and_machine(run, tmp_path):
    line = run("--place", "/home/someone/model", "--work", str(tmp_path / "work"), "--seeds", "3", "4")
    machine = line["settings"].pop("machine")
    assert line == {
        "benchmark": "shapes",
        "figures": {
            "ratio": {"value": 7.6, "target": 7.5, "met": True},
            "runs": {"value": 1.0, "target": None, "met": None},
        },
        "settings": {
            "quick": False,
            "threads": 1,
            "seeds": [3, 4],
            "rows": 5,
            "place": "model",
            "out": "b",
            "gap": None,
        },
    }
    assert set(machine) == {
        "cpu",
        "cores",
        "memory_gib",
        "python",
        "attar",
        "torch",
        "transformers",
        "onnxruntime",
    }
    assert platform.node() not in json.dumps(machine).split('"')


def test_nothing_is_kept_but_on_request_and_a_quick_run_meets_nothing(run, tmp_path):
    run()
    assert run("--quick")["figures"]["ratio"] == {"value": 7.6, "target": None, "met": None}
    assert not (tmp_path / "results").exists()


def test_a_kept_result_is_the_line_with_its_command_and_no_folder(run, tmp_path):
    line = run("--keep", "--place", "/home/someone/model")
    kept = json.loads((tmp_path / "results" / "shapes.json").read_text())
    assert kept["command"] == "python benchmarks/shapes.py --keep --place model"
    assert kept["machine"] == line["settings"].pop("machine")
    assert (kept["figures"], kept["settings"]) == (line["figures"], line["settings"])
    assert sorted(file.name for file in (tmp_path / "results").iterdir()) == ["ratio.svg", "shapes.json"]


def test_a_quick_run_is_not_kept(run, capsys):
    with pytest.raises(SystemExit):
        run("--quick", "--keep")
    assert "leave out one" in capsys.readouterr().err


def test_a_run_goes_on_in_its_directory_with_the_same_options_only(run, tmp_path):
    work = "--work", str(tmp_path / "work")
    assert run(*work)["figures"]["runs"]["value"] == 1
    assert run(*work, "--keep", "--seeds", "7")["figures"]["runs"]["value"] == 1  # read, not measured again
    others = {
        ("--rows", "6"): "rows: 5 there, 6 now",
        ("--threads", "2"): "threads: 1 there, 2 now",
        ("--quick",): "quick: False there, True now",
    }
    for other, both in others.items():
        with pytest.raises(SystemExit, match=rf"{both}(.|\n)*name another --work"):
            run(*work, *other)


def test_of_several_that_want_one_thing_one_makes_it_and_the_others_wait(tmp_path):
    made = []

    def make(out):
        time.sleep(0.2)
        made.append(out)
        out.write_text("whole")

    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda _: common.once(tmp_path / "place", make).read_text(), range(4)))
    assert found == ["whole"] * 4
    assert len(made) == 1


def test_what_is_made_once_may_be_what_a_verb_writes(tmp_path):
    texts = ["a film", "a plot"]
    place = common.once(tmp_path / "tokens", lambda out: attar.tokenizer(texts, out=out, vocab=300))
    assert (place / "tokenizer.json").is_file()
    assert common.once(place, lambda out: pytest.fail("made again")) == place


def test_a_directory_of_others_is_left_alone(run, tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(SystemExit, match="nobody knows"):
        run("--work", str(tmp_path))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_a_benchmark_by_the_common_part_alone(name):
    tree = SCRIPTS[name]
    assert ast.get_docstring(tree)
    last = tree.body[-1]
    assert isinstance(last, ast.If)
    assert ast.unparse(last.test) == "__name__ == '__main__'"
    (only,) = last.body
    assert ast.unparse(only).startswith("benchmark(main, __doc__, quick=")
    imported = [
        node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "common"
    ]
    assert {alias.name for node in imported for alias in node.names} <= OFFERED  # what writes is not among it
    assert "ArgumentParser" not in ast.unparse(tree)
    (main,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main")
    arguments = {argument.arg: ast.unparse(argument.annotation) for argument in main.args.args}
    assert arguments == {"options": "argparse.Namespace", "work": "Path"}
    used = {node.id for part in main.body for node in ast.walk(part) if isinstance(node, ast.Name)}
    assert "work" in used


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_has_the_options_of_all(name, monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr("sys.argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_path(str(BENCHMARKS / f"{name}.py"), run_name="__main__")
    help_text = capsys.readouterr().out
    assert all(f"[{option}" in help_text for option in ("--quick]", "--work WORK]", "--keep]", "--threads "))


def test_every_result_is_of_a_script():
    assert {file.stem.partition("-")[0] for file in (BENCHMARKS / "results").glob("*.json")} <= set(SCRIPTS)
