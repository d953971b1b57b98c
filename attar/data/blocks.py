"""Plain text as packed blocks for a causal language model: documents end to end, none of which sees another."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from attar.data.batches import NOTHING, Batch, Counts
from attar.data.masking import IGNORED
from attar.errors import DataError, ModelError
from attar.maths.chunks import chunked
from attar.model.lm_head import last_hidden, output

Array = NDArray[Any]
# Letters that are tokenized at once; a longer document is cut at the last blank before, where tokens end anyway.
LETTERS = 100_000
TEXTS = 1000


@dataclass(frozen=True)
class Packed(Batch):
    """A batch of blocks.

    `inputs` are `input_ids` and `position_ids`, (B, T), which begin anew with every document: that is what keeps
    documents apart (there is no `attention_mask`). `labels` (B, T) are the tokens that follow, `IGNORED` where the
    document or the text ends. Of the counts, `tokens` and `masked` are how many are predicted.
    """

    @property
    def mask(self) -> Tensor:
        """(B, T), True where the next token is to be predicted."""
        assert self.labels is not None
        return self.labels != IGNORED


@dataclass(frozen=True)
class Tokens:
    """Documents end to end: their tokens (N,), and where each begins (ascending, the first at 0)."""

    ids: Array
    begins: Array


def tokens_of(texts: Iterable[str], tokenizer: Any, *, end: bool = True) -> Tokens:
    """Tokenize documents, each between a token of beginning (that of the end, where there is no other) and of end.

    Args:
        end: whether the end is a token to be predicted.

    Raises:
        ModelError: a tokenizer without a token of end. DataError: no text at all.
    """
    first, last = marks(tokenizer)
    found: list[Array] = []
    stream = iter(texts)
    while batch := list(islice(stream, TEXTS)):
        parts = [list(pieces(text)) for text in batch]
        flat = [piece for text in parts for piece in text]
        encoded = iter(
            tokenizer(flat, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        )
        for text in parts:
            inner = [number for _ in text for number in next(encoded)]
            if inner:
                found.append(np.array([first, *inner, *([last] if end else [])], dtype=np.int32))
    if not found:
        raise DataError(expected="text with tokens in it", found="none", fix="check the files")
    lengths = np.array([len(document) for document in found])
    return Tokens(np.concatenate(found), np.concatenate([[0], np.cumsum(lengths)[:-1]]))


def marks(tokenizer: Any) -> tuple[int, int]:
    """The tokens that a document begins and ends with.

    Raises:
        ModelError: the tokenizer has none that ends a text.
    """
    last = tokenizer.eos_token_id
    if last is None:
        raise ModelError(
            expected="a tokenizer with an end-of-text token",
            found=f"{type(tokenizer).__name__} without eos_token",
            fix="give it one (tokenizer.eos_token = …), or train a tokenizer: attar tokenizer",
        )
    first = tokenizer.bos_token_id
    return int(last if first is None else first), int(last)


def pieces(text: str) -> Iterator[str]:
    """A text in pieces of at most `LETTERS` letters, cut before a blank where there is one."""
    while len(text) > LETTERS:
        cut = max(text.rfind(" ", 1, LETTERS), text.rfind("\n", 1, LETTERS))
        cut = cut if cut > 0 else LETTERS
        yield text[:cut]
        text = text[cut:]
    yield text


class Blocks:
    """Blocks of `size` tokens, cut from documents end to end, in batches whose order a seed and an epoch fix.

    Every token but the first of a document is predicted once an epoch: blocks lie end to end, and the last token of a
    block predicts the first of the next. What of a document lies in the next block begins anew there, without what was
    before.
    """

    def __init__(
        self,
        tokens: Tokens,
        *,
        size: int,
        batch_size: int = 8,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.tokens, self.size, self.batch_size = tokens, size, batch_size
        self.shuffle, self.seed, self.rank, self.world = shuffle, seed, rank, world
        self.blocks = max(1, -(-(len(tokens.ids) - 1) // size))

    def __len__(self) -> int:
        return (self.blocks + self.batch_size - 1) // self.batch_size

    @property
    def content(self) -> tuple[Any, ...]:
        """What names the batches."""
        return (self.tokens.ids, self.tokens.begins, (self.size,))

    def epoch(self, number: int = 0, *, start: int = 0) -> Iterator[Packed]:
        """This process's share of the batches of an epoch, from the `start`-th on."""
        generator = np.random.default_rng((self.seed, number))
        order = generator.permutation(self.blocks) if self.shuffle else np.arange(self.blocks)
        for begin in range(start * self.batch_size, self.blocks, self.batch_size):
            yield self._share(order[begin : begin + self.batch_size])

    def __iter__(self) -> Iterator[Packed]:
        return self.epoch(0)

    def rows(self, blocks: Array) -> Packed:
        """The batch of given block numbers."""
        ids, begins = self.tokens.ids, self.tokens.begins
        places = blocks[:, None] * self.size + np.arange(self.size)[None, :]
        there, last = places < len(ids), len(ids) - 1
        inside = np.minimum(places, last)
        document = begins[np.searchsorted(begins, inside, side="right") - 1]
        # Each place after the end is a text of its own, so that nothing looks at it.
        positions = np.where(there, inside - np.maximum(document, places[:, :1]), 0)
        follows = np.minimum(places + 1, last)
        predicted = (places < last) & (
            begins[np.minimum(np.searchsorted(begins, follows), len(begins) - 1)] != follows
        )
        labels = np.where(predicted, ids[follows], IGNORED).astype(np.int64)
        inputs = {"input_ids": ids[inside].astype(np.int64), "position_ids": positions}
        counts = Counts(float(len(blocks)), float(predicted.sum()), 0.0, float(predicted.sum()))
        return Packed(
            {name: torch.from_numpy(values) for name, values in inputs.items()},
            torch.from_numpy(labels),
            torch.from_numpy(np.ascontiguousarray(blocks)),
            counts,
        )

    def _share(self, blocks: Array) -> Packed:
        whole = self.rows(blocks)
        if self.world == 1:
            return whole
        counts = whole.counts / self.world
        own = blocks[blocks % self.world == self.rank]
        if len(own):
            return replace(self.rows(own), counts=counts)
        return replace(self.rows(blocks[:1]), counts=replace(NOTHING, masked=float("inf")), whole=counts)


