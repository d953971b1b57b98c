"""Plain text for pre-training: what to learn from and what to measure on, as single texts or as pairs of sentences."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from datasets import Dataset, IterableDataset

from attar.data.folders import texts_in
from attar.data.tables import SampleBy, is_file, is_folder, read_texts
from attar.errors import DataError
from attar.progress import say

Documents = list[list[str]]
Texts: TypeAlias = str | Path | Sequence[str | Path] | Dataset | IterableDataset
# Held out where no dev texts are given: a twentieth, and no more than give the loss to two digits.
HELD, MOST_HELD = 0.05, 1000
FOLLOWS, RANDOM = 0, 1  # as BERT's head numbers its answers


@dataclass(frozen=True)
class Corpus:
    """Texts to learn from, a table or a stream, and those to measure on; pairs with labels for `nsp`."""

    train: Dataset | IterableDataset
    dev: Dataset


def read_corpus(
    texts: Texts,
    dev: Texts | None = None,
    *,
    nsp: bool = False,
    streaming: bool = False,
    sample_by: SampleBy = "line",
    seed: int = 0,
) -> Corpus:
    """Read texts, and dev texts or a part that is held out for them: a twentieth, of a stream its first lines.

    Args:
        texts, dev: as for `read_texts`; with `nsp` as for `read_documents`.
        nsp: make pairs of sentences.
        streaming: read `texts` as they are needed.
        sample_by: what a text is in a file, as for `read_texts`.

    Raises:
        DataError: too few lines to hold some out; a stream for pairs. And what reading them raises.
    """
    if nsp:
        return _paired(texts, dev, streaming=streaming, seed=seed)
    train = read_texts(texts, streaming=streaming, sample_by=sample_by)
    if dev is not None:
        held = read_texts(dev, sample_by=sample_by)
        return Corpus(train, held if isinstance(held, Dataset) else _first(held))
    if isinstance(train, IterableDataset):
        return Corpus(train.skip(MOST_HELD), _first(train))
    _check_lines(len(train))
    parts = train.train_test_split(test_size=_share(len(train)), seed=seed)
    say(f"no dev texts: {len(parts['test'])} of {len(train)} are held out")
    return Corpus(parts["train"], parts["test"])


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
    for place, ((number, text), (after, following)) in enumerate(pairwise(lines)):
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


def _paired(texts: Any, dev: Any, *, streaming: bool, seed: int) -> Corpus:
    if streaming:
        raise DataError(
            expected="texts that are read whole, for pairs of sentences",
            found="streaming",
            fix="leave out one",
        )
    documents = read_documents(texts)
    if dev is not None:
        held = read_documents(dev)
    else:
        lines = sum(map(len, documents))
        documents, held = hold_out(documents, max(3, _share(lines)))
        say(f"no dev texts: {sum(map(len, held))} of {lines} lines are held out")
        for part in (documents, held):
            check_documents(part)
    return Corpus(next_sentences(documents, seed=seed), next_sentences(held, seed=seed))


def _first(stream: IterableDataset) -> Dataset:
    rows = [row["text"] for row in stream.take(MOST_HELD + 1)]
    if len(rows) <= MOST_HELD:
        raise DataError(
            expected=f"a stream of more than {MOST_HELD} lines, the first of which are held out",
            found=str(len(rows)),
            fix="give dev texts, or leave out streaming: so few fit in memory",
        )
    return Dataset.from_dict({"text": rows[:MOST_HELD]})


def _share(lines: int) -> int:
    return min(MOST_HELD, max(1, int(HELD * lines)))


def _check_lines(lines: int) -> None:
    if lines < 2:
        raise DataError(
            expected="at least two lines of text, one of them to hold out",
            found=str(lines),
            fix="write one sentence or paragraph a line, or give dev texts",
        )


def _lines(source: str | Path | Sequence[str | Path] | Dataset) -> list[str]:
    if isinstance(source, Dataset):
        return [text or "" for text in source["text"]] if "text" in source.column_names else []
    read_texts(source)  # which says what is wrong with files
    if is_folder(source):
        source = texts_in(Path(str(source)))
    items = [source] if isinstance(source, str | Path) else list(source)
    if not all(isinstance(item, Path) or is_file(item) for item in items):
        return [str(item) for item in items]
    found: list[str] = []
    for item in items:
        found += [*Path(item).read_text(encoding="utf-8-sig").split("\n"), ""]
    return found
