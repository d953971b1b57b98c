"""The closing line that programs read from a benchmark, and the result that is kept."""

import importlib.util
import json
import platform
from pathlib import Path

import pytest

PATH = Path(__file__).parents[1] / "benchmarks" / "common.py"
spec = importlib.util.spec_from_file_location("benchmark_common", PATH)
common = importlib.util.module_from_spec(spec)
spec.loader.exec_module(common)


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
    ],
)
def test_a_figure_is_held_against_its_target(value, target, at_least, met):
    assert common.figure(value, target, at_least=at_least)["met"] is met


def test_the_last_line_is_one_json_object(capsys):
    figures = {"ratio": common.figure(7.6, 7.5)}
    common.report("shapes", figures, {"out": Path("a"), "seeds": [0, 1]})
    line = capsys.readouterr().out.splitlines()[-1]
    assert json.loads(line) == {
        "benchmark": "shapes",
        "figures": {"ratio": {"value": 7.6, "target": 7.5, "met": True}},
        "settings": {"out": "a", "seeds": [0, 1]},
    }


def test_a_kept_result_names_its_machine_but_no_host_and_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/benchmarks/shapes.py", "--model", "/home/someone/model"])
    path = common.save("shapes", {"ratio": common.figure(1.0)}, {}, tmp_path)
    kept = json.loads(path.read_text())
    assert kept["command"] == "python benchmarks/shapes.py --model model"
    assert {"cpu", "cores", "memory_gib", "python", "torch", "transformers", "onnxruntime"} == set(
        kept["machine"]
    )
    assert [file.name for file in tmp_path.iterdir()] == ["shapes.json"]
    assert platform.node() not in json.dumps(kept["machine"]).split('"')
