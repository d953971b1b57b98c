"""attar makes Hugging Face language models small and fast, and proves what they keep."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from attar.errors import AttarError
from attar.model.auto_classes import register_types
from attar.verbs import (
    augment,
    bench,
    compare,
    compress,
    dimensions,
    distill,
    distill_lm,
    evaluate,
    export,
    finetune,
    generate,
    mine,
    plan,
    pretrain,
    probe,
    prune,
    run,
    share,
    static,
    temperature,
    tokenizer,
)

if TYPE_CHECKING:
    from attar.pruning.plan import Plan
    from attar.recipes.schema import Recipe
    from attar.report.report import Report

__all__ = [
    "AttarError",
    "Plan",
    "Recipe",
    "Report",
    "augment",
    "bench",
    "compare",
    "compress",
    "dimensions",
    "distill",
    "distill_lm",
    "evaluate",
    "export",
    "finetune",
    "generate",
    "mine",
    "plan",
    "pretrain",
    "probe",
    "prune",
    "run",
    "share",
    "static",
    "temperature",
    "tokenizer",
]

register_types()


def __getattr__(name: str) -> Any:
    """The classes that verbs return, imported when they are first used: reading a recipe does not wait for torch."""
    home = {"Plan": "attar.pruning.plan", "Recipe": "attar.recipes.schema", "Report": "attar.report.report"}
    if name not in home:
        raise AttributeError(f"module 'attar' has no attribute {name!r}")
    return getattr(import_module(home[name]), name)


def __dir__() -> list[str]:
    return __all__
