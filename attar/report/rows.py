"""What a report is made of: models with figures, texts with predictions, training curves; nothing draws or prints."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from attar.maths.statistics import Interval
from attar.report.frontier import Frontier
from attar.report.heatmap import HeatMap
from attar.report.shape import Shape

Role = Literal["teacher", "student", "baseline"]
# Training step and the value of each named part there.
Point = tuple[int, Mapping[str, float]]
# Bytes of a parameter that differ by more (as a logarithm) are of another number format, not of what is stored beside.
OTHERWISE = 0.2


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
        p50: median latency of one forward pass, seconds.
        p90: its 90th percentile.
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
class ReportData:
    """What a stage or a comparison found, without what draws and prints it (`attar.report.report.Report`).

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
        frontier: every candidate of a search.
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
    frontier: Frontier | None = None

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
        """Parameters of the teacher over those of the student; bytes where each stores its numbers in another way."""
        if self.student is None or self.teacher is None:
            return None
        fewer = _ratio(self.teacher.parameters, self.student.parameters)
        return _ratio(self.teacher.bytes, self.student.bytes) if self.stored_otherwise else fewer

    @property
    def stored_otherwise(self) -> bool:
        """Whether a parameter takes other bytes in the student than in the teacher: in int8, in half precision."""
        each = [_ratio(row.bytes, row.parameters) if row else None for row in (self.teacher, self.student)]
        apart = _ratio(*each)
        return apart is not None and abs(math.log(apart)) > OTHERWISE

    @property
    def faster(self) -> float | None:
        """How many times as fast as the teacher the student is, in the same runtime where both were measured.

        The ratio taken round by round where there is one: it holds when the machine was busy for some of them.
        """
        reference = self.student and self.reference(self.student)
        if self.student and self.student.speedup is not None and reference is self.teacher:
            return self.student.speedup.value
        return _ratio(reference.p50, self.student.p50) if self.student and reference else None


def _ratio(top: float | None, bottom: float | None) -> float | None:
    return top / bottom if top and bottom else None
