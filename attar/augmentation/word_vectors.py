"""Candidates from the nearest vectors: of a GloVe or word2vec file, or of a model's own token embeddings."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from attar.augmentation import whole_words
from attar.augmentation.words import Place, choose, is_word, normal
from attar.errors import DataError, ModelError
from attar.progress import track

# Similarities held at once, in numbers (128 MiB of float32): a block of words against the whole vocabulary.
BLOCK = 2**25
# Ranks looked at beyond k: the word itself and its forms in other cases are passed over.
SPARE = 5
_FIX = "give GloVe or word2vec text (a word and its numbers on each line) or a JSON object word -> list of numbers"


class WordVectorCandidates:
    """The `k` words of nearest vector by cosine (the branch of 1909.10351, Algorithm 1, for words of several pieces).

    A word is looked up as written, then in lower case; in the second case its replacements take its capitals. Words
    outside the vocabulary have no candidates. Neighbours are computed when first asked for, in blocks of words.

    Args:
        words: W words.
        vectors: (W, D).

    Raises:
        DataError: the two do not fit together, or a vector is not finite.
    """

    def __init__(self, words: Sequence[str], vectors: np.ndarray | Tensor) -> None:
        table = torch.as_tensor(vectors).detach().to("cpu", torch.float32)
        if table.ndim != 2 or len(table) != len(words) or not len(words):
            raise DataError(
                expected="at least one word and a vector of the same length for each",
                found=f"{len(words)} words and vectors of shape {tuple(table.shape)}",
                fix="give one row of numbers per word",
            )
        if len(bad := torch.nonzero(~table.isfinite().all(1))):
            raise DataError(
                expected="finite numbers",
                found=f"NaN or infinity in the vector of {words[int(bad[0])]!r}",
                fix=_FIX,
            )
        self._rows: dict[str, int] = {}
        for row, word in enumerate(map(normal, words)):
            if is_word(word):
                self._rows.setdefault(word, row)
        kept = torch.tensor(list(self._rows.values()), dtype=torch.long)
        self._words = list(self._rows)
        self._rows = {word: row for row, word in enumerate(self._words)}
        self._table = torch.nn.functional.normalize(table[kept])  # (W, D), cosine is a product
        self._known: dict[tuple[int, int], list[str]] = {}

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read GloVe text, word2vec text (its first line says how many words and numbers), or JSON word -> numbers.

        Raises:
            DataError: no such file, or a line that cannot be read; the line is named.
        """
        path = Path(path)
        if not path.is_file():
            raise DataError(expected="a file of word vectors", found=f"no file {path}", fix=_FIX)
        return cls(*(_read_json(path) if path.suffix == ".json" else _read_text(path)))

    def __len__(self) -> int:
        """The number of words that can be replaced and be replacements."""
        return len(self._words)

    def find(self, places: Sequence[Place], k: int) -> list[list[str]]:
        """The nearest words to each place's word, whatever stands around it."""
        asked = [self._look_up(place.word) for place in places]
        new = sorted({row for row, _ in asked if row is not None and (row, k) not in self._known})
        for rows, nearest in self._nearest(new, k):
            for row, neighbours in zip(rows, nearest, strict=True):
                ranked = [self._words[i] for i in neighbours]
                self._known[row, k] = choose(ranked, word=self._words[row], k=k, recase=False)
        return [
            [] if row is None else choose(self._known[row, k], word=place.word, k=k, recase=recase)
            for place, (row, recase) in zip(places, asked, strict=True)
        ]

    def _look_up(self, word: str) -> tuple[int | None, bool]:
        word = normal(word)
        if word in self._rows:
            return self._rows[word], False
        return self._rows.get(word.lower()), True

    def _nearest(self, rows: list[int], k: int) -> Iterator[tuple[list[int], list[list[int]]]]:
        size = max(1, BLOCK // max(1, len(self._words)))
        for begin in range(0, len(rows), size):
            block = rows[begin : begin + size]
            similar = self._table[block] @ self._table.T  # (block, W)
            yield block, similar.topk(min(k + SPARE, len(self._words))).indices.tolist()


class EmbeddingCandidates(WordVectorCandidates):
    """The nearest of a model's own input token embeddings: for a user with neither a masked LM nor word vectors.

    Whole words only: words of several pieces are not replaced, and pieces that continue a word never replace one.

    Raises:
        ModelError: the vocabulary holds no whole words.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        weight = model.get_input_embeddings().weight
        whole = whole_words.read(tokenizer, len(weight)).words
        if not whole:
            raise ModelError(
                expected="a tokenizer whose vocabulary holds whole words",
                found=f"none in {type(tokenizer).__name__}",
                fix="give word vectors: WordVectorCandidates.from_file(path)",
            )
        super().__init__(list(whole.values()), weight.detach()[list(whole)])


def _read_json(path: Path) -> tuple[list[str], np.ndarray]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        return list(table), np.array(list(table.values()), dtype=np.float32)
    except (ValueError, AttributeError, TypeError) as error:
        line = f"line {error.lineno} of " if isinstance(error, json.JSONDecodeError) else ""
        raise DataError(
            expected="a JSON object word -> list of numbers, all of one length",
            found=f"{line}{path.name}: {error}",
            fix=_FIX,
        ) from error


def _read_text(path: Path) -> tuple[list[str], np.ndarray]:
    words: list[str] = []
    vectors: list[np.ndarray] = []
    size: int | None = None
    with path.open("rb") as lines:
        for number, raw in enumerate(track(lines, f"reading {path.name}"), 1):
            try:
                line = raw.decode("utf-8").rstrip()
                if number == 1 and len(header := line.split(" ")) == 2 and all(map(str.isdecimal, header)):
                    size = int(header[1])
                    continue
                size = size or len(line.split(" ")) - 1
                # From the right: some published files have words with spaces inside.
                word, *numbers = line.rsplit(" ", size)
                if not word or len(numbers) != size or not size:
                    raise ValueError(f"{len(numbers)} numbers where there should be {size or 'some'}")
                vector = np.array(numbers, dtype=np.float32)
                if not np.isfinite(vector).all():
                    raise ValueError("NaN or infinity")
            except ValueError as error:
                raise DataError(
                    expected="a word and its vector on every line",
                    found=f"line {number} of {path.name}: {error}",
                    fix=_FIX,
                ) from error
            words.append(word)
            vectors.append(vector)
    if not words:
        raise DataError(expected="word vectors", found=f"none in {path.name}", fix=_FIX)
    return words, np.stack(vectors)
