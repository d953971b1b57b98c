"""Laws of options: each is written once, in its verb, and is found everywhere else."""

import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from pydantic import Field
from typer.testing import CliRunner

import attar
from attar import cli
from attar.cli.parameters import Parameter, parameters, values
from attar.errors import RecipeError
from attar.options.base import Count, Flag, Input, Options
from attar.options.registry import STAGES, VERBS, verb
from attar.options.signature import arguments, help_of, options_model, options_of

# Adds an option to `distill`, and looks for it: one line in the signature, and one in the docstring.
ADDED = """
import json, sys
from typer.testing import CliRunner
import attar
from attar import cli
from attar.errors import RecipeError
from attar.options.signature import help_of
from attar.recipes import load_recipe

recipe = {"name": "x", "model": "m", "stages": [{"distill": {"sharpness": 5}}]}
try:
    load_recipe({**recipe, "stages": [{"distill": {"sharpnes": 5}}]})
except RecipeError as error:
    fix = error.fix
shown = CliRunner().invoke(cli.app, ["distill", "--help"], env={"COLUMNS": "200"}).output
print(json.dumps({
    "recipe": load_recipe(recipe).stages[0].options.sharpness,
    "default": load_recipe({**recipe, "stages": ["distill"]}).stages[0].options.sharpness,
    "fix": fix,
    "command": [line for line in shown.splitlines() if "--sharpness" in line],
    "reference": help_of(attar.distill)["sharpness"],
    "torch": "torch" in sys.modules,
}))
"""


