"""What a model gets right on a table: metrics against labels, agreement and divergence against a teacher."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from attar.data.batches import Batches, encode
from attar.data.tasks import Task
from attar.errors import DataError
from attar.evaluation.prediction import predict
from attar.evaluation.ranking import MEAN, NDCG, Queries
from attar.evaluation.task_metrics import agreement_metric, main_metric, main_of, pearson, spearman
from attar.maths import statistics
from attar.maths.statistics import Interval, Metric

if TYPE_CHECKING:
    from datasets import Dataset

    from attar.model.onnx import OnnxModel

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What one model said on a table, and what that is worth.

    Attributes:
        task: what was asked.
        metrics: figures by name; see `metrics`, `agreement` and `kl`.
        main: the name of the figure that counts.
        logits: (N, C), in row order; of a task that asks tokens those of the N tokens of all rows.
        labels: (S,) or (S, C), or None where the table has none.
        said: (S,) what the logits say of each row, where more than they are needed to read it.
        by_query: figures (Q,) of each query, where rows are graded passages of queries.
    """

    task: Task
    metrics: dict[str, float]
    main: str
    logits: Array
    labels: Array | None
    said: Array | None = None
    by_query: Mapping[str, Array] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """The main figure."""
        return self.metrics[self.main]

    def chosen(self, metric: str | None) -> tuple[str, float]:
        """The name and figure that decide which of two models is better: `metric`, the main one where None.

        Raises:
            DataError: a metric that there is not, or of which less is better.
        """
        name, known = metric or self.main, [name for name in self.metrics if name != "kl"]
        if name not in known:
            raise DataError(
                expected=f"a metric among {', '.join(known)}",
                found=repr(metric),
                fix=f"name one of these, or leave it out for {self.main}",
            )
        return name, self.metrics[name]

    @property
    def predictions(self) -> Array:
        """(S,) class numbers, (S, C) zeros and ones, (S,) scores, or (S,) answers."""
        return self.task.predict(self.logits) if self.said is None else self.said

    @property
    def probabilities(self) -> Array:
        """(N, C)."""
        return self.task.probabilities(self.logits)


def metrics(task: Task, logits: Array, labels: Array) -> dict[str, float]:
    """Figures of scikit-learn and scipy for logits (N, C) against labels.

    - single_label: accuracy, f1 (of class 1 where there are two classes, else the mean over the classes that occur),
      matthews.
    - multi_label: micro_f1, macro_f1 (over all labels), accuracy (of whole rows).
    - regression: spearman, pearson; NaN where all scores are the same.

    Those of tags and of answers, which are not read from logits alone: `attar.evaluation.task_metrics.said_metrics`.

    Raises:
        DataError: there is not one label per row.
    """
    if len(labels) != len(logits) or not len(labels):
        raise DataError(
            expected=f"a label for each of {len(logits)} rows (at least 1)",
            found=f"{len(labels)} labels",
            fix="pass the labels of the table that was predicted",
        )
    from sklearn import metrics as sk

    guesses = task.predict(logits)
    if task.kind == "regression":
        return {"spearman": spearman(guesses, labels), "pearson": pearson(guesses, labels)}
    found = {"accuracy": sk.accuracy_score(labels, guesses)}
    if task.kind == "multi_label":
        for average in ("micro", "macro"):
            found[f"{average}_f1"] = sk.f1_score(labels, guesses, average=average, zero_division=0)
    else:
        average = "binary" if len(task.labels) == 2 else "macro"
        found["f1"] = sk.f1_score(labels, guesses, average=average, zero_division=0)
        with warnings.catch_warnings():  # where one class is all there is and all that is said, it is 0
            warnings.filterwarnings("ignore", "A single label was found", UserWarning)
            found["matthews"] = sk.matthews_corrcoef(labels, guesses)
    return {name: float(value) for name, value in found.items()}


def agreement(task: Task, logits: Array, teacher_logits: Array) -> float:
    """Fraction of rows on which student and teacher predict the same (all labels of the row); Pearson for a score."""
    return same(task, task.predict(logits), task.predict(teacher_logits))


def same(task: Task, said: Array, teacher_said: Array) -> float:
    """How much of what student and teacher say is the same.

    Fraction of rows (all labels of a row), of words that get the same tag, of questions with the same answer (as SQuAD
    compares them); Pearson for a score.
    """
    return float(agreement_metric(task)(said, teacher_said))


def kl(task: Task, logits: Array, teacher_logits: Array) -> float:
    """Mean over rows of KL(teacher || student) in nats, from logits (N, C) each, in float64.

    Of the class distributions; for a multi-label task the sum over the C yes-or-no distributions. A score has no
    distribution: NaN.
    """
    if task.kind == "regression":
        return float("nan")
    pair = np.asarray(logits, dtype=np.float64), np.asarray(teacher_logits, dtype=np.float64)
    if task.kind == "multi_label":  # the logit x of yes-or-no is the pair of logits (0, x)
        student, teacher = (np.stack([np.zeros_like(x), x], axis=-1) for x in pair)
        return divergence(student, teacher)
    return divergence(*pair)


def divergence(logits: Array, teacher_logits: Array) -> float:
    """Mean over rows of KL(teacher || student) in nats, of the distributions along the last axis, in float64."""
    student, teacher = (torch.from_numpy(np.asarray(x, dtype=np.float64)) for x in (logits, teacher_logits))
    target = teacher.log_softmax(-1)
    total = torch.nn.functional.kl_div(student.log_softmax(-1), target, reduction="sum", log_target=True)
    return max(0.0, total.item() / len(logits))  # rounding can leave -1e-17


