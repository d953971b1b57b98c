"""Extractive question answering: the span of a context that answers a question (SQuAD)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from attar.data.batches import Batch, Counts
from attar.data.tasks import Task
from attar.data.windows import answers_of, fast, overlap
from attar.progress import say

Array = NDArray[Any]
# BERT's limits (run_squad.py): tokens of a question and of an answer.
QUESTION, ANSWER = 64, 30
IGNORED = -100
# Below every logit, yet finite: the product of -inf with a probability of 0 is no number.
HIDDEN = -1e4
# Where a context says nothing of the question, its answer "stands" at the first token, [CLS].
NONE = 0
# The name that transformers' question-answering pipelines have for it.
KEY = "handle_impossible_answer"


@dataclass(frozen=True)
class Answering(Task):
    """The first and the last token of the answer, in windows of the context after the question.

    Start and end are each one choice among all real tokens of a window, question and special tokens included, as a
    model is trained to point at [CLS] in a window that does not hold the answer. Padding is no choice.

    Attributes:
        impossible: whether "no answer" may be said, as a model learns from SQuAD 2.0.
    """

    impossible: bool = False
    head: ClassVar[Any] = "question-answering"
    targets: ClassVar[tuple[str, ...]] = ("answers", "spans")
    per_token: ClassVar[bool] = True
    answers_by_row: ClassVar[bool] = False
    max_length: ClassVar[int] = 384

    @classmethod
    def of_config(cls, config: Any) -> "Answering":
        """Read the task from a Hugging Face config."""
        return cls("answer", ("start", "end"), impossible=bool(getattr(config, KEY, False)))

    def configure(self, config: Any) -> None:
        """Write into a Hugging Face config whether "no answer" may be said."""
        setattr(config, KEY, self.impossible)

    def encode(self, table: Dataset, tokenizer: Any, *, max_length: int = 384, stride: int = 128) -> Dataset:
        """One row a window of a context after its question.

        A question is cut to 64 tokens, or to half of the window.

        Returns:
            The tokenizer's columns, `length`, `example`, the characters of the context that each token stands for
            (`begins` and `ends`, -1 for tokens that are none of it), and, where there are answers, `labels`: the first
            and the last token of the first answer, twice 0 in a window that does not hold it, `IGNORED` where no
            context does.
        """
        fast(tokenizer)
        room = max_length - tokenizer.num_special_tokens_to_add(pair=True)
        longest = min(QUESTION, room // 2)
        options = {"max_length": max_length, "stride": overlap(stride, room - longest)}
        cut: list[int] = []

        def windows(rows: dict[str, list[Any]], index: list[int]) -> dict[str, list[Any]]:
            questions = _cut(rows["question"], tokenizer, longest)
            cut.append(sum(a != b for a, b in zip(questions, rows["question"], strict=True)))
            encoded = tokenizer(
                questions,
                rows["context"],
                truncation="only_second",
                **options,
                return_overflowing_tokens=True,
                return_offsets_mapping=True,
                return_attention_mask=False,
            )
            source = encoded.pop("overflow_to_sample_mapping")
            spans = encoded.pop("offset_mapping")
            places = [
                np.where((np.array(encoded.sequence_ids(row)) == 1)[:, None], np.array(span), -1)
                for row, span in enumerate(spans)
            ]
            found = {**encoded, "example": [index[row] for row in source]}
            found["begins"], found["ends"] = (
                [place[:, side].tolist() for place in places] for side in (0, 1)
            )
            found["length"] = [len(ids) for ids in found["input_ids"]]
            if "spans" in rows:
                found["labels"] = [
                    _label(rows["spans"][row], place) for row, place in zip(source, places, strict=True)
                ]
            return found

        encoded = table.map(
            windows,
            batched=True,
            with_indices=True,
            remove_columns=table.column_names,
            load_from_cache_file=False,
        )
        if total := sum(cut):
            say(f"{total} of {len(table)} questions are cut to {longest} tokens")
        return encoded

    def count(self, counts: Counts) -> float:
        """Choices of a step: a start and an end in each window."""
        return 2 * counts.examples

    def decisions(self, logits: Tensor, batch: Batch) -> Tensor:
        """(2B, T) of (B, T, 2): starts and ends, each among the real tokens of its window."""
        mask = batch.mask.to(logits.device)[..., None]
        return logits.masked_fill(~mask, HIDDEN).transpose(1, 2).flatten(0, 1)

    def supervised(self, logits: Tensor, batch: Batch) -> Tensor:
        """The mean of the cross-entropies of start and end, averaged over windows."""
        assert batch.labels is not None
        choices, labels = self.decisions(logits, batch).float(), batch.labels.flatten().long()
        total = F.cross_entropy(choices, labels, reduction="sum", ignore_index=IGNORED)
        return total / self.count(batch.counts)

    def decided(self, logits: Array, encoded: Dataset) -> Array:
        """(2W, T) of packed logits (N, 2) of W windows."""
        lengths = np.asarray(encoded["length"][:])
        padded = np.full((len(lengths), lengths.max(), 2), HIDDEN)
        padded[np.arange(lengths.max()) < lengths[:, None]] = logits
        return padded.transpose(0, 2, 1).reshape(2 * len(lengths), -1)

    def answers(self, logits: Array, encoded: Dataset, table: Dataset) -> Array:
        """(S,) the answer to each question, as text of its context, from packed logits (N, 2) of all windows.

        The best start and end of all windows, by the sum of their logits, at most 30 tokens apart. Where a question may
        have none, the answer is "" if the sum at [CLS], the least of all windows, is more (SQuAD 2.0 with threshold 0).
        """
        truth = self.truth(table)
        impossible = self.impossible or (truth is not None and not all(truth))
        best: dict[int, tuple[float, int, int]] = {}
        none: dict[int, float] = {}
        stops = np.cumsum(encoded["length"][:])
        columns = (encoded[name] for name in ("example", "length", "begins", "ends"))
        for stop, example, length, begins, ends in zip(stops, *columns, strict=True):
            window = logits[stop - length : stop]
            none[example] = min(none.get(example, np.inf), float(window[NONE].sum()))
            score, first, last = _best(window, np.asarray(begins) >= 0)
            if example not in best or score > best[example][0]:
                best[example] = score, begins[first], ends[last]
        contexts = table["context"][:]
        return answers_of(
            "" if impossible and none[i] > best[i][0] else contexts[i][best[i][1] : best[i][2]]
            for i in range(len(table))
        )

    def truth(self, table: Dataset) -> Array | None:
        """(S,) the right answers to each question, a tuple of texts; an empty one where it has none."""
        if not self.labelled(table):
            return None
        return answers_of(tuple(answers) for answers in table["answers"])

    def text(self, row: Mapping[str, Any]) -> tuple[str, str | None]:
        """The question, and its context."""
        return row["question"], row["context"]

    def as_text(self, value: Any, row: Mapping[str, Any]) -> str:
        """An answer, or the first of several right ones."""
        answer = value if isinstance(value, str) else next(iter(value), "")
        return answer or "no answer"


def _cut(questions: Sequence[str], tokenizer: Any, longest: int) -> list[str]:
    """Questions without what is after their first `longest` tokens, and without blanks before them.

    Some have so many blanks that no room is left for the context.
    """
    stripped = [question.lstrip() for question in questions]
    spans = tokenizer(
        stripped, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False
    )["offset_mapping"]
    return [
        text if len(span) <= longest else text[: span[longest - 1][1]]
        for text, span in zip(stripped, spans, strict=True)
    ]


def _label(spans: Sequence[Sequence[int]], places: Array) -> list[int]:
    """First and last token of the first answer that is in the context."""
    if not spans:
        return [NONE, NONE]
    begin, end = next((span for span in spans if span[0] >= 0), (-1, -1))
    if begin < 0:
        return [IGNORED, IGNORED]
    inside = np.flatnonzero(places[:, 0] >= 0)
    first = inside[np.searchsorted(places[inside, 0], begin, side="right") - 1] if len(inside) else 0
    if not len(inside) or begin < places[inside[0], 0] or end > places[inside[-1], 1]:
        return [NONE, NONE]
    last = inside[np.searchsorted(places[inside, 1], end, side="left")]
    return [int(first), int(last)]


def _best(window: Array, inside: Array) -> tuple[float, int, int]:
    """The largest start + end of a window (T, 2) among the tokens of the context, and where they are."""
    start, end = np.where(inside[:, None], window, -np.inf).T
    ahead = np.concatenate([end, np.full(ANSWER - 1, -np.inf, dtype=end.dtype)])
    total = start[:, None] + np.lib.stride_tricks.sliding_window_view(ahead, ANSWER)
    first, apart = divmod(int(total.argmax()), ANSWER)
    return float(total[first, apart]), first, first + apart
