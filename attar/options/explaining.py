"""Faults that pydantic finds, as errors that say what was expected, what was found, and what to write instead."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import ValidationError

from attar.errors import RecipeError
from attar.options.base import Options

Location = tuple[str | int, ...]
# What pydantic says in the terms of Python, in those of YAML.
WORDS = {
    "tuple_type": "a list",
    "model_type": "keys and values",
    "string_type": "text",
    "too_short": "at least one",
}


def explain(
    error: ValidationError,
    content: Any,
    model: type[Options],
    name: str,
    lines: Mapping[Location, int] | None = None,
) -> RecipeError:
    """The first fault as an error that names its place, and the nearest word that the schema knows.

    Args:
        error: what pydantic raised.
        content: what was validated.
        model: the schema that it was validated against.
        name: of the file or function that the content is from.
        lines: line numbers by location.
    """
    fault, location = _root(error, content)
    lines = lines or {}
    line = next(
        (lines[location[:end]] for end in range(len(location), 0, -1) if location[:end] in lines), None
    )
    place = f"{name}, line {line}" if line else name
    if fault["type"] in ("extra_forbidden", "missing"):
        return _explain_key(fault, location, place, model)
    value = content
    for part in location:
        value = value[part]
    message = WORDS.get(
        fault["type"], fault["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    )
    choices = fault["msg"].split("'")[1::2] if fault["type"] == "literal_error" else []
    nearest = get_close_matches(str(value), choices, 1, 0.5)
    fix = f"write {nearest[0]}" if nearest else f"give {dotted(location)} another value, or leave it out"
    return RecipeError(expected=f"{dotted(location)}: {message}", found=f"{value!r} ({place})", fix=fix)


def _explain_key(
    fault: Mapping[str, Any], location: Location, place: str, model: type[Options]
) -> RecipeError:
    key, keys = str(fault["loc"][-1]), _keys(fault["loc"][:-1], model)
    parent = dotted(location[:-1] if fault["type"] == "extra_forbidden" else location)
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
    """The fault to report: a misspelled key before all it entails, else the first, as deep as the content goes."""
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


def _keys(location: Location, model: type[Options]) -> list[str]:
    group = model
    for part in location:
        if isinstance(part, str) and part in group.model_fields:
            group = _group(group.model_fields[part].annotation) or group
    return list(group.model_fields)


def _group(annotation: Any) -> type[Options] | None:
    if isinstance(annotation, type) and issubclass(annotation, Options):
        return annotation
    return next((group for inner in get_args(annotation) if (group := _group(inner))), None)


def dotted(location: Location) -> str:
    """A place as people write it: `stages[0].distill.student`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")
