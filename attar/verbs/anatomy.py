"""`attar.verbs.anatomy`: what attar knows of a model."""

from typing import TYPE_CHECKING

from attar.options.base import ModelSource
from attar.options.registry import verb

if TYPE_CHECKING:
    from rich.table import Table


@verb()
def anatomy(model: ModelSource) -> "Table":
    """Show what attar knows of a model: family, sizes, and where its parts are.

    Args:
        model: Model directory or hub name, or a model.

    Returns:
        A table for a terminal.

    Raises:
        ModelError: an unknown family.
    """
    from attar.report.anatomy import anatomy as work

    return work(model)
