"""The report of a stage or of a comparison: a table for people, one JSON line for programs, a page with plots."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any, Literal

from attar.maths.statistics import Interval
from attar.report.formatting import (
    change,
    count,
    duration,
    figure,
    metric_name,
    percent_interval,
    size,
    times,
)
from attar.report.heatmap import HeatMap
from attar.report.json_values import plain, restore_nan
from attar.report.shape import Shape

if TYPE_CHECKING:
    from rich.table import Table

Role = Literal["teacher", "student", "baseline"]
# Columns that a narrow terminal does without, the first first.
_DISPENSABLE = ("memory", "texts/s", "FLOPs", "p90", "KL", "size", "agreement")
# Metrics that have a column beside the main one.
_BESIDE = (
    "exact_match",
    "agreement",
    "kl",
    "perplexity",
    "pseudo_perplexity",
    "bits_per_byte",
    "pseudo_bits_per_byte",
)
# Training step and the value of each named part there.
Point = tuple[int, Mapping[str, float]]


@dataclass(frozen=True)
class Row:
    """One model in one runtime, measured.

    Attributes:
        name: the model, the same in every runtime.
        role: what it is here; the first teacher of a report is its reference.
        runtime: what runs it and in which number format ("torch fp32", "ONNX Runtime int8").
        metrics: figures by name.
        quality: interval of the main metric.
        retained: interval of the main metric over the teacher's.
        parameters: how many.
        bytes: on disk.
        flops: of one forward pass at the batch size and length of the latency.
        p50, p90: latency percentiles of one forward pass, seconds.
        throughput: texts per second.
        memory: peak bytes.
        directory: where the model was saved, for the reader to find.
        speedup: over the report's reference, timed in turns with it.
    """

    name: str
    role: Role
    runtime: str = "torch fp32"
    metrics: Mapping[str, float] = field(default_factory=dict)
    quality: Interval | None = None
    retained: Interval | None = None
    parameters: int | None = None
    bytes: int | None = None
    flops: float | None = None
    p50: float | None = None
    p90: float | None = None
    throughput: float | None = None
    memory: int | None = None
    directory: str | None = None
    speedup: Interval | None = None


@dataclass(frozen=True)
class ModelPrediction:
    """What one model says about one text: its prediction and the probability it gives it (None for a score)."""

    name: str
    role: Role
    prediction: str
    probability: float | None = None


@dataclass(frozen=True)
class Example:
    """A text, its label where it has one, and what each model says."""

    text: str
    label: str | None
    says: tuple[ModelPrediction, ...]
    text_pair: str | None = None


@dataclass(frozen=True)
class Report:
    """What a stage or a comparison found.

    Attributes:
        title: one line.
        main: name of the metric that counts.
        rows: models; the first with the role "teacher" is the reference, the first "student" the subject.
        curves: by stage, the parts of the loss over training steps.
        examples: texts and what the models say.
        settings: options, in any nesting that JSON knows; `latency` says at which batch size and length.
        versions: of the software.
        machine: what it ran on.
        notes: lines for the reader below the headline.
        shapes: of models that were pruned.
        heat: what single parts of a model are worth.
    """

    title: str
    main: str = "accuracy"
    rows: tuple[Row, ...] = ()
    curves: Mapping[str, tuple[Point, ...]] = field(default_factory=dict)
    examples: tuple[Example, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    shapes: tuple[Shape, ...] = ()
    heat: HeatMap | None = None

    @property
    def teacher(self) -> Row | None:
        """The reference."""
        return next((row for row in self.rows if row.role == "teacher"), None)

    @property
    def student(self) -> Row | None:
        """The subject."""
        return next((row for row in self.rows if row.role == "student"), None)

    def reference(self, row: Row) -> Row | None:
        """The teacher to time `row` against: in the same runtime where it was measured there, else the first."""
        teachers = [other for other in self.rows if other.role == "teacher"]
        return next(
            (other for other in teachers if other.runtime == row.runtime), teachers[0] if teachers else None
        )

    def speedup(self, row: Row) -> float | None:
        """How many times as fast as the report's first teacher `row` is, whatever the runtimes."""
        if row.speedup is not None:
            return row.speedup.value
        return _ratio(self.teacher.p50, row.p50) if self.teacher is not None else None

    @property
    def smaller(self) -> float | None:
        """Parameters of the teacher over those of the student."""
        if self.student is None or self.teacher is None:
            return None
        return _ratio(self.teacher.parameters, self.student.parameters)

    @property
    def faster(self) -> float | None:
        """How many times as fast as the teacher the student is, in the same runtime where both were measured.

        The ratio taken round by round where there is one: it holds when the machine was busy for some of them.
        """
        reference = self.student and self.reference(self.student)
        if self.student and self.student.speedup is not None and reference is self.teacher:
            return self.student.speedup.value
        return _ratio(reference.p50, self.student.p50) if self.student and reference else None

    def headline(self) -> str:
        """What the student keeps, how much smaller and how much faster it is, in a sentence."""
        student, teacher = self.student, self.teacher
        if student is None or teacher is None:
            return self.title
        parts = []
        if student.retained is not None:
            kept, ends = percent_interval(student.retained).split(" ", 1)
            agrees = f"agrees with the teacher on {kept} of the texts {ends}"
            parts.append(
                agrees
                if self.main == "agreement"
                else f"keeps {kept} of the teacher's {metric_name(self.main)} {ends}"
            )
        if (ratio := self.smaller) is not None:
            parts.append(f"is {change(ratio, 'smaller', 'larger')}")
        if (ratio := self.faster) is not None:
            parts.append(("" if self.smaller else "is ") + change(ratio, "faster", "slower"))
        if not parts:
            return self.title
        return "The student " + (", ".join(parts[:-1]) + " and " if parts[1:] else "") + parts[-1] + "."

    def footing(self) -> str:
        """On what the headline stands: the two figures, the runtime, the fastest form."""
        student, teacher = self.student, self.teacher
        if student is None or teacher is None:
            return ""
        said = [f"{student.name} against {teacher.name}, 95% interval over test texts."]
        if self.main in student.metrics and self.main in teacher.metrics and self.main != "agreement":
            ours, theirs = (figure(self.main, row.metrics[self.main]) for row in (student, teacher))
            said.append(f"{metric_name(self.main).capitalize()} {ours} against {theirs}.")
        if student.parameters and teacher.parameters:
            said.append(f"{count(student.parameters)} parameters against {count(teacher.parameters)}.")
        same, where = self.reference(student), self.settings.get("latency")
        if same is not None and student.p50 and same.p50:
            other = "" if same.runtime == student.runtime else f" against {same.runtime}"
            at = f", {where}" if where else ""
            said.append(
                f"{duration(student.p50)} against {duration(same.p50)} a pass ({student.runtime}{other}{at})."
            )
        others = [
            r
            for r in self.rows
            if r.role == "student" and r.name == student.name and r.p50 and r is not student
        ]
        fastest = min(others, key=lambda row: row.p50 or 0.0, default=None)
        if fastest is not None and (gain := self.speedup(fastest)) is not None:
            said.append(
                f"As {fastest.runtime} it runs {times(gain)} as fast as the teacher in {teacher.runtime}."
            )
        return " ".join(said)

    def table(self, width: int | None = None) -> "Table":
        """For a terminal of `width` letters, its own where None; columns that find no room are named below."""
        from rich.table import Table
        from rich.text import Text

        room = width or get_terminal_size().columns
        columns, left_out = self.columns(), []
        for name in _DISPENSABLE:
            if sum(max(len(name), *map(len, cells)) + 2 for name, cells in columns.items()) <= room:
                break
            if columns.pop(name, None):
                left_out.append(name)
        table = Table(
            title=Text(self.title, style="bold"), title_justify="left", header_style="dim", box=None
        )
        table.pad_edge, table.caption_justify = False, "left"
        table.caption = f"a wider terminal also shows {', '.join(left_out)}" if left_out else None
        for name in columns:
            words = name in {"model", "runtime"}
            table.add_column(name, justify="left" if words else "right", no_wrap=not words)
        styles = {"teacher": "cyan", "student": "bold magenta", "baseline": "dim"}
        for i, row in enumerate(self.rows):
            cells = [Text(column[i]) for column in columns.values()]
            table.add_row(*cells, style=styles[row.role])
        return table

    def columns(self) -> dict[str, list[str]]:
        """Heading -> a cell per row, as words; columns without a figure are left out."""
        found = {"model": [row.name for row in self.rows], "runtime": [row.runtime for row in self.rows]}
        shown = {self.main: None} | {
            name: None for row in self.rows for name in row.metrics if name in _BESIDE
        }
        found |= {
            {"agreement": "agreement", "kl": "KL"}.get(name, metric_name(name)): [
                figure(name, row.metrics.get(name)) for row in self.rows
            ]
            for name in shown
        }
        found["retained"] = [percent_interval(row.retained) for row in self.rows]
        found["params"] = [count(row.parameters) for row in self.rows]
        found["size"] = [size(row.bytes) for row in self.rows]
        found["FLOPs"] = [count(row.flops) for row in self.rows]
        found["p50"] = [duration(row.p50) for row in self.rows]
        found["p90"] = [duration(row.p90) for row in self.rows]
        found["speed-up"] = [times(self.speedup(row)) for row in self.rows]
        found["texts/s"] = [count(row.throughput) for row in self.rows]
        found["memory"] = [size(row.memory) for row in self.rows]
        return {name: cells for name, cells in found.items() if any(cell != "–" for cell in cells)}

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
        from attar.report.page import render
        from attar.storage.writing import write_atomic

        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        write_atomic(directory / "report.json", self.to_json() + "\n")
        write_atomic(directory / "report.html", render(self))
        return directory / "report.html"

    def __str__(self) -> str:
        from io import StringIO

        from rich.console import Console

        file = StringIO()
        Console(file=file, width=160).print(self.table(160))
        return f"{file.getvalue().rstrip()}\n{self.headline()}"


def _ratio(top: float | None, bottom: float | None) -> float | None:
    return top / bottom if top and bottom else None
