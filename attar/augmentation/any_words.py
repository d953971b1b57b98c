"""Words drawn from a vocabulary, whatever they mean: for students that must know words which their texts lack."""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from transformers import PreTrainedTokenizerBase

from attar.augmentation import whole_words
from attar.augmentation.words import Place, choose
from attar.errors import ModelError

# Of the words drawn this share is two of the vocabulary in one, as names are made: the tokenizer reads it in pieces.
JOINED = 0.25


class VocabularyCandidates:
    """Any whole words of a tokenizer, each as likely as the others, and words joined of two of them.

    What a text says changes, so only a teacher can say what a copy is worth: for distillation without labels. The same
    place of the same text has the same candidates. A vocabulary of many languages gives words of all of them.

    Raises:
        ModelError: the vocabulary holds no whole words.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._words = sorted(set(whole_words.read(tokenizer, len(tokenizer)).words.values()))
        if len(self._words) < 2:
            raise ModelError(
                expected="a tokenizer whose vocabulary holds whole words",
                found=f"none in {type(tokenizer).__name__}",
                fix="choose another source: embeddings, word vectors or a masked language model",
            )

    def find(self, places: Sequence[Place], k: int) -> list[list[str]]:
        """`k` words for each place."""
        return [self._drawn(place, k) for place in places]

    def _drawn(self, place: Place, k: int) -> list[str]:
        key = blake2b(f"{place.start} {place.text}".encode(), digest_size=8).digest()
        random = np.random.default_rng(int.from_bytes(key))
        first, second = (random.integers(len(self._words), size=k) for _ in range(2))
        joined = random.random(k) < JOINED
        drawn = [
            self._words[a] + (self._words[b] if both else "")
            for a, b, both in zip(first, second, joined, strict=True)
        ]
        return choose(drawn, word=place.word, k=k, recase=True)
