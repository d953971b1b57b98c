"""A fault of a recipe and its place."""

from typing import NamedTuple

from attar.errors import AttarError, RecipeError


class Problem(NamedTuple):
    """A place in the recipe (dotted) and the error that running it would end in."""

    where: str
    error: AttarError


def lacking(where: str, what: str) -> Problem:
    """Something that is not there and has to be."""
    return Problem(where, RecipeError(expected=what, found="none", fix=f"set {where}"))


def misfit(where: str, expected: str, found: str, fix: str) -> Problem:
    """A value that does not go with others."""
    return Problem(where, RecipeError(expected=expected, found=found, fix=fix))
