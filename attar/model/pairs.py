"""Pairs of sentences for next-sentence prediction, from documents of one sentence a line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset

from attar.errors import DataError
from attar.model.tables import is_file, read_texts

Documents = list[list[str]]
FOLLOWS, RANDOM = 0, 1  # as BERT's head numbers its answers


def read_documents(source: str | Path | Sequence[str | Path] | Dataset) -> Documents:
    """Read documents of one sentence a line; a blank line, or the end of a file, ends a document.

    Args:
        source: as for `read_texts`; of a list or a dataset, an empty text ends a document.

    Raises:
        DataError: no two lines follow each other, or there are fewer than three to draw another from. And what
            `read_texts` raises.
    """
    if isinstance(source, IterableDataset):
        raise DataError(
            expected="documents that can be read whole, for pairs of sentences",
            found="a stream",
            fix="leave out nsp, or streaming",
        )
    documents: Documents = [[]]
    for line in _lines(source):
        if line.strip():
            documents[-1].append(line.strip())
        elif documents[-1]:
            documents.append([])
    documents = [document for document in documents if document]
    check_documents(documents)
    return documents


def check_documents(documents: Documents) -> None:
    """Raise DataError where no pairs can be made."""
    longest, lines = max(map(len, documents), default=0), sum(map(len, documents))
    if longest < 2 or lines < 3:
        raise DataError(
            expected="documents of one sentence a line with a blank line between them, of two lines at least",
            found=f"{len(documents)} documents, {lines} lines, the longest of {longest}",
            fix="do not part the sentences of a document by blank lines, or leave out nsp",
        )


def next_sentences(documents: Documents, *, seed: int = 0) -> Dataset:
    """Pairs of sentences: each line that has a next one, with that (`FOLLOWS`) or, half the time, another (`RANDOM`).

    The other is of another document where there is one (1810.04805, section 3.1).

    Returns:
        A table of `text`, `text_pair` and `label`.
    """
    generator = np.random.default_rng(seed)
    lines = [(number, line) for number, document in enumerate(documents) for line in document]
    rows: list[dict[str, Any]] = []
    for place, ((number, text), (after, following)) in enumerate(zip(lines, lines[1:], strict=False)):
        if number != after:
            continue
        if generator.random() < 0.5:
            rows.append({"text": text, "text_pair": following, "label": FOLLOWS})
            continue
        other = place
        while other in {place, place + 1} or (len(documents) > 1 and lines[other][0] == number):
            other = int(generator.integers(len(lines)))
        rows.append({"text": text, "text_pair": lines[other][1], "label": RANDOM})
    return Dataset.from_list(rows)


def hold_out(documents: Documents, lines: int) -> tuple[Documents, Documents]:
    """Part documents into those to learn from and the last ones, of at least `lines` lines; one alone is cut."""
    if len(documents) == 1:
        return [documents[0][:-lines]], [documents[0][-lines:]]
    first, count = len(documents), 0
    while first > 1 and (count < lines or all(len(document) < 2 for document in documents[first:])):
        first -= 1
        count += len(documents[first])
    return documents[:first], documents[first:]


def _lines(source: str | Path | Sequence[str | Path] | Dataset) -> list[str]:
    if isinstance(source, Dataset):
        return [text or "" for text in source["text"]] if "text" in source.column_names else []
    read_texts(source)  # which says what is wrong with files
    items = [source] if isinstance(source, str | Path) else list(source)
    if not all(isinstance(item, Path) or is_file(item) for item in items):
        return [str(item) for item in items]
    found: list[str] = []
    for item in items:
        found += [*Path(item).read_text(encoding="utf-8-sig").split("\n"), ""]
    return found
