"""What a user may write in a recipe, read and checked without torch."""

from attar.schema.base import Options
from attar.schema.checking import check
from attar.schema.options import Data, Distill, DistillLm, Evaluate, Export, Finetune, Recipe, Stage, Student
from attar.schema.problem import Problem
from attar.schema.reading import load_recipe, parse
from attar.schema.smaller import Prune, Share

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
