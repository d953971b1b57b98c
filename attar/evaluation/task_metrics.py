"""Which figures a kind of task is judged by."""

import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attar.data.tasks import Kind, Task
from attar.data.token_classification import Tagging
from attar.evaluation import answers
from attar.maths import statistics
from attar.maths.statistics import Metric

Array = NDArray[Any]

# The figure that a task is judged by where it has labels; without labels it is the agreement with the teacher.
MAIN: dict[Kind, str] = {
    "single_label": "accuracy",
    "multi_label": "micro_f1",
    "regression": "spearman",
    "tags": "f1",
    "answer": "f1",
    "embedding": "spearman",
}
ENTITIES: dict[str, Metric] = {
    "f1": answers.entity_f1,
    "precision": answers.entity_precision,
    "recall": answers.entity_recall,
}
SQUAD: dict[str, Metric] = {"exact_match": answers.exact_match, "f1": answers.answer_f1}


def prediction_metrics(task: Task, said: Array, truth: Array) -> dict[str, float]:
    """Figures of answers (S,) against the right ones.

    - answer: exact_match and f1, those of SQuAD's official scripts, as fractions.
    - embedding: spearman and pearson of the similarities of pairs; of labels 0 and 1, and with sentence-transformers
      installed, also its pair_accuracy, at the best threshold, and average_precision.
    - tags: f1, precision and recall of entities as seqeval counts them, where tags are of chunks; accuracy of words.
    """
    found: Mapping[str, Metric] = SQUAD
    if task.kind == "embedding":
        found = {"spearman": spearman, "pearson": pearson}
        if set(np.unique(truth)) == {0, 1} and find_spec("sentence_transformers") is not None:
            found = {**found, "pair_accuracy": _pair_accuracy, "average_precision": _average_precision}
    if task.kind == "tags":
        found = {**(ENTITIES if main_of(task) == "f1" else {}), "accuracy": answers.tag_accuracy}
    return {name: float(metric(said, truth)) for name, metric in found.items()}


def _pair_accuracy(said: Array, truth: Array) -> float:
    """Share of pairs that the best threshold of their similarities tells apart, as sentence-transformers has it."""
    from sentence_transformers.sentence_transformer.evaluation import BinaryClassificationEvaluator

    best: tuple[float, float] = BinaryClassificationEvaluator.find_best_acc_and_threshold(said, truth, True)
    return best[0]


def _average_precision(said: Array, truth: Array) -> float:
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(truth, said))


def main_of(task: Task) -> str:
    """The name of the figure that a task is judged by."""
    return "accuracy" if isinstance(task, Tagging) and not task.chunks else MAIN[task.kind]


def main_metric(task: Task) -> Metric:
    """The metric of that figure, over what was said and what is right."""
    metric: dict[Kind, Metric] = {
        "single_label": statistics.accuracy,
        "multi_label": statistics.micro_f1,
        "regression": spearman,
        "tags": answers.entity_f1 if main_of(task) == "f1" else answers.tag_accuracy,
        "answer": answers.answer_f1,
        "embedding": spearman,
    }
    return metric[task.kind]


def agreement_metric(task: Task) -> Metric:
    """How much of what two models say is the same, see `attar.evaluation.quality.same`."""
    metric: dict[Kind, Metric] = {
        "regression": pearson,
        "tags": answers.tag_accuracy,
        "answer": answers.same_answer,
        "embedding": rank_agreement,
    }
    return metric.get(task.kind, statistics.accuracy)


def _ranked_alike(said: Array, teacher_said: Array) -> tuple[Array, Array]:
    ours, theirs = (x if x.ndim > 1 else _standard_ranks(x)[:, None] for x in (said, teacher_said))
    return (ours * theirs).mean(axis=1), np.ones(len(ours))


def _standard_ranks(scores: Array) -> Array:
    from scipy import stats

    ranks = stats.rankdata(scores)
    return np.asarray((ranks - ranks.mean()) / (ranks.std() or 1.0))


# Rank correlation of similarities: of each text with other texts, averaged over texts; of pairs (S,), over all pairs.
rank_agreement = statistics.Ratio(_ranked_alike)


def spearman(scores: Array, labels: Array) -> float:
    """Of scores (S,); NaN where all are the same."""
    return _correlation("spearmanr", scores, labels)


def pearson(scores: Array, labels: Array) -> float:
    """Of scores (S,); NaN where all are the same."""
    return _correlation("pearsonr", scores, labels)


def _correlation(name: str, scores: Array, labels: Array) -> float:
    """Coefficient of scipy, without its warning where one side is constant and the result NaN."""
    from scipy import stats

    if len(scores) < 2:
        return float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        warnings.simplefilter("ignore", stats.NearConstantInputWarning)
        return float(getattr(stats, name)(scores, labels).statistic)
