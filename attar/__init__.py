"""attar makes Hugging Face language models small and fast, and proves what they keep."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from attar.model.auto_classes import register_slim_types

if TYPE_CHECKING:
    from attar.augmentation import augment as augment
    from attar.distillation.language_model import distill_lm as distill_lm
    from attar.distillation.pipeline import distill as distill
    from attar.errors import AttarError as AttarError
    from attar.evaluation.generation import generate as generate
    from attar.evaluation.temperature import temperature as temperature
    from attar.pruning.pipeline import plan as plan
    from attar.pruning.pipeline import prune as prune
    from attar.pruning.plan import Plan as Plan
    from attar.pruning.probing import probe as probe
    from attar.recipes import Recipe as Recipe
    from attar.recipes.running import run as run
    from attar.report.report import Report as Report
    from attar.sharing.run import share as share
    from attar.training.finetuning import finetune as finetune
    from attar.training.pretraining import pretrain as pretrain
    from attar.training.tokenizer import tokenizer as tokenizer
    from attar.verbs import bench as bench
    from attar.verbs import compare as compare
    from attar.verbs import evaluate as evaluate
    from attar.verbs import export as export

_HOME = {
    "AttarError": "attar.errors",
    "Plan": "attar.pruning.plan",
    "Recipe": "attar.recipes",
    "Report": "attar.report.report",
    "augment": "attar.augmentation",
    "bench": "attar.verbs",
    "compare": "attar.verbs",
    "distill": "attar.distillation.pipeline",
    "distill_lm": "attar.distillation.language_model",
    "evaluate": "attar.verbs",
    "export": "attar.verbs",
    "finetune": "attar.training.finetuning",
    "generate": "attar.evaluation.generation",
    "plan": "attar.pruning.pipeline",
    "pretrain": "attar.training.pretraining",
    "probe": "attar.pruning.probing",
    "prune": "attar.pruning.pipeline",
    "run": "attar.recipes.running",
    "share": "attar.sharing.run",
    "temperature": "attar.evaluation.temperature",
    "tokenizer": "attar.training.tokenizer",
}
__all__ = [
    "AttarError",
    "Plan",
    "Recipe",
    "Report",
    "augment",
    "bench",
    "compare",
    "distill",
    "distill_lm",
    "evaluate",
    "export",
    "finetune",
    "generate",
    "plan",
    "pretrain",
    "probe",
    "prune",
    "run",
    "share",
    "temperature",
    "tokenizer",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used, so that reading a recipe does not wait for torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'attar' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


class _Door(ModuleType):
    """The package, whose verbs keep their names though rooms are called alike.

    Importing a room of the same name would put the room there.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Door
register_slim_types()


def __dir__() -> list[str]:
    return __all__
