"""The public verbs that tie rooms together: they take names, load, and call the form that takes objects."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel

from attar.anatomy.resolve import resolve
from attar.augmentation import augment, candidates_from
from attar.data.columns import Columns
from attar.data.tables import SampleBy, read_table
from attar.errors import DataError, ModelError, OutputError
from attar.evaluation.benchmark import Clock
from attar.evaluation.benchmark import bench as bench_models
from attar.evaluation.comparison import Opened, Source, machine, measure, open_model, open_reader
from attar.evaluation.comparison import compare as compare_opened
from attar.evaluation.perplexity import beside, is_language_model, read
from attar.exporting import export as export_one
from attar.exporting.int8 import Precision
from attar.model.checkpoint import load, versions
from attar.progress import say
from attar.pruning.plan import PLAN, Plan
from attar.report.report import Report, Role, Row
from attar.report.shape import Shape
from attar.storage.writing import check_free

if TYPE_CHECKING:
    from rich.table import Table


def evaluate(
    model: Source,
    data: Any,
    *,
    teacher: Source | None = None,
    columns: Columns | None = None,
    tokenizer: Any = None,
    batch_size: int = 32,
    max_length: int | None = None,
    doc_stride: int = 128,
    sample_by: SampleBy = "line",
) -> Report:
    """Measure a model on a table, against its labels where it has any, and against a teacher where one is named.

    A language model is measured on plain text; see `attar.evaluation.perplexity.read`.

    Args:
        model: a directory, a hub name, an ONNX export, or a model (then with its `tokenizer`).
        data: a table; see `read_table`.
        teacher: adds agreement, divergence, and how much of the teacher's quality the model retains.
        max_length, doc_stride: in tokens, see `attar.finetune`.
        sample_by: of a language model, what a text is in a file: a line, a paragraph, or the whole file ("document").

    Raises:
        ModelError, DataError: see `open_model`, `read_table`; a table without labels needs a teacher.
    """
    if is_language_model(model):
        own: dict[str, Any] = {"tokenizer": tokenizer, "batch_size": batch_size, "max_length": max_length}
        return read(model, data, teacher=teacher, sample_by=sample_by, **own)
    opened = open_model(model, tokenizer=tokenizer)
    table, _ = read_table(data, columns=columns, task=opened.task)
    if teacher is None and not opened.task.labelled(table):
        raise DataError(
            expected="labels to measure against",
            found=f"the columns {', '.join(table.column_names)}",
            fix=f"name the column (--columns {opened.task.targets[0]}=…), or a teacher to agree with (--teacher)",
        )
    models: list[tuple[Role, Any]] = (
        [] if teacher is None else [("teacher", open_model(teacher, tokenizer=tokenizer))]
    )
    options: dict[str, Any] = {
        "batch_size": batch_size,
        "max_length": max_length,
        "doc_stride": doc_stride,
    }
    rows, said = measure([*models, ("student", opened)], table, **options)
    shown = rows if teacher is not None else tuple(_alone(row) for row in rows)
    main = next(iter(said.values()))[1].main
    return Report(f"{opened.name} on {len(table)} texts", main, shown, versions=versions())


def compare(
    models: Sequence[Source] | Mapping[str, Source],
    data: Any,
    *,
    columns: Columns | None = None,
    batch_size: int = 32,
    max_length: int | None = None,
    doc_stride: int = 128,
    latency_batch: int = 1,
    latency_length: int = 128,
    sample_by: SampleBy = "line",
    threads: int | None = None,
) -> Report:
    """Quality, size and latency of several models side by side, with intervals; the first is the teacher.

    Language models are compared on plain text; see `attar.evaluation.perplexity.beside`.

    Args:
        models: directories, hub names, ONNX exports or models; by name, or named after their directories.
        data: a table; without labels the agreement with the first model is measured. Texts for language models.
        batch_size, max_length, doc_stride: of the evaluation, see `attar.finetune`.
        latency_batch, latency_length: texts, and tokens each, of a timed call; all models are timed in turns.
        sample_by: of language models, what a text is in a file: a line, a paragraph, or the whole file ("document").
        threads: that compute; torch's present number where None.

    Raises:
        ModelError, DataError: see `open_model`, `read_table`, `attar.evaluation.comparison.compare`.
    """
    sources = list(models.items() if isinstance(models, Mapping) else [(None, source) for source in models])
    length: dict[str, Any] = {"batch_size": batch_size, "max_length": max_length}
    timing: dict[str, Any] = {"latency_batch": latency_batch, "threads": threads}
    reading = [is_language_model(source) for _, source in sources]
    if any(reading) and not all(reading):
        raise ModelError(
            expected="models of one task, or language models",
            found="language models and others: " + ", ".join(_name(source) for _, source in sources),
            fix="compare them apart",
        )
    if all(reading):
        readers = [open_reader(source, name=name) for name, source in sources]
        timing["latency_length"] = min([latency_length, *(reader.positions for reader in readers)])
        return beside(readers, data, sample_by=sample_by, **length, **timing)
    opened = [open_model(source, name=name) for name, source in sources]
    table, _ = read_table(data, columns=columns, task=opened[0].task)
    roles: list[Role] = ["teacher"]
    roles += ["student"] * (len(opened) - 1)
    timing["latency_length"] = min([latency_length, *(model.positions for model in opened)])
    pairs = list(zip(roles, opened, strict=True))
    found = compare_opened(pairs, table, doc_stride=doc_stride, **length, **timing)
    return replace(found, shapes=tuple(_shapes(opened)))


def bench(
    models: Sequence[Source] | Mapping[str, Source],
    *,
    batch_sizes: Sequence[int] = (1,),
    lengths: Sequence[int] = (128,),
    repeats: int = 50,
    threads: int | None = None,
    clock: Clock = "wall",
    memory: bool = False,
) -> Report:
    """Size and speed of several models, timed in turns in one run; the first is the reference.

    See `attar.evaluation.benchmark.bench`, whose rows this puts into a report, one for each model and shape.
    """
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
    options: dict[str, Any] = {"repeats": repeats, "threads": threads, "clock": clock, "memory": memory}
    speeds = bench_models(named, batch_sizes=batch_sizes, lengths=lengths, **options)
    several = len(batch_sizes) * len(lengths) > 1
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
    shape = "texts x tokens as named" if several else f"batch {batch_sizes[0]}, {lengths[0]} tokens"
    return Report(
        f"{len(named)} models, {shape}",
        rows=rows,
        settings={"latency": shape},
        versions=versions(),
        machine=machine(),
    )


def export(
    model: Source,
    *,
    out: str | Path,
    data: Any = None,
    formats: Sequence[Precision] = ("fp32", "int8"),
    columns: Columns | None = None,
    tokenizer: Any = None,
    keep_fp32: Sequence[str] = (),
    max_drop: float = 0.01,
    max_length: int | None = None,
    overwrite: bool = False,
) -> Report:
    """Export a model of a task to ONNX, one directory a format below `out`, each held against torch before it is there.

    Args:
        formats: "fp32", "int8" (scales of activations found while it runs), "int8-static" (fixed on `data`).
        data: texts, best with labels, on which the loss of int8 is measured; int8 needs it.
        keep_fp32, max_drop, max_length: see `attar.export.export`.

    Raises:
        ExportError: another result than torch's, or more loss than `max_drop`. DataError: int8 without data.
    """
    rows: list[Row] = []
    options: dict[str, Any] = {
        "data": data,
        "columns": columns,
        "tokenizer": tokenizer,
        "max_length": max_length,
    }
    for precision in formats:
        check_free(Path(out) / precision, overwrite=overwrite)
    for precision in formats:
        kept = () if precision == "fp32" else tuple(keep_fp32)
        place = Path(out) / precision
        made = export_one(
            model,
            place,
            precision=precision,
            keep_fp32=kept,
            max_drop=max_drop,
            overwrite=overwrite,
            **options,
        )
        if not rows:
            known = {} if made.metric is None or made.torch is None else {made.metric: made.torch}
            rows.append(Row("model", "teacher", metrics=known, parameters=made.parameters))
        known = {} if made.metric is None or made.onnx is None else {made.metric: made.onnx}
        rows.append(
            Row(
                "model",
                "student",
                f"ONNX Runtime {precision}",
                metrics=known,
                bytes=made.bytes,
                directory=str(place),
            )
        )
        say(f"{precision}: {place}, logits within {made.difference:.2g} of torch's on {made.rows} texts")
    name = "agreement" if "agreement" in rows[0].metrics else next(iter(rows[0].metrics), "accuracy")
    return Report(f"{_name(model)} exported", name, tuple(rows), versions=versions())


def augment_file(
    data: Any,
    *,
    out: Path,
    model: str,
    source: str = "embeddings",
    columns: Columns | None = None,
    **options: Any,
) -> int:
    """Write a table with its augmented copies to a .csv, .jsonl or .parquet file; how many rows it has.

    Raises:
        DataError: the table cannot be read, or `out` ends otherwise. OutputError: `out` is there already.
    """
    writers = {".csv": "to_csv", ".jsonl": "to_json", ".parquet": "to_parquet"}
    if out.suffix not in writers:
        raise DataError(expected="a .csv, .jsonl or .parquet file to write", found=out.name, fix="name one")
    if out.exists():
        raise OutputError(expected=f"{out} to be new", found="a file", fix="name another file or remove it")
    table, task = read_table(data, columns=columns)
    loaded = load(model, head="base")
    more = augment(table, candidates_from(source, "embeddings", loaded.model, loaded.tokenizer), **options)
    if task is not None and task.kind == "single_label":
        named = [task.labels[label] for label in more["label"]]
        more = more.remove_columns("label").add_column("label", named)
    part = out.with_name(f".{out.name}.part")
    getattr(more, writers[out.suffix])(str(part))
    part.replace(out)
    return len(more)


def anatomy(model: Source, *, tokenizer: Any = None) -> "Table":
    """A table of what attar knows of a model: family, sizes, and where its parts are."""
    from rich.table import Table

    loaded = model if isinstance(model, PreTrainedModel) else load(model).model
    bound = resolve(loaded)
    table = Table(
        "part", "value", title=f"{bound.anatomy.name}, {loaded.num_parameters():,} parameters", box=None
    )
    for name, value in (asdict(bound.shape) | asdict(bound.anatomy)).items():
        if value and name not in {"name", "sizes"}:
            table.add_row(name, ", ".join(map(_words, value)) if isinstance(value, tuple) else str(value))
    return table


def _words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _shapes(opened: Sequence[Opened]) -> Iterator[Shape]:
    """The shapes of those models that were pruned: their directories say what they were cut from."""
    for model in opened:
        plan = Path(model.directory or "") / PLAN
        if model.directory and plan.is_file():
            yield Plan.read(plan).shape(model.name)


def _name(model: Source) -> str:
    return Path(str(model)).name if isinstance(model, str | Path) else type(model).__name__


def _alone(row: Row) -> Row:
    """Without a teacher there is nothing to agree with."""
    kept = {name: value for name, value in row.metrics.items() if name not in {"agreement", "kl"}}
    return replace(row, metrics=kept, retained=None)
