"""Token classification: sentences of words, each with a tag (named entities, parts of speech)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from attar.data.batches import Batch, Counts
from attar.data.conll import CHUNK_TAG
from attar.data.tasks import Task
from attar.data.windows import answers_of, fast, overlap
from attar.progress import say

Array = NDArray[Any]
IGNORED = -100
OUTSIDE = "O"


@dataclass(frozen=True)
class Tagging(Task):
    """One of C tags for each word of a sentence, read at the word's first piece.

    The positions that count, in the loss on labels, in distillation and in every figure, are the first pieces of words:
    other pieces and special tokens are asked nothing, so nothing is learned of them. A sentence that is too long is
    read in windows that overlap, each word in the one in which it has the most around it.
    """

    head: ClassVar[Any] = "token-classification"
    targets: ClassVar[tuple[str, ...]] = ("tags",)
    per_token: ClassVar[bool] = True
    answers_by_row: ClassVar[bool] = False

    @property
    def chunks(self) -> bool:
        """Whether the tags are of chunks (B-PER, I-PER, O), whose entities can be counted."""
        return all(CHUNK_TAG.fullmatch(label) for label in self.labels)

    @classmethod
    def of_config(cls, config: Any) -> "Tagging":
        """Read the task from a Hugging Face config."""
        return cls("tags", tuple(str(config.id2label[i]) for i in range(config.num_labels)))

    def configure(self, config: Any) -> None:
        """Write the names of the tags into a Hugging Face config."""
        config.id2label = dict(enumerate(self.labels))
        config.label2id = {name: i for i, name in enumerate(self.labels)}

    def encode(self, table: Dataset, tokenizer: Any, *, max_length: int = 128, stride: int = 128) -> Dataset:
        """One row a window: the tokenizer's columns, `length`, `example`, `words`, and `tags` where there are any.

        `words` has the number of the word at each position that is asked for it and -1 elsewhere, `tags` the number of
        its tag there and `IGNORED` elsewhere.
        """
        fast(tokenizer)
        room = max_length - tokenizer.num_special_tokens_to_add()
        options = {"max_length": max_length, "stride": overlap(stride, room), "truncation": True}

        def windows(rows: dict[str, list[Any]], index: list[int]) -> dict[str, list[Any]]:
            encoded = tokenizer(
                [" ".join(tokens) for tokens in rows["tokens"]],
                **options,
                return_overflowing_tokens=True,
                return_offsets_mapping=True,
                return_attention_mask=False,
            )
            source = encoded.pop("overflow_to_sample_mapping")
            asked = _asked(rows["tokens"], encoded.pop("offset_mapping"), source)
            found = {**encoded, "words": asked, "example": [index[row] for row in source]}
            found["length"] = [len(ids) for ids in found["input_ids"]]
            if "tags" in rows:
                found["tags"] = [
                    [rows["tags"][row][word] if word >= 0 else IGNORED for word in words]
                    for row, words in zip(source, asked, strict=True)
                ]
            return found

        encoded = table.map(
            windows,
            batched=True,
            with_indices=True,
            remove_columns=table.column_names,
            load_from_cache_file=False,
        )
        _tell(table, encoded, max_length)
        return encoded

    def count(self, counts: Counts) -> float:
        """Words that are asked for in a step."""
        return counts.words or 1.0  # a window may ask for none

    def decisions(self, logits: Tensor, batch: Batch) -> Tensor:
        """(K, C) of (B, T, C): those of the K words that are asked for."""
        assert batch.words is not None  # encode gives them
        return logits[batch.words.to(logits.device) >= 0]

    def supervised(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy, the mean over words."""
        assert batch.labels is not None
        labels = self.decisions(batch.labels, batch)
        total = F.cross_entropy(self.decisions(logits, batch).float(), labels.long(), reduction="sum")
        return total / self.count(batch.counts)

    def decided(self, logits: Array, encoded: Dataset) -> Array:
        """(K, C) of packed logits (N, C): those of the words."""
        return logits[np.concatenate([np.asarray(row) for row in encoded["words"]]) >= 0]

    def answers(self, logits: Array, encoded: Dataset, table: Dataset) -> Array:
        """(S,) the names of the tags of each sentence, from packed logits (N, C); `O` for a word without a piece."""
        sizes = [len(tokens) for tokens in table["tokens"]]
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        words = np.concatenate([np.asarray(row) for row in encoded["words"]])
        example = np.repeat(encoded["example"][:], encoded["length"][:])
        outside = self.labels.index(OUTSIDE) if OUTSIDE in self.labels else 0
        said = np.full(starts[-1], outside)
        asked = words >= 0
        said[starts[example[asked]] + words[asked]] = logits[asked].argmax(-1)
        return answers_of(tuple(self.labels[tag] for tag in said[a:b]) for a, b in _pairs(starts))

    def truth(self, table: Dataset) -> Array | None:
        """(S,) the names of the tags of each sentence."""
        if "tags" not in table.column_names:
            return None
        return answers_of(tuple(self.labels[tag] for tag in row) for row in table["tags"])

    def text(self, row: Mapping[str, Any]) -> tuple[str, str | None]:
        """The sentence."""
        return " ".join(row["tokens"]), None

    def as_text(self, value: Any, row: Mapping[str, Any]) -> str:
        """The tagged words: `Ada Lovelace PER · London LOC`; all of them with their tags where these are no chunks."""
        pairs = list(zip(row["tokens"], value, strict=True))
        if not self.chunks:
            return " ".join(f"{token}/{tag}" for token, tag in pairs)
        found: list[list[str]] = []
        before = OUTSIDE
        for token, tag in pairs:
            begins = before == OUTSIDE or before[:1] in "ESLU" or tag[:1] in "BSU" or tag[1:] != before[1:]
            if tag != OUTSIDE and begins:
                found.append([token, tag.partition("-")[2]])
            elif tag != OUTSIDE:
                found[-1].insert(-1, token)
            before = tag
        return " · ".join(" ".join(words) for words in found) or "none"


