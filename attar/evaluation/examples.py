"""A handful of texts for people to look at: where student and teacher part ways, and where they do not."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attar.evaluation.quality import Evaluation
from attar.report.report import Example, ModelPrediction, Role

if TYPE_CHECKING:
    from datasets import Dataset


def examples(
    table: "Dataset", evaluations: Mapping[str, tuple[Role, Evaluation]], *, count: int = 6
) -> tuple[Example, ...]:
    """Choose `count` texts with what each model predicts.

    A third are those on which the last model differs most from the first, the others stand at even distances in the
    table, so that the choice neither flatters nor repeats itself.

    Args:
        table: the rows of the evaluations, in their order.
        evaluations: by name, the role and the evaluation of each model; the first is the teacher.
        count: at most.
    """
    runs = [run for _, run in evaluations.values()]
    if runs[0].predictions.ndim > 1 and runs[0].task.kind == "embedding":
        return ()  # an embedding of one text says nothing to a reader
    distance = _distance(runs[0], runs[-1])
    apart = [int(i) for i in np.argsort(-distance, kind="stable")[: count // 3] if distance[i] > 0]
    rest = [i for i in range(len(table)) if i not in set(apart)]
    even = np.linspace(0, len(rest) - 1, max(0, min(count - len(apart), len(rest)))).round().astype(int)
    rows = sorted({*apart, *(rest[i] for i in even)})
    return tuple(_example(table[row], row, evaluations) for row in rows)


def _distance(one: Evaluation, other: Evaluation) -> NDArray[Any]:
    """(S,) how far apart two models are on each row: of their probabilities, or whether they say the same."""
    if one.said is None:
        return np.asarray(np.abs(one.probabilities - other.probabilities).sum(axis=-1))
    pairs = zip(one.predictions, other.predictions, strict=True)
    if one.task.kind == "embedding":
        return np.asarray(np.abs(one.predictions - other.predictions))
    return np.array([float(ours != theirs) for ours, theirs in pairs])


def _example(
    given: Mapping[str, Any], row: int, evaluations: Mapping[str, tuple[Role, Evaluation]]
) -> Example:
    first = next(iter(evaluations.values()))[1]
    text, pair = first.task.text(given)
    return Example(
        text=text,
        text_pair=pair,
        label=None if first.labels is None else first.task.as_text(first.labels[row], given),
        says=tuple(_said(name, role, run, row, given) for name, (role, run) in evaluations.items()),
    )


def _said(name: str, role: Role, run: Evaluation, row: int, given: Mapping[str, Any]) -> ModelPrediction:
    certain = run.said is not None or run.task.kind == "regression"
    probability = None if certain else float(run.probabilities[row].max())
    return ModelPrediction(name, role, run.task.as_text(run.predictions[row], given), probability)
