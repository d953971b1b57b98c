"""Batches of texts that are read as they are needed."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from datasets import Dataset, IterableDataset

from attar.data.batches import Batch, Batches, encode
from attar.errors import DataError


class StreamBatches:
    """Batches of a stream of texts that is never held as a whole; an epoch is the next `steps` global batches.

    Texts are tokenized as they come, in pools of `POOL` batches that are shuffled, sorted by length and dealt out as
    `Batches` does; the stream begins anew when it ends. Every process reads the stream and
    keeps its share of each batch.
    """

    POOL = 64

    def __init__(
        self,
        texts: IterableDataset,
        tokenizer: Any,
        *,
        steps: int,
        batch_size: int = 32,
        max_length: int = 128,
        words: bool = False,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.texts, self.tokenizer, self.steps, self.words = texts, tokenizer, steps, words
        self.batch_size, self.max_length, self.seed = batch_size, max_length, seed
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        return self.steps

    @property
    def content(self) -> tuple[Any, ...]:
        """What names the batches: how they are made, and the stream's first texts (all would have to be read)."""
        first = [row["text"] for row in self.texts.take(self.batch_size)]
        return (self.steps, self.batch_size, self.max_length, self.seed, self.tokenizer(first)["input_ids"])

    def epoch(self, number: int = 0, *, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from the `start`-th on; texts before it are read again and passed over."""
        first = number * self.steps
        pools = self._pools()
        for _ in range(first // self.POOL):
            next(pools)
        batches = (batch for pool in self._tokenized(pools, first // self.POOL) for batch in pool)
        yield from islice(batches, first % self.POOL + start, first % self.POOL + self.steps)

    def _pools(self) -> Iterator[list[str]]:
        size, pool = self.POOL * self.batch_size, []
        while True:
            row = None
            for row in self._read():
                pool.append(row["text"])
                if len(pool) == size:
                    yield pool
                    pool = []
            if row is None:  # it would be read for ever
                raise DataError(
                    expected="at least one line of text", found="an empty stream", fix="check the files"
                )

    def _read(self) -> Iterator[dict[str, Any]]:
        try:
            yield from self.texts
        except UnicodeDecodeError as error:  # found where it stands, which may be far into the text
            raise DataError(
                expected="text in UTF-8", found=str(error), fix="convert the file: iconv -f latin1 -t utf-8"
            ) from error

    def _tokenized(self, pools: Iterator[list[str]], number: int) -> Iterator[Iterator[Batch]]:
        for index, pool in enumerate(pools, start=number):
            table = Dataset.from_dict({"text": pool})
            encoded = encode(table, self.tokenizer, max_length=self.max_length, words=self.words)
            batches = Batches(
                encoded,
                self.tokenizer,
                batch_size=self.batch_size,
                shuffle=True,
                seed=self.seed,
                rank=self.rank,
                world=self.world,
            )
            first = index * self.POOL * self.batch_size
            yield (replace(batch, index=batch.index + first) for batch in batches.epoch(index))
