"""Recipes: stages of verbs in a YAML file, read and checked without torch, and run."""

from attar.recipes.checking import check
from attar.recipes.problem import Problem
from attar.recipes.reading import load_recipe, parse
from attar.recipes.schema import Data, Recipe, Stage

__all__ = ["Data", "Problem", "Recipe", "Stage", "check", "load_recipe", "parse"]
