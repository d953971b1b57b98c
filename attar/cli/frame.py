"""What the commands share: the app, how a command is run and an error told, and options of several commands."""

import logging
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.text import Text

from attar import progress
from attar.errors import AttarError, RecipeError

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)
console = Console()
errors = Console(stderr=True)


Model = Annotated[str, typer.Argument(help="Model directory or hub name.", metavar="MODEL")]
Out = Annotated[Path, typer.Option(help="Directory to write; it appears whole or not at all.")]
Table = Annotated[
    str | None,
    typer.Option(
        help="Table: .csv, .tsv, .jsonl, .parquet, .txt with one text a line; SQuAD's .json; CoNLL columns."
    ),
]
ColumnNames = Annotated[
    list[str] | None,
    typer.Option(
        "--columns",
        help="Which column is what: text=sentence (also label, text_pair; tokens, tags; question, context, answers).",
    ),
]
Overwrite = Annotated[bool, typer.Option(help="Replace what attar wrote there before.")]
Length = Annotated[int, typer.Option(help="Longest text in tokens.")]
TaskLength = Annotated[
    int | None,
    typer.Option(help="Longest text in tokens; 128 where left out, 384 of questions with contexts."),
]
Stride = Annotated[int, typer.Option(help="Tokens that windows of a long context or sentence share.")]
Seed = Annotated[int, typer.Option(help="Seed of every random choice.")]


def verb(work: Callable[..., Any]) -> Callable[..., Any]:
    """Register a function as a command: progress on the console, an error as three lines and exit code 1."""

    @wraps(work)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        progress.attach(console)
        quiet()
        try:
            work(*args, **kwargs)
        except AttarError as error:
            complain(error)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            errors.print("\nstopped; the same command goes on from the last checkpoint")
            raise typer.Exit(130) from None

    return app.command()(wrapped)


def show(report: Any) -> None:
    """Print a report."""
    console.print(report.table(width=console.width))
    console.print(report.headline(), style="bold", markup=False, highlight=False)
    show_notes(report)


def show_notes(report: Any) -> None:
    """Print the notes of a report, a line each; what stands before a colon is what the line is about."""
    for note in report.notes:
        name, colon, rest = note.partition(": ")
        console.print(Text.assemble((name, "bold" if colon else ""), colon, rest))


def complain(error: AttarError) -> None:
    """Print an error as three lines."""
    for word, text in (("expected", error.expected), ("found", error.found), ("do this", error.fix)):
        errors.print(
            Text(f"{word:>9}  ", style="bold red" if word == "found" else "bold").append(
                text, style="not bold default"
            )
        )


def columns_of(pairs: list[str] | None) -> dict[str, str] | None:
    """What `--columns text=sentence` says.

    Raises:
        RecipeError: an entry without an equals sign.
    """
    if not pairs:
        return None
    found = {}
    for pair in (part for entry in pairs for part in entry.split(",")):
        role, mark, name = pair.partition("=")
        if not mark:
            raise RecipeError(
                expected="--columns text=NAME",
                found=pair,
                fix="name what the column is, such as text=sentence",
            )
        found[role.strip()] = name.strip()
    return found


def settings_of(pairs: list[str] | None) -> dict[str, Any]:
    """What `--set key=value` says, values as YAML has them.

    Raises:
        RecipeError: an entry without an equals sign.
    """
    found = {}
    for pair in pairs or []:
        key, mark, value = pair.partition("=")
        if not mark:
            raise RecipeError(
                expected="--set key=value", found=pair, fix="write the key, an equals sign and the value"
            )
        found[key.strip()] = yaml.safe_load(value)
    return found


def put(options: dict[str, Any], keys: list[str], value: Any) -> None:
    """Put a value into nested options, in place."""
    for key in keys[:-1]:
        options[key] = dict(options.get(key) or {})
        options = options[key]
    options[keys[-1]] = value


def quiet() -> None:
    """Other libraries' bars and notes would bury our own lines."""
    if "torch" not in sys.modules:
        import os

        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("accelerate").setLevel(logging.ERROR)
