"""Python code that a model brings is not run and not asked about: not a stranger's, and not attar's own copy of its."""

import ast
import json
import logging
from pathlib import Path

import pytest
from typer.testing import CliRunner

import attar
import slims
import tiny
from attar.cli import app
from attar.errors import ModelError
from attar.evaluation.perplexity import is_language_model
from attar.model.checkpoint import load, save
from attar.model.pretrained import from_pretrained
from attar.recipes import check, parse

CODE = """
from pathlib import Path
Path({marker!r}).write_text("run")
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer
class MineConfig(BertConfig): model_type = "mine"
class Mine(BertForSequenceClassification): config_class = MineConfig
class MineTokenizer(BertTokenizer): pass
"""
MODEL = {
    "AutoConfig": "modeling_mine.MineConfig",
    **dict.fromkeys(
        ("AutoModel", "AutoModelForSequenceClassification", "AutoModelForMaskedLM"), "modeling_mine.Mine"
    ),
}
TOKENIZER = {"AutoTokenizer": ["modeling_mine.MineTokenizer", None]}


@pytest.fixture(autouse=True)
def marker(tmp_path, monkeypatch):
    """Nobody is asked, and no code runs."""
    asked, mark = [], tmp_path / "marker"
    monkeypatch.setattr("builtins.input", lambda *text: asked.append(text) or "y")
    yield mark
    assert not asked
    assert not mark.exists()


def add(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.fixture
def theirs(tmp_path, marker):
    """A model directory with code, of a family of its own or of one that transformers has."""

    def make(model_type, *, tokenizer=False):
        place = tiny.saved(tmp_path / "theirs")
        (place / "modeling_mine.py").write_text(CODE.format(marker=str(marker)))
        add(place / "config.json", model_type=model_type, auto_map=MODEL)
        if tokenizer:
            add(place / "tokenizer_config.json", auto_map=TOKENIZER, tokenizer_class="MineTokenizer")
        return place

    return make


def test_a_model_that_needs_its_own_code_is_refused(theirs, tmp_path):
    place, table = theirs("mine", tokenizer=True), tiny.table(12)
    texts, out = tiny.texts(12), {"out": tmp_path / "out"}
    calls = (
        lambda: load(place),
        lambda: load(place, head="masked-lm", fresh_head=True),
        lambda: attar.finetune(place, table, **out),
        lambda: attar.distill(place, data=table, **out),
        lambda: attar.distill(tiny.saved(tmp_path / "teacher"), data=table, student=place, **out),
        lambda: attar.distill_lm(place, texts, **out),
        lambda: attar.pretrain(place, texts, fresh=True, **out),
        lambda: attar.evaluate(place, table),
        lambda: attar.compare([place, place], table),
        lambda: attar.bench([place]),
        lambda: attar.export(place, **out),
        lambda: attar.plan(place, budget=0.5, method="magnitude"),
        lambda: attar.generate(place, "a film"),
    )
    for call in calls:
        with pytest.raises(ModelError, match="brings Python code of its own") as error:
            call()
        assert str(place) in error.value.expected
        assert "trust_remote_code=True" in error.value.fix
    assert not is_language_model(place)
    assert not (tmp_path / "out").exists()


def test_nor_is_it_asked_about_on_the_command_line(theirs, tmp_path):
    tiny.table(12).to_csv(tmp_path / "table.csv")
    command = ["evaluate", str(theirs("mine")), "--data", str(tmp_path / "table.csv")]
    said = CliRunner().invoke(app, command, input="y\n" * 9)
    assert said.exit_code == 1
    assert "Python code" in said.stderr
    assert "[y/N]" not in said.output


def test_a_recipe_with_such_a_model_is_found_before_it_runs(theirs):
    recipe = {"name": "x", "model": str(theirs("mine")), "stages": ["evaluate"]}
    problem = next(problem for problem in check(parse(recipe)) if problem.where == "model")
    assert "brings Python code of its own" in problem.error.found


def test_of_a_known_family_transformers_own_class_is_taken_and_the_code_is_left_behind(
    theirs, tmp_path, caplog
):
    caplog.set_level(logging.INFO, logger="attar")
    place = theirs("bert", tokenizer=True)
    found = load(place)
    assert type(found.model).__module__ == "transformers.models.bert.modeling_bert"
    assert tiny.identical(found.model, tiny.model())
    assert type(found.tokenizer).__module__.startswith("transformers.")
    text = "the film is good"
    assert found.tokenizer(text)["input_ids"] == tiny.tokenizer()(text)["input_ids"]
    assert caplog.text.count("brings Python code of its own, which is not run") == 1
    save(found.model, found.tokenizer, tmp_path / "out", lineage={})
    for file in (tmp_path / "out").glob("*.json"):
        assert "modeling_mine" not in file.read_text()


def test_of_a_slim_model_attars_own_class_is_taken_whatever_lies_beside_it(tmp_path, marker, caplog):
    caplog.set_level(logging.INFO, logger="attar")
    for family, head in (("bert", "ForSequenceClassification"), ("modernbert", "ForMaskedLM")):
        place, model = tmp_path / family, slims.slim(family, head)
        save(model, tiny.tokenizer(family), place, lineage={})
        file = place / "modeling_slim.py"
        file.write_text(CODE.format(marker=str(marker)) + file.read_text())
        config = json.loads((place / "config.json").read_text())
        assert config["auto_map"]["AutoConfig"].startswith("modeling_slim.")
        add(place / "config.json", auto_map={**config["auto_map"], "AutoModel": "stranger/x--modeling.Evil"})
        found = load(place).model
        assert type(found).__module__ == "attar.model.modeling_slim"
        assert tiny.identical(found, model)
        save(found, tiny.tokenizer(family), tmp_path / f"{family}-again", lineage={})
        again = json.loads((tmp_path / f"{family}-again" / "config.json").read_text())
        assert again["auto_map"] == config["auto_map"]
    assert "brings" not in caplog.text


def test_one_place_alone_asks_transformers(tmp_path):
    root = Path(__file__).parents[1]
    places = [file for place in ("attar", "benchmarks") for file in (root / place).rglob("*.py")]
    texts = {file.name: text for file in places if "from_pretrained(" in (text := file.read_text("utf-8"))}
    calls = [
        name
        for name, text in texts.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute) and node.attr == "from_pretrained"
    ]
    # The second is run where attar is not installed.
    assert sorted(calls) == ["pretrained.py", "prune_textpruner.py"]
    with pytest.raises(ModelError, match="no such directory"):
        from_pretrained(type(tiny.tokenizer()), tmp_path / "none")