def test_an_option_is_one_line_in_the_signature_and_one_in_the_docstring(tmp_path):
    package = tmp_path / "attar"
    shutil.copytree(Path(attar.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    file = package / "verbs" / "distill.py"
    text = file.read_text()
    for before, line in (
        ("    seed: Seed = 0,\n", "    sharpness: Annotated[Count, LOSSES] = 3,\n"),
        ("        seed: Seed of every random choice.\n", "        sharpness: How sharp it is.\n"),
    ):
        assert text.count(before) == 1
        text = text.replace(before, line + before)
    file.write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", ADDED],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=environment,
    )
    found = json.loads(run.stdout)
    (line,) = found.pop("command")
    assert all(part in line for part in ("INT", "How sharp it is.", "(3)"))
    assert found == {
        "recipe": 5,
        "default": 3,
        "fix": "write sharpness instead of sharpnes",
        "reference": "How sharp it is.",
        "torch": False,
    }


@pytest.mark.parametrize("name", VERBS)
def test_every_argument_of_a_verb_has_a_type_and_a_line_of_help(name):
    function = VERBS[name]
    shown = [
        item.name
        for item in inspect.signature(function).parameters.values()
        if item.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    assert [argument.name for argument in arguments(function)] == shown
    assert all(argument.help for argument in arguments(function))
    assert set(help_of(function)) <= {*shown, "overrides", "planning"}
    for group in filter(None, (argument.group for argument in arguments(function))):
        assert set(group.model_fields) <= set(help_of(group)) | set(help_of(attar.augment))


@pytest.mark.parametrize("name", VERBS)
def test_every_argument_that_can_be_written_is_on_the_command_line(name):
    function = VERBS[name]
    names = {parameter.argument.name for parameter in parameters(function) if parameter.group is None}
    written = {
        argument.name
        for argument in arguments(function)
        if argument.type is not None and argument.type is not argument.group
    }
    grouped = {argument.name for argument in arguments(function) if argument.group is not None}
    assert written - grouped <= names
    shown = CliRunner().invoke(cli.app, [name.replace("_", "-"), "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    for parameter in list(parameters(function))[1:]:
        assert f"{parameter.flag} " in shown.output


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_has_the_defaults_of_its_function(name):
    signed = inspect.signature(STAGES[name]).parameters
    model = options_model(STAGES[name])
    assert (
        model().model_dump()
        == options_of(STAGES[name], {key: signed[key].default for key in model.model_fields}).model_dump()
    )


def test_an_unknown_argument_of_a_verb_that_shares_options_is_an_error(tmp_path):
    with pytest.raises(TypeError, match="bugdet"):
        attar.prune("nowhere", out=tmp_path / "out", bugdet=0.5)


# What an argument is on the command line and in a recipe, on a verb of the tests


class Sizes(Options):
    """Sizes.

    Attributes:
        layers: Layers.
        width: Width.
    """

    layers: Annotated[Count | None, Flag()] = None
    width: Count = 8


def sample(
    model: Annotated[str | Any, Input()],
    *,
    texts: Annotated[str | Path | Sequence[str | Path] | Any, Input(files=True)] = (),
    columns: Annotated[dict[str, str] | None, Input()] = None,
    sizes: Sizes | str | Any = Sizes(),
    mapping: Literal["uniform", "top"] | Sequence[Count] = "uniform",
    formats: Sequence[Literal["fp32", "int8"]] = ("fp32",),
    rate: Annotated[float, Field(gt=0, lt=1)] = 0.5,
    loss: Literal["mlm", "task"] | None = "mlm",
    cache: bool = True,
    rounding: Count | Literal["auto"] | None = None,
) -> dict[str, Any]:
    """Sample.

    Args:
        model: Model.
        texts: Texts.
        columns: Columns.
        sizes: Sizes.
        mapping: Mapping.
        formats: Formats.
        rate: Rate.
        loss: Loss.
        cache: Cache.
        rounding: Rounding.
    """
    return options_of(sample, locals()).model_dump()


def call(*words):
    """The options that a command line of `sample` comes to."""
    found = {}

    def command(**given):
        found.update(sample(**values(sample, given)))

    made = [parameter.signature() for parameter in parameters(sample)]
    more = inspect.Parameter(
        "set_", inspect.Parameter.KEYWORD_ONLY, default=None,
        annotation=Annotated[list[str] | None, typer.Option("--set")],
    )  # fmt: skip
    command.__signature__ = inspect.Signature([*made, more])
    command.__annotations__ = {item.name: item.annotation for item in (*made, more)}
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, ["model", *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return found


@pytest.mark.parametrize(
    ("line", "proposed"),
    [
        ("attar dis", ["distill", "distill-lm"]),
        ("attar distill teacher --proj", ["--projection"]),
        ("attar distill teacher --attention ", ["auto", "scores", "relations", "none"]),
        ("attar distill teacher --attention r", ["relations"]),
        ("attar distill teacher --data ", []),  # the shell proposes files
    ],
)
def test_a_shell_completes_commands_options_and_values(line, proposed):
    words = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    asked = {"_ATTAR_COMPLETE": "complete_bash", **words}
    result = CliRunner().invoke(cli.app, [], prog_name="attar", env=asked)
    assert result.output.split() == proposed


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        ([], {}),
        (["--mapping", "top"], {"mapping": "top"}),
        (["--mapping", "3,6"], {"mapping": (3, 6)}),
        (["--mapping", "3"], {"mapping": (3,)}),
        (["--formats", "int8", "--formats", "fp32"], {"formats": ("int8", "fp32")}),
        (["--formats", "int8,fp32"], {"formats": ("int8", "fp32")}),
        (["--rate", "0.25"], {"rate": 0.25}),
        (["--loss", "none"], {"loss": None}),
        (["--no-cache"], {"cache": False}),
        (["--rounding", "auto"], {"rounding": "auto"}),
        (["--rounding", "8"], {"rounding": 8}),
        (["--layers", "3"], {"sizes": {"layers": 3, "width": 8}}),
        (["--layers", "3", "--set", "sizes.width=4"], {"sizes": {"layers": 3, "width": 4}}),
        (["--sizes", "some/dir"], {"sizes": "some/dir"}),
    ],
)
def test_the_command_line_says_what_python_says(words, changed):
    assert call(*words) == sample("model") | changed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rate", "2"], "rate: less than 1"),
        (["--rate", "fast"], "rate: a valid number"),
        (["--loss", "mln"], "do this: write mlm"),
        (["--layers", "3", "--sizes", "some/dir"], "either --sizes or its parts"),
        (["--set", "sizes.with=4"], "write width instead of with"),
        (["--set", "sizes"], "an equals sign"),
    ],
)
def test_a_wrong_value_is_an_error_that_says_what_to_do(words, message):
    with pytest.raises(RecipeError, match=message):
        call(*words)


def test_names_of_texts_are_files_and_objects_pass():
    (texts,) = (parameter for parameter in parameters(sample) if parameter.name == "texts")
    assert texts.value(["a.txt"]) == Path("a.txt")
    assert texts.value(["a.txt", "b.txt"]) == [Path("a.txt"), Path("b.txt")]
    student = object()
    assert options_of(sample, {"sizes": student}).sizes is student


def test_a_verb_must_explain_its_arguments():
    def silent(model: str) -> None:
        """Nothing about it."""

    with pytest.raises(TypeError, match="model of silent has no line in the docstring"):
        arguments(silent)
    with pytest.raises(TypeError, match="no annotation"):
        arguments(lambda model: model)


def test_a_verb_keeps_its_name_and_signature():
    before = dict(VERBS)
    registered = verb()(sample)
    assert (registered.__name__, inspect.signature(registered)) == ("sample", inspect.signature(sample))
    VERBS.clear()
    VERBS.update(before)
    assert Parameter(arguments(sample)[0]).flag == "--model"
