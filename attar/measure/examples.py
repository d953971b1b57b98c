"""A handful of texts for people to look at: where student and teacher part ways, and where they do not."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from attar.measure.evaluate import Evaluation
from attar.measure.report import Example, Role, Said
from attar.model.tasks import Task

if TYPE_CHECKING:
    from datasets import Dataset


def examples(
    table: "Dataset", evaluations: Mapping[str, tuple[Role, Evaluation]], *, count: int = 6
) -> tuple[Example, ...]:
    """Choose `count` texts and tell what each model says of them.

    A third are those on which the last model differs most from the first, the others stand at even distances in the
    table, so that the choice neither flatters nor repeats itself.

    Args:
        table: columns `text`, [`text_pair`], in the row order of the evaluations.
        evaluations: by name, the role and the evaluation of each model; the first is the teacher.
        count: at most.
    """
    runs = [run for _, run in evaluations.values()]
    distance = np.abs(runs[0].probabilities - runs[-1].probabilities).sum(axis=-1)
    apart = [int(i) for i in np.argsort(-distance, kind="stable")[: count // 3] if distance[i] > 0]
    rest = [i for i in range(len(table)) if i not in set(apart)]
    even = np.linspace(0, len(rest) - 1, max(0, min(count - len(apart), len(rest)))).round().astype(int)
    rows = sorted({*apart, *(rest[i] for i in even)})
    return tuple(
        Example(
            text=table[row]["text"],
            text_pair=table[row].get("text_pair"),
            label=None if runs[0].labels is None else _name(runs[0].task, runs[0].labels[row]),
            says=tuple(_said(name, role, run, row) for name, (role, run) in evaluations.items()),
        )
        for row in rows
    )


def _said(name: str, role: Role, run: Evaluation, row: int) -> Said:
    chances = run.probabilities[row]
    probability = None if run.task.kind == "regression" else float(chances.max())
    return Said(name, role, _name(run.task, run.predictions[row]), probability)


def _name(task: Task, value: Any) -> str:
    """A class name, the names of several, or a score."""
    if task.kind == "regression":
        return f"{float(value):.2f}"
    if task.kind == "multi_label":
        return ", ".join(label for label, on in zip(task.labels, value, strict=True) if on) or "none"
    return task.labels[int(value)]
