"""What the texts say holds: links lead somewhere, commands exist, recipes load, the reference has every option."""

import re
from functools import cache, partial
from pathlib import Path

import griffe
import pytest
import typer
import yaml

import attar
import tiny
from attar.cli import app
from attar.options.registry import VERBS
from attar.options.signature import arguments
from attar.recipes import load_recipe

ROOT = Path(__file__).parents[1]
TEXTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
FENCE = re.compile(r"^(\s*)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!\w+:)([^)\s#]*)(?:#([^)\s]*))?\)")
# A command in a block, or within a sentence.
COMMAND = re.compile(r"(?:^|`)attar ([a-z][a-z-]*)([^`\n]*)", re.MULTILINE)


def blocks(text, language):
    return [code for _, name, code in FENCE.findall(text) if name == language]


@cache
def anchors(path):
    """The anchors of a text's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    shown = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in shown}


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for file, anchor in LINK.findall(FENCE.sub("", path.read_text(encoding="utf-8"))):
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), file
        assert not anchor or anchor in anchors(target), f"{file}#{anchor}"


def test_commands_and_their_options_are_known():
    known = {name: set() for name in typer.main.get_command(app).commands}
    for name, command in typer.main.get_command(app).commands.items():
        known[name] = {
            flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)
        }
    found = 0
    for path in TEXTS:
        text = path.read_text(encoding="utf-8")
        code = "\n".join((*blocks(text, "sh"), FENCE.sub("", text)))
        for name, rest in COMMAND.findall(code):
            if name in known:
                found += 1
                assert set(re.findall(r"--[a-z][a-z0-9-]*", rest)) <= known[name] | {"--help"}, (
                    f"{path}: {name} {rest}"
                )
            else:
                assert not rest.startswith(" --"), f"{path}: {name}"
    assert found > 40


def test_recipes_in_texts_are_recipes():
    found = [block for path in TEXTS for block in blocks(path.read_text(encoding="utf-8"), "yaml")]
    whole = [recipe for recipe in map(yaml.safe_load, found) if "stages" in recipe]
    assert len(whole) >= 2
    assert all(load_recipe(recipe).stages for recipe in whole)


def test_the_example_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick = {"epochs": 1, "batch_size": 16}
    options = {"student": {"layers": 1}, "intermediate": quick, "prediction": quick, "precision": "fp32"}
    distill = attar.distill
    monkeypatch.setattr(attar, "distill", lambda *given, **named: distill(*given, **named | options))
    monkeypatch.setattr(attar, "plan", partial(attar.plan, steps=2))
    monkeypatch.setattr(attar, "prune", partial(attar.prune, recover_steps=2))
    monkeypatch.setattr(attar, "export", partial(attar.export, formats=["int8"], max_drop=1))
    monkeypatch.setattr(attar, "compare", partial(attar.compare, latency_length=8))
    tiny.saved(tmp_path / "my" / "fine-tuned-bert", max_position_embeddings=130)
    Path("texts.txt").write_text("\n".join(tiny.texts(24)) + "\n")
    tiny.table(24, 1).to_csv("dev.csv")
    (block,) = blocks((ROOT / "README.md").read_text(encoding="utf-8"), "python")
    exec(block, {})
    assert {path.name for path in tmp_path.iterdir()} >= {"small", "pruned", "small-onnx"}


def test_the_student_of_the_first_example_is_used_as_the_start_page_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny.saved(tmp_path / "out" / "classifier" / "student")
    (block,) = blocks((ROOT / "docs" / "start.md").read_text(encoding="utf-8"), "python")
    exec(block, {})
    assert "score" in capsys.readouterr().out


def test_the_reference_has_every_option_with_its_limits_and_default():
    extensions = griffe.load_extensions(str(ROOT / "docs" / "site" / "options.py"))
    package = griffe.load("attar", docstring_parser="google", extensions=extensions, search_paths=[ROOT])
    verbs = package.modules["verbs"].modules

    def shown(found):
        kinds = (griffe.DocstringSectionKind.parameters, griffe.DocstringSectionKind.attributes)
        return {
            item.name: (str(item.annotation), str(item.value))
            for section in found.docstring.parsed
            if section.kind in kinds
            for item in section.value
        }

    pages = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("docs/reference/*.md"))
    assert all(f"heading: attar.{name}" in pages for name in {*attar.__all__} - {*VERBS, "AttarError"})
    for name, verb in VERBS.items():
        page = shown(verbs[name].functions[name])
        assert {argument.name for argument in arguments(verb)} <= page.keys()
        assert not [kind for kind, _ in page.values() if "Annotated" in kind or "Flag" in kind]
        for group in filter(None, (argument.group for argument in arguments(verb))):
            if group.__module__ == f"attar.verbs.{name}":
                assert set(group.model_fields) == shown(verbs[name].classes[group.__name__]).keys()
    plan, prune = (shown(verbs[name].functions[name]) for name in ("plan", "prune"))
    assert plan["rounds"] == prune["rounds"] == ("int ≥ 1", "1")
    assert shown(verbs["distill_lm"].functions["distill_lm"])["beta"] == ("0 ≤ float ≤ 1", "0.0")
    student = shown(verbs["distill_lm"].classes["LanguageStudent"])
    assert student["layers"] == ("(int ≥ 1) | None", "None")
    assert student["init"][1] == "'layers'"
