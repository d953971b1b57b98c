"""How long a run will take, said before it begins: a few steps of each phase are tried on a copy of the student."""

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from transformers import PreTrainedModel

from attar.data.batches import Batch, Batches
from attar.distillation.cache import LiveTeacher, Teacher
from attar.distillation.phases import Distiller
from attar.model.views import Need, View
from attar.progress import duration, say
from attar.training.loop import Precision, Source, fit, processes

# Batches that are tried, of which the first only warms up.
TRIED = 4
# Steps of a run so short that trying some would be much of it.
SHORT = 200
# The student's forward pass as a part of a training step, which goes back, too.
FORWARD = 1 / 3


@dataclass(frozen=True)
class Phase:
    """What a phase of training will do.

    Attributes:
        name: for people.
        teacher, need: what is seen of which teacher.
        learner: makes one of a student and a teacher.
        batches: of the phase, or of a sample of its texts.
        epochs: passes over the texts.
        passes: those of the teacher: 1 where its outputs are kept, 0 where they are kept already.
        times: how many times the texts of `batches` all texts are.
    """

    name: str
    teacher: PreTrainedModel
    need: Need
    learner: Callable[[PreTrainedModel, Teacher], Distiller]
    batches: Source
    epochs: int
    passes: int
    times: float = 1.0

    @property
    def steps(self) -> int:
        """Of all epochs."""
        return math.ceil(len(self.batches) * self.times) * self.epochs


def say_duration(
    phases: Sequence[Phase], student: PreTrainedModel, measured: int, *, precision: Precision, but: str = ""
) -> None:
    """Say how long phases will take, part by part, and the measuring at their end; nothing of a short run.

    Args:
        student: is left as it is.
        measured: texts that the teacher, and the student after each epoch of the last phase, are measured on.
        but: what is not in it.
    """
    if sum(phase.steps for phase in phases) < SHORT:
        return
    teaching, parts = 0.0, {}
    for phase in phases:
        few = list(islice(phase.batches.epoch(), TRIED))
        teacher, step = _tried(phase, few, student, precision)
        row, epoch = _tokens(phase.batches, few)
        teaching += teacher * epoch * phase.times * phase.passes
        parts[f"{phase.name} ({phase.steps:,} steps)"] = step * epoch * phase.times * phase.epochs
    measuring = measured * row * (2 * teacher + FORWARD * step * (phase.epochs + 1))
    parts = {"teacher's outputs": teaching, **parts, "measuring": measuring}
    total = sum(parts.values())
    told = (f"{name} {duration(seconds)}" for name, seconds in parts.items() if seconds > total / 50)
    say(f"about {duration(total)} in all{but}: {', '.join(told)}")


def _tokens(batches: Source, few: Sequence[Batch]) -> tuple[float, float]:
    """Of a text, and of an epoch of this process."""
    if isinstance(batches, Batches):
        return float(batches.lengths.mean()), float(batches.lengths.sum()) / processes()[1]
    tokens = sum(int(batch.mask.sum()) for batch in few)
    return tokens / sum(len(batch.mask) for batch in few), tokens / len(few) * len(batches)


def _tried(
    phase: Phase, few: Sequence[Batch], student: PreTrainedModel, precision: Precision
) -> tuple[float, float]:
    """Seconds a token of the teacher's pass and of a training step."""
    live, views, passed = LiveTeacher(phase.teacher, phase.need, precision=precision), [], []
    for batch in few:
        began = time.perf_counter()
        views.append(live.view(batch))
        passed.append(time.perf_counter() - began)
    learner = phase.learner(copy.deepcopy(student), _Seen(views))
    trained = [step.seconds for step in fit(learner, _Few(few), epochs=1, lr=1e-5, precision=precision)]
    first = min(1, len(few) - 1)
    tokens = sum(int(batch.mask.sum()) for batch in few[first:])
    return sum(passed[first:]) / tokens, sum(trained[first:]) / tokens


class _Seen:
    """A teacher whose views of the next batches are there already."""

    def __init__(self, views: Sequence[View]) -> None:
        self.views = iter(views)

    def view(self, batch: Batch) -> View:
        """The next one."""
        return next(self.views)


@dataclass(frozen=True)
class _Few:
    """Batches in hand."""

    batches: Sequence[Batch]
    content: tuple[Any, ...] = ()

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, number: int = 0, *, start: int = 0) -> Iterator[Batch]:
        """All of them from the `start`-th on."""
        return iter(self.batches[start:])
