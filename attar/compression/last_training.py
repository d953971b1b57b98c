"""The last training of the candidate that was chosen: layers and answers, then answers alone, in the time there is."""

import json
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from attar.compression.candidate import Architecture
from attar.compression.data import BATCH
from attar.compression.learning import Learning, Trained
from attar.progress import say
from attar.storage.writing import write_atomic

# Part of the time in which hidden states are compared; afterwards answers alone, in parts of what is then left, at so
# many times the rate: each part is planned by the pace of the one before it, so that only the last one's can be wrong.
LAYERS = 0.4
ANSWERS = ((0.6, 0.6), (0.7, 0.3), (1.0, 0.1))
# Passes over the texts that answers alone are learned from: fewer texts than that are not worth the teacher's time.
PASSES = 3
# Steps that are worth planning.
FEWEST = 8


@dataclass
class LastTraining:
    """Trains an architecture until a time is up; what was planned is on disk, so that a killed run goes on with it.

    Attributes:
        first: steps that it has learned for.
        left: seconds that are left for it, measured as it goes.
        rate: texts a second that the teacher answers.
        name: of the plan: a number of seconds, since more time means another plan.
    """

    learning: Learning
    architecture: Architecture
    first: int
    left: Callable[[], float]
    rate: float
    name: str

    def run(self, figure: Callable[[Trained], float]) -> Trained:
        """Train; the best of its parts by a figure of the dev table."""
        learning, architecture = self.learning, self.architecture
        learner = learning.learner_at(architecture, self.first)
        pace = learning.pace(architecture)
        count = self._planned("layers", LAYERS * self.left() / pace)
        found, done = [learning.trained(architecture, self.first)], self.first
        if count:
            rate = learning.rate(architecture)
            said = "train the best candidate: layers and answers"
            done += count
            if (known := self._known(done)) is None:
                known = learning.segment(
                    architecture, learner, learning.batches, done - count, count, rate, said=said
                )
            found.append(known)
        batches, teacher = self._texts(learning.pace(architecture))
        learner = self._answering(found[-1].model, batches, teacher) or learner
        pace = learning.probed(learner, batches)
        for number, (part, lower) in enumerate(ANSWERS):
            count = self._planned(f"answers {number}", part * self.left() / pace)
            if not count:
                continue
            began = self.left()
            done += count
            if (known := self._known(done)) is None:
                said = f"train the best candidate: answers, part {number + 1} of {len(ANSWERS)}"
                rate = lower * learning.rate(architecture)
                known = learning.segment(
                    architecture, learner, batches, done - count, count, rate, said=said, pace=False
                )
                pace = (began - self.left()) / count
            else:
                learner = self._answering(known.model, batches, teacher) or learning.learner_at(
                    architecture, done
                )
            found.append(Trained(known.model, known.steps, known.metrics, pace))
        best = max(found, key=figure)
        return best if best is found[-1] else learning.trained(architecture, best.steps)

    def _known(self, steps: int) -> Trained | None:
        """What a killed run had trained."""
        if self.learning.known(self.architecture, steps) is None:
            return None
        return self.learning.trained(self.architecture, steps)

    def _texts(self, pace: float) -> tuple[Any, Any]:
        """Batches to learn answers from, and the record of the teacher's, where there is one yet.

        They are those of the search, or more, as time allows.

        Args:
            pace: seconds of a step, at most.
        """
        learning = self.learning
        each = 1 / self.rate + PASSES * pace / BATCH
        rows = self._remembered("texts", int(self.left() / each))
        table = learning.texts.longer(learning.place, rows) if rows > len(learning.table) else None
        if table is None or len(table) <= len(learning.table):
            return copy(learning.batches), learning.teacher  # whose order may become another
        say(f"answers are learned from {len(table):,} texts")
        return learning.texts.batches(table), None

    def _answering(self, model: PreTrainedModel, batches: Any, teacher: Any) -> Any:
        learning = self.learning
        options: Any = {"cache": learning.place / "cache", "precision": learning.precision}
        return learning.texts.answering(model, batches, teacher, **options)

    def _planned(self, name: str, steps: float) -> int:
        found = self._remembered(name, max(0, int(steps)))
        return found if found >= FEWEST else 0

    def _remembered(self, name: str, value: int) -> int:
        file: Path = self.learning.home(self.architecture) / f"plan-{self.first}-{self.name}.json"
        plan: dict[str, int] = json.loads(file.read_text()) if file.is_file() else {}
        if name not in plan:
            plan[name] = value
            write_atomic(file, json.dumps(plan))
        return plan[name]
