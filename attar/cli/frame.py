"""What the commands share: the app, the consoles, how a command is run and an error is shown."""

import os
from collections.abc import Callable
from functools import wraps
from typing import Any

import typer
from rich.console import Console, ConsoleDimensions
from rich.text import Text

from attar import progress
from attar.errors import AttarError

app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False, no_args_is_help=False)


class _Console(Console):
    """A file has room that a terminal has not; where the output goes is asked when something is printed."""

    @property
    def size(self) -> ConsoleDimensions:
        """Columns and rows."""
        found = super().size
        wide = not self.is_terminal and "COLUMNS" not in os.environ
        return ConsoleDimensions(160, found.height) if wide else found

    @size.setter
    def size(self, new: tuple[int, int]) -> None:
        self.width, self.height = new


# Of several processes (torchrun, accelerate launch) the first speaks.
console = _Console(quiet=os.environ.get("RANK", "0") != "0")
errors = Console(stderr=True)


def guarded(work: Callable[..., Any]) -> Callable[..., Any]:
    """A command with progress on the console, whose errors are three lines and exit code 1."""

    @wraps(work)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        progress.attach(console)
        try:
            work(*args, **kwargs)
        except AttarError as error:
            complain(error)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            errors.print("\nstopped; the same command goes on from the last checkpoint")
            raise typer.Exit(130) from None

    return wrapped


def complain(error: AttarError) -> None:
    """Print an error as three lines."""
    for word, text in (("expected", error.expected), ("found", error.found), ("do this", error.fix)):
        errors.print(
            Text(f"{word:>9}  ", style="bold red" if word == "found" else "bold").append(
                text, style="not bold default"
            )
        )
