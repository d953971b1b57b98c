"""The public verbs that tie rooms together: they take names, load, and call the form that takes objects."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.anatomy.resolve import resolve
from attar.augment import augment
from attar.errors import DataError
from attar.export import export as export_one
from attar.measure.bench import bench as bench_models
from attar.measure.compare import Source, measure, open_model
from attar.measure.report import Report, Role, Row
from attar.model.checkpoint import check_free, load, new_directory, versions
from attar.model.data import Columns, read_table
from attar.pipeline import candidates_from

if TYPE_CHECKING:
    from datasets import Dataset
    from rich.table import Table

Data = "str | Path | Dataset | Sequence[Mapping[str, Any]]"


def evaluate(
    model: Source,
    data: Any,
    *,
    teacher: Source | None = None,
    columns: Columns | None = None,
    tokenizer: Any = None,
    batch_size: int = 32,
    max_length: int = 128,
) -> Report:
    """Measure a model on a table, against its labels where it has any, and against a teacher where one is named.

    Args:
        model: a directory, a hub name, an ONNX export, or a model (then with its `tokenizer`).
        data: a table; see `read_table`.
        teacher: adds agreement, divergence, and how much of the teacher's quality the model retains.

    Raises:
        ModelError, DataError: see `open_model`, `read_table`; a table without labels needs a teacher.
    """
    opened = open_model(model, tokenizer=tokenizer)
    table, _ = read_table(data, columns=columns, task=opened.task)
    if teacher is None and "label" not in table.column_names:
        raise DataError(
            expected="labels to measure against",
            found=f"the columns {', '.join(table.column_names)}",
            fix="name the label column (--columns label=…), or a teacher to agree with (--teacher)",
        )
    models: list[tuple[Role, Any]] = [] if teacher is None else [("teacher", open_model(teacher, tokenizer=tokenizer))]
    rows, _ = measure([*models, ("student", opened)], table, batch_size=batch_size, max_length=max_length)
    shown = rows if teacher is not None else tuple(_alone(row) for row in rows)
    return Report(f"{opened.name} on {len(table)} texts", _main(rows), shown, versions=versions())


def compare(
    models: Sequence[Source] | Mapping[str, Source],
    data: Any,
    *,
    columns: Columns | None = None,
    batch_size: int = 32,
    max_length: int = 128,
    batch_sizes: Sequence[int] = (1,),
    lengths: Sequence[int] = (128,),
) -> Report:
    """Quality, size and latency of several models side by side; the first is the teacher.

    Latency is measured in turns, in one run. See `measure` and `attar.measure.bench.bench`.
    """
    named = dict(models) if isinstance(models, Mapping) else {None: source for source in models}
    sources = list(models.items()) if isinstance(models, Mapping) else [(None, source) for source in models]
    del named
    opened = [open_model(source, name=name) for name, source in sources]
    table, _ = read_table(data, columns=columns, task=opened[0].task)
    roles: list[Role] = ["teacher", *(["student"] * (len(opened) - 1))]
    rows, said = measure(list(zip(roles, opened, strict=True)), table, batch_size=batch_size, max_length=max_length)
    return Report(f"{len(opened)} models on {len(table)} texts", _main(rows), rows, versions=versions())


def _main(rows: Sequence[Row]) -> str:
    known = [name for name in ("accuracy", "micro_f1", "spearman") if name in rows[-1].metrics]
    if "micro_f1" in known:
        return "micro_f1"
    return known[0] if known else "agreement"


def _alone(row: Row) -> Row:
    """Without a teacher there is nothing to agree with."""
    from dataclasses import replace

    kept = {name: value for name, value in row.metrics.items() if name not in {"agreement", "kl"}}
    return replace(row, metrics=kept, retained=None)
