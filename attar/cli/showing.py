"""What the verbs return, printed for a terminal."""

from typing import Any

from rich.text import Text

from attar.cli.frame import console


def show(report: Any) -> None:
    """Print a report."""
    console.print(report.table(width=console.width))
    if (headline := report.headline()) != report.title:
        console.print(headline, style="bold", markup=False, highlight=False)
    show_notes(report)


def show_notes(report: Any) -> None:
    """Print the notes of a report, a line each; what stands before a colon is what the line is about."""
    for note in report.remarks():
        name, colon, rest = note.partition(": ")
        console.print(Text.assemble((name, "bold" if colon else ""), colon, rest))


def show_plan(plan: Any) -> None:
    """Print a plan and the drawing of its shape."""
    from attar.report.shape import shape_text

    console.print(plan, highlight=False)
    picture = shape_text(plan.shape())
    picture.title = picture.caption = None  # the plan's own lines have both
    console.print()
    console.print(picture)


def show_probe(report: Any) -> None:
    """Print the report of a probe with its map."""
    from attar.report.heatmap import heatmap_text

    console.print(report.table(width=console.width))
    if report.heat is not None:
        console.print()
        console.print(heatmap_text(report.heat, width=console.width))
        console.print()
    show_notes(report)


def show_temperatures(found: Any) -> None:
    """Print the probabilities at several temperatures."""
    console.print(found.table(width=console.width))
    first, last = found.at[0], found.at[-1]
    console.print(
        Text(
            f"softmax(z / t): the teacher is as undecided as among {first.choices:.4g} equal choices at "
            f"t = {first.temperature:g}, {last.choices:.4g} at t = {last.temperature:g}; "
            "bars are drawn against the likeliest token of each t"
        )
    )
