"""Several models on one table, side by side: quality with intervals, size and speed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel

from attar.data.batches import say_cut
from attar.errors import DataError
from attar.evaluation.benchmark import bench
from attar.evaluation.examples import examples
from attar.evaluation.machine import machine
from attar.evaluation.opening import Opened, Reader
from attar.evaluation.quality import Evaluation, quality, retained
from attar.evaluation.table import TableEvaluator
from attar.evaluation.timing import Clock
from attar.maths.statistics import Interval
from attar.model.checkpoint import versions
from attar.model.onnx import OnnxModel
from attar.progress import say
from attar.report.report import Report, Role, Row


def compare(
    models: Sequence[tuple[Role, Opened]],
    table: Dataset,
    *,
    title: str | None = None,
    batch_size: int = 32,
    max_length: int | None = None,
    doc_stride: int = 128,
    latency_batch: int = 1,
    latency_length: int = 128,
    repeats: int = 50,
    threads: int | None = None,
    clock: Clock = "wall",
    memory: bool = False,
    shown: int = 6,
    resamples: int = 2000,
    seed: int = 0,
) -> Report:
    """Measure models on a table and time them in turns; the first is the teacher that the others are held against.

    Args:
        models: role and model, see `open_model`.
        table: as `read_table` gives it; without labels the agreement with the first model is measured.
        title: of the report.
        batch_size: of the evaluation.
        max_length: in tokens, of the evaluation; the task's own where None.
        doc_stride: tokens that neighbouring windows share, where a task reads in windows.
        latency_batch, latency_length: texts, and tokens each, of a timed call.
        repeats, threads, clock, memory: see `bench`.
        shown: how many texts the report shows with what the models say; the first runtime of each model speaks.
        resamples, seed: of the bootstrap.

    Raises:
        DataError: models of different labels.
        ModelError: a model that cannot be timed at that shape.
    """
    quality_seed = {"resamples": resamples, "seed": seed}
    if max_length is None:
        max_length = min([models[0][1].task.max_length, *(opened.positions for _, opened in models)])
    windows = {"max_length": max_length, "doc_stride": doc_stride}
    rows, said = measure(models, table, batch_size=batch_size, **windows, **quality_seed)
    rows = timed(
        rows,
        [opened for _, opened in models],
        batch=latency_batch,
        length=latency_length,
        repeats=repeats,
        threads=threads,
        clock=clock,
        memory=memory,
    )
    return Report(
        title or f"{len(said)} models on {counted(table, said)}",
        main=next(iter(said.values()))[1].main,
        rows=rows,
        examples=examples(table, said, count=shown) if len(said) > 1 else (),
        settings={
            "latency": call_in_words(latency_batch, latency_length, clock),
            "texts": len(table),
            "max_length": max_length,
            "resamples": resamples,
            "seed": seed,
        },
        versions=versions(),
        machine=machine(),
    )


def counted(table: Dataset, said: Mapping[str, tuple[Role, Evaluation]]) -> str:
    """What a table has, in words: texts, or queries with passages that were ranked."""
    _, found = next(iter(said.values()))
    if not found.by_query:
        return f"{len(table)} texts"
    return f"{len(found.by_query[found.main])} queries, {len(table)} passages"


def call_in_words(batch: int, length: int, clock: Clock) -> str:
    """How calls were timed, for a report."""
    return f"batch {batch}, {length} tokens" + (", processor time" if clock == "cpu" else "")


def timed(
    rows: Sequence[Row],
    models: Sequence[Reader],
    *,
    batch: int = 1,
    length: int = 128,
    repeats: int = 50,
    threads: int | None = None,
    clock: Clock = "wall",
    memory: bool = False,
) -> tuple[Row, ...]:
    """Rows with latency, throughput, FLOPs and (where asked for) peak memory, all models timed in turns in one run."""
    sources = {f"{i} {opened.name}": _source(opened, memory) for i, opened in enumerate(models)}
    options: dict[str, Any] = {"repeats": repeats, "threads": threads, "clock": clock, "memory": memory}
    speeds = bench(sources, batch_sizes=(batch,), lengths=(length,), **options)
    return tuple(
        replace(
            row,
            parameters=row.parameters or speed.parameters,
            bytes=row.bytes or speed.bytes,
            flops=speed.flops,
            p50=speed.p50,
            p90=speed.p90,
            throughput=speed.throughput,
            memory=speed.memory,
            speedup=speed.speedup,
        )
        for row, speed in zip(rows, speeds, strict=True)
    )


def _source(opened: Reader, memory: bool) -> PreTrainedModel | OnnxModel | str:
    """What to time: the model in hand; by its directory where a fresh process has to open it for its peak memory."""
    return (
        opened.directory if memory and opened.directory and Path(opened.directory).is_dir() else opened.model
    )


def measure(
    models: Sequence[tuple[Role, Opened]],
    table: Dataset,
    *,
    batch_size: int = 32,
    max_length: int | None = None,
    doc_stride: int = 128,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[tuple[Row, ...], dict[str, tuple[Role, Evaluation]]]:
    """Quality and size of models on a table; the first is the teacher that the others are held against.

    Returns:
        A row a model, and by name the first evaluation of each (for `examples`).

    Raises:
        DataError: models of different labels.
    """
    task, teacher = models[0][1].task, None
    rows: list[Row] = []
    said: dict[str, tuple[Role, Evaluation]] = {}
    for role, opened in models:
        if (opened.task.kind, opened.task.labels) != (task.kind, task.labels):
            raise DataError(
                expected=f"models with the labels of {models[0][1].name}: {', '.join(task.labels[:20])}",
                found=f"{opened.name} with {', '.join(opened.task.labels[:20])}",
                fix="compare models of one task, with their labels in one order",
            )
        say(f"{opened.name} in {opened.runtime} on {len(table)} texts")
        length = max_length or min(opened.task.max_length, opened.positions)
        evaluator = TableEvaluator(
            opened.task, table, opened.tokenizer, batch_size=batch_size, max_length=length, stride=doc_stride
        )
        if teacher is None and (queries := evaluator.queries) and queries.count > len(queries.rows):
            lost = queries.count - len(queries.rows)
            say(f"{lost} of {queries.count} queries are not ranked: one passage alone, or no label above 0")
        if teacher is None and not task.per_token:
            say_cut(evaluator.batches.lengths, length)
        logits = evaluator.logits(opened.model)
        found = (
            evaluator.evaluate_teacher(logits)
            if teacher is None
            else evaluator.evaluate_logits(logits, teacher)
        )
        teacher = teacher or found
        row = _row(role, opened, found, teacher, resamples=resamples, seed=seed)
        rows.append(row)
        said.setdefault(opened.name, (role, found))
    return tuple(rows), said


def _row(
    role: Role, opened: Opened, found: Evaluation, teacher: Evaluation, *, resamples: int, seed: int
) -> Row:
    around: Interval | None = None
    kept: Interval | None = None
    try:
        around = quality(found, teacher, resamples=resamples, seed=seed)
        kept = None if role == "teacher" else retained(found, teacher, resamples=resamples, seed=seed)
    except DataError as error:
        say(f"no interval for {opened.name}: {error.found}")
    return Row(
        opened.name,
        role,
        opened.runtime,
        metrics=found.metrics,
        quality=around,
        retained=kept,
        parameters=opened.parameters,
        bytes=opened.bytes,
        directory=opened.directory,
    )
