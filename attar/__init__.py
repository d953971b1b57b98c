"""attar makes Hugging Face language models small and fast, and proves what they keep."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from attar.model.late import announce

if TYPE_CHECKING:
    from attar.augment import augment as augment
    from attar.errors import AttarError as AttarError
    from attar.finetune import finetune as finetune
    from attar.generate import generate as generate
    from attar.knowledge import distill_lm as distill_lm
    from attar.measure.report import Report as Report
    from attar.pipeline import distill as distill
    from attar.pretrain import pretrain as pretrain
    from attar.probing import probe as probe
    from attar.prune.plan import Plan as Plan
    from attar.pruning import plan as plan
    from attar.pruning import prune as prune
    from attar.recipe import run as run
    from attar.schema import Recipe as Recipe
    from attar.sharing import share as share
    from attar.temperature import temperature as temperature
    from attar.tokenizer import tokenizer as tokenizer
    from attar.verbs import bench as bench
    from attar.verbs import compare as compare
    from attar.verbs import evaluate as evaluate
    from attar.verbs import export as export

_HOME = {
    "AttarError": "attar.errors",
    "Plan": "attar.prune.plan",
    "Recipe": "attar.schema",
    "Report": "attar.measure.report",
    "augment": "attar.augment",
    "bench": "attar.verbs",
    "compare": "attar.verbs",
    "distill": "attar.pipeline",
    "distill_lm": "attar.knowledge",
    "evaluate": "attar.verbs",
    "export": "attar.verbs",
    "finetune": "attar.finetune",
    "generate": "attar.generate",
    "plan": "attar.pruning",
    "pretrain": "attar.pretrain",
    "probe": "attar.probing",
    "prune": "attar.pruning",
    "run": "attar.recipe",
    "share": "attar.sharing",
    "temperature": "attar.temperature",
    "tokenizer": "attar.tokenizer",
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

    Importing `attar.distill.student` makes Python set `attar.distill` to the room; the verb of that name would be gone
    from then on. The rooms are found through `sys.modules` all the same.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Door
announce()


def __dir__() -> list[str]:
    return __all__
