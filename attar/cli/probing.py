"""The command that shows what the parts of a model are worth."""

from pathlib import Path
from typing import Annotated, Any

import typer

from attar.cli.frame import ColumnNames, Length, Model, Seed, columns_of, console, show_notes, verb


@verb
def probe(
    model: Model,
    data: Annotated[str, typer.Option(help="Table to measure on, best with labels and not trained on.")],
    columns: ColumnNames = None,
    out: Annotated[Path | None, typer.Option(help="Directory for report.html and report.json.")] = None,
    max_rows: Annotated[int, typer.Option(help="Texts, drawn at random where there are more.")] = 500,
    batch_size: int = 32,
    max_length: Length = 128,
    seed: Seed = 0,
) -> None:
    """Switch off each head, attention, FFN and layer in turn: what each is worth, and which do harm."""
    import attar
    from attar.report.heatmap import heatmap_text

    options: dict[str, Any] = {"max_rows": max_rows, "batch_size": batch_size, "max_length": max_length}
    report = attar.probe(model, data, columns=columns_of(columns), seed=seed, **options)
    console.print(report.table(width=console.width))
    if report.heat is not None:
        console.print()
        console.print(heatmap_text(report.heat, width=console.width))
        console.print()
    show_notes(report)
    if out is not None:
        console.print(f"report: {report.write(out)}")
