"""Words as Unicode segments them, and what a replacement of one must keep."""

import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

import regex

# The w flag makes \b the default word boundary of Unicode (UAX #29): "don't" is one word, Hangul runs stay together.
# Scripts that need a dictionary (Thai, Chinese) come out character by character.
_BOUNDARY = regex.compile(r"(?V1w)\b")
_LETTER = regex.compile(r"\p{L}")


class Place(NamedTuple):
    """One word where it stands: `text[start:end]`."""

    text: str
    start: int
    end: int

    @property
    def word(self) -> str:
        """The word itself, as written."""
        return self.text[self.start : self.end]


class Candidates(Protocol):
    """A source of replacements."""

    def find(self, places: Sequence[Place], k: int) -> list[list[str]]:
        """For each place at most `k` distinct words, best first, never the word itself; [] where none are known."""
        ...


def words(text: str) -> list[Place]:
    """The words of `text` in order: segments by Unicode (UAX #29) that hold a letter, so numbers are left alone."""
    edges = [0, *(match.start() for match in _BOUNDARY.finditer(text)), len(text)]
    return [Place(text, start, end) for start, end in pairwise(edges) if _LETTER.search(text, start, end)]


def is_word(text: str) -> bool:
    """Whether the whole of `text` is one word."""
    found = words(text)
    return len(found) == 1 and found[0].word == text


def normal(word: str) -> str:
    """Composed form: uncased vocabularies hold Hangul and accents taken apart, texts mostly do not."""
    return unicodedata.normalize("NFC", word)


def match_case(word: str, like: str) -> str:
    """Write a lower-case `word` as `like` is written: capitalised or all capitals (a lone "A" is capitalised)."""
    if word != word.lower():
        return word
    if like.isupper() and len(_LETTER.findall(like)) > 1:
        return word.upper()
    return word[:1].upper() + word[1:] if like[:1].isupper() else word


def choose(ranked: Sequence[str], *, word: str, k: int, recase: bool) -> list[str]:
    """The first `k` of `ranked` that differ, in more than case, from `word` and from each other."""
    seen = {normal(word).casefold()}
    chosen: list[str] = []
    for candidate in ranked:
        if (key := candidate.casefold()) not in seen:
            seen.add(key)
            chosen.append(match_case(candidate, word) if recase else candidate)
    return chosen[:k]
