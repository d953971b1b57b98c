"""Laws of checked recipes: what cannot be run is found at its place before anything runs."""

import importlib
import json
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import attar
from attar.errors import DataError, ModelError, RecipeError
from attar.options.signature import choices, options_model
from attar.recipes import check, load_recipe, parse
from attar.verbs import plan as planning

BERT = {
    "model_type": "bert",
    "num_hidden_layers": 4,
    "hidden_size": 48,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
}


def model_directory(path, config=BERT, weights=True):
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    if weights:
        header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
        (path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    return path


@pytest.fixture
def recipe(tmp_path):
    """A sound recipe over real files, as a function of what to change."""
    model_directory(tmp_path / "teacher")
    (tmp_path / "train.csv").write_text("sentence,label\ngood,1\nbad,0\n")
    (tmp_path / "texts.txt").write_text("one\ntwo\n")
    base = {
        "name": "sound",
        "model": str(tmp_path / "teacher"),
        "data": {
            "train": str(tmp_path / "train.csv"),
            "test": str(tmp_path / "train.csv"),
            "texts": str(tmp_path / "texts.txt"),
            "columns": {"text": "sentence"},
        },
        "stages": [
            {"finetune": {"max_length": 32}},
            {
                "distill": {
                    "student": {"layers": 2, "hidden": 24},
                    "general": {"max_length": 32},
                    "max_length": 32,
                }
            },
            "export",
            {"evaluate": {"max_length": 32}},
        ],
    }
    return lambda **overrides: parse(
        base, {key.replace("__", "."): value for key, value in overrides.items()}
    )


# Checks


def test_a_sound_recipe_has_no_problem(recipe):
    assert check(recipe()) == []


@pytest.mark.parametrize(
    ("change", "where", "kind", "message"),
    [
        ({"model": "./nowhere"}, "model", ModelError, "no such directory"),
        ({"data__train": "nowhere.csv"}, "data.train", DataError, "no such file"),
        ({"data__train": "nowhere.xls"}, "data.train", DataError, "no such file"),
        ({"data__train": None}, "data.train", RecipeError, "with labels to fine-tune on"),
        ({"data__test": None}, "data.test", RecipeError, "evaluate on"),
        ({"data__columns": {"text": "sentense"}}, "data.train", DataError, r"data\.columns\.text=sentence"),
        ({"data__columns__label": "class"}, "data.train", DataError, "'class' for the label"),
        ({"data__texts": None}, "stages[1].distill.general.texts", RecipeError, "plain text"),
        ({"data__texts": "nowhere.txt"}, "data.texts", DataError, "no such file"),
        ({"distill__general__teacher": "./nowhere"}, "stages[1].distill.general.teacher", ModelError, "no such"),
        ({"distill__augment": {"source": "glove.txt"}}, "stages[1].distill.augment.source", DataError, "no such file"),
        ({"distill__augment__vectors": "w.vec"}, "stages[1].distill.augment.vectors", DataError, "no such file"),
        ({"distill__student__heads": 5}, "stages[1].distill.student.heads", RecipeError, "set heads to (4|6)"),
        ({"distill__student__embedding": 25}, "stages[1].distill.student.embedding", RecipeError, "hidden = 24"),
        ({"distill__mapping": [2, 5]}, "stages[1].distill.mapping", RecipeError, "from 1 to 4"),
        ({"distill__mapping": [2]}, "stages[1].distill.mapping", RecipeError, "2 teacher layers"),
        ({"distill__student__init": "layers"}, "stages[1].distill.student.init", RecipeError, "hidden 24 .teacher 48"),
        ({"distill__student__hidden": 96}, "stages[1].distill.student", RecipeError, "hidden 96 .teacher 48"),
        ({"distill__student__layers": 5}, "stages[1].distill.student", RecipeError, "layers 5 .teacher 4"),
        (
            {"data__columns": {"tokens": "sentence"}, "finetune__problem_type": "regression"},
            "stages[0].finetune.problem_type", RecipeError, "whole texts",
        ),
        ({"stages": [{"compress": {"to": "10 parsecs"}}]}, "stages[0].compress.to", RecipeError, "parsecs"),
        ({"stages": [{"compress": {"keep": 98}}]}, "stages[0].compress.to", RecipeError, "keep 98%"),
        ({"stages": [{"compress": {"to": "5 ms", "time": "soon"}}]}, "stages[0].compress.time", RecipeError, "30m"),
        ({"distill__max_length": 65}, "stages[1].distill.max_length", RecipeError, "set it to 64"),
        ({"distill__general__max_length": 65}, "stages[1].distill.general.max_length", RecipeError, "64 positions"),
    ],
)  # fmt: skip
def test_each_fault_is_found_at_its_place(recipe, change, where, kind, message):
    found = {problem.where: problem.error for problem in check(recipe(**change))}
    assert isinstance(found[where], kind)
    assert re.search(message, str(found[where]))


@pytest.mark.parametrize(
    ("student", "where", "message"),
    [
        ({"layers": 5}, "", "layers 5 (teacher 4)"),
        ({"hidden": 96, "init": "random"}, "", "hidden 96 (teacher 48)"),
        ({"hidden": 24}, ".init", "set init to project"),
    ],
)
def test_the_student_of_a_language_model_is_checked_too(recipe, student, where, message):
    stages = [{"distill_lm": {"student": student, "max_length": 32}}]
    found = {problem.where: str(problem.error) for problem in check(recipe(stages=stages))}
    assert message in found[f"stages[0].distill_lm.student{where}"]
    assert check(recipe(stages=[{"distill_lm": {"max_length": 32}}])) == []
    # The teacher of a second distillation is what the first one makes.
    smaller = {"distill_lm": {"student": {"layers": 2}, "max_length": 32}}
    for first in (smaller, {"compress": {"to": "8x smaller", "max_length": 32}}):
        assert check(recipe(stages=[first, *stages])) == []


def test_texts_may_be_a_folder_that_has_some(recipe, tmp_path):
    assert check(recipe(data__texts=str(tmp_path))) == []
    ((where, error),) = [
        (p.where, str(p.error)) for p in check(recipe(data__texts=str(tmp_path / "teacher")))
    ]
    assert where == "data.texts"
    assert ".txt" in error
    several = recipe(data__texts=[str(tmp_path), str(tmp_path / "texts.txt")])
    assert [str(problem.error).count("name one folder alone") for problem in check(several)] == [1]


def test_scores_need_the_teachers_heads(recipe):
    change = {"distill__student__heads": 6, "distill__attention": "scores"}
    assert [problem.where for problem in check(recipe(**change))] == ["stages[1].distill.attention"]
    assert check(recipe(**{**change, "distill__attention": "relations"})) == []


def pruning(recipe, *more, **given):
    stages = [{"prune": {"budget": 0.5, "max_length": 32, **given}}, *more]
    return {problem.where: str(problem.error) for problem in check(recipe(stages=stages))}


@pytest.mark.parametrize(
    ("given", "where", "message"),
    [
        ({"budget": None}, "", "six tenths"),
        ({"shape": "schubert-99m"}, "", "leave out all but one"),
        ({"method": "vocabulary"}, "", "leave out all but one"),
        ({"budget": None, "shape": "schubert-99m"}, ".shape", "BERT-base's sizes"),
        ({"budget": None, "plan": "nowhere.json"}, ".plan", "no such file"),
        ({"axes": ["embedding", "ffn"]}, ".axes", "cut with them: hidden"),
        ({"table": "nowhere.json"}, ".table", "no such file"),
        ({"max_length": 65}, ".max_length", "set it to 64"),
    ],
)
def test_each_fault_of_a_pruning_is_found_at_its_place(recipe, given, where, message):
    assert message in pruning(recipe, **given)[f"stages[0].prune{where}"]


def test_a_pruning_that_can_be_done_is_no_problem(recipe):
    assert pruning(recipe) == {}
    assert pruning(recipe, {"distill": {"max_length": 32}}, loss="task", axes="f") == {}
    assert pruning(recipe, budget=None, method="vocabulary") == {}
    assert pruning(recipe, cost="latency", table="new.json") == {}


def test_what_is_distilled_into_a_pruned_model_is_that_model(recipe):
    again = {"distill": {"student": {"layers": 2}, "max_length": 32}}
    assert "leave student out" in pruning(recipe, again)["stages[1].distill.student"]
    assert pruning(recipe, {"evaluate": {"max_length": 32}}, again) == {}
    found = pruning(recipe, {"distill": {"max_length": 32}}, budget=None, method="vocabulary")
    assert "other token numbers" in found["stages[1].distill"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "JSON in"),
        ("[1]", "without digest"),
        ('{"digest": "x", "family": "bert"}', "without sizes, hidden"),
        (
            '{"digest": "x", "family": "albert", "sizes": {"hidden": 1}, "hidden": "0", "vocab": "0", "layers": [0]}',
            "a plan for a bert model",
        ),
    ],
)
def test_a_plan_that_is_none_is_told(recipe, tmp_path, text, message):
    (tmp_path / "plan.json").write_text(text)
    found = pruning(recipe, budget=None, plan=str(tmp_path / "plan.json"))
    assert message in found["stages[0].prune.plan"]


