"""The work of `attar.plan` and `attar.prune`: which units can go within a budget, and the model without them."""

import tempfile
from pathlib import Path
from typing import Any, TypeAlias, get_args

from datasets import Dataset
from transformers import PreTrainedModel

from attar.data.columns import Columns
from attar.data.tables import HELD, read_table, read_texts
from attar.errors import OutputError, PlanError
from attar.model.checkpoint import load, save, versions
from attar.options.base import Options
from attar.progress import say
from attar.pruning.measuring import answering_task, measured, parted, plain
from attar.pruning.plan import PLAN, Plan
from attar.pruning.pruner import Pruner
from attar.pruning.round import Way, axes_of
from attar.pruning.rounds import Recovery
from attar.pruning.scores import Drop
from attar.pruning.vocabulary import restrict
from attar.report.report import Report
from attar.report.shape import Shape
from attar.storage.writing import check_free
from attar.training import resuming
from attar.training.loop import Precision, is_main

__all__ = ["Plan", "Pruner", "plan", "prune"]

Table: TypeAlias = str | Path | Dataset
VOCABULARY = "vocabulary"
# Of the texts that a model is measured on where there is no dev table.
HELD_OUT = ", held out from scoring, fitting and recovery (by attar plan, too, where it had the same texts)"


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
    found, held = _opened(model, tokenizer, options, (data, texts, columns), precision)
    if held is not None and options.method != VOCABULARY:
        say(f"{len(held)} of the texts are left out, for attar prune to measure on")
    planned = _plan(found, options, precision)
    if file is not None:
        planned.write(file)
    return planned


def _plan(found: Pruner, options: Options, precision: Precision) -> Plan:
    o = options
    if o.shape is not None:
        return found.published(o.shape)
    if o.method == VOCABULARY:
        return found.vocabulary(o.min_count)
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
    tables = (data, texts, columns)
    way: dict[str, Any] = {"plan": plan, "recover": o.recover, "fold": o.fold, "dev": dev}
    found, held = _opened(model, tokenizer, o, tables, precision, measures=True, **way)
    what = "" if dev is not None else HELD_OUT
    if dev is None and held is not None:
        if o.method == VOCABULARY:
            what = ", of which all tokens stayed: other texts may have tokens that went"
        else:
            say(f"no dev table: {len(held)} of the texts are held out to measure on")
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
        rows, main, note = measured(found, small, kept, held, out, what)
    return Report(
        f"{Path(name).name} pruned to {planned.after.parameters / planned.before.parameters:.0%}",
        main,
        rows,
        curves,
        settings=lineage["options"],  # type: ignore[arg-type]
        versions=versions(),
        notes=(note,),
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
    if o.min_count > 1 and o.method != VOCABULARY:
        raise PlanError(
            expected="min_count with method='vocabulary' alone",
            found=f"method={o.method!r}",
            fix="leave it out, or prune the vocabulary in a step of its own",
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
    dev: Table | None = None,
    measures: bool = False,
) -> tuple[Pruner, Dataset | None]:
    """The model with its texts, and those to measure on: dev, or some of the texts. A plan says already what stays."""
    loaded = load(model, tokenizer=tokenizer, pooling=o.pooling)
    learns = plan is None and o.shape is None and o.method != VOCABULARY
    method: Any = o.method if learns else "magnitude"
    ranks = learns and method not in get_args(Drop)
    axes = axes_of(loaded.model, o.axes)  # a wrong name is refused also where no units are ranked
    data, given, columns = tables
    texts: Any = None if given is None else read_texts(given)
    task = answering_task(loaded.model)
    if data is not None:  # labels that do not teach count where some of the texts are held out to measure
        labels = "task" in {o.loss, recover} or (measures and dev is None and task is not None)
        texts = read_table(data, columns=columns, task=task, labels=labels)[0]
    held: Dataset | None = None
    if dev is not None:
        held = read_table(dev, columns=columns, task=task, labels=task is not None)[0]
    elif texts is not None and o.method == VOCABULARY:
        held = texts.select(range(min(HELD, len(texts))))
    elif texts is not None:
        texts, held = parted(texts)
    found = Pruner(
        loaded,
        Way(method, axes if ranks else (), o.steps, o.lr, o.gamma, None, o.seed, precision, fold),
        o.cost,
        o.loss,
        o.length,
        o.max_length,
        o.batch_size,
        None if texts is None else plain(texts),
        o.table,
        o.rounding,
    )
    if o.axes == "auto" and ranks:
        found.widen(o.budget)
    return found, held


def shape_in(directory: str, name: str) -> Shape | None:
    """The shape of a pruned model, which its directory says; None where it was not pruned."""
    file = Path(directory) / PLAN
    return Plan.read(file).shape(name) if file.is_file() else None
