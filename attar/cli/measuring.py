"""Commands that export, measure and show models."""

from pathlib import Path
from typing import Annotated, Any

import typer

from attar.cli.frame import (
    ColumnNames,
    Model,
    Out,
    Overwrite,
    Stride,
    Table,
    TaskLength,
    columns_of,
    console,
    show,
    verb,
)

ReadBy = Annotated[str, typer.Option(help="Of a language model, a text is a line, paragraph or document.")]


@verb
def export(
    model: Model,
    out: Out,
    data: Table = None,
    columns: ColumnNames = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="fp32, int8, int8-static; the first two where left out."),
    ] = None,
    keep_fp32: Annotated[list[str] | None, typer.Option(help="A layer that int8 leaves alone.")] = None,
    max_drop: Annotated[float, typer.Option(help="Largest loss of the task metric in int8.")] = 0.01,
    max_length: TaskLength = None,
    overwrite: Overwrite = False,
) -> None:
    """Export to ONNX, fp32 and int8, and hold the result against the model."""
    import attar

    chosen: Any = tuple(formats) if formats else ("fp32", "int8")
    options: dict[str, Any] = {
        "keep_fp32": tuple(keep_fp32 or ()),
        "max_drop": max_drop,
        "max_length": max_length,
    }
    show(
        attar.export(
            model,
            out=out,
            data=data,
            columns=columns_of(columns),
            formats=chosen,
            overwrite=overwrite,
            **options,
        )
    )


@verb
def evaluate(
    model: Model,
    data: Annotated[str, typer.Option(help="Table to measure on.")],
    teacher: Annotated[str | None, typer.Option(help="Measure agreement with this model, too.")] = None,
    columns: ColumnNames = None,
    batch_size: int = 32,
    max_length: TaskLength = None,
    doc_stride: Stride = 128,
    sample_by: ReadBy = "line",
) -> None:
    """Measure a model on a table against its labels or a teacher, or a language model on plain text."""
    import attar

    options: dict[str, Any] = {
        "batch_size": batch_size,
        "max_length": max_length,
        "doc_stride": doc_stride,
        "sample_by": sample_by,
    }
    show(attar.evaluate(model, data, teacher=teacher, columns=columns_of(columns), **options))


@verb
def bench(
    models: Annotated[
        list[str], typer.Argument(help="Model directories or exports; the first is the reference.")
    ],
    batch_size: Annotated[list[int] | None, typer.Option(help="Batch sizes; 1 where left out.")] = None,
    length: Annotated[list[int] | None, typer.Option(help="Lengths in tokens; 128 where left out.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of each model.")] = None,
) -> None:
    """Measure size and speed of models, in turns in one run."""
    import attar

    show(
        attar.bench(
            models, batch_sizes=tuple(batch_size or (1,)), lengths=tuple(length or (128,)), threads=threads
        )
    )


@verb
def compare(
    models: Annotated[
        list[str], typer.Argument(help="Model directories or exports; the first is the teacher.")
    ],
    data: Annotated[str, typer.Option(help="Table to measure on.")],
    columns: ColumnNames = None,
    out: Annotated[Path | None, typer.Option(help="Directory for report.html and report.json.")] = None,
    max_length: TaskLength = None,
    doc_stride: Stride = 128,
    sample_by: ReadBy = "line",
) -> None:
    """Quality, size and latency of models side by side, with intervals; of language models on plain text."""
    import attar

    options: dict[str, Any] = {"max_length": max_length, "doc_stride": doc_stride, "sample_by": sample_by}
    report = attar.compare(models, data, columns=columns_of(columns), **options)
    show(report)
    if out is not None:
        console.print(f"report: {report.write(out)}")


@verb
def anatomy(model: Model) -> None:
    """Show what attar knows of a model: family, shape, where its parts are."""
    from attar import verbs

    console.print(verbs.anatomy(model))
