"""What attar knows of a model, as a table for a terminal."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table
from transformers import PreTrainedModel

from attar.anatomy.resolve import resolve
from attar.model.checkpoint import load


def anatomy(model: str | Path | PreTrainedModel) -> Table:
    """Family, sizes, and where the parts of a model are; see `attar.verbs.anatomy`."""
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
