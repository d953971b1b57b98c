"""What a user may write in a recipe, read and checked without torch."""

from attar.options.base import Options
from attar.recipes.checking import check
from attar.recipes.problem import Problem
from attar.recipes.reading import load_recipe, parse
from attar.recipes.schema import Data, Distill, DistillLm, Evaluate, Export, Finetune, Recipe, Stage, Student
from attar.recipes.smaller import Prune, Share

__all__ = [
    "Data",
    "Distill",
    "DistillLm",
    "Evaluate",
    "Export",
    "Finetune",
    "Options",
    "Problem",
    "Prune",
    "Recipe",
    "Share",
    "Stage",
    "Student",
    "check",
    "load_recipe",
    "parse",
]
