"""Candidates learn: built from the teacher, then trained in segments, each going on from the last, nothing twice."""

import json
import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from attar.anatomy.form import Form
from attar.anatomy.resolve import resolve
from attar.compression.candidate import Architecture
from attar.compression.data import Texts
from attar.compression.pruned import PrunedForms
from attar.data.batches import Batch
from attar.data.tasks import Task
from attar.distillation.activations import Activations
from attar.distillation.phases import Distiller, learn
from attar.distillation.projection import observe
from attar.distillation.student import student
from attar.model.views import View
from attar.pruning.schubert import Limited
from attar.storage.writing import save_tensors, write_atomic
from attar.training.loop import Precision, fit
from attar.training.used_embeddings import used_rows

# Texts that students' weights are projected on, and tokens of them: training mends what few tokens leave.
SAMPLE, SKETCH, FINE = 2000, 3_000, 12_000
# Peak learning rate times hidden size: narrow models want larger steps. A pruned model is near its goal already.
RATE, GENTLE = 0.128, 0.5
FASTEST = 1e-3
# Steps that a pace is measured on; epochs of a student that learns from labels; logits of a label that is sure.
PROBE, EPOCHS, SURE = 6, 4, 20.0


@dataclass(frozen=True)
class Labels:
    """A teacher that says the labels: what a student learns from without distillation."""

    task: Task
    outputs: int

    def view(self, batch: Batch) -> View:
        """Logits that put all probability on the label."""
        assert batch.labels is not None
        if self.task.kind == "regression":
            return View(batch.labels.float().reshape(-1, self.outputs), None)
        if self.task.kind == "multi_label":
            return View(SURE * (2 * batch.labels.float() - 1), None)
        return View(SURE * F.one_hot(batch.labels.clamp_min(0), self.outputs).float(), None)


@dataclass
class Trained:
    """A model that has learned for so many steps, and how good it is on the dev table.

    Attributes:
        model: in evaluation mode.
        steps: since it was built.
        metrics: of the dev table, against labels where there are any and against the teacher always.
        seconds: of one step, measured in its last segment; None before the first.
    """

    model: PreTrainedModel
    steps: int
    metrics: Mapping[str, float]
    seconds: float | None = None
    projections: Mapping[int, Tensor] | None = field(default=None, repr=False)


