"""The work of `attar.plan` and `attar.prune`: which units can go within a budget, and the model without them."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from datasets import Dataset
from transformers import PreTrainedModel

from attar.data.batches import fitting
from attar.data.columns import Columns
from attar.data.tables import read_table, read_texts
from attar.errors import OutputError, PlanError
from attar.evaluation.comparison import measure
from attar.evaluation.opening import open_model
from attar.model.checkpoint import load, save, versions
from attar.options.base import Options
from attar.progress import say
from attar.pruning.plan import PLAN, Plan
from attar.pruning.pruner import Pruner, classification_task
from attar.pruning.round import Way, axes_of
from attar.pruning.rounds import Recovery
from attar.pruning.vocabulary import restrict
from attar.report.report import Report, Row
from attar.report.shape import Shape
from attar.storage.writing import check_free
from attar.training import resuming
from attar.training.loop import Precision, is_main

__all__ = ["Plan", "Pruner", "plan", "prune"]

Table: TypeAlias = str | Path | Dataset
VOCABULARY = "vocabulary"
# Texts that are held out at most, and under which none is.
HELD, FEW = 1000, 20


def plan(
    model: str | Path | PreTrainedModel,
    *,
    data: Table | None,
    texts: Any,
    columns: Columns | None,
    tokenizer: Any,
    options: Options,
    precision: Precision,
    out: str | Path | None,
    overwrite: bool,
) -> Plan:
    """Find which units of a model can go within a budget; see `attar.plan`."""
    file = None if out is None else Path(out)
    if file is not None and (file.is_dir() or (file.exists() and not overwrite)):
        raise OutputError(
            expected=f"{file} to be a new file",
            found="a directory" if file.is_dir() else "a file",
            fix="name another file" + ("" if file.is_dir() else ", or pass overwrite (--overwrite)"),
        )
    _check_chosen(options)
    found = _opened(model, tokenizer, options, (data, texts, columns), precision)
    planned = _plan(found, options, precision)
    if file is not None:
        planned.write(file)
    return planned


def _plan(found: Pruner, options: Options, precision: Precision) -> Plan:
    o = options
    if o.shape is not None:
        return found.published(o.shape)
    if o.method == VOCABULARY:
        return found.vocabulary()
    recovery = Recovery(o.loss, precision=precision, seed=o.seed) if o.rounds > 1 else None
    with tempfile.TemporaryDirectory() as place:
        made = found.rounds(o.budget, o.rounds, recovery, Path(place))
    return found.plan(made.kept, o.method, o.budget)


def prune(
    model: str | Path | PreTrainedModel,
    plan: Plan | str | Path | None,
    *,
    out: str | Path,
    data: Table | None,
    texts: Any,
    dev: Table | None,
    columns: Columns | None,
    tokenizer: Any,
    options: Options,
    precision: Precision,
    overwrite: bool,
) -> Report:
    """Cut a model for real, and recover what it lost; see `attar.prune`."""
    o = options
    _check_chosen(o, plan)
    check_free(out, overwrite=overwrite)
    found = _opened(
        model, tokenizer, o, (data, texts, columns), precision, plan=plan, recover=o.recover, fold=o.fold
    )
    held = None  # sizes alone are reported of a model without a task
    if found.task is not None:
        given = None if dev is None else read_table(dev, columns=columns, task=found.task)[0]
        held = _hold_out(found, o) if given is None else given
    recovery = Recovery(o.recover, o.recover_steps, o.recover_lr, precision, o.seed, o.reconstruct)
    with resuming.work_directory(out) as place:
        if o.budget is None:
            planned = found.given(plan) if plan is not None else _plan(found, o, precision)
            small, curves = found.cut(planned, recovery, place)
        else:
            made = found.rounds(o.budget, o.rounds, recovery, place)
            small, curves = made.model, made.curves
            planned = found.plan(made.kept, o.method, o.budget)
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
                "seed": o.seed,
            },
            "kept_hidden": list(planned.hidden),
        }
        if is_main():
            files = {PLAN: planned.to_json()}
            save(small, kept, out, lineage=lineage, files=files, overwrite=overwrite)
        rows, main = _rows(found, small, kept, held, out)
    return Report(
        f"{name} pruned to {planned.after.parameters / planned.before.parameters:.0%}",
        main,
        rows,
        curves,
        settings=lineage["options"],  # type: ignore[arg-type]
        versions=versions(),
        shapes=(planned.shape(Path(out).name),),
    )


def _check_chosen(o: Options, plan: Any = None) -> None:
    """One thing says what stays.

    Raises:
        PlanError: none does, or several do.
    """
    named = {
        "a plan": plan is not None,
        "a shape": o.shape is not None,
        "a budget": o.budget is not None,
        "method='vocabulary'": o.method == VOCABULARY,
    }
    chosen = [name for name, there in named.items() if there]
    if len(chosen) != 1:
        raise PlanError(
            expected="one of a budget, a shape, method='vocabulary', or for prune a plan",
            found=" and ".join(chosen) or "none",
            fix="leave out all but one"
            if chosen
            else "pass budget=0.6, for six tenths of what the model costs",
        )


def _opened(
    model: str | Path | PreTrainedModel,
    tokenizer: Any,
    o: Options,
    tables: tuple[Any, Any, Columns | None],
    precision: Precision,
    *,
    plan: Any = None,
    recover: str | None = None,
    fold: bool = False,
) -> Pruner:
    """The model with its texts; a plan says already what stays."""
    loaded = load(model, tokenizer=tokenizer)
    learns = plan is None and o.shape is None and o.method != VOCABULARY
    method: Any = o.method if learns else "magnitude"
    axes = axes_of(loaded.model, o.axes)
    data, plain, columns = tables
    texts: Dataset | None = None if plain is None else read_texts(plain)
    if data is not None:
        labels = "task" in {o.loss, recover}
        texts = read_table(data, columns=columns, task=classification_task(loaded.model), labels=labels)[0]
    return Pruner(
        loaded,
        Way(method, axes, o.steps, o.lr, o.gamma, None, o.seed, precision, fold),
        o.cost,
        o.loss,
        o.length,
        o.max_length,
        o.batch_size,
        texts,
        o.table,
        o.rounding,
    )


def _hold_out(found: Pruner, o: Options) -> Dataset | None:
    """Texts that nothing is learned from, to measure on: a tenth, at most 1000; all of them to trim a vocabulary.

    None where there are no texts, or too few to spare some.
    """
    texts = found.texts
    if texts is None or len(texts) < FEW:
        return None
    if o.method == VOCABULARY:  # whose tokens all stay
        return texts.select(range(min(HELD, len(texts))))
    parts = texts.train_test_split(test_size=min(HELD, len(texts) // 10), seed=o.seed)
    found.texts = parts["train"]
    say(f"no dev table: {len(parts['test'])} of the texts are held out to measure on")
    return parts["test"]


def _rows(
    found: Pruner, small: PreTrainedModel, tokenizer: Any, table: Dataset | None, out: str | Path
) -> tuple[tuple[Row, ...], str]:
    """The model before and after, and the metric that counts; sizes only without a table or a classifier."""
    name = Path(out).name
    before, after = (model.num_parameters() for model in (found.model, small))
    if found.task is None or table is None:
        rows = (Row("before", "teacher", parameters=before), Row(name, "student", parameters=after))
        main = "accuracy"
    else:
        opened = (
            open_model(found.model, name="before", tokenizer=found.tokenizer),
            open_model(small, name=name, tokenizer=tokenizer),
        )
        pair: Any = list(zip(("teacher", "student"), opened, strict=True))
        measured, said = measure(pair, table, max_length=fitting(found.max_length, found.model))
        rows, main = (measured[0], measured[1]), next(iter(said.values()))[1].main
    return (rows[0], replace(rows[1], directory=str(out))), main


def shape_in(directory: str, name: str) -> Shape | None:
    """The shape of a pruned model, which its directory says; None where it was not pruned."""
    file = Path(directory) / PLAN
    return Plan.read(file).shape(name) if file.is_file() else None