def _asked(
    tokens: Sequence[Sequence[str]], offsets: Sequence[Sequence[tuple[int, int]]], source: Sequence[int]
) -> list[list[int]]:
    """The word that each position of each window is asked for, -1 for none.

    A word is asked for once: at its first piece, in the window where the nearer end is farthest away.
    """
    asked = [[-1] * len(row) for row in offsets]
    # example and word -> (first character of the piece, -distance to the nearer end), window, position
    best: dict[tuple[int, int], tuple[tuple[int, int], int, int]] = {}
    bounds: dict[int, tuple[Array, Array]] = {}
    for window, (row, example) in enumerate(zip(offsets, source, strict=True)):
        if example not in bounds:
            sizes = np.array([len(token) for token in tokens[example]])
            ends = np.cumsum(sizes + 1) - 1
            bounds[example] = ends - sizes, ends
        starts, ends = bounds[example]
        spans = np.array(row)
        last = spans[:, 1] - 1
        words = np.searchsorted(starts, last, side="right") - 1
        real = (spans[:, 1] > spans[:, 0]) & (last < ends[words])
        for position in np.flatnonzero(real):
            word = (example, int(words[position]))
            rank = (int(spans[position, 0]), -int(min(position, len(row) - 1 - position)))
            if word not in best or rank < best[word][0]:
                best[word] = rank, window, int(position)
    for (_, number), (_, window, place) in best.items():
        asked[window][place] = number
    return asked


def _tell(table: Dataset, encoded: Dataset, max_length: int) -> None:
    """Say what is not as simple as one row a sentence and one piece a word."""
    if len(encoded) > len(table):
        long = len(encoded) - len(set(encoded["example"][:]))
        say(
            f"{long} further windows for sentences of more than {max_length} tokens, each word in one of them"
        )
    words = sum(len(tokens) for tokens in table["tokens"])
    asked = sum(word >= 0 for row in encoded["words"] for word in row)
    if asked < words:
        say(f"{words - asked} of {words} words have no token in this vocabulary: they count as untagged")


def _pairs(starts: Array) -> list[tuple[int, int]]:
    return list(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True))
