"""Figures of answers that are more than a class: spans of a context (SQuAD), and entities in a sentence.

Each is a ratio of two sums over questions or sentences (`statistics.Ratio`), so that these, not their tokens, are what
the bootstrap draws.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attar.maths.statistics import Ratio

Array = NDArray[Any]
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
Chunk = tuple[str, int, int]


def normalise(answer: str) -> str:
    """An answer as SQuAD's script compares it: lower case, no ASCII punctuation, no articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def overlap(prediction: str, answer: str, *, none: float) -> float:
    """F1 of the words that two answers share, each as often as it stands in both.

    Args:
        prediction, answer: as they stand in their texts.
        none: what two answers are worth of which nothing is left once they are normalised.
    """
    ours, theirs = normalise(prediction).split(), normalise(answer).split()
    if not ours and not theirs:
        return none
    same = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * same / (len(ours) + len(theirs))


def _squad(score: Callable[[str, str, float], float]) -> Ratio:
    """The mean over questions of the best score among the right answers, as the official scripts have it.

    Where some question has no answer the rules of version 2.0 hold: right answers of which nothing is left are no
    answers, and "no answer" is worth 1 where it is right. In version 1.1 nothing shares no word with nothing.
    """

    def parts(predictions: Array, truth: Array) -> tuple[Array, Array]:
        second = not all(truth)
        scores = []
        for said, answers in zip(predictions, truth, strict=True):
            right = [a for a in answers if normalise(a)] or [""] if second else answers
            scores.append(max(score(said, answer, float(second)) for answer in right))
        return np.array(scores, dtype=np.float64), np.ones(len(scores))

    return Ratio(parts)


def _same_answer(predictions: Array, truth: Array) -> tuple[Array, Array]:
    same = [normalise(a) == normalise(b) for a, b in zip(predictions, truth, strict=True)]
    return np.array(same, dtype=np.float64), np.ones(len(same))


exact_match = _squad(lambda said, answer, _: float(normalise(said) == normalise(answer)))
answer_f1 = _squad(lambda said, answer, none: overlap(said, answer, none=none))
same_answer = Ratio(_same_answer)


def entities(tags: Sequence[str]) -> set[Chunk]:
    """Type, first and last word of each entity, as seqeval's default mode reads tags: IOB1, IOB2 and BIOES alike.

    A word begins an entity where its tag says so (B, S), where it is of another type than the word before, or where it
    goes on (I, E) after an end or after nothing.
    """
    found, begin = set(), 0
    parted = [("O", "_"), *((tag[:1], tag[1:].split("-", 1)[-1] or "_") for tag in tags), ("O", "_")]
    for place, ((before, old), (mark, new)) in enumerate(pairwise(parted)):
        changed = old != new
        ends = before in "ES" or (before in "BI" and mark in "BSO") or (before not in "O." and changed)
        begins = mark in "BS" or (before in "ESO" and mark in "EI") or (mark not in "O." and changed)
        if before != "O" and ends:
            found.add((old, begin, place - 1))
        if begins:
            begin = place
    return found


def _entities(top: Callable[[int, int, int], float], bottom: Callable[[int, int, int], float]) -> Ratio:
    """A ratio of sums of (said and right, said, right) over sentences."""

    def parts(predictions: Array, truth: Array) -> tuple[Array, Array]:
        pairs = [(entities(ours), entities(theirs)) for ours, theirs in zip(predictions, truth, strict=True)]
        sizes = [(len(ours & theirs), len(ours), len(theirs)) for ours, theirs in pairs]
        return np.array([top(*s) for s in sizes], dtype=np.float64), np.array(
            [bottom(*s) for s in sizes], dtype=np.float64
        )

    return Ratio(parts)


def _same_tags(predictions: Array, truth: Array) -> tuple[Array, Array]:
    same = [sum(a == b for a, b in zip(*rows, strict=True)) for rows in zip(predictions, truth, strict=True)]
    return np.array(same, dtype=np.float64), np.array([len(row) for row in truth], dtype=np.float64)


entity_f1 = _entities(lambda hits, said, right: 2 * hits, lambda hits, said, right: said + right)
entity_precision = _entities(lambda hits, said, right: hits, lambda hits, said, right: said)
entity_recall = _entities(lambda hits, said, right: hits, lambda hits, said, right: right)
tag_accuracy = Ratio(_same_tags)
