"""Recipes, read from YAML: every error names the place, and the nearest word that the schema knows."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from attar.errors import RecipeError
from attar.options.explaining import Location, dotted, explain
from attar.recipes.schema import Recipe, Stage

RECIPES = Path(__file__).parent


def load_recipe(source: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe.

    Args:
        source: a YAML file, the name of a recipe that comes with attar ("tinybert4"), or the content itself.
        overrides: values to put over the file's, by dotted name: `{"data.train": "train.csv",
            "distill.student.layers": 3}`; a verb's name stands for its stage.

    Raises:
        RecipeError: there is no such file, it is not YAML, or it holds a key or value that the schema does not know;
            the message names the nearest key and the line.
    """
    if isinstance(source, Mapping):
        return parse(source, overrides)
    path = _find(source)
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(
            expected=f"a YAML file in {path}",
            found=" ".join(str(error).split()),
            fix="mend the line named above",
        ) from error
    lines: dict[Location, int] = {}
    if node is not None:
        _number(node, (), lines, path.name)
    return parse(content, overrides, name=path.name, lines=lines)


def parse(
    content: Any,
    overrides: Mapping[str, Any] | None = None,
    *,
    name: str = "the recipe",
    lines: Mapping[Location, int] | None = None,
) -> Recipe:
    """Check a recipe's content, which `name` and `lines` (line number by location) say where to find.

    Raises:
        RecipeError: as `load_recipe`.
    """
    if not isinstance(content, Mapping):
        found = "nothing" if content is None else type(content).__name__
        raise RecipeError(
            expected=f"keys and values in {name}", found=found, fix="start with `name:` and `model:`"
        )
    for key, value in (overrides or {}).items():
        content = _put(content, key.split("."), value, key)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise explain(error, content, Recipe, name, lines) from None


def _find(source: str | Path) -> Path:
    path = Path(source)
    if path.is_file():
        return path
    ours = sorted(recipe.stem for recipe in RECIPES.glob("*.yaml"))
    if path.name in {*ours, *(f"{stem}.yaml" for stem in ours)} and path.parent == Path():
        return RECIPES / f"{path.stem}.yaml"
    nearest = get_close_matches(path.stem, ours, 1, 0.5)
    raise RecipeError(
        expected=f"a recipe file, or one of {', '.join(ours)}",
        found=f"no file {source}",
        fix=f"did you mean {nearest[0]}?" if nearest else "check the path",
    )


def _number(node: yaml.Node, at: Location, lines: dict[Location, int], name: str) -> None:
    """Note the line (from 1) of every key and entry; a key that comes twice is an error (YAML takes the last)."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            where = (*at, key.value)
            if where in lines:
                raise RecipeError(
                    expected="every key once",
                    found=f"{dotted(where)} again in line {key.start_mark.line + 1} of {name}",
                    fix=f"keep one of the two (the other is in line {lines[where]})",
                )
            lines[where] = key.start_mark.line + 1
            _number(value, where, lines, name)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[*at, index] = value.start_mark.line + 1
            _number(value, (*at, index), lines, name)


def _put(content: Mapping[str, Any], keys: Sequence[str], value: Any, name: str) -> dict[str, Any]:
    key, rest = keys[0], keys[1:]
    copy = dict(content)
    if key in Stage.model_fields and "stages" in copy:
        return {**copy, "stages": _put_stage(copy["stages"], key, rest, value, name)}
    inner = copy.get(key)
    copy[key] = _put(inner if isinstance(inner, Mapping) else {}, rest, value, name) if rest else value
    return copy


def _put_stage(stages: Any, verb: str, keys: Sequence[str], value: Any, name: str) -> list[Any]:
    entries = [{entry: {}} if isinstance(entry, str) else entry for entry in stages]
    places = [index for index, entry in enumerate(entries) if isinstance(entry, Mapping) and verb in entry]
    if len(places) != 1:
        raise RecipeError(
            expected=f"one stage {verb}, for {name}",
            found=str(len(places)),
            fix="change the recipe's file instead",
        )
    entries[places[0]] = _put(entries[places[0]], (verb, *keys), value, name)
    return entries
