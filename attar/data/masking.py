"""Masked-language-model training: which tokens are hidden from a model, and its loss in telling them."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from attar.data.batches import NOTHING, Batch, Batches
from attar.data.streaming import StreamBatches
from attar.errors import DataError, ModelError

Array = NDArray[Any]
# Of the chosen tokens, BERT hides 80% behind the mask token and puts a random one in the place of 10%; the rest stay.
HIDDEN, REPLACED = 0.8, 0.1
# Pieces of the longest word that is hidden whole. Where a script has no spaces, SentencePiece takes a sentence for a
# word, and all of it would be hidden; such a run is dealt with piece by piece.
LONGEST = 16
IGNORED = -100  # a label that is no question, as transformers has it
_NOTHING = replace(NOTHING, masked=float("inf"))


@dataclass(frozen=True)
class MaskedBatch(Batch):
    """A batch with masked tokens; `labels` are those that stood there, (B, T), and `IGNORED` elsewhere.

    Attributes:
        following: (B,) 0 where the second sentence follows the first in its document and 1 where it does not, or None.
    """

    following: Tensor | None = None

    def to(self, device: torch.device | str) -> "MaskedBatch":
        """The batch with its tensors on a device."""
        moved = super().to(device)
        assert isinstance(moved, MaskedBatch)  # `replace` keeps the class
        return replace(moved, following=None if self.following is None else self.following.to(device))


class MaskedBatches:
    """Batches whose tokens are hidden anew in every epoch, by BERT's rule (1810.04805, section 3.1).

    A row's share `mask` of its tokens is chosen, rounded, at least one; special tokens and padding never are. What is
    chosen depends on the seed, the epoch and the row's number and content alone, so neither on the number of processes
    nor on where a run was resumed.

    Args:
        batches: encoded with `words` where whole words are wanted. Labels (B,), of pairs, become `following`.
        tokenizer: with a mask token.
        whole_word: choose words, with all their pieces, until at least half of the next would be too much. A word is
            what the tokenizer cut the text into before it looked for pieces: the mark of a piece ("##", "Ġ", "▁") does
            not say, since in marked-beginning vocabularies a full stop is one more piece of the word before it.

    Raises:
        ModelError: no mask token. DataError: `mask` is no fraction, or batches without words.
    """

    def __init__(
        self,
        batches: Batches | StreamBatches,
        tokenizer: Any,
        *,
        mask: float = 0.15,
        whole_word: bool = False,
        seed: int = 0,
    ) -> None:
        if tokenizer.mask_token_id is None:
            raise ModelError(
                expected="a tokenizer with a mask token",
                found=f"{type(tokenizer).__name__} without one",
                fix="take an encoder's tokenizer, or add a mask_token to it and to the model's embedding",
            )
        if not 0 < mask < 1:
            raise DataError(
                expected="mask as a fraction of the tokens", found=str(mask), fix="take 0.15, BERT's"
            )
        self.mask, self.whole_word, self.seed = mask, whole_word, seed
        self.rank, self.world = batches.rank, batches.world
        # Dealt whole here and shared out after: a mean over masked tokens has to know those of the other processes.
        self._whole = copy.copy(batches)
        self._whole.rank, self._whole.world = 0, 1
        self._mask_id = int(tokenizer.mask_token_id)
        self._special = np.array(sorted(set(tokenizer.all_special_ids)))
        self._ordinary = np.setdiff1d(np.array(list(tokenizer.get_vocab().values())), self._special)

    def __len__(self) -> int:
        return len(self._whole)

    @property
    def content(self) -> tuple[Any, ...]:
        """What names the batches: those below, and how they are masked."""
        return (*self._whole.content, (self.mask, self.whole_word, self.seed))

    def epoch(self, number: int = 0, *, start: int = 0) -> Iterator[MaskedBatch]:
        """This process's share of the batches of an epoch, from the `start`-th on."""
        for batch in self._whole.epoch(number, start=start):
            yield self._share(self.hide(batch, number))

    def hide(self, batch: Batch, epoch: int) -> MaskedBatch:
        """The batch with tokens masked; `counts.masked` is how many are to be predicted."""
        ids = batch.inputs["input_ids"].numpy()
        eligible = batch.mask.numpy() & ~np.isin(ids, self._special)
        order, kind, other = _chances(self.seed, epoch, batch.index.numpy(), ids.shape[1])
        chosen = choose(eligible, self._words(batch), order, self.mask)
        shown = np.where(chosen & (kind < HIDDEN), self._mask_id, ids)
        random = self._ordinary[(other * len(self._ordinary)).astype(np.int64)]
        shown = np.where(chosen & (kind >= 1 - REPLACED), random, shown)
        return MaskedBatch(
            {**batch.inputs, "input_ids": torch.from_numpy(shown)},
            torch.from_numpy(np.where(chosen, ids, IGNORED)),
            batch.index,
            replace(batch.counts, masked=float(chosen.sum())),
            words=batch.words,
            following=batch.labels,
        )

    def _words(self, batch: Batch) -> Array | None:
        if not self.whole_word:
            return None
        if batch.words is None:
            raise DataError(
                expected="texts encoded with their words", found="none", fix="encode(…, words=True)"
            )
        return batch.words.numpy()

    def _share(self, batch: MaskedBatch) -> MaskedBatch:
        counts = batch.counts / self.world
        own = np.flatnonzero(batch.index.numpy() % self.world == self.rank)
        if len(own):
            return replace(_rows(batch, own), counts=counts)
        return replace(_rows(batch, np.array([0])), counts=_NOTHING, whole=counts)