class StreamBlocks:
    """Blocks of a stream of texts that is never held as a whole; an epoch is the next `steps` batches.

    Texts are packed in pools of about `POOL` batches, whose blocks are shuffled; a pool's last block is filled up. The
    stream begins anew when it ends. Every process reads the stream and keeps its share of each batch.
    """

    POOL = 64

    def __init__(
        self,
        texts: IterableDataset,
        tokenizer: Any,
        *,
        size: int,
        steps: int,
        batch_size: int = 8,
        **dealt: Any,
    ) -> None:
        self.texts, self.tokenizer, self.size, self.steps = texts, tokenizer, size, steps
        self.batch_size, self.dealt = batch_size, dealt

    def __len__(self) -> int:
        return self.steps

    @property
    def content(self) -> tuple[Any, ...]:
        """What names the batches: how they are made, and the stream's first texts (all would have to be read)."""
        first = [row["text"] for row in self.texts.take(self.batch_size)]
        return (self.steps, self.batch_size, self.size, self.tokenizer(first, verbose=False)["input_ids"])

    def epoch(self, number: int = 0, *, start: int = 0) -> Iterator[Packed]:
        """The batches of one epoch, from the `start`-th on; texts before it are read again and passed over."""
        first = number * self.steps + start
        yield from islice(self._batches(), first, (number + 1) * self.steps)

    def _batches(self) -> Iterator[Packed]:
        for number, pool in enumerate(self._pools()):
            tokens = tokens_of(pool, self.tokenizer)
            blocks = Blocks(tokens, size=self.size, batch_size=self.batch_size, shuffle=True, **self.dealt)
            yield from blocks.epoch(number)

    def _pools(self) -> Iterator[list[str]]:
        # Four letters a token are usual; how many it really is decides no more than a pool's size.
        most, pool, letters = 4 * self.POOL * self.batch_size * self.size, [], 0
        while True:
            row = None
            for row in self._read():
                pool.append(row["text"])
                letters += len(row["text"])
                if letters >= most:
                    yield pool
                    pool, letters = [], 0
            if row is None:  # it would be read for ever
                raise DataError(
                    expected="at least one line of text", found="an empty stream", fix="check the files"
                )
            if pool:
                yield pool
                pool, letters = [], 0

    def _read(self) -> Iterator[dict[str, Any]]:
        try:
            yield from self.texts
        except UnicodeDecodeError as error:
            raise DataError(
                expected="text in UTF-8", found=str(error), fix="convert the file: iconv -f latin1 -t utf-8"
            ) from error


def blocks_of(
    texts: Dataset | IterableDataset | Sequence[str],
    tokenizer: Any,
    *,
    size: int,
    steps: int = 1,
    **dealt: Any,
) -> Blocks | StreamBlocks:
    """Blocks of a table, a list or a stream of texts; `steps` are a stream's batches an epoch."""
    if isinstance(texts, IterableDataset):
        dealt.pop("shuffle", None)
        return StreamBlocks(texts, tokenizer, size=size, steps=steps, **dealt)
    rows = texts["text"] if isinstance(texts, Dataset) else texts
    return Blocks(tokens_of(rows, tokenizer), size=size, **dealt)


class CausalLanguage(nn.Module):
    """A causal language model with its loss."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`{"clm": loss}` of a batch, a mean over the step's predicted tokens."""
        hidden, wanted = self.predicted(batch)
        count = batch.counts.masked or 1.0
        weight, bias = output(self.model)

        def loss(logits: Tensor, part: slice) -> Tensor:
            return F.cross_entropy(logits.float(), wanted[part], reduction="sum")[None] / count

        return {"clm": chunked(hidden, weight, bias, loss).sum()}

    def predicted(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Hidden vectors (N, D) of the positions that predict a token, and those tokens (N,)."""
        assert batch.labels is not None
        mask = batch.mask
        return last_hidden(self.model, batch.inputs)[mask], batch.labels[mask]
