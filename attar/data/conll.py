"""CoNLL columns: a token a line, its tags in further columns, a blank line between sentences."""

import re
from collections.abc import Sequence

from datasets import Dataset

from attar.errors import DataError

SUFFIXES = (".conll", ".iob", ".iob2", ".bio", ".bioes")
DOCUMENT = "-DOCSTART-"
# Tags of chunks: outside, or a place in the chunk (beginning, inside, end, single, and their other names) and a type.
CHUNK_TAG = re.compile(r"O|[BIESLU]-\S+")
# Lines that decide whether a text file is one of tagged tokens.
LOOKED_AT = 200


def tagged(lines: Sequence[str]) -> bool:
    """Whether lines of a text file are tokens with chunk tags in their last column."""
    rows = [_fields(line) for line in lines[:LOOKED_AT] if line.strip() and not line.startswith(DOCUMENT)]
    return bool(rows) and all(len(row) > 1 and CHUNK_TAG.fullmatch(row[-1]) for row in rows)


def read(lines: Sequence[str], name: str) -> Dataset:
    """Sentences as rows; the columns are named by their numbers, "1" for the first, each a list of strings.

    Raises:
        DataError: a line of another number of columns than the lines before it, or no line at all.
    """
    sentences: list[list[list[str]]] = [[]]
    width = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith(DOCUMENT):
            sentences += [[]] if sentences[-1] else []
            continue
        fields = _fields(line)
        width = width or len(fields)
        if len(fields) != width:
            raise DataError(
                expected=f"{width} columns in every line of {name}: a token and its tags",
                found=f"{len(fields)} in line {number}: {line.strip()[:40]!r}",
                fix="mend that line, or leave it blank where a sentence ends",
            )
        sentences[-1].append(fields)
    sentences = [sentence for sentence in sentences if sentence]
    if not sentences:
        raise DataError(
            expected=f"at least one line with a token in {name}", found="none", fix="check the file"
        )
    return Dataset.from_dict(
        {str(n + 1): [[fields[n] for fields in sentence] for sentence in sentences] for n in range(width)}
    )


def _fields(line: str) -> list[str]:
    # Not split(): a token may be a no-break space, and one between tabs may hold spaces.
    line = line.strip(" \t\r")
    return line.split("\t") if "\t" in line else re.split(" +", line)