class Learning:
    """Builds and trains architectures; what is done is on disk and read from there.

    Args:
        texts: what is learned from and measured on.
        table: the training texts, with copies.
        place: a directory that the teacher, the texts and the seed name.
        pruned: which units stay in pruned forms of the teacher.
        tokens: of the texts that students are projected on.
        same: where architectures are that are the same however many tokens students see: all but students; `place`
            where None.
    """

    def __init__(
        self,
        texts: Texts,
        table: Any,
        place: Path,
        pruned: PrunedForms,
        *,
        precision: Precision,
        seed: int,
        tokens: int = SKETCH,
        same: Path | None = None,
    ) -> None:
        self.texts, self.table, self.place, self.pruned = texts, table, place, pruned
        self.precision, self.seed, self.tokens = precision, seed, tokens
        self.same = same or place
        self.bound = resolve(texts.loaded.model)
        self._paces: dict[Architecture, float] = {}

    def on_more_text(self, place: Path, tokens: int) -> "Learning":
        """The same, whose students are projected on so many tokens."""
        options: Any = {"precision": self.precision, "seed": self.seed}
        return Learning(self.texts, self.table, place, self.pruned, **options, tokens=tokens, same=self.place)

    def form(self, architecture: Architecture) -> Form:
        """The sizes of an architecture, without building it."""
        if architecture.way == "prune":
            return self.pruned.kept(architecture).form
        return architecture.student_form(self.bound, self.bound.shape.vocab)

    def steps_done(self, architecture: Architecture, most: float = math.inf) -> int:
        """How many steps an architecture has learned for, of those states of it that saw no more than `most`."""
        return max((steps for steps in map(int, self._record(architecture)) if steps <= most), default=0)

    def known(self, architecture: Architecture, steps: int) -> dict[str, Any] | None:
        """What is on disk of an architecture after so many steps."""
        found: dict[str, Any] | None = self._record(architecture).get(str(steps))
        return found

    def at(self, architecture: Architecture, steps: int) -> PreTrainedModel:
        """The model of an architecture that has learned for so many steps."""
        return self.trained(architecture, steps).model

    def pace(self, architecture: Architecture) -> float:
        """Seconds of a step: as measured in its last segment, or on a few steps that are thrown away."""
        measured = [entry["seconds"] for entry in self._record(architecture).values() if entry["seconds"]]
        if measured:
            return float(measured[-1])
        if architecture not in self._paces:
            model, projections = self._start(architecture)
            self._paces[architecture] = self.probed(self.learner(model, projections))
        return self._paces[architecture]

    def probed(self, learner: Any, batches: Any = None) -> float:
        """Seconds of a step, on a few whose changes are too small to matter."""
        few = Limited(self.batches if batches is None else batches, PROBE)
        with used_rows(learner.student, few):
            steps = fit(learner, few, epochs=1, lr=1e-9, precision=self.precision, seed=self.seed)
            seconds = sorted(step.seconds for step in steps)[:-1]  # the first is slower than all others
        return sum(seconds) / len(seconds)

    def built(self, architecture: Architecture) -> Trained:
        """The architecture with the weights that it starts from."""
        model, projections = self._start(architecture)
        return self._measured(architecture, Trained(model, 0, {}, None, projections))

    def trained(self, architecture: Architecture, steps: int) -> Trained:
        """The architecture after `steps` steps, from where it is on disk; one segment more of training, if any."""
        if steps == 0:
            return self.built(architecture)
        first = self.steps_done(architecture, steps)
        if first == 0:
            self.built(architecture)
        learner = self.learner_at(architecture, first)
        if first == steps:
            return self._measured(architecture, Trained(learner.student, steps, {}, None))
        return self.segment(
            architecture, learner, self.batches, first, steps - first, self.rate(architecture)
        )

    def segment(
        self,
        architecture: Architecture,
        learner: Any,
        batches: Any,
        first: int,
        steps: int,
        rate: float,
        *,
        said: str = "train",
        pace: bool = True,
    ) -> Trained:
        """An architecture that has learned for `first` steps after so many more.

        Args:
            rate: peak learning rate, after which it falls to 0.
            pace: whether its steps are like those of the search, which they then say the pace of.
        """
        place, last = self.home(architecture), first + steps
        segment = place / f"from-{first}-to-{last}"
        ready, began = (segment / "done.pt").is_file(), time.perf_counter()
        learn(
            said,
            learner,
            Limited(batches, steps, first),
            place=segment,
            epochs=1,
            lr=rate,
            precision=self.precision,
            seed=self.seed,
        )
        # A segment that a killed run had finished was read, not run.
        seconds = None if ready or not pace else (time.perf_counter() - began) / steps
        save_tensors(learner.state_dict(), self._weights(place, last))
        found = self._measured(architecture, Trained(learner.student.eval(), last, {}, seconds))
        shutil.rmtree(segment)
        return found

    def undistilled(self, architecture: Architecture, steps: int) -> PreTrainedModel:
        """The architecture from the same start, trained on the labels alone, the best of its epochs."""
        task, labelled = self.texts.task, self.texts.tables.labelled
        assert task is not None
        assert labelled is not None
        batches = self.texts.batches(labelled)
        place = self.home(architecture) / f"undistilled-{steps}"
        model, _ = self._start(architecture)
        learner = Distiller(model, Labels(task, model.config.num_labels), task=task)
        learn(
            "the same on labels alone",
            learner,
            Limited(batches, -(-steps // EPOCHS)),
            place=place,
            epochs=EPOCHS,
            lr=self.rate(architecture),
            precision=self.precision,
            seed=self.seed,
            judge=self.texts.judge,
            choose=True,
        )
        return model.eval()

    @cached_property
    def batches(self) -> Any:
        """The training batches."""
        return self.texts.batches(self.table)

    @cached_property
    def teacher(self) -> Any:
        """One record of the teacher's outputs for all candidates."""
        return self.texts.teacher(
            self.batches, self.bound.shape.layers, cache=self.place / "cache", precision=self.precision
        )

    @cached_property
    def seen(self) -> Activations:
        """What the teacher does on the texts that students are projected on."""
        return observe(self.texts.loaded.model, self.texts.sample(SAMPLE), tokens=self.tokens, seed=self.seed)

    def rate(self, architecture: Architecture) -> float:
        """The peak learning rate."""
        return min(FASTEST, RATE / architecture.hidden) * (1.0 if architecture.way == "distil" else GENTLE)

    def learner_at(self, architecture: Architecture, steps: int) -> Any:
        """An architecture that has learned for so many steps, ready to learn on."""
        learner = self.learner(*self._start(architecture))
        if steps:
            state = torch.load(self._weights(self.home(architecture), steps), weights_only=True)
            # After answers alone were learned there are no projections any more.
            learner.load_state_dict(state, strict=False)
        return learner

    def learner(self, model: PreTrainedModel, projections: Mapping[int, Tensor] | None) -> Any:
        """A model with what it learns."""
        return self.texts.learner(model, self.teacher, self.bound, projections)

    def _start(self, architecture: Architecture) -> tuple[PreTrainedModel, Mapping[int, Tensor] | None]:
        """The architecture's starting point, from disk where it was made before."""
        place = self.home(architecture)
        file = place / "start.pt"
        teacher = self.texts.loaded.model
        kept = torch.load(file, weights_only=True) if file.is_file() else None
        projections: Mapping[int, Tensor] | None
        if architecture.way == "prune":
            model, projections = self.pruned.cut(architecture, fit=kept is None)
        else:
            sizes = {
                name: getattr(architecture, name)
                for name in ("layers", "hidden", "heads", "ffn", "embedding")
            }
            init: Any = "layers" if architecture.way == "drop" else "project" if kept is None else "random"
            seen = self.seen if init == "project" else None
            made = student(teacher, **sizes, init=init, texts=seen, seed=self.seed)
            model, projections = made.model, made.projections
        if architecture.way == "drop":
            width = architecture.hidden
            projections = {m: torch.eye(width) for m in range(1, architecture.layers + 1)}
        if self.texts.task is not None and self.texts.task.per_token:
            self.texts.task.configure(model.config)
        if kept is not None:
            model.load_state_dict(kept["model"])
            return model.eval(), kept["projections"]
        place.mkdir(parents=True, exist_ok=True)
        save_tensors({"model": model.state_dict(), "projections": dict(projections or {})}, file)
        return model.eval(), projections

    def _measured(self, architecture: Architecture, found: Trained) -> Trained:
        """With its figures, from disk where they are known."""
        record = self._record(architecture)
        known = record.get(str(found.steps))
        if known is None:
            known = {"metrics": self.texts.measured(found.model), "seconds": found.seconds}
            record[str(found.steps)] = known
            write_atomic(self.home(architecture) / "record.json", json.dumps(record))
        return Trained(found.model, found.steps, known["metrics"], known["seconds"], found.projections)

    def _record(self, architecture: Architecture) -> dict[str, Any]:
        file = self.home(architecture) / "record.json"
        return json.loads(file.read_text()) if file.is_file() else {}

    def home(self, architecture: Architecture) -> Path:
        """Where what an architecture became is kept."""
        return (self.place if architecture.way == "distil" else self.same) / "candidates" / architecture.key

    @staticmethod
    def _weights(place: Path, steps: int) -> Path:
        return place / f"after-{steps}.pt"