def evaluate(
    model: "torch.nn.Module | OnnxModel",
    table: "Dataset",
    *,
    tokenizer: Any,
    task: Task,
    teacher_logits: Array | None = None,
    batch_size: int = 32,
    max_length: int = 128,
) -> Evaluation:
    """Predict on a table and measure, against its labels where it has any and against a teacher where one is given.

    Args:
        model: a transformers model with a classification head, or an exported one.
        table: columns `text`, [`text_pair`], [`label`], as `read_table` gives them.
        teacher_logits: (N, C) of the teacher on the same rows; adds `agreement` and (but for scores) `kl`.

    Raises:
        DataError: there are neither labels nor teacher logits, or the teacher's are of other rows.
    """
    if "label" not in table.column_names and teacher_logits is None:
        raise DataError(
            expected="something to measure against",
            found="a table without labels, and no teacher",
            fix="name the label column, or give the teacher, whose agreement is then measured",
        )
    batches = Batches(encode(table, tokenizer, max_length=max_length), tokenizer, batch_size=batch_size)
    logits = predict(model, batches)
    labels = None if batches.labels is None else batches.labels.numpy()
    return judge(task, logits, labels, teacher_logits=teacher_logits)


def judge(
    task: Task,
    logits: Array,
    labels: Array | None,
    *,
    teacher_logits: Array | None = None,
    queries: Queries | None = None,
) -> Evaluation:
    """The `Evaluation` of logits (N, C) that were computed before; see `evaluate`.

    Args:
        queries: whose passages the rows are; how well these are ranked is the main figure where there are labels.

    Raises:
        DataError: the teacher's logits are of another shape.
    """
    found = {} if labels is None else metrics(task, logits, labels)
    if teacher_logits is not None:
        if teacher_logits.shape != logits.shape:
            raise DataError(
                expected=f"teacher logits of shape {logits.shape}",
                found=str(teacher_logits.shape),
                fix="run the teacher on the same table; both models need the same labels",
            )
        found["agreement"] = agreement(task, logits, teacher_logits)
        if queries is not None:
            found["top_1_agreement"] = queries.same_first(task.predict(logits), task.predict(teacher_logits))
        if task.kind != "regression":
            found["kl"] = kl(task, logits, teacher_logits)
    if labels is None:
        return Evaluation(task, found, "agreement", logits, labels)
    if queries is None:
        return Evaluation(task, found, main_of(task), logits, labels)
    each = queries.figures(task.predict(logits), labels)
    found = {name: float(values.mean()) for name, values in each.items()} | found
    return Evaluation(task, found, NDCG, logits, labels, by_query=each)


def quality(evaluation: Evaluation, teacher: Evaluation, *, resamples: int = 2000, seed: int = 0) -> Interval:
    """95% interval of the main figure over resampled rows (`statistics.bootstrap`); a teacher agrees with itself.

    Where passages of queries are ranked, queries are drawn, here as below.
    """
    metric, truth = _main(evaluation, teacher)
    alone = evaluation is teacher and evaluation.labels is None
    if alone and evaluation.task.kind not in ("regression", "embedding"):
        return Interval(1.0, 1.0, 1.0)
    return statistics.bootstrap(metric, _drawn(evaluation), truth, resamples=resamples, seed=seed)


def retained(
    student: Evaluation | Sequence[Evaluation], teacher: Evaluation, *, resamples: int = 2000, seed: int = 0
) -> Interval:
    """95% interval of the student's main figure over the teacher's, on the same rows (`statistics.paired_bootstrap`).

    Several evaluations are the same student from several seeds. Without labels the teacher's own predictions are the
    truth, and what is retained is the agreement.
    """
    runs = [student] if isinstance(student, Evaluation) else list(student)
    metric, truth = _main(runs[0], teacher)
    said = [_drawn(run) for run in runs]
    return statistics.paired_bootstrap(
        metric,
        said[0] if len(said) == 1 else said,
        _drawn(teacher),
        truth,
        resamples=resamples,
        seed=seed,
    )


def difference(student: Evaluation, teacher: Evaluation, *, resamples: int = 2000, seed: int = 0) -> Interval:
    """95% interval of the student's main figure less the teacher's; otherwise as `retained`."""
    metric, truth = _main(student, teacher)
    said = _drawn(student), _drawn(teacher)
    return statistics.paired_bootstrap(
        metric, *said, truth, statistic="difference", resamples=resamples, seed=seed
    )


def luck(student: Evaluation, teacher: Evaluation, *, rounds: int = 2000, seed: int = 0) -> float:
    """Chance that two models of one quality differ by as much in the student's favour (`statistics.swap_test`)."""
    metric, truth = _main(student, teacher)
    return statistics.swap_test(metric, _drawn(student), _drawn(teacher), truth, rounds=rounds, seed=seed)


def _main(evaluation: Evaluation, teacher: Evaluation) -> tuple[Metric, Array]:
    task = evaluation.task
    if evaluation.labels is None:
        return agreement_metric(task), teacher.predictions
    if evaluation.by_query:
        return MEAN, np.zeros(len(_drawn(evaluation)))
    return main_metric(task), evaluation.labels


def _drawn(evaluation: Evaluation) -> Array:
    """What is drawn anew for an interval: predictions (S,) of rows, or the main figure (Q,) of each query."""
    return evaluation.by_query[evaluation.main] if evaluation.by_query else evaluation.predictions
