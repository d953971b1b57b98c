"""The command line: a command for each verb, made from its signature, and the demo."""

from pathlib import Path
from typing import Annotated

import typer

from attar.cli.commands import add_all
from attar.cli.frame import app, console, guarded

__all__ = ["app", "main"]

START = """[bold]attar[/bold] makes Hugging Face language models small and fast.

  see it work, in ten minutes
    [bold]attar demo[/bold]
  say a budget, get the model
    [bold]attar compress MODEL --texts texts.txt --to "10 MB, 5 ms" --out small[/bold]
  choose the student yourself
    [bold]attar distill MODEL --texts texts.txt --out small[/bold]
  compare quality, size and speed
    [bold]attar compare MODEL small --data test.csv[/bold]

All commands: attar --help
Guides and reference: docs/start.md of the repository, or make docs for the site"""


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        console.print(f"attar {version('attar')}", highlight=False)
        raise typer.Exit


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version and stop."),
    ] = False,
) -> None:
    """Make Hugging Face language models small and fast, and prove what they keep."""
    if context.invoked_subcommand is None:
        console.print(START, highlight=False)


@app.command(rich_help_panel="Whole runs")
@guarded
def demo(
    out: Annotated[Path, typer.Option(help="Directory for the models and the report.")] = Path("out/demo"),
    quick: Annotated[
        bool,
        typer.Option(help="A small part of the data, under two minutes: shows the way, not the quality."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
) -> None:
    """The main job on real data: teacher, student, baselines, export, report. About ten minutes on 2 cores."""
    from attar.demo.run import demo

    demo(out, quick=quick, seed=seed, console=console)


add_all()


def main() -> None:
    """The `attar` command."""
    app()
