"""Recipes, read from YAML: every error names the place, and the nearest word that the schema knows."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from attar.errors import RecipeError
from attar.options.base import Options
from attar.recipes.schema import Recipe, Stage

RECIPES = Path(__file__).parent
Location = tuple[str | int, ...]
# What pydantic says in the terms of Python, in those of YAML.
WORDS = {
    "tuple_type": "a list",
    "model_type": "keys and values",
    "string_type": "text",
    "too_short": "at least one",
}


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
    """Check a recipe's content, which `name` and `lines` (line number by location) tell where to find.

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
        raise _explain(error, content, name, lines or {}) from None


def options_of(verb: str, values: Mapping[str, Any]) -> Any:
    """The checked options of one verb, from the values that a caller of its function gave.

    Raises:
        RecipeError: as `load_recipe`.
    """
    content = {"name": verb, "model": verb, "stages": [{verb: dict(values)}]}
    return parse(content, name=f"attar.{verb}").stages[0].options


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
                    found=f"{_dotted(where)} again in line {key.start_mark.line + 1} of {name}",
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


def _explain(error: ValidationError, content: Any, name: str, lines: Mapping[Location, int]) -> RecipeError:
    fault, location = _root(error, content)
    line = next(
        (lines[location[:end]] for end in range(len(location), 0, -1) if location[:end] in lines), None
    )
    place = f"{name}, line {line}" if line else name
    if fault["type"] in ("extra_forbidden", "missing"):
        return _explain_key(fault, location, place)
    value = content
    for part in location:
        value = value[part]
    message = WORDS.get(
        fault["type"], fault["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    )
    choices = fault["msg"].split("'")[1::2] if fault["type"] == "literal_error" else []
    nearest = get_close_matches(str(value), choices, 1, 0.5)
    fix = f"write {nearest[0]}" if nearest else f"change {_dotted(location)}"
    return RecipeError(expected=f"{_dotted(location)}: {message}", found=f"{value!r} ({place})", fix=fix)


def _explain_key(fault: Mapping[str, Any], location: Location, place: str) -> RecipeError:
    key, keys = str(fault["loc"][-1]), _keys(fault["loc"][:-1])
    parent = _dotted(location[:-1] if fault["type"] == "extra_forbidden" else location)
    within = f"in {parent}" if parent else "at the top"
    if fault["type"] == "missing":
        return RecipeError(expected=f"{key} {within}", found=f"none ({place})", fix=f"add `{key}:`")
    nearest = get_close_matches(key, keys, 1, 0.5)
    return RecipeError(
        expected=f"{within} one of {', '.join(keys)}",
        found=f"{key} ({place})",
        fix=f"write {nearest[0]} instead of {key}" if nearest else f"remove {key}",
    )


def _root(error: ValidationError, content: Any) -> tuple[Mapping[str, Any], Location]:
    """The fault to tell: a misspelled key before all it entails, else the first, as deep as the content goes."""
    faults = [(fault, _known(fault["loc"], content)) for fault in error.errors(include_url=False)]
    unknown = [pair for pair in faults if pair[0]["type"] == "extra_forbidden"]
    first = (unknown or faults)[0]
    # A value that may be of two kinds fails as both; the kind that got further is the one that was meant.
    inside = [pair for pair in faults if pair[1][: len(first[1])] == first[1]]
    return first if unknown else max(inside, key=lambda pair: len(pair[1]))


def _known(location: Location, content: Any) -> Location:
    """The part of `location` that is in the content: pydantic adds the names of a union's branches."""
    known: list[str | int] = []
    for part in location:
        try:
            content = content[part]
        except (KeyError, IndexError, TypeError):
            continue
        known.append(part)
    return tuple(known)


def _keys(location: Location) -> list[str]:
    group: type[Options] = Recipe
    for part in location:
        if isinstance(part, str) and part in group.model_fields:
            group = _group(group.model_fields[part].annotation) or group
    return list(group.model_fields)


def _group(annotation: Any) -> type[Options] | None:
    if isinstance(annotation, type) and issubclass(annotation, Options):
        return annotation
    return next((group for inner in get_args(annotation) if (group := _group(inner))), None)


def _dotted(location: Location) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")