def choose(eligible: Array, words: Array | None, order: Array, share: float) -> Array:
    """Which tokens to hide, (B, T): words in a random order while at least half of the next one fits, the first always.

    Args:
        eligible: (B, T) tokens that may be hidden.
        words: (B, T) the number of each token's word, of at most `LONGEST` pieces; None where every token is one.
        order: (B, T) random numbers; a word goes by that of its first piece.
        share: of the eligible tokens of each row.
    """
    begins = eligible.copy()
    if words is not None:
        begins[:, 1:] &= ~eligible[:, :-1] | (words[:, 1:] != words[:, :-1])
        run = np.cumsum(begins).reshape(begins.shape)
        begins |= eligible & (np.bincount(run[eligible], minlength=run.max() + 1)[run] > LONGEST)
    places = np.arange(eligible.shape[1])[None, :]
    first = np.maximum.accumulate(np.where(begins, places, 0), axis=1)
    key = np.where(eligible, np.take_along_axis(order, first, axis=1), 2.0)
    ranked = np.argsort(key, axis=1, kind="stable")  # pieces of a word are neighbours: they have one key
    key = np.take_along_axis(key, ranked, axis=1)
    new = np.ones_like(begins)
    new[:, 1:] = key[:, 1:] != key[:, :-1]
    before = np.maximum.accumulate(np.where(new, places, 0), axis=1)
    word = np.cumsum(new).reshape(new.shape) - 1
    middle = before + np.bincount(word.ravel())[word] / 2
    budget = np.rint(share * eligible.sum(axis=1, keepdims=True))
    chosen = np.zeros_like(eligible)
    np.put_along_axis(chosen, ranked, (key < 1) & ((middle <= budget) | (before == 0)), axis=1)
    return chosen


class gathered:  # noqa: N801  (a context manager, used as a function)
    """While open, the model's head sees the hidden states of chosen positions only, (1, N, H) instead of (B, T, H).

    Heads of masked LMs work on each position alone, so the logits are those of the full head at N / (B·T) of its cost,
    which is most of the cost of a small model's step.

    Args:
        rows, columns: (N,) the positions.
    """

    def __init__(self, model: PreTrainedModel, rows: Tensor, columns: Tensor) -> None:
        self._model, self._rows, self._columns = model, rows, columns
        self._seen = False

    def __enter__(self) -> "gathered":
        base = self._model.base_model
        self._handle = base.register_forward_hook(self._gather) if base is not self._model else None
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            self._handle.remove()

    def of(self, logits: Tensor) -> Tensor:
        """(N, V), whether the head saw the gathered states or, in a class that is built otherwise, all of them."""
        return logits[0] if self._seen else logits[self._rows, self._columns]

    def _gather(self, _module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> Any:
        self._seen = True
        states = output[0][self._rows, self._columns][None]
        if isinstance(output, tuple):
            return (states, *output[1:])
        output["last_hidden_state"] = states
        return output


class MaskedLanguage(nn.Module):
    """A masked language model with its loss, and that of next-sentence prediction where it has that head."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`{"mlm": loss}` of a batch, a mean over the step's masked tokens, and `"nsp"`, over its pairs."""
        logits, wanted, follows = self.predictions(batch)
        # A step without any token to hide divides nothing by one.
        count = batch.counts.masked or 1.0
        parts = {"mlm": F.cross_entropy(logits.float(), wanted, reduction="sum") / count}
        following = getattr(batch, "following", None)
        if following is not None and follows is not None:
            parts["nsp"] = (
                F.cross_entropy(follows.float(), following, reduction="sum") / batch.counts.examples
            )
        return parts

    def predictions(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Logits (N, V) at the masked positions, the tokens that stood there (N,), and logits of following (B, 2)."""
        assert batch.labels is not None
        rows, columns = (batch.labels != IGNORED).nonzero(as_tuple=True)
        with gathered(self.model, rows, columns) as head:
            output = self.model(**batch.inputs)
        # Of the class with both heads (BERT's) the fields are named otherwise.
        logits = output.prediction_logits if "prediction_logits" in output else output.logits
        return head.of(logits), batch.labels[rows, columns], output.get("seq_relationship_logits")


def _rows(batch: MaskedBatch, rows: Array) -> MaskedBatch:
    """Some rows of a batch, padded to their longest."""
    assert batch.labels is not None
    width = int(batch.mask[rows].sum(1).max())
    return replace(
        batch,
        inputs={name: values[rows, :width] for name, values in batch.inputs.items()},
        labels=batch.labels[rows, :width],
        index=batch.index[rows],
        words=None if batch.words is None else batch.words[rows, :width],
        following=None if batch.following is None else batch.following[rows],
    )


def _chances(seed: int, epoch: int, rows: Array, width: int) -> Array:
    """Three random numbers in [0, 1) for every token, (3, B, T), that seed, epoch, row and place decide.

    A counter hashed by splitmix64, not a generator, whose state would depend on what was drawn before.
    """
    state = np.array([seed], dtype=np.int64).astype(np.uint64)
    for number in (np.array([epoch]), rows):
        state = _mix(_mix(state) + number.astype(np.uint64))
    places = np.arange(width, dtype=np.uint64) * np.uint64(3)
    draws = np.arange(3, dtype=np.uint64)
    cells = state[None, :, None] + places[None, None, :] + draws[:, None, None]
    return (_mix(cells) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(values: Array) -> Array:
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Array = values ^ (values >> np.uint64(31))
    return mixed
