"""The reports of `attar.evaluate`, `attar.compare` and `attar.bench`: models are loaded by name and measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import Dataset

from attar.data.columns import Columns, choose
from attar.data.embedding_task import Embedding
from attar.data.files import open_table
from attar.data.retrieval import Collection, is_collection, read_collection
from attar.data.tables import TABLE_COLUMNS, read_table
from attar.errors import DataError, ModelError
from attar.evaluation.benchmark import bench as bench_models
from attar.evaluation.comparison import compare as compare_opened
from attar.evaluation.comparison import counted, measure, timed
from attar.evaluation.machine import machine
from attar.evaluation.opening import Opened, Source, open_model, open_reader
from attar.evaluation.perplexity import beside, is_language_model, read
from attar.evaluation.retrieval import question_of, search_report
from attar.model.checkpoint import versions
from attar.options.base import Options
from attar.report.report import Report, Role, Row
from attar.report.shape import Shape


def evaluate(
    model: Source,
    data: Any,
    *,
    teacher: Source | None,
    columns: Columns | None,
    tokenizer: Any,
    options: Options,
) -> Report:
    """Measure a model on a table or on plain text; see `attar.evaluate`."""
    o = options
    if o.pooling is None and is_language_model(model):
        reading = o.model_dump(exclude={"doc_stride", "pooling"})
        return read(model, data, teacher=teacher, tokenizer=tokenizer, **reading)
    how: dict[str, Any] = {"tokenizer": tokenizer, "pooling": o.pooling}
    opened = open_model(model, **how)
    if (found := _searchable(data, columns, opened)) is not None:
        pair: list[tuple[Role, Any]] = [("student", opened)]
        if teacher is not None:
            pair.insert(0, ("teacher", open_model(teacher, **how)))
        return search_report(pair, found, max_length=o.max_length)
    table, _ = read_table(data, columns=columns, task=opened.task)
    if teacher is None and not opened.task.labelled(table):
        raise DataError(
            expected="labels to measure against",
            found=f"the columns {', '.join(table.column_names)}",
            fix=f"name the column (--columns {opened.task.targets[0]}=…), or a teacher to agree with (--teacher)",
        )
    models: list[tuple[Role, Any]] = [] if teacher is None else [("teacher", open_model(teacher, **how))]
    measuring = o.model_dump(exclude={"sample_by", "pooling"})
    rows, said = measure([*models, ("student", opened)], table, **measuring)
    shown = rows if teacher is not None else tuple(_alone(row) for row in rows)
    main = next(iter(said.values()))[1].main
    return Report(f"{opened.name} on {counted(table, said)}", main, shown, versions=versions())


def compare(
    models: Sequence[Source] | Mapping[str, Source],
    data: Any,
    *,
    columns: Columns | None,
    options: Options,
    shape_in: Callable[[str, str], Shape | None],
) -> Report:
    """Quality, size and latency of several models side by side; see `attar.compare`.

    Args:
        models: the first is the teacher.
        data: a table, or texts for language models.
        columns: see `read_table`.
        options: of `attar.compare`.
        shape_in: the shape of a pruned model, from its directory and its name; None where it was not pruned.
    """
    o = options
    sources = list(models.items() if isinstance(models, Mapping) else [(None, source) for source in models])
    length: dict[str, Any] = {"batch_size": o.batch_size, "max_length": o.max_length}
    timing: dict[str, Any] = {"latency_batch": o.latency_batch, "threads": o.threads}
    reading = [o.pooling is None and is_language_model(source) for _, source in sources]
    if any(reading) and not all(reading):
        raise ModelError(
            expected="models of one task, or language models",
            found="language models and others: " + ", ".join(_name(source) for _, source in sources),
            fix="compare them apart; an encoder is an embedding model by pooling=… (--pooling mean)",
        )
    if all(reading):
        readers = [open_reader(source, name=name) for name, source in sources]
        timing["latency_length"] = min([o.latency_length, *(reader.positions for reader in readers)])
        return beside(readers, data, sample_by=o.sample_by, **length, **timing)
    opened = [open_model(source, name=name, pooling=o.pooling) for name, source in sources]
    roles: list[Role] = ["teacher"]
    roles += ["student"] * (len(opened) - 1)
    searched = _searchable(data, columns, opened[0])
    table = Dataset.from_dict({}) if searched else read_table(data, columns=columns, task=opened[0].task)[0]
    timing["latency_length"] = min([o.latency_length, *(model.positions for model in opened)])
    pairs = list(zip(roles, opened, strict=True))
    if searched is not None:
        found = search_report(pairs, searched, max_length=o.max_length)
        call = {"batch": o.latency_batch, "length": timing["latency_length"], "threads": o.threads}
        found = replace(found, rows=timed(found.rows, opened, **call), machine=machine())
    else:
        found = compare_opened(pairs, table, doc_stride=o.doc_stride, **length, **timing)
    shapes = (shape_in(model.directory, model.name) for model in opened if model.directory)
    return replace(found, shapes=tuple(filter(None, shapes)))


def _searchable(data: Any, columns: Columns | None, opened: Opened) -> Collection | Dataset | None:
    """What embeddings are asked beside pairs: a collection in BEIR's layout, triplets, or labels of single texts."""
    if is_collection(data):
        return read_collection(data)
    if not isinstance(opened.task, Embedding):
        return None
    table = open_table(data, "utf-8-sig")
    if columns:
        table = choose(table, columns, TABLE_COLUMNS, ("text",))
    return None if question_of(table) is None else table


def bench(models: Sequence[Source] | Mapping[str, Source], *, options: Options) -> Report:
    """Size and speed of several models, timed in turns in one run; see `attar.bench`."""
    o = options
    sources = (
        models.items()
        if isinstance(models, Mapping)
        else [(Path(str(source)).name, source) for source in models]
    )
    named = {str(name): source for name, source in sources}
    if len(named) < len(list(models)):
        raise ModelError(
            expected="models of different names",
            found=", ".join(str(source) for source in models),
            fix="give them names: bench({'a': …, 'b': …})",
        )
    speeds = bench_models(named, **o.model_dump())
    several = len(o.batch_sizes) * len(o.lengths) > 1
    rows = tuple(
        Row(
            speed.name + (f" {speed.batch_size}x{speed.length}" if several else ""),
            "teacher" if speed.name == next(iter(named)) else "student",
            speed.runtime,
            parameters=speed.parameters,
            bytes=speed.bytes,
            flops=speed.flops,
            p50=speed.p50,
            p90=speed.p90,
            throughput=speed.throughput,
            memory=speed.memory,
            speedup=speed.speedup,
        )
        for speed in speeds
    )
    shape = "texts x tokens as named" if several else f"batch {o.batch_sizes[0]}, {o.lengths[0]} tokens"
    return Report(
        f"{len(named)} models, {shape}",
        rows=rows,
        settings={"latency": shape},
        versions=versions(),
        machine=machine(),
    )


def _name(model: Source) -> str:
    return Path(str(model)).name if isinstance(model, str | Path) else type(model).__name__


def _alone(row: Row) -> Row:
    """Without a teacher there is nothing to agree with."""
    kept = {name: value for name, value in row.metrics.items() if name not in {"agreement", "kl"}}
    return replace(row, metrics=kept, retained=None)
