"""The texts of a task: a classifier, a tagger, questions and answers, as a teacher and its candidates read them."""

import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel

from attar.anatomy.resolve import Bound, shape_of
from attar.augmentation import EmbeddingCandidates, augment
from attar.compression.data import BATCH, Tables, Texts, drawn
from attar.data.batches import Batches
from attar.data.embedding_task import Embedding
from attar.data.model_task import task_of
from attar.data.tasks import Task
from attar.distillation.cache import CachedTeacher, Teacher
from attar.distillation.objective import EmbeddingMatch, Intermediate, Match
from attar.distillation.phases import Distiller, Judge, near, teacher_of
from attar.errors import ModelError
from attar.evaluation.comparison import compare
from attar.evaluation.opening import open_model
from attar.evaluation.quality import Evaluation
from attar.evaluation.table import TableEvaluator
from attar.maths.mapping import layer_map
from attar.model.checkpoint import Loaded, digest
from attar.model.onnx import OnnxModel
from attar.model.views import Need
from attar.progress import say
from attar.report.formatting import metric_name
from attar.report.report import Report, Role
from attar.training.loop import Precision

# Augmented copies are made until there are so many rows, but no more than so many of each.
ROWS, COPIES = 30_000, 8
# Texts that are learned from at least, however slow the teacher is.
LEAST = 2_000
# Copies of each text at most where answers alone are learned from them: these take no disk.
MORE = 10