@pytest.mark.parametrize(
    ("family", "given", "where"),
    [
        ("albert", {"method": "top"}, ".method"),
        ("modernbert", {"axes": "key"}, ".axes"),
    ],
)
def test_what_a_family_cannot_lose_is_told(recipe, tmp_path, family, given, where):
    (tmp_path / "teacher" / "config.json").write_text(json.dumps({**BERT, "model_type": family}))
    assert f"stages[0].prune{where}" in pruning(recipe, **given)


def test_the_names_of_shapes_methods_and_axes_are_those_of_the_library():
    published = importlib.import_module("attar.pruning.published_shapes").PUBLISHED
    search = importlib.import_module("attar.pruning.round")
    fields = options_model(planning).model_fields
    assert set(choices(fields["shape"].annotation)) == set(published)
    assert set(choices(fields["method"].annotation)) == {*get_args(search.Method), "vocabulary"}
    verb = importlib.import_module("attar.verbs.plan")
    assert set(get_args(verb.Axis)) == set(search.VARIANTS["all"])
    assert set(get_args(verb.Variant)) == set(search.VARIANTS)
    assert set(get_args(verb.Loss)) == set(get_args(importlib.import_module("attar.pruning.rounds").Loss))


def test_schubert_recipes_have_the_papers_sizes():
    for size, axes in {99: "all", 88: "all", 77: "h", 66: "h", 55: "h", 43: "h", 33: "h"}.items():
        stages = load_recipe(f"schubert-{size}m").stages
        prune = next(stage.options for stage in stages if stage.verb == "prune")
        assert (prune.axes, prune.loss) == (axes, "distill")
        assert prune.budget == pytest.approx(size / 108, abs=5e-4)
        assert [stage.verb for stage in stages][1:4] == ["prune", "distill", "export"]


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda path: (path / "config.json").unlink(), r"config\.json in"),
        (lambda path: (path / "model.safetensors").unlink(), r"model\.safetensors in"),
        (lambda path: [file.unlink() for file in path.iterdir()], "an empty directory"),
        (lambda path: (path / "config.json").write_text("{"), "damage"),
        (lambda path: (path / "config.json").write_text('{"model_type": "brt"}'), "nearest: bert"),
        (lambda path: (path / "model.safetensors").write_bytes(b""), "truncated"),
        (lambda path: (path / "model.safetensors").write_bytes(bytes(50)), "truncated"),
        (lambda path: cut(path / "model.safetensors", 1), "truncated"),
        (lambda path: cut(path / "model.safetensors", 30), "truncated"),
    ],
)
def test_a_damaged_model_directory_is_told(recipe, tmp_path, break_it, message):
    break_it(tmp_path / "teacher")
    problems = [problem for problem in check(recipe()) if problem.where == "model"]
    assert problems
    assert isinstance(problems[0].error, ModelError)
    assert re.search(message, str(problems[0].error))


