"""`attar.verbs.check`: what is wrong with a recipe, without training."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from attar.options.base import Flag, Input
from attar.options.registry import verb

if TYPE_CHECKING:
    from attar.recipes.problem import Problem


@verb(light=True)
def check(
    recipe: Annotated[str, Input()],
    settings: Annotated[Mapping[str, Any] | None, Input(), Flag("--set")] = None,
) -> "list[Problem]":
    """Find what is wrong with a recipe, in under a second and without training.

    Args:
        recipe: A YAML file or the name of a recipe that comes with attar: tinybert4, schubert-99m, …
        settings: Values to put over the recipe's, by dotted name: data.train=train.csv.

    Returns:
        Places in the recipe, each with the error that running it would end in.

    Raises:
        RecipeError: there is no such file, or it holds a key or value that the schema does not know.

    Examples:
        attar check recipe.yaml
    """
    from attar.recipes.checking import check as work
    from attar.recipes.reading import load_recipe

    return work(load_recipe(recipe, settings))
