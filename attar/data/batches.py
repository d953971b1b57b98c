"""Batches of tokenized texts, dealt out in an order that does not depend on the number of processes."""

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedModel

from attar.errors import DataError
from attar.progress import say


def encode(table: Dataset, tokenizer: Any, *, max_length: int = 128, words: bool = False) -> Dataset:
    """Tokenize `text` (and `text_pair`) to at most `max_length` tokens, special tokens included.

    Returns:
        The columns the tokenizer gives (`input_ids`, and `token_type_ids` where the family has them), `length` in
        tokens, with `words` the number of each token's word in its text (-1 for special tokens) and, where the table
        has labels, `labels`. No padding: batches pad to their own longest row.
    """

    def tokens(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        texts = [rows["text"]] + ([rows["text_pair"]] if "text_pair" in rows else [])
        encoded = tokenizer(*texts, truncation=True, max_length=max_length, return_attention_mask=False)
        found = dict(encoded)
        if words:
            numbers = (encoded.word_ids(row) for row in range(len(texts[0])))
            found["words"] = [[-1 if n is None else n for n in row] for row in numbers]
        found["length"] = [len(ids) for ids in found["input_ids"]]
        if "label" in rows:
            found["labels"] = rows["label"]
        return found

    return table.map(tokens, batched=True, remove_columns=table.column_names, load_from_cache_file=False)


def positions(model: PreTrainedModel) -> int:
    """The longest text in tokens that a model has positions for."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            # RoBERTa counts positions from after the padding index.
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    return int(getattr(model.config, "max_position_embeddings", 512))


def fitting(max_length: int, model: PreTrainedModel) -> int:
    """`max_length`, or with a line that says so what the model has positions for, where that is less."""
    most = positions(model)
    if max_length > most:
        say(f"texts are cut to {most} tokens, not {max_length}: the model has no more positions")
    return min(max_length, most)


def say_cut(lengths: np.ndarray, max_length: int, what: str = "texts") -> None:
    """Say how many encoded texts, of these lengths in tokens, fill the window, where any do."""
    if full := int((lengths >= max_length).sum()):
        say(f"{full} of {len(lengths)} {what} reach {max_length} tokens: what is beyond is not read")


@dataclass(frozen=True)
class Counts:
    """What a sum over a batch is divided by to give a mean, the same for every split of one optimizer step.

    The numbers are those of the whole step (all accumulated micro-batches of all processes) divided by the number of
    processes, since data-parallel training averages gradients over processes.
    """

    examples: float
    tokens: float
    pairs: float  # sum of squared lengths: entries of the attention matrices
    masked: float = 0.0  # tokens to be predicted by a masked language model
    words: float = 0.0  # positions that have the number of a word: those that a tagger is asked for

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __truediv__(self, by: float) -> "Counts":
        return Counts(*(a / by for a in astuple(self)))

    @classmethod
    def of(cls, lengths: Sequence[int] | np.ndarray) -> "Counts":
        """Of rows of these lengths in tokens."""
        sizes = np.asarray(lengths, dtype=np.float64)
        return cls(float(len(sizes)), float(sizes.sum()), float((sizes**2).sum()))


NOTHING = Counts(float("inf"), float("inf"), float("inf"))


@dataclass(frozen=True)
class Batch:
    """One micro-batch.

    Attributes:
        inputs: the model's keyword arguments, (B, T) each: `input_ids`, `attention_mask`, `token_type_ids`.
        labels: (B,) or (B, C), or None; (B, T) for a masked language model and for tags of words; (B, 2) for the first
            and last token of an answer.
        index: (B,) row numbers in the encoded table, or in the stream.
        counts: the denominators of this batch's means; infinite where this process has no row in the batch and only
            keeps step with the others.
        whole: what `counts` would be for a process that has rows in it, to sum over the micro-batches of a step.
        words: (B, T) the number of each token's word, -1 at special tokens, where the table was encoded with words;
            for a tagger only at the positions that it is asked for.
    """

    inputs: dict[str, Tensor]
    labels: Tensor | None
    index: Tensor
    counts: Counts
    whole: Counts | None = None
    words: Tensor | None = None

    @property
    def mask(self) -> Tensor:
        """(B, T), True at real tokens."""
        return self.inputs["attention_mask"].bool()

    def to(self, device: torch.device | str) -> "Batch":
        """The batch with its tensors on a device."""
        labels = None if self.labels is None else self.labels.to(device)
        return replace(self, inputs={k: v.to(device) for k, v in self.inputs.items()}, labels=labels)


class Batches:
    """Batches of an encoded table, in an order that a seed and an epoch number fix.

    Sentences of like length go together (`bucket`), so that little is computed on padding: rows are shuffled, cut
    into pools of `POOL` batches, sorted by length inside a pool, and the batches are shuffled again. The global batches
    are the same whatever the number of processes; of each, a process takes the rows whose number leaves its rank as
    remainder, so that a row is always the same process's and it alone needs the teacher's outputs for it.

    Attributes:
        near: (N, E) vectors of the rows. Where there are any, rows stand in the order of the drawn row that they are
            nearest to, drawn anew in each epoch, and are cut into pools of about `TOPIC` rows (topic-aware sampling,
            2104.06967 section 3.2, with drawn centres in place of k-means): a loss that compares the texts of a batch
            meets like ones. All of one process, which has them all.
    """

    # Smaller pools are more alike and have more padding: docs/lab-notes.md, "an embedding student in two passes".
    POOL, TOPIC, CENTRES = 64, 1024, 2048
    near: np.ndarray | None = None

    def __init__(
        self,
        encoded: Dataset,
        tokenizer: Any,
        *,
        batch_size: int = 32,
        shuffle: bool = False,
        seed: int = 0,
        bucket: bool = True,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.batch_size, self.shuffle, self.seed, self.bucket = batch_size, shuffle, seed, bucket
        self.rank, self.world = rank, world
        self.lengths = np.asarray(encoded["length"][:], dtype=np.int64)
        if len(self.lengths) < world:
            raise DataError(
                expected=f"at least {world} rows, one for each process",
                found=str(len(self.lengths)),
                fix="start fewer processes",
            )
        self.labels = _label_tensor(encoded)
        self._starts = np.concatenate([[0], np.cumsum(self.lengths)])
        self._flat = {
            name: _flatten(encoded, name)
            for name in ("input_ids", "token_type_ids", "words", "tags")
            if name in encoded.column_names
        }
        self._pad = {
            "input_ids": tokenizer.pad_token_id or 0,
            "token_type_ids": getattr(tokenizer, "pad_token_type_id", 0),
            "words": -1,
            "tags": -100,
        }
        self._words = (
            np.add.reduceat(np.append(self._flat["words"] >= 0, 0), self._starts[:-1])
            if "words" in self._flat
            else np.zeros_like(self.lengths)
        )

    def __len__(self) -> int:
        return (len(self.lengths) + self.batch_size - 1) // self.batch_size

    @property
    def token_ids(self) -> np.ndarray:
        """The token numbers of all rows, one after the other, and that of padding."""
        return np.append(self._flat["input_ids"], self._pad["input_ids"])

    @property
    def content(self) -> tuple[np.ndarray, ...]:
        """The token numbers and labels of all rows: what data, tokenizer and maximal length amount to."""
        labels = () if self.labels is None else (self.labels.numpy(),)
        return (self.lengths, *self._flat.values(), *labels)

    def order(self, epoch: int) -> list[np.ndarray]:
        """Row numbers of each global batch of an epoch."""
        generator = np.random.default_rng((self.seed, epoch))
        rows = generator.permutation(len(self.lengths)) if self.shuffle else np.arange(len(self.lengths))
        size = self.batch_size
        if not self.bucket:
            return [rows[i : i + size] for i in range(0, len(rows), size)]
        pool = size * self.POOL if self.shuffle else len(rows)
        if self.shuffle and self.near is not None:
            rows, pool = self._by_topic(rows, generator), size * max(1, self.TOPIC // size)
        batches = []
        for i in range(0, len(rows), pool):
            part = rows[i : i + pool]
            part = part[np.argsort(self.lengths[part], kind="stable")]
            batches += [part[j : j + size] for j in range(0, len(part), size)]
        if self.shuffle:
            generator.shuffle(batches)  # in place
        return batches

    def _by_topic(self, rows: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """(N,) row numbers, those with one nearest centre of (C, E) together, the centres in any order."""
        near = cast(np.ndarray, self.near)
        count = min(max(1, len(rows) // self.TOPIC), self.CENTRES)
        centres = near[rows[:count]]  # a shuffled order begins at random
        centres = centres / np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-12)
        nearest = np.concatenate(
            [(part @ centres.T).argmax(1) for part in np.array_split(near, 1 + len(near) // 8192)]
        )
        return rows[np.argsort(generator.permutation(len(centres))[nearest[rows]], kind="stable")]

    def epoch(self, number: int = 0, *, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from the `start`-th on (to resume)."""
        for rows in self.order(number)[start:]:
            counts = self._counts(rows) / self.world
            own = rows[rows % self.world == self.rank]
            if len(own):
                yield self.rows(own, counts)
            else:  # every process must take part in the step: a row of its own, divided by infinity, adds nothing
                nothing = replace(NOTHING, words=float("inf")) if "words" in self._flat else NOTHING
                yield replace(self.rows(np.array([self.rank]), nothing), whole=counts)

    def own(self) -> np.ndarray:
        """The rows of this process, short ones first: the order in which a teacher passes over them fastest."""
        rows = np.arange(self.rank, len(self.lengths), self.world)
        return rows[np.argsort(self.lengths[rows], kind="stable")]

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch(0)

    def rows(self, rows: np.ndarray, counts: Counts | None = None) -> Batch:
        """The batch of given row numbers, padded to its longest row."""
        sizes = self.lengths[rows]
        width = int(sizes.max(initial=1))
        mask = np.arange(width)[None, :] < sizes[:, None]
        take = (self._starts[rows][:, None] + np.arange(width)[None, :])[mask]
        inputs = {}
        for name, flat in self._flat.items():
            padded = np.full((len(rows), width), self._pad[name], dtype=np.int64)
            padded[mask] = flat[take]
            inputs[name] = torch.from_numpy(padded)
        inputs["attention_mask"] = torch.from_numpy(mask.astype(np.int64))
        index = torch.from_numpy(np.ascontiguousarray(rows))
        labels = None if self.labels is None else self.labels[index]
        words, labels = inputs.pop("words", None), inputs.pop("tags", labels)
        return Batch(inputs, labels, index, counts or self._counts(rows), words=words)

    def _counts(self, rows: np.ndarray) -> Counts:
        return replace(Counts.of(self.lengths[rows]), words=float(self._words[rows].sum()))


def _label_tensor(encoded: Dataset) -> Tensor | None:
    return torch.tensor(encoded["labels"][:]) if "labels" in encoded.column_names else None


def _flatten(encoded: Dataset, name: str) -> np.ndarray:
    column = encoded.with_format("arrow")[:].column(name).combine_chunks()
    return np.asarray(column.flatten().to_numpy(zero_copy_only=False), dtype=np.int32)
