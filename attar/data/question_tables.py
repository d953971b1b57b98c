"""Tables of questions about contexts: SQuAD's JSON, or columns with the same names."""

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from attar.data import squad
from attar.data.columns import Columns, choose, reject_rows
from attar.data.question_answering import Answering
from attar.data.tasks import Task
from attar.errors import DataError
from attar.progress import say

ROLES = ("id", "question", "context", "answers")
SHOWN = 10
NOWHERE = [-1, -1]


def recognises(table: Dataset, columns: Columns | None, task: Task | None) -> bool:
    """Whether a table is one of questions with contexts."""
    if task is not None:
        return isinstance(task, Answering)
    return {"question", "context"} <= {*(columns or {}), *table.column_names}


def read(
    table: Dataset,
    name: str,
    *,
    columns: Columns | None = None,
    task: Task | None = None,
    require: bool = False,
    labels: bool = True,
) -> tuple[Dataset, Answering | None]:
    """Questions with their contexts, and their answers with their places where there are any.

    Args:
        table: columns `question` and `context`, [`id`], [`answers`]: a list of `{text, answer_start}`, a
            `{text: […], answer_start: […]}`, or a list of texts; an empty one says that there is no answer.
        name: of the table, for errors.
        columns, require, labels: see `read_table`.
        task: the model's, where there is one.

    Returns:
        Columns `id`, `question`, `context`, and `answers` (texts) and `spans` (first character and that after the last;
        -1 where the context does not hold the answer), and the task.

    Raises:
        DataError: an empty question or context; answers that no context holds; not one question with an answer.
    """
    table = choose(table, columns, ROLES, ROLES[1:] if require else ROLES[1:3])
    for column in ("question", "context"):
        bad = [i for i, text in enumerate(table[column]) if not isinstance(text, str) or not text.strip()]
        reject_rows(bad, len(table), name, column)
    ids = table["id"][:] if "id" in table.column_names else range(1, len(table) + 1)
    found = Dataset.from_dict(
        {"id": list(map(str, ids)), "question": table["question"][:], "context": table["context"][:]}
    )
    if "answers" not in table.column_names or not labels:
        return found, task if isinstance(task, Answering) else None
    answers = [_answers(value, row, name) for row, value in enumerate(table["answers"], start=1)]
    spans = [
        [list(squad.place(context, text, start) or NOWHERE) for text, start in row]
        for context, row in zip(found["context"], answers, strict=True)
    ]
    _tell_lost(found["id"][:], spans, name)
    if require and not any(spans):
        raise DataError(
            expected="at least one question that has an answer",
            found=f"none in {name}",
            fix="check the column of the answers",
        )
    if task is None:
        task = Answering("answer", ("start", "end"), impossible=not all(spans))
    found = found.add_column("answers", [[text for text, _ in row] for row in answers])
    assert isinstance(task, Answering)
    return found.add_column("spans", spans), task


def _answers(value: Any, row: int, name: str) -> list[tuple[str, int]]:
    """Texts with where they should begin, -1 where that is not said; those that are all blanks are none."""
    if isinstance(value, Mapping):
        texts, starts = value.get("text"), value.get("answer_start")
        pairs = list(zip(texts, starts, strict=True)) if texts and starts else [(t, -1) for t in texts or ()]
    elif isinstance(value, list):
        pairs = [(a["text"], a.get("answer_start", -1)) if isinstance(a, Mapping) else (a, -1) for a in value]
    elif isinstance(value, str):
        pairs = [(value, -1)]
    else:
        raise DataError(
            expected="answers in every row, an empty list where a question has none",
            found=f"{value!r} in row {row} of {name}",
            fix="write them as SQuAD does: [{'text': …, 'answer_start': …}]",
        )
    # A blank before an answer would be a token of its own.
    return [(t.strip(), int(at) + len(t) - len(t.lstrip())) for t, at in pairs if t.strip()]


def _tell_lost(ids: Sequence[str], spans: Sequence[Sequence[Sequence[int]]], name: str) -> None:
    """Say which questions have answers, and none that its context holds."""
    lost = [
        i for i, row in zip(ids, spans, strict=True) if row and all(list(span) == NOWHERE for span in row)
    ]
    if not lost:
        return
    shown = ", ".join(lost[:SHOWN]) + (f" and {len(lost) - SHOWN} more" if len(lost) > SHOWN else "")
    if len(lost) == sum(map(bool, spans)):
        raise DataError(
            expected=f"answers that occur in their contexts in {name}",
            found=f"none that does, of {len(lost)} questions ({shown})",
            fix="check which context belongs to which question, and the encoding of the file",
        )
    say(
        f"{len(lost)} of {len(spans)} questions in {name} have an answer that their context does not hold: "
        f"they teach nothing, and count where a model is measured ({shown})"
    )
