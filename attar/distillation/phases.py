"""Run a phase of distillation: a student learns from a teacher over a table or a stream of texts."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from attar.data.batches import Batch, Batches
from attar.data.tasks import Task
from attar.distillation.cache import CachedTeacher, LiveTeacher, Teacher, cached
from attar.distillation.objective import EmbeddingMatch, Intermediate, prediction
from attar.evaluation.quality import Evaluation
from attar.evaluation.table import TableEvaluator
from attar.model.checkpoint import digest
from attar.model.slim import is_slim
from attar.model.views import Need, call
from attar.progress import say, track
from attar.report.report import Point
from attar.storage.writing import save_tensors, write_atomic
from attar.training import resuming
from attar.training.loop import Precision, Source, Step, broadcast, fit, is_main, settle, wait
from attar.training.used_embeddings import used_rows


class Distiller(nn.Module):
    """A student with what it is asked to match; the teacher is no part of it, so is neither trained nor saved.

    Args:
        intermediate: the losses over layers, with their projections; None in the prediction phase.
        task, temperature: of the prediction loss; no prediction loss where the task is None.
        dropout: whether the student's dropout is on in training.
        embeddings: how embeddings are compared, where not in the teacher's space alone.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: Teacher,
        *,
        intermediate: Intermediate | None = None,
        task: Task | None = None,
        temperature: float = 1.0,
        dropout: bool = False,
        embeddings: EmbeddingMatch | None = None,
    ) -> None:
        super().__init__()
        self.dropout, self.embeddings = dropout, embeddings
        self.student, self.intermediate = student, intermediate
        self.task, self.temperature = task, temperature
        self.__dict__["teacher"] = teacher

    def train(self, mode: bool = True) -> "Distiller":
        """Training mode; the student stays in evaluation mode where dropout is off, which is all that mode changes."""
        super().train(mode)
        if not self.dropout:
            self.student.eval()
        return self

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Named loss parts of a batch."""
        ours = call(
            self.student, batch.inputs, self.intermediate.match.student if self.intermediate else Need()
        )
        theirs = self.__dict__["teacher"].view(batch)
        parts = self.intermediate(ours, theirs, batch) if self.intermediate else {}
        if self.embeddings is not None:
            parts["prediction"] = self.embeddings(ours.logits, theirs.logits, count=batch.counts.examples)
        elif self.task is not None:
            parts["prediction"] = prediction(
                self.task.decisions(ours.logits, batch),
                self.task.decisions(theirs.logits, batch),
                self.task.kind,
                temperature=self.temperature,
                count=self.task.count(batch.counts),
            )
        return parts


@dataclass(frozen=True)
class Judge:
    """The dev table that a phase is watched on: labels where it has any, what the teacher says always.

    `metric` decides which epoch is best; the main one where None.
    """

    evaluator: TableEvaluator
    teacher: Evaluation
    metric: str | None = None

    def __post_init__(self) -> None:
        """Find a metric that there is not before anything learns."""
        self.teacher.chosen(self.metric)

    def __call__(self, model: nn.Module) -> tuple[str, float]:
        """A model's figure and its name; against the labels, or against the teacher where there are none."""
        return self.evaluator.evaluate(model, self.teacher).chosen(self.metric)


def teacher_of(
    model: PreTrainedModel,
    need: Need,
    batches: Source,
    *,
    cache: Path | None,
    precision: Precision,
    name: Any,
) -> Teacher:
    """The teacher over some batches: read from the cache directory, made once, or run for every batch.

    Args:
        cache: where caches are kept; None runs the teacher live, and so do a stream, whose rows never come again, and
            the attention of a slim teacher, whose layers' records would be of different sizes.
        name: what beside the teacher's weights decides its outputs: a digest of data, tokenizer and options.
    """
    # Here, where every process passes: later each may find its cache filled or not, and would not ask with the others.
    precision = settle(precision)
    uneven = need.attention and is_slim(model.config)
    if cache is None or uneven or not isinstance(batches, Batches):
        return LiveTeacher(model, need, precision=precision)
    layers = (sorted(need.hidden), sorted(need.scores), sorted(need.relations))
    key = digest(model, name, precision, *layers, need.relation_heads)
    return cached(model, need, batches, cache / f"teacher-{key}", precision=precision)


def logits_of(teacher: Teacher | None, model: PreTrainedModel, batches: Source, **options: Any) -> Teacher:
    """A teacher of logits only, from an open cache of more where there is one."""
    if isinstance(teacher, CachedTeacher):
        return teacher.logits_only()
    return teacher_of(model, Need(), batches, **options)


def near(teacher: Teacher) -> Tensor | None:
    """(N, E) unit vectors of all texts, as an embedding model's cache has them; None where it has not all of them."""
    if not isinstance(teacher, CachedTeacher) or teacher.logits is None or teacher.world > 1:
        say(
            "texts are learned in any order: there is no cache of one process that has the teacher's embeddings of all"
        )
        return None
    found = teacher.logits.float()
    lengths = found.norm(dim=-1, keepdim=True)
    if bool(
        ((lengths - 1).abs() < 1e-3).all()
    ):  # of a model that normalises: no second copy of what may be large
        return found
    unit: Tensor = found / lengths.clamp_min(1e-12)
    return unit


def learn(
    phase: str,
    learner: Distiller,
    batches: Source,
    *,
    place: Path,
    epochs: int,
    lr: float,
    warmup: float = 0.1,
    weight_decay: float = 0.01,
    accumulate: int = 1,
    precision: Precision = "auto",
    seed: int = 0,
    judge: Judge | None = None,
    choose: bool = False,
) -> tuple[Point, ...]:
    """Train a learner's student in place through one phase; a phase that is done is read from `place`.

    Args:
        phase: its name for people.
        place: a directory of its own, named by a digest of all that decides the result.
        judge: says after each epoch how good the student is.
        choose: keep the best epoch by the judge instead of the last (needs a judge).

    Returns:
        The training curve.
    """
    done, curve = place / "done.pt", resuming.TrainingCurve(place / "curve.json")
    if done.is_file():
        learner.load_state_dict(torch.load(done, weights_only=True))
        say(f"{phase}: done before, read from disk")
        return curve.points()
    place.mkdir(parents=True, exist_ok=True)
    best = resuming.BestEpoch(place, None)
    with used_rows(learner.student, batches, judge.evaluator.batches if judge else None):
        steps = fit(
            learner,
            batches,
            epochs=epochs,
            lr=lr,
            warmup=warmup,
            weight_decay=weight_decay,
            accumulate=accumulate,
            precision=precision,
            seed=seed,
            checkpoint=place / "state",
        )
        for step in track(steps, phase, epochs * (-(-len(batches) // accumulate)), done=Step.done):
            curve.add(step)
            if not step.last_of_epoch:
                continue
            line = f"{phase}, epoch {step.epoch + 1} of {epochs}: loss {curve.recent():.4f}"
            if judge is not None:
                name, value = judge(learner.student)
                line += f", dev {name} {value:.4f}"
                if choose:
                    best.add(step.epoch, broadcast(value), learner)
            say(line)
        if choose:
            best.restore(learner)
    if is_main():
        save_tensors(learner.state_dict(), done)
        write_atomic(place / "phase.json", json.dumps({"phase": phase, "epochs": epochs}))
    wait()
    return curve.points()


def projections(learner: Distiller) -> Mapping[int, Tensor]:
    """The projections a phase learned, by student layer, to start the next phase from."""
    assert learner.intermediate is not None
    return learner.intermediate.weights()
