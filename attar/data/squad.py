"""SQuAD's JSON (versions 1.1 and 2.0), and where in its context an answer stands."""

import re
from collections.abc import Mapping
from typing import Any

from datasets import Dataset

from attar.errors import DataError


def written(text: str) -> bool:
    """Whether a JSON text is one of SQuAD's structure."""
    return text.lstrip("\ufeff \t\r\n").startswith("{") and '"paragraphs"' in text


def read(content: Mapping[str, Any], name: str) -> Dataset:
    """Questions as rows: `id`, `question`, `context`, and `answers` (a list of `text` and `answer_start`) where given.

    Raises:
        DataError: a part of the structure is missing, or some questions have answers and others not even an empty list.
    """
    rows: list[dict[str, Any]] = []
    try:
        for article in content["data"]:
            for paragraph in article["paragraphs"]:
                rows += [_question(item, paragraph["context"]) for item in paragraph["qas"]]
    except (KeyError, TypeError) as error:
        raise DataError(
            expected=f"SQuAD's structure in {name}: data, paragraphs, context, qas, id, question, answers",
            found=f"{type(error).__name__}: {error}, after {len(rows)} questions",
            fix="mend the file after the question "
            + (repr(rows[-1]["id"]) if rows else "that should be the first"),
        ) from error
    answered = [row["answers"] is not None for row in rows]
    if not rows or (any(answered) and not all(answered)):
        without = next((row["id"] for row in rows if row["answers"] is None), None)
        raise DataError(
            expected=f"questions in {name}, with answers for all or for none",
            found=f"no answers for {without!r}" if rows else "none",
            fix="add them (an empty list for a question that has none), or check the file",
        )
    names = ("id", "question", "context", "answers") if answered[0] else ("id", "question", "context")
    return Dataset.from_dict({key: [row[key] for row in rows] for key in names})


def _question(item: Mapping[str, Any], context: str) -> dict[str, Any]:
    answers = [] if item.get("is_impossible") else item.get("answers")
    if answers is not None:
        answers = [{"text": a["text"], "answer_start": int(a["answer_start"])} for a in answers]
    return {"id": str(item["id"]), "question": item["question"], "context": context, "answers": answers}


def place(context: str, text: str, start: int) -> tuple[int, int] | None:
    """The characters that an answer is in its context, from the first to after the last.

    At `start` where it stands there, else at the nearest place where it does; where it stands nowhere letter for
    letter, its words are looked for whatever their case and the space between them. None where they are not there.
    """
    if start >= 0 and context[start : start + len(text)] == text:
        return start, start + len(text)
    for pattern, flags in ((re.escape(text), 0), (r"\s+".join(map(re.escape, text.split())), re.IGNORECASE)):
        found = [match.span() for match in re.finditer(pattern, context, flags)]
        if found:
            return min(found, key=lambda span: abs(span[0] - start))
    return None
