"""`attar.run`: the stages of a recipe, in order."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from attar.options.base import Flag, Input, OutputPath
from attar.options.registry import verb

if TYPE_CHECKING:
    from attar.recipes.schema import Recipe
    from attar.report.report import Report
else:
    Recipe = Any


@verb()
def run(
    recipe: Annotated[str | Path | Mapping[str, Any] | Recipe, Input()],
    *,
    out: OutputPath,
    settings: Annotated[Mapping[str, Any] | None, Input(), Flag("--set")] = None,
    **overrides: Any,
) -> "Report":
    """Run a recipe's stages in order; a stage that is done with the same options is not run again.

    Args:
        recipe: A YAML file, the name of a recipe that comes with attar (tinybert4, schubert-99m, …), or its content.
        out: Directory that gets a numbered directory for each stage, and a report.
        settings: Values to put over the recipe's, by dotted name: data.train=train.csv.
        overrides: The same as keyword arguments: `**{"data.train": "train.csv"}`.

    Returns:
        The report of the last stage.

    Raises:
        RecipeError: see `load_recipe`.
        OutputError: `out` holds stages of another recipe.

    Examples:
        attar run tinybert4 --set data.train=train.csv --set distill.general=null --out out/tiny
    """
    from attar.recipes.running import run as work

    return work(recipe, out=out, settings={**(settings or {}), **overrides})