def cut(path, count):
    path.write_bytes(path.read_bytes()[:-count])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "", "an empty file"),
        ("t.csv", "sentence,label\ncaf\xe9,1\n".encode("latin-1"), "UTF-8"),
        ("t.jsonl", '{"sentence": "a"', "jsonl in UTF-8"),
        ("t.jsonl", '{"text": "a", "label": 1}\n', "sentence"),
        ("t.tsv", "label\ttext\n", "sentence"),
        ("t.xls", "x", "convert it"),
    ],
)
def test_a_table_that_cannot_be_read_is_told(recipe, tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    problems = check(recipe(data__train=str(path)))
    assert [problem.where for problem in problems] == ["data.train"]
    assert message in str(problems[0].error)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", "\ufeffsentence,label\n" + "x" * (1 << 20) + "é,1\n"),
        ("t.tsv", 'label\tsentence\n1\ta "lone quote\n'),
        ("t.jsonl", '\n{"sentence": "a", "label": 1}\n'),
    ],
)
def test_a_table_that_can_be_read_is_no_problem(recipe, tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    assert check(recipe(data__train=str(path))) == []


def test_reading_and_checking_import_no_torch():
    code = (
        "import sys; from attar.recipes import check, load_recipe; check(load_recipe('tinybert4')); "
        "print(sorted({'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(attar.__file__).parents[1],
    )
    assert run.stdout.strip() == "[]"
