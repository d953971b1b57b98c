"""Evaluates models on one table, which is tokenized once."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray

from attar.data.batches import Batches
from attar.data.embedding_task import Embedding
from attar.data.tasks import Task
from attar.errors import DataError
from attar.evaluation import prediction, quality, task_metrics
from attar.evaluation.quality import Evaluation
from attar.evaluation.ranking import Queries

if TYPE_CHECKING:
    from attar.model.onnx import OnnxModel

Array = NDArray[Any]


class TableEvaluator:
    """Evaluates models on the rows of a table.

    Args:
        task: what is asked.
        table: as `read_table` gives it.
        tokenizer: the model's.
        batch_size: rows, or windows of them, that are answered at a time.
        max_length: in tokens; the task's own where None.
        stride: tokens that neighbouring windows share.

    Attributes:
        batches: the encoded rows.
        truth: (S,) or (S, C) what the labels say of each row, None where there are none.
        queries: whose graded passages the rows are; None where they are none.
    """

    def __init__(
        self,
        task: Task,
        table: Dataset,
        tokenizer: Any,
        *,
        batch_size: int = 32,
        max_length: int | None = None,
        stride: int = 128,
    ) -> None:
        self.task, self.table = task, table
        self.encoded = task.encode(table, tokenizer, max_length=max_length or task.max_length, stride=stride)
        self.batches = Batches(self.encoded, tokenizer, batch_size=batch_size)
        self.truth = task.truth(table)
        self.queries = Queries.of(task, table)

    def logits(self, model: "torch.nn.Module | OnnxModel") -> Array:
        """A model's logits, see `attar.evaluation.prediction.predict`."""
        return prediction.predict(model, self.batches)

    def evaluate_logits(self, logits: Array, teacher: Evaluation | None = None) -> Evaluation:
        """Metrics of logits: against the labels where there are any, and against a teacher where there is one.

        Raises:
            DataError: the teacher answered other rows, or has other outputs.
        """
        if self.task.answers_by_row:
            theirs = None if teacher is None else teacher.logits
            return self._judge(logits, theirs)
        said = self.task.answers(logits, self.encoded, self.table)
        metrics = {} if self.truth is None else task_metrics.prediction_metrics(self.task, said, self.truth)
        main = "agreement" if self.truth is None else task_metrics.main_of(self.task)
        found = Evaluation(self.task, metrics, main, logits, self.truth, said)
        return found if teacher is None else self._against(found, teacher)

    def evaluate_teacher(self, logits: Array) -> Evaluation:
        """A teacher's evaluation: held against the labels and against itself."""
        if self.task.answers_by_row:
            return self._judge(logits, logits)
        alone = self.evaluate_logits(logits)
        return self._against(alone, alone)

    def evaluate(self, model: "torch.nn.Module | OnnxModel", teacher: Evaluation | None = None) -> Evaluation:
        """Run a model over the table and evaluate its logits."""
        return self.evaluate_logits(self.logits(model), teacher)

    def _judge(self, logits: Array, theirs: Array | None) -> Evaluation:
        given: dict[str, Any] = {"teacher_logits": theirs, "queries": self.queries}
        return quality.judge(self.task, logits, self.truth, **given)

    def _against(self, found: Evaluation, teacher: Evaluation) -> Evaluation:
        if len(found.predictions) != len(teacher.predictions):
            raise DataError(
                expected=f"a teacher on the same {len(found.predictions)} rows",
                found=f"answers to {len(teacher.predictions)}",
                fix="run the teacher on the same table",
            )
        agreed = quality.same(self.task, found.predictions, teacher.predictions)
        metrics = {**found.metrics, "agreement": agreed}
        if isinstance(self.task, Embedding):
            metrics["overlap_10"] = self.task.nearest(found.logits, teacher.logits)
        elif found.logits.shape == teacher.logits.shape:  # of the same tokens; another tokenizer has others
            decided = (self.task.decided(run.logits, self.encoded) for run in (found, teacher))
            metrics["kl"] = quality.divergence(*decided)
        return replace(found, metrics=metrics)


def rows_of(logits: Array, batches: Batches, rows: Array, *, per_token: bool) -> Array:
    """Those of the logits of all rows that are of some rows, one row after the other."""
    if not per_token:
        return logits[rows]
    stops = np.cumsum(batches.lengths)
    return np.concatenate([logits[stops[row] - batches.lengths[row] : stops[row]] for row in rows])
