"""Documents as passages to search in, and queries drawn from them where there are none."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attar.data.files import open_table
from attar.data.tables import SampleBy, read_texts
from attar.errors import DataError
from attar.progress import say

# Files of a folder that are read, whatever lies beside them.
SUFFIXES = (".txt", ".text", ".md", ".rst")
# Where a sentence ends; a full stop of Chinese and Japanese needs no space after it.
END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])\s*")
# Letters of a sentence that is a query; "See above." asks for nothing.
LEAST = 20


@dataclass(frozen=True)
class Drawn:
    """A query that is a sentence of a passage.

    Attributes:
        text: the sentence.
        passage: number of the passage.
        rest: the passage without it; empty where there is nothing else.
    """

    text: str
    passage: int
    rest: str


def read_passages(source: Any, *, sample_by: SampleBy | None = None) -> list[str]:
    """Passages in order, each once.

    Args:
        source: a folder (of .txt, .text, .md and .rst files, those of folders in it too), a text file, a table with
            the column `text`, or what `read_texts` reads.
        sample_by: what a passage is in a file; a line where None, and a paragraph of a folder's files.

    Raises:
        DataError: no such file; a folder without texts; and what `read_texts` raises.
    """
    path = Path(source) if isinstance(source, str | Path) else None
    if path is not None and path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and not _hidden(file, path))
        source = [file for file in files if file.suffix.lower() in SUFFIXES]
        if not source:
            kinds = sorted({file.suffix for file in files})
            raise DataError(
                expected=f"texts ({', '.join(SUFFIXES)}) in {path}",
                found=f"{len(files)} files" + (f" ({', '.join(kinds[:5])})" if kinds else ""),
                fix="convert documents to plain text first; a collection has corpus.jsonl and queries.jsonl",
            )
        if len(files) > len(source):
            say(f"{len(files) - len(source)} of {len(files)} files in {path} are no texts, and left out")
        sample_by = sample_by or "paragraph"
    elif path is not None and path.suffix in (".csv", ".tsv", ".json", ".jsonl", ".parquet"):
        source = open_table(path, "utf-8-sig")
    texts = (" ".join(text.split()) for text in read_texts(source, sample_by=sample_by or "line")["text"])
    return list(dict.fromkeys(texts))


def _hidden(file: Path, inside: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(inside).parts)


def draw_queries(passages: Sequence[str], *, count: int, seed: int = 0) -> list[Drawn]:
    """A sentence of each of at most `count` passages, drawn at random: the inverse cloze task (1906.00300).

    Of sentences with at least `LEAST` letters, where the passages have any.
    """
    generator = np.random.default_rng(seed)
    found: dict[str, Drawn] = {}
    order = generator.permutation(len(passages)).tolist()
    for least in (LEAST, 1):
        for number in order:
            sentences = [sentence for sentence in END.split(passages[number]) if sentence]
            long = [n for n, sentence in enumerate(sentences) if len(sentence) >= least]
            if not long:
                continue
            at = long[int(generator.integers(len(long)))]
            rest = " ".join(sentences[:at] + sentences[at + 1 :])
            found.setdefault(sentences[at], Drawn(sentences[at], number, rest))
            if len(found) == count:
                break
        if found:
            break
    return list(found.values())