class TaskTexts(Texts):
    """Tables of a task, as a teacher and its candidates read them.

    Args:
        loaded: the teacher and its tokenizer.
        max_length: tokens of a text; the task's own where None.

    Raises:
        ModelError: a teacher without a task.
    """

    teaching = 0.1

    def __init__(
        self, loaded: Loaded, tables: Tables, *, max_length: int | None, stride: int, seed: int
    ) -> None:
        self.loaded, self.tables, self.seed = loaded, tables, seed
        self.task: Task = task_of(loaded.model)
        self.window = {"max_length": self.task.window(loaded.model, max_length), "stride": stride}
        self.max_length = self.window["max_length"]

    def evaluator(self, table: Dataset, tokenizer: Any = None) -> TableEvaluator:
        """A table to measure on, as a tokenizer reads it, the teacher's own where None."""
        return TableEvaluator(
            self.task, table, tokenizer or self.loaded.tokenizer, batch_size=64, **self.window
        )

    @cached_property
    def dev(self) -> TableEvaluator:
        """The dev table."""
        return self.evaluator(self.tables.dev)

    @cached_property
    def teacher_on_dev(self) -> Evaluation:
        """What the teacher says of the dev table."""
        began = time.perf_counter()
        logits = self.dev.logits(self.loaded.model)
        self._rate = len(self.tables.dev) / (time.perf_counter() - began)
        return self.dev.evaluate_teacher(logits)

    @property
    def teacher_metrics(self) -> dict[str, float]:
        """Against labels where there are any, and against itself."""
        return dict(self.teacher_on_dev.metrics)

    @property
    def main(self) -> str:
        """Of the labels where there are any, else the agreement with the teacher."""
        return self.teacher_on_dev.main

    def check_teacher(self) -> None:
        """Refuse a teacher that is no better than the most frequent label."""
        check_teacher(self.task, self.teacher_on_dev)

    def measured(self, model: PreTrainedModel | OnnxModel, tokenizer: Any = None) -> dict[str, float]:
        """Against labels where there are any, and against the teacher always."""
        evaluator = self.dev if tokenizer is None else self.evaluator(self.tables.dev, tokenizer)
        return dict(evaluator.evaluate(model, self.teacher_on_dev).metrics)

    def kept(self, metrics: Mapping[str, float]) -> float:
        """Of the figure against labels where there are any, else the agreement."""
        if self.main == "agreement":
            return float(metrics["agreement"])
        return float(metrics[self.main] / self.teacher_on_dev.value)

    @property
    def compared(self) -> Dataset:
        """The dev table."""
        return self.tables.dev

    @cached_property
    def judge(self) -> Judge:
        """The dev table."""
        return Judge(self.dev, self.teacher_on_dev)

    def rate(self) -> float:
        """From its pass over the dev texts."""
        assert self.teacher_on_dev
        return self._rate

    def teacher(self, batches: Any, layers: int, *, cache: Path, precision: Precision) -> Teacher:
        """Hidden states of its layers, and logits."""
        need, name = Need(hidden=frozenset(range(1, layers + 1))), digest(*batches.content)
        return teacher_of(self.loaded.model, need, batches, cache=cache, precision=precision, name=name)

    def learner(
        self,
        model: PreTrainedModel,
        teacher: Any,
        bound: Bound,
        projections: Mapping[int, Tensor] | None,
    ) -> Distiller:
        """Hidden states are matched, and logits."""
        ours, theirs = shape_of(model.config), bound.shape
        compared = Match(
            layer_map(ours.layers, theirs.layers, "uniform"), "none", 1, hidden=True, embedding=False
        )
        losses = Intermediate(compared, ours, theirs, start=projections, seed=self.seed)
        return Distiller(model, teacher, intermediate=losses, task=self.task, embeddings=self._match(teacher))

    def longer(self, place: Path, rows: int) -> Dataset | None:
        """With more augmented copies; so many of the texts where not all can be read."""
        train = self.tables.train
        if rows < len(train):
            return drawn(train, rows, self.seed)
        return self.augmented(place, min(MORE, rows // len(train) - 1))

    def answering(
        self, model: PreTrainedModel, batches: Any, teacher: Any, *, cache: Path, precision: Precision
    ) -> Distiller:
        """Logits are matched; of an embedding model in batches of like topics."""
        if isinstance(teacher, CachedTeacher):
            teacher = teacher.logits_only()
        else:
            options: Any = {"cache": cache, "precision": precision, "name": digest(*batches.content)}
            teacher = teacher_of(self.loaded.model, Need(), batches, **options)
        match = self._match(teacher)
        if match is not None and match.others is not None:
            batches.near = match.others.numpy()
        return Distiller(model, teacher, task=self.task, embeddings=match)

    def _match(self, teacher: Teacher) -> EmbeddingMatch | None:
        """How embeddings are compared, of a task that asks for them."""
        return EmbeddingMatch(others=near(teacher)) if isinstance(self.task, Embedding) else None

    def report(self, models: Mapping[str, tuple[Role, Path]], **options: Any) -> Report:
        """With intervals over rows."""
        opened = [(role, open_model(place, name=name)) for name, (role, place) in models.items()]
        window: dict[str, Any] = {
            "max_length": self.window["max_length"],
            "doc_stride": self.window["stride"],
        }
        return compare(opened, self.tables.test, **window, **options)

    def batches(self, table: Dataset, *, shuffle: bool = True) -> Batches:
        """Batches of a table."""
        encoded = self.task.encode(table, self.loaded.tokenizer, **self.window)
        return Batches(encoded, self.loaded.tokenizer, batch_size=BATCH, shuffle=shuffle, seed=self.seed)

    def in_order(self, table: Dataset) -> Batches:
        """Not shuffled."""
        return self.batches(table, shuffle=False)

    def lengths(self) -> np.ndarray:
        """Tokens of each dev text."""
        found: np.ndarray = self.dev.batches.lengths
        return found

    @property
    def key(self) -> str:
        """A digest of the teacher, the texts and how they are read."""
        read = self.in_order(self.tables.train)
        return digest(self.loaded.model, *read.content, *self.dev.batches.content, self.window, self.seed)

    def table(self, place: Path, affordable: int) -> Dataset:
        """With augmented copies of each, as many as the teacher can read; or only some of them."""
        rows = max(affordable, LEAST)
        if rows < len(self.tables.train):
            say(
                f"{rows:,} of {len(self.tables.train):,} texts are learned from: the teacher reads no more in the time"
            )
            return drawn(self.tables.train, rows, self.seed)
        copies = self.copies(affordable)
        if copies:
            say(f"{copies} augmented copies of each text are made, of as many as the teacher can read")
        return self.augmented(place, copies)

    def augmented(self, place: Path, copies: int) -> Dataset:
        """The training texts with copies in which words are replaced by their neighbours in the teacher's embedding."""
        train = self.tables.train
        if copies < 1 or self.task.per_token:
            return train
        out = place / f"augmented-{copies}"
        if not out.exists():
            more = augment(
                train,
                EmbeddingCandidates(self.loaded.model, self.loaded.tokenizer),
                copies=copies,
                seed=self.seed,
            )
            part = out.with_suffix(".part")
            more.save_to_disk(str(part))
            part.rename(out)
        return Dataset.load_from_disk(str(out))

    def copies(self, affordable: int) -> int:
        """How many augmented copies of each text to make, where the teacher can read so many rows in the time."""
        rows = len(self.tables.train)
        return int(max(0, min(COPIES, (min(ROWS, affordable) - rows) // max(1, rows))))


def check_teacher(task: Task, said: Evaluation) -> None:
    """Refuse a teacher that is no better than the most frequent label, or whose answers have nothing to do with labels.

    Raises:
        ModelError: it is at chance on the dev table.
    """
    if said.labels is None:
        return
    # About two standard errors of a correlation that is none.
    least = 2 * len(said.labels) ** -0.5 if task.kind == "regression" else 0.0
    if not said.value > least:
        raise ModelError(
            expected=f"a teacher whose {metric_name(said.main)} is above {least:.2g}, which is chance",
            found=f"{said.value:.2g} on {len(said.labels)} labelled texts",
            fix="check that the labels are the model's own, or fine-tune it first (attar finetune)",
        )
    if task.kind != "single_label" or task.per_token:
        return
    labels = np.asarray(said.labels)
    frequent = float(np.bincount(labels).max() / len(labels))
    right = float((said.predictions == labels).mean())
    error = 2 * (frequent * (1 - frequent) / len(labels)) ** 0.5
    if right <= frequent + error:
        raise ModelError(
            expected="a teacher that is better than its most frequent label",
            found=f"{right:.1%} right on {len(labels)} labelled texts, of which {frequent:.1%} have that label",
            fix="check that the labels are named as the model's, or fine-tune it first (attar finetune)",
        )
