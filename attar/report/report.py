"""The report of a stage or of a comparison: a table for people, one JSON line for programs, a page with plots."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from attar.report import page, summary, table
from attar.report.formatting import plain_text
from attar.report.json_values import plain, restore_nan
from attar.report.rows import Example, ModelPrediction, Point, ReportData, Role, Row
from attar.storage.writing import write_atomic

if TYPE_CHECKING:
    from rich.table import Table

# A report is made of these, so they are imported with it.
__all__ = ["Example", "ModelPrediction", "Point", "Report", "Role", "Row"]


@dataclass(frozen=True)
class Report(ReportData):
    """What a stage or a comparison found, with what draws and prints it; see `ReportData` for its attributes."""

    def headline(self) -> str:
        """What the student retains, how much smaller and how much faster it is, in a sentence."""
        return summary.headline(self)

    def footing(self) -> str:
        """On what the headline stands: the two figures, the runtime, the fastest form."""
        return summary.footing(self)

    def remarks(self) -> tuple[str, ...]:
        """The notes, and why figures have no interval, a line each."""
        return summary.remarks(self)

    def table(self, width: int | None = None) -> "Table":
        """For a terminal of `width` letters, its own where None; columns that find no room are named below."""
        return table.table(self, width)

    def columns(self) -> dict[str, list[str]]:
        """Heading -> a cell per row, as words; columns without a figure are left out."""
        return table.columns(self)

    def to_json(self) -> str:
        """One line. A figure that is not finite is null."""
        return json.dumps(plain(dataclasses.asdict(self)), ensure_ascii=False, allow_nan=False, default=str)

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """Read what `to_json` wrote."""
        from pydantic import TypeAdapter

        return TypeAdapter(cls).validate_python(restore_nan(json.loads(text)))

    def write(self, directory: str | Path) -> Path:
        """Write `report.html` (self-contained) and `report.json` into a directory, each whole or not at all.

        Raises:
            OutputError: the directory is not writable, or the disk is full.
        """
        directory = Path(directory)
        write_atomic(directory / "report.json", self.to_json() + "\n")
        write_atomic(directory / "report.html", page.render(self))
        return directory / "report.html"

    def __str__(self) -> str:
        return "\n".join((plain_text(self.table(160), 160), self.headline(), *self.remarks()))
