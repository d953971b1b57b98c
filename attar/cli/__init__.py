"""The command line: one verb a public function, the same words as in the library.

A module a kind of work; in `attar --help` the commands stand in the order in which these are imported.
"""

from attar.cli import recipes, language, training, pruning, probing, measuring  # noqa: F401, I001  # importing registers their commands
from attar.cli.frame import app

__all__ = ["app", "main"]


def main() -> None:
    """The `attar` command."""
    app()
