"""Documents as passages to search in, and queries drawn from them where there are none."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attar.data.tables import SampleBy, read_texts

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
        source: as for `read_texts`: a folder, a text file, a table with the column `text`, or texts.
        sample_by: what a passage is in a file, as there.

    Raises:
        DataError: what `read_texts` raises.
    """
    texts = (" ".join(text.split()) for text in read_texts(source, sample_by=sample_by)["text"])
    return list(dict.fromkeys(texts))


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
