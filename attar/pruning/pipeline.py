"""`plan` and `prune`: which units of a model can go within a budget, and the smaller model without them."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from datasets import Dataset
from transformers import PreTrainedModel

from attar.data.batches import fitting
from attar.data.columns import Columns
from attar.data.tables import read_table, read_texts
from attar.errors import PlanError
from attar.evaluation.comparison import measure, open_model
from attar.model.checkpoint import load, save, versions
from attar.pruning.latency import Latency
from attar.pruning.plan import PLAN, Plan
from attar.pruning.pruner import CostName, Pruner, Rounding, task_of
from attar.pruning.round import Method, Way, axes_of
from attar.pruning.rounds import Loss, Recovery
from attar.pruning.vocabulary import restrict
from attar.recipes import Prune
from attar.recipes.reading import options_of
from attar.report.report import Report, Row
from attar.storage.writing import check_free
from attar.training import resuming
from attar.training.loop import Precision, is_main

__all__ = ["Plan", "Pruner", "plan", "prune"]

Model: TypeAlias = str | Path | PreTrainedModel
Table: TypeAlias = str | Path | Dataset
VOCABULARY = "vocabulary"


def plan(
    model: Model,
    *,
    budget: float | None = None,
    axes: str | Sequence[str] = "all",
    method: Method | Literal["vocabulary"] = "schubert",
    shape: str | None = None,
    data: Table | None = None,
    texts: Any = None,
    columns: Columns | None = None,
    tokenizer: Any = None,
    cost: CostName = "params",
    loss: Loss = "distill",
    rounds: int = 1,
    steps: int = 100,
    lr: float = 0.02,
    gamma: float | None = None,
    rounding: Rounding = None,
    length: int = 128,
    max_length: int = 128,
    batch_size: int = 32,
    seed: int = 0,
    precision: Precision = "auto",
    table: Latency | str | Path | None = None,
) -> Plan:
    """Find which units of a model can go within a budget; nothing is touched.

    Args:
        model: a directory, a hub name, or a model (then with its `tokenizer`).
        budget: what the smaller model may cost: up to 1 a part of the model's cost, else a number of parameters or
            operations. Not for `shape`, nor for method="vocabulary", which keeps what the texts use.
        axes: what may be cut: "all" (hidden, heads, key, value, ffn), "h", "f", "a" (schuBERT's variants), or a list.
        method: see `attar.pruning.round.Way`; "vocabulary" drops tokens that the texts do not use.
        shape: a shape that the paper published for BERT-base, "schubert-99m" to "schubert-33m"; units by magnitude.
        data, texts: a table, or plain texts, that the model is looked at with; "task" needs labels.
        cost: "params", "flops" (of one text of `length` tokens), or "latency", measured on this machine.
        loss: that teaches alphas: "distill" (stay close to the model; any text), "mlm" (for a masked language model),
            "task" (needs labels).
        rounds: of learning and cutting; more than one are recovered in between as `prune` does.
        steps, lr, gamma: of learning alphas, see `learn_alphas`.
        rounding: sizes are multiples of this; "auto" as the latency table advises, which is the default for latency.
        table: a latency table that was measured before (`attar.pruning.latency.Latency`), or its file; for
            cost="latency", a file that is not there yet is written.

    Raises:
        PlanError: a budget that cannot be met, an axis or a shape that the model does not have.
        RecipeError: an option that the schema does not know.
        ModelError, DataError, TrainingError: see the functions that this one calls.
    """
    asked = _asked(locals())
    found = _opened(model, tokenizer, asked, (data, texts, columns), precision, table)
    if asked.shape is not None:
        return found.published(asked.shape)
    if asked.method == VOCABULARY:
        return found.vocabulary()
    assert budget is not None
    recovery = Recovery(asked.loss, precision=precision, seed=seed) if rounds > 1 else None
    with tempfile.TemporaryDirectory() as place:
        made = found.rounds(budget, rounds, recovery, Path(place))
    return found.plan(made.kept, asked.method, budget)


def prune(
    model: Model,
    plan: Plan | str | Path | None = None,
    *,
    out: str | Path,
    budget: float | None = None,
    axes: str | Sequence[str] = "all",
    method: Method | Literal["vocabulary"] = "schubert",
    shape: str | None = None,
    data: Table | None = None,
    texts: Any = None,
    dev: Table | None = None,
    columns: Columns | None = None,
    tokenizer: Any = None,
    cost: CostName = "params",
    loss: Loss = "distill",
    rounds: int = 1,
    steps: int = 100,
    lr: float = 0.02,
    gamma: float | None = None,
    fold: bool = False,
    reconstruct: bool = True,
    recover: Loss | None = "distill",
    recover_steps: int = 200,
    recover_lr: float = 5e-5,
    rounding: Rounding = None,
    length: int = 128,
    max_length: int = 128,
    batch_size: int = 32,
    seed: int = 0,
    precision: Precision = "auto",
    table: Latency | str | Path | None = None,
    overwrite: bool = False,
) -> Report:
    """Cut a model for real, by a plan or down to a budget, and recover what it lost.

    Args:
        plan: a plan, or its file; else one is found from the options that `attar.plan` has, in `rounds` rounds of
            learning, cutting and recovering (2005.06628, algorithm 1).
        out: the directory to write; it appears whole, after it was loaded again and compared, with `plan.json` in it.
        fold: multiply the weights that stay by their alphas, as the paper does, where the alphas else only choose. With
            a short recovery that loses much (docs/guide-pruning.md, "what we measured").
        reconstruct: where there are texts and the vocabulary stays, fit what stays to what went by least squares after
            each cut, before anything is trained (see `attar.pruning.reconstruction`).
        dev: what the report measures on: against labels where it has them, else as agreement with the model before.
        recover: after each cut, `recover_steps` steps of staying close to the model before ("distill"), or of the loss
            "task" or "mlm"; None for none. Without texts there is none, as there is no reconstruction.

    Returns:
        A report with the model before and after, their shapes, and the training curves.

    Raises:
        PlanError: a plan for another model, and as `attar.plan`. OutputError: `out` is taken.
    """
    asked = _asked(locals())
    check_free(out, overwrite=overwrite)
    found = _opened(model, tokenizer, asked, (data, texts, columns), precision, table, given=plan is not None)
    recovery = Recovery(recover, recover_steps, recover_lr, precision, seed, reconstruct)
    with resuming.work_directory(out) as place:
        if asked.budget is None:
            planned = _ready(found, plan, asked)
            small, curves = found.cut(planned, recovery, place)
        else:
            made = found.rounds(asked.budget, rounds, recovery, place)
            small, curves = made.model, made.curves
            planned = found.plan(made.kept, asked.method, asked.budget)
        kept = found.tokenizer
        if len(planned.vocab) < found.form.vocab:
            kept = restrict(kept, planned.vocab)
        name = found.loaded.name
        lineage = {
            "stage": "prune",
            "parent": name,
            "options": {
                "method": planned.method,
                "budget": planned.budget,
                "axes": found.way.axes,
                "seed": seed,
            },
            "kept_hidden": list(planned.hidden),
        }
        if is_main():
            files = {PLAN: planned.to_json()}
            save(small, kept, out, lineage=lineage, files=files, overwrite=overwrite)
        rows, main = _rows(found, small, kept, (dev, columns), out)
    return Report(
        f"{name} pruned to {planned.after.parameters / planned.before.parameters:.0%}",
        main,
        rows,
        curves,
        settings=lineage["options"],  # type: ignore[arg-type]
        versions=versions(),
        shapes=(planned.shape(Path(out).name),),
    )


def _asked(arguments: Mapping[str, Any]) -> Prune:
    """The options of a verb, from its arguments, checked before anything is loaded."""
    given = {name: value for name, value in arguments.items() if name in Prune.model_fields}
    plan, shape, budget = (given.get(name) for name in ("plan", "shape", "budget"))
    trims = given["method"] == VOCABULARY
    named = {"a plan": plan is not None, "a shape": shape is not None, "a budget": budget is not None}
    chosen = [name for name, there in (named | {"method='vocabulary'": trims}).items() if there]
    if len(chosen) != 1:
        raise PlanError(
            expected="one of a budget, a shape, method='vocabulary'" + ", a plan" * ("plan" in given),
            found=" and ".join(chosen) or "none",
            fix="leave out all but one"
            if chosen
            else "pass budget=0.6, for six tenths of what the model costs",
        )
    if budget is not None and not budget > 0:
        raise PlanError(
            expected="a budget above 0", found=str(budget), fix="give a part of the model, such as 0.6"
        )
    axes = given["axes"]
    given |= {"axes": axes if isinstance(axes, str) else tuple(axes), "plan": None, "table": None}
    checked: Prune = options_of("prune", given)
    return checked


def _opened(
    model: Model,
    tokenizer: Any,
    asked: Prune,
    tables: tuple[Any, Any, Columns | None],
    precision: Precision,
    table: Latency | str | Path | None,
    *,
    given: bool = False,
) -> Pruner:
    """The model with its texts; `given` is whether a plan says already what stays."""
    loaded = load(model, tokenizer=tokenizer)
    learns = not given and asked.shape is None and asked.method != VOCABULARY
    method: Any = asked.method if learns else "magnitude"
    axes = axes_of(loaded.model, asked.axes)
    data, plain, columns = tables
    texts: Dataset | None = None if plain is None else read_texts(plain)
    if data is not None:
        labels = "task" in {asked.loss, asked.recover}
        texts = read_table(data, columns=columns, task=task_of(loaded.model), labels=labels)[0]
    return Pruner(
        loaded,
        Way(method, axes, asked.steps, asked.lr, asked.gamma, None, asked.seed, precision, asked.fold),
        asked.cost,
        asked.loss,
        asked.length,
        asked.max_length,
        asked.batch_size,
        texts,
        table,
        asked.rounding,
    )


def _ready(found: Pruner, plan: Plan | str | Path | None, asked: Prune) -> Plan:
    """The plan that was given, or the one that needs no learning."""
    if plan is not None:
        return found.given(plan)
    return found.vocabulary() if asked.shape is None else found.published(asked.shape)


def _rows(
    found: Pruner, small: PreTrainedModel, tokenizer: Any, dev: tuple[Any, Columns | None], out: str | Path
) -> tuple[tuple[Row, ...], str]:
    """The model before and after, and the metric that counts; on the dev table where there is one and a classifier."""
    name, task = Path(out).name, found.task
    before, after = (model.num_parameters() for model in (found.model, small))
    if task is None or dev[0] is None:
        rows = (Row("before", "teacher", parameters=before), Row(name, "student", parameters=after))
        main = "accuracy"
    else:
        opened = (
            open_model(found.model, name="before", tokenizer=found.tokenizer),
            open_model(small, name=name, tokenizer=tokenizer),
        )
        table = read_table(dev[0], columns=dev[1], task=task)[0]
        pair: Any = list(zip(("teacher", "student"), opened, strict=True))
        measured, said = measure(pair, table, max_length=fitting(found.max_length, found.model))
        rows, main = (measured[0], measured[1]), next(iter(said.values()))[1].main
    return (rows[0], replace(rows[1], directory=str(out))), main
