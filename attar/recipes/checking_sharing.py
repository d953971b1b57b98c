"""What can be found wrong with a sharing stage without a model."""

from collections.abc import Iterator, Mapping
from typing import Any

from attar.anatomy.families import FAMILIES
from attar.options.base import Options
from attar.recipes.problem import Problem, lacking, misfit
from attar.recipes.schema import Recipe


def check_share(options: Options, recipe: Recipe, config: Mapping[str, Any], where: str) -> Iterator[Problem]:
    """Find what would stop a share stage: numbers that do not go together, and a family that ALBERT cannot express."""
    if (options.how == "all") != (options.groups is None):
        expected = "groups with how: groups or how: cycles, and with them only"
        fix = "write how: groups" if options.how == "all" else "set groups to 3, say"
        yield misfit(f"{where}.groups", expected, f"how: {options.how}, groups: {options.groups}", fix)
    if options.embedding is not None and recipe.data.train is None and recipe.data.texts is None:
        yield lacking("data.texts", "text, or data.train, to factorise the embedding")
    if not config:
        return
    anatomy = FAMILIES[config["model_type"]]
    if anatomy.causal or anatomy.pre_norm or anatomy.shared:
        expected = "an encoder whose computation ALBERT has too: bert, roberta and their kin"
        yield misfit(where, expected, anatomy.name, "leave the stage out")
        return
    layers = int(config.get(anatomy.sizes.layers, 0))
    groups = options.groups or 1
    if layers and (groups > layers or (options.how == "cycles" and layers % groups)):
        expected = f"groups of at most {layers} layers" + (
            ", a divisor of them" if options.how == "cycles" else ""
        )
        yield misfit(f"{where}.groups", expected, str(groups), "set it to 1, which is how: all, or to less")
    size = int(config.get(anatomy.sizes.embedding or anatomy.sizes.hidden, 0))
    if size and (options.embedding or 1) > size:
        yield misfit(f"{where}.embedding", f"at most {size}", str(options.embedding), "leave it out")
