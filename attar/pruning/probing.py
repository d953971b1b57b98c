"""`probe`: what each head, attention, feed-forward network and layer of a fine-tuned model is worth to its task."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel

from attar.anatomy.resolve import resolve
from attar.data.batches import Batches, encode, fitting
from attar.data.columns import Columns
from attar.data.model_task import task_of
from attar.data.tables import read_table
from attar.errors import ModelError
from attar.evaluation.machine import machine
from attar.maths.statistics import ENOUGH
from attar.model.checkpoint import Loaded, load, versions
from attar.model.onnx import is_onnx
from attar.options.base import Options
from attar.progress import say
from attar.pruning.ablation import Importance, Probe, checked
from attar.pruning.ablation import probe as probe_batches
from attar.pruning.switching import Part, parts_of
from attar.report.formatting import metric_name
from attar.report.heatmap import HeatMap
from attar.report.report import Report, Row

# Parts that the report names one by one.
NAMED = 6
# Of the bootstrap of each part. A correlation has to be ranked anew in each, half a millisecond for each of 90 parts.
RESAMPLES = {"regression": 500}


def probe(
    model: str | Path | PreTrainedModel,
    data: str | Path | Dataset | Sequence[Mapping[str, Any]],
    *,
    columns: Columns | None,
    tokenizer: Any,
    options: Options,
) -> Report:
    """Switch each part of a model off in turn and show what the task metric changes by; see `attar.probe`."""
    max_rows, max_length, seed = options.max_rows, options.max_length, options.seed
    loaded = _loaded(model, tokenizer)
    task = task_of(loaded.model.config)
    table, _ = read_table(data, columns=columns, task=task)
    if max_rows is not None and len(table) > max_rows:
        table = table.shuffle(seed=seed).select(range(max_rows))
    encoded = encode(table, loaded.tokenizer, max_length=fitting(max_length, loaded.model))
    parts = len(parts_of(loaded.model))
    say(f"{parts} parts, each off alone on {len(table)} texts: {passes(loaded.model):.0f} passes over them")
    batches = Batches(encoded, loaded.tokenizer, batch_size=options.batch_size)
    found = probe_batches(loaded.model, batches, task, resamples=RESAMPLES.get(task.kind, 2000), seed=seed)
    name = Path(loaded.name).name
    whole = Row(
        name,
        "teacher",
        metrics={found.main: found.baseline.value},
        quality=found.baseline,
        parameters=loaded.model.num_parameters(),
    )
    return Report(
        f"{name}: {parts} parts, each switched off alone on {found.rows} texts",
        found.main,
        (whole,),
        heat=heat(found),
        notes=notes(found, runs=resolve(loaded.model).shape.layers),
        settings={"texts": found.rows, "max_length": max_length, "seed": seed},
        versions=versions(),
        machine=machine(),
    )


def passes(model: PreTrainedModel) -> float:
    """Whole passes over the texts that probing a model is the work of: a part costs its layer and those above."""
    shape, parts = resolve(model).shape, parts_of(model)
    return 1 + sum(1 if p.layer is None else (shape.layers + 1 - p.layer) / shape.layers for p in parts)


def heat(found: Probe) -> HeatMap:
    """The changes as a map, in points (0.01 of the metric), of a correlation as they are."""
    cells = {(w.part.layer, _column(w.part)): w for w in found.parts}
    rows = list(dict.fromkeys(layer for layer, _ in cells))

    def value(of: Importance | None) -> float | None:
        return _scale(found) * of.change.value if of is not None and math.isfinite(of.change.value) else None

    def sure(of: Importance | None) -> bool:
        return of is not None and (of.better or of.worse)

    heads = max((w.part.head or 0 for w in found.parts), default=0)
    columns = (*map(str, range(1, heads + 1)), "attn", "ffn", "layer")
    return HeatMap(
        f"change of {_metric(found)}{_unit(found)}",
        tuple("all" if layer is None else f"layer {layer}" for layer in rows),
        columns,
        tuple(tuple(value(cells.get((layer, column))) for column in columns) for layer in rows),
        tuple(tuple(sure(cells.get((layer, column))) for column in columns) for layer in rows),
    )


def notes(found: Probe, *, runs: int) -> tuple[str, ...]:
    """What the map says, in lines; `runs` says how often the layer of a model runs that has one only."""
    n, parts = len(found.better), len(found.parts)
    lines = [f"better without: {said(found, w)}" for w in found.better[:NAMED]]
    if n > NAMED:
        lines.append(f"better without: {n - NAMED} more")
    if found.main == "agreement":
        lines.append("no labels: agreement with the whole model, which it cannot be better at without a part")
    elif not n:
        lines.append(f"better without: no part, as far as {found.rows} texts show")
    else:
        lines.append(
            f"of {parts} parts up to {found.by_chance:.1f} would be named by chance: try them on other texts"
        )
    lines += [f"worth most: {said(found, w)}" for w in found.worse[:3]]
    if found.rows < ENOUGH:
        lines.append(found.parts[0].change.missing)
    silent = sum(not w.better and not w.worse for w in found.parts)
    lines.append(f"{silent} of {parts} parts alone make no difference that {found.rows} texts show")
    if found.parts[0].part.layer is None:
        lines.append(
            f"all layers are one, run {runs} times: a head, attn or ffn is off in every run; layer is one run fewer"
        )
    return tuple(lines)


def said(found: Probe, worth: Importance) -> str:
    """A part and its change with its interval: "layer 3 head 7 (+0.6 points, 95% +0.1 to +1.1)"."""
    digits, unit = (3, "") if found.task.kind == "regression" else (1, " points")
    value, low, high = (
        f"{_scale(found) * x:+.{digits}f}" for x in (worth.change.value, worth.change.low, worth.change.high)
    )
    return f"{worth.part.name} ({value}{unit}, 95% {low} to {high})"


def _loaded(model: str | Path | PreTrainedModel, tokenizer: Any) -> Loaded:
    if isinstance(model, str | Path) and is_onnx(model):
        raise ModelError(
            expected="a torch model, whose parts can be switched off",
            found=f"the ONNX export {model}",
            fix="probe the model that it was exported from",
        )
    loaded = load(model, tokenizer=tokenizer)
    checked(loaded.model)
    return loaded


def _scale(found: Probe) -> float:
    return 1.0 if found.task.kind == "regression" else 100.0


def _unit(found: Probe) -> str:
    return "" if found.task.kind == "regression" else ", in points"


def _metric(found: Probe) -> str:
    return "agreement with the whole model" if found.main == "agreement" else metric_name(found.main)


def _column(part: Part) -> str:
    return str(part.head) if part.kind == "head" else {"attention": "attn"}.get(part.kind, part.kind)
