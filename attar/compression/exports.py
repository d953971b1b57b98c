"""Exports of the teacher and of candidates, measured and held against the budget."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from attar.anatomy.resolve import Bound
from attar.compression.budget import Budget
from attar.compression.candidate import Candidate, Precision, teacher_architecture
from attar.compression.data import SHORT, Texts
from attar.compression.search import distance
from attar.compression.shipping import Shipped, ship, trimmed
from attar.compression.vocabularies import Vocabularies
from attar.errors import ExportError
from attar.progress import say

# What int8 may cost of the metric.
DROP = 0.01
# Calls of each model that the report times, and seconds of its intervals and drawings.
CALLS, DRAWING = 100, 4.0


class Exports:
    """Exports in the work directory; each is made and measured once.

    Args:
        bound: the teacher.
        place: the work directory.
        budget: as it was given.
        call: its length, batch and threads.
        training: whether candidates are trained; those that are not are fitted on more text before they are exported.

    Attributes:
        seconds: that an export takes, of the last that was not read from disk; 0 before the first. After
            `of_teacher` those of all of the teacher's together, since one model is traced once for all precisions.
        teacher: what all are held against, by precision.
    """

    def __init__(
        self,
        texts: Texts,
        bound: Bound,
        place: Path,
        budget: Budget,
        vocabularies: Vocabularies,
        call: Mapping[str, int],
        *,
        training: bool,
    ) -> None:
        self.texts, self.bound, self.place = texts, bound, place
        self.budget, self.vocabularies = budget, vocabularies
        self.call, self.training = call, training
        self.seconds = 0.0
        self.teacher: dict[str, Shipped] = {}

    def of_teacher(self, formats: Sequence[Precision]) -> None:
        """Make `teacher`: the model as it is, in fp32 and in each precision."""
        first: Precision = "fp32"  # which the others are timed in turns with
        together = 0.0
        for precision in dict.fromkeys((first, *formats)):
            candidate = Candidate(teacher_architecture(self.bound), "all", precision)
            self.seconds = 0.0
            self.teacher[precision] = self.made(self.texts.loaded.model, candidate)
            together += self.seconds
        self.seconds = together

    @property
    def teacher_seconds(self) -> float:
        """Seconds of one call of each export of the teacher, together."""
        return sum(made.costs["latency"] for made in self.teacher.values()) / 1e3

    def ending(self, given: float, rate: float) -> float:
        """Seconds that an export and all models on the test table take, from what both took before.

        Args:
            given: seconds in all.
            rate: texts a second that the teacher reads.
        """
        # The teacher reads the test table, in int8 in about half the time; what is small reads it in no time.
        models = 1.2 + (0.5 * (len(self.teacher) - 1) if given > SHORT else 0.0)
        reading = models * len(self.texts.tables.test) / rate
        return self.seconds + DRAWING + reading + CALLS * self.teacher_seconds

    def made(self, model: PreTrainedModel, candidate: Candidate, steps: int = 0) -> Shipped:
        """A candidate's export in the work directory, measured; made once."""
        name = f"{candidate.architecture.key}-{candidate.vocabulary}-{candidate.precision}-{steps}"
        whole = candidate.architecture == teacher_architecture(self.bound)
        if not self.training and not whole:
            name += "-fine"
        known, began = (self.place / "exports" / f"{name}.json").is_file(), time.monotonic()
        small, tokenizer = trimmed(
            model, self.texts.loaded.tokenizer, self.vocabularies.tokens(candidate.vocabulary) or ()
        )
        asked = (small, tokenizer, candidate)
        options: dict[str, Any] = {**self.call, "memory_too": self.budget.memory is not None}
        options["max_drop"] = 1.0 if whole else DROP  # the teacher's is what a user has without a search
        options["teacher"] = self.teacher["fp32"].directory if self.teacher else None
        made = ship(*asked, self.place / "exports" / name, self.texts, **options)
        if candidate.precision == "int8" and not whole:
            try:
                static = ship(
                    *asked, self.place / "exports" / f"{name}-static", self.texts, **options, static=True
                )
                made = min(made, static, key=self.rank)
            except ExportError as error:
                say(f"int8 with fixed scales: expected {error.expected}, found {error.found}")
        if not known:
            self.seconds = time.monotonic() - began
        return made

    def over(self, costs: Mapping[str, float]) -> dict[str, float]:
        """The limits that an export is over, with the factor by which.

        A multiple of the teacher's speed is held against that of both timed in turns: the machine may have been faster
        or slower when the teacher alone was timed.

        Args:
            costs: measured, with `speedup`.
        """
        whole = {
            "parameters": self.teacher["fp32"].costs["parameters"],
            "latency": costs["latency"] * costs["speedup"],
        }
        return self.budget.against(whole).broken(costs)

    def rank(self, made: Shipped) -> tuple[float, float]:
        """The least is the best export: what is over the budget counts first, then the distance from the teacher."""
        return max([1.0, *self.over(made.costs).values()]), distance(made.metrics)
