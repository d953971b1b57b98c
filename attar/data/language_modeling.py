"""What a language model is asked of plain text: masked tokens (an encoder) or next tokens (a decoder)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset
from torch import nn
from transformers import PreTrainedModel

from attar.anatomy.resolve import family
from attar.data.batches import Batches, encode, fitting, say_cut
from attar.data.blocks import Blocks, CausalLanguage, StreamBlocks, blocks_of
from attar.data.masking import MaskedBatches, MaskedLanguage
from attar.data.streaming import StreamBatches
from attar.errors import DataError, ModelError

TextBatches = MaskedBatches | Blocks | StreamBlocks


@dataclass(frozen=True)
class Reading:
    """How texts become batches for a language model.

    Attributes:
        causal: next tokens of packed blocks; else masked tokens of texts one by one.
        max_length: tokens of a text, or of a block.
        mask, whole_word: of masked tokens, see `MaskedBatches`.
        steps: batches of an epoch of a stream.
    """

    causal: bool
    max_length: int = 128
    batch_size: int = 32
    mask: float = 0.15
    whole_word: bool = False
    steps: int = 1000
    seed: int = 0

    def batches(
        self,
        texts: Dataset | IterableDataset | Sequence[str],
        tokenizer: Any,
        *,
        shuffle: bool = False,
        **dealt: Any,
    ) -> TextBatches:
        """Batches of texts, once it is sure that there is something to predict; `dealt` are `rank` and `world`."""
        dealt |= {"batch_size": self.batch_size, "seed": self.seed}
        if self.causal:
            size = self.max_length
            return blocks_of(texts, tokenizer, size=size, steps=self.steps, shuffle=shuffle, **dealt)
        if isinstance(texts, IterableDataset):
            stream = StreamBatches(
                texts, tokenizer, steps=self.steps, max_length=self.max_length, words=self.whole_word, **dealt
            )
            return self._masked(stream, tokenizer)
        table = texts if isinstance(texts, Dataset) else Dataset.from_dict({"text": list(texts)})
        encoded = encode(table, tokenizer, max_length=self.max_length, words=self.whole_word)
        batches = Batches(encoded, tokenizer, shuffle=shuffle, **dealt)
        say_cut(batches.lengths, self.max_length)
        if np.isin(batches.token_ids, tokenizer.all_special_ids).all():
            raise DataError(
                expected="texts with words that the tokenizer knows",
                found=f"{len(table)} texts of special and unknown tokens only",
                fix="check that the tokenizer is of the texts' language, or add dev texts",
            )
        return self._masked(batches, tokenizer)

    def _masked(self, batches: Batches | StreamBatches, tokenizer: Any) -> MaskedBatches:
        return MaskedBatches(batches, tokenizer, mask=self.mask, whole_word=self.whole_word, seed=self.seed)


def reading(model: PreTrainedModel, *, max_length: int, **options: Any) -> Reading:
    """How a model reads texts, cut to what it has positions for."""
    return Reading(causal_head(model), fitting(max_length, model), **options)


def causal_head(model: PreTrainedModel) -> bool:
    """Whether a model predicts next tokens."""
    return family(model.config.model_type).causal


def learner_of(model: PreTrainedModel) -> nn.Module:
    """A model with the loss of what it is asked: `mlm` (and `nsp`), or `clm`."""
    return CausalLanguage(model) if causal_head(model) else MaskedLanguage(model)


def same_vocabulary(ours: Any, theirs: Any, name: str) -> None:
    """Refuse a pair of tokenizers whose tokens mean different things: their models would silently distil nonsense.

    Raises:
        ModelError: it says what differs.
    """
    left, right = ours.get_vocab(), theirs.get_vocab()
    if left == right:
        return
    differ = sorted(set(left.items()) ^ set(right.items()), key=lambda pair: pair[1])
    token, number = differ[0]
    other = {n: t for t, n in (right if (token, number) in left.items() else left).items()}.get(
        number, "nothing"
    )
    sizes = f"{len(left)} and {len(right)} tokens, " if len(left) != len(right) else ""
    raise ModelError(
        expected="teacher and student with the same tokenizer",
        found=f"{name} has another vocabulary: {sizes}{len(differ)} entries differ, the first {number}: "
        f"{token!r} against {other!r}",
        fix="build the student from the teacher (student={'layers': …}), which keeps its tokenizer",
    )
