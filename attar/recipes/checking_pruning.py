"""What can be found wrong with a pruning stage without training."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attar.anatomy.families import FAMILIES
from attar.errors import PlanError
from attar.options.base import Options
from attar.recipes.checking_files import check_plan
from attar.recipes.problem import Problem, lacking, misfit
from attar.recipes.schema import Recipe, is_default

# Methods that need no text.
BLIND = ("magnitude", "alternate", "top", "bottom")
DROPS = ("alternate", "top", "bottom", "similarity")
# Of BERT-base: layers, hidden, heads, ffn.
BASE = (12, 768, 12, 3072)


def check_prune(options: Options, recipe: Recipe, config: dict[str, Any], where: str) -> Iterator[Problem]:
    """Find what would stop a prune stage: what is asked for, its files, and what the family can be without."""
    o, trims = options, options.method == "vocabulary"
    named = {"plan": o.plan is not None, "budget": o.budget is not None, "shape": o.shape is not None}
    chosen = [name for name, there in (named | {"method: vocabulary": trims}).items() if there]
    if len(chosen) != 1:
        expected = "one of budget, shape, plan, and method: vocabulary"
        fix = (
            "leave out all but one" if chosen else "set budget to 0.6, for six tenths of what the model costs"
        )
        yield misfit(where, expected, " and ".join(chosen) or "none", fix)
    learns = o.budget is not None
    if (
        (trims or (learns and o.method not in BLIND))
        and recipe.data.train is None
        and recipe.data.texts is None
    ):
        yield lacking("data.train", "a table, or data.texts, to prune on")
    if "task" in ((o.loss if learns else None), o.recover) and recipe.data.train is None:
        yield lacking("data.train", "a table with labels, for the loss task")
    if o.plan is not None:
        for error in check_plan(o.plan, config):
            yield Problem(f"{where}.plan", error)
    if o.table is not None and o.cost != "latency" and not Path(o.table).expanduser().is_file():
        error = PlanError(
            expected=f"a table of latencies at {o.table}", found="no such file", fix="leave it out"
        )
        yield Problem(f"{where}.table", error)
    if config:
        yield from _check_family(o, config, where)


def check_recovery(recipe: Recipe, index: int, where: str) -> Iterator[Problem]:
    """Find what would stop a distill stage right after one whose model is the student."""
    options: Any = recipe.stages[index].options
    before: Any = recipe.stages[index - 1].options
    made_by = recipe.stages[index - 1].verb
    if not is_default(recipe.stages[index], "student"):
        found = str(options.settings()["student"])
        expected = f"no student right after {made_by}: the model that it made is the student"
        yield misfit(f"{where}.student", expected, found, "leave student out")
    if getattr(before, "method", "") == "vocabulary":
        expected = "a stage between a pruned vocabulary and distill: the model before has other token numbers"
        yield misfit(where, expected, "none", "prune the vocabulary last, or finetune after it")


def _check_family(o: Options, config: dict[str, Any], where: str) -> Iterator[Problem]:
    anatomy = FAMILIES[config["model_type"]]
    if anatomy.causal:
        yield misfit(
            where, "an encoder to prune", f"{anatomy.name}, a decoder", "distil a smaller student instead"
        )
        return
    uncut = dict(anatomy.uncut)
    if not anatomy.sizes.embedding:
        uncut["embedding"] = "its embedding is as wide as its hidden states, and is cut with them: hidden"
    axes = o.axes if isinstance(o.axes, tuple) else (o.axes,)
    for axis in axes:
        if axis in uncut:
            expected = f"an axis that {anatomy.name} can be cut along"
            yield misfit(f"{where}.axes", expected, f"{axis}: {uncut[axis]}", "leave it out")
    if o.method in DROPS and o.budget is not None and "layers" in uncut:
        expected = f"a method that {anatomy.name} has layers for"
        yield misfit(f"{where}.method", expected, f"{o.method}: {uncut['layers']}", "write schubert")
    keys = [anatomy.sizes.layers, anatomy.sizes.hidden, anatomy.sizes.heads, anatomy.sizes.ffn]
    sizes = tuple(config.get(key) for key in keys)
    if o.shape is not None and sizes != BASE:
        expected = "a model of BERT-base's sizes, for a published shape"
        found = "layers, hidden, heads, ffn of " + ", ".join(map(str, sizes))
        yield misfit(f"{where}.shape", expected, found, "give a budget instead")
