"""What a model is asked: one class of several, any of several, or a number; for each word of a text, or for a span."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from attar.data import batches as data
from attar.data.batches import Batch, Counts
from attar.errors import DataError, ModelError
from attar.model.views import outputs

if TYPE_CHECKING:
    from datasets import Dataset

TextKind = Literal["single_label", "multi_label", "regression"]
Kind = Literal[TextKind, "tags", "answer", "embedding"]

PROBLEM_TYPES: dict[TextKind, str] = {
    "single_label": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}
KINDS = {name: kind for kind, name in PROBLEM_TYPES.items()}


@dataclass(frozen=True)
class Task:
    """A prediction task over C outputs; this class is that of whole texts, `Tagging` and `Answering` ask single tokens.

    A model's logits are (B, C) here and (B, T, C) there, the latter packed over the N real tokens of all rows, (N, C),
    where whole tables are predicted.

    Attributes:
        kind: one class per text, any number of classes per text, or a real-valued score; tags of words; an answer's
            span.
        labels: names of the C outputs, in the order of the model's logits.
        head: of the model.
        targets: the columns of a table that have the labels.
        per_token: whether the logits are of tokens.
        answers_by_row: whether what a model says of a row is read from the logits of that row alone.
        max_length: tokens of a text where nothing else is asked for.
    """

    kind: Kind
    labels: tuple[str, ...]
    head: ClassVar[Any] = "sequence-classification"
    targets: ClassVar[tuple[str, ...]] = ("label",)
    per_token: ClassVar[bool] = False
    answers_by_row: ClassVar[bool] = True
    max_length: ClassVar[int] = 128

    @classmethod
    def of_config(cls, config: Any) -> "Task":
        """Read the task of whole texts from a Hugging Face config.

        Where `problem_type` is not written, one output means regression and several mean one class of several:
        transformers' own rule.

        Raises:
            ModelError: `problem_type` is none of the three that transformers knows.
        """
        labels = tuple(str(config.id2label[i]) for i in range(config.num_labels))
        written = config.problem_type
        if written is None:
            return cls("regression" if len(labels) == 1 else "single_label", labels)
        if written not in KINDS:
            raise ModelError(
                expected=f"problem_type in config.json to be one of {', '.join(KINDS)}",
                found=repr(written),
                fix="correct config.json",
            )
        return cls(KINDS[written], labels)

    def configure(self, config: Any) -> None:
        """Write the task into a Hugging Face config, so that pipelines print class names."""
        config.id2label = dict(enumerate(self.labels))
        config.label2id = {name: i for i, name in enumerate(self.labels)}
        config.problem_type = PROBLEM_TYPES[self.kind]  # type: ignore[index]  # the kinds of this class

    def encode(
        self, table: "Dataset", tokenizer: Any, *, max_length: int = 128, stride: int = 128
    ) -> "Dataset":
        """A table's rows as tokens, see `attar.data.batches.encode`; `stride` is for tasks that read in windows."""
        return data.encode(table, tokenizer, max_length=max_length)

    def window(self, model: PreTrainedModel, max_length: int | None) -> int:
        """Tokens that are read at a time: `max_length`, or the task's own, as far as the model has positions.

        Where texts are read in windows nothing is lost in smaller ones; else a line says that texts are cut.
        """
        wanted = max_length or self.max_length
        return min(wanted, data.positions(model)) if self.per_token else data.fitting(wanted, model)

    def labelled(self, table: "Dataset") -> bool:
        """Whether a table has labels of this task."""
        return set(self.targets) <= set(table.column_names)

    def count(self, counts: Counts) -> float:
        """Of the denominators of a step, the one of this task's losses."""
        return counts.examples

    def decisions(self, logits: Tensor, batch: Batch) -> Tensor:
        """(K, C'), the K choices (scores) that a batch asks for, each of C': here the logits themselves."""
        return logits

    def supervised(self, logits: Tensor, batch: Batch) -> Tensor:
        """The loss on the labels of a batch."""
        assert batch.labels is not None
        return self.loss(logits, batch.labels, count=self.count(batch.counts))

    def loss(self, logits: Tensor, labels: Tensor, *, count: float | None = None) -> Tensor:
        """Supervised loss: cross-entropy, binary cross-entropy or squared error.

        Args:
            logits: (B, C).
            labels: (B,) class numbers, (B, C) zeros and ones, or (B,) scores.
            count: examples to average over; B where None. Under gradient accumulation or several processes it is
                the number of examples of the whole optimizer step divided by the number of processes.

        Returns:
            A scalar, averaged over examples (and over the C binary decisions of a multi-label task).
        """
        if self.kind == "single_label":
            total = F.cross_entropy(logits.float(), labels.long(), reduction="sum")
        elif self.kind == "multi_label":
            total = (
                F.binary_cross_entropy_with_logits(logits.float(), labels.float(), reduction="sum")
                / logits.shape[1]
            )
        else:
            total = F.mse_loss(logits.float().squeeze(-1), labels.float(), reduction="sum")
        return total / (count or logits.shape[0])

    def predict(self, logits: np.ndarray) -> np.ndarray:
        """(N, C) logits to (N,) class numbers, (N, C) zeros and ones (threshold 0.5), or (N,) scores."""
        if self.kind == "single_label":
            return np.asarray(logits.argmax(-1))
        if self.kind == "multi_label":
            return (logits > 0).astype(np.int64)
        return logits.reshape(len(logits), -1)[:, 0]

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """(N, C) logits to (N, C) probabilities: softmax, sigmoid, or the score itself."""
        tensor = torch.from_numpy(np.asarray(logits, dtype=np.float64))
        if self.kind == "single_label":
            return tensor.softmax(-1).numpy()
        if self.kind == "multi_label":
            return tensor.sigmoid().numpy()
        return tensor.numpy()

    def decided(self, logits: np.ndarray, encoded: "Dataset") -> np.ndarray:
        """`decisions` of the logits of a whole encoded table."""
        return logits

    def answers(self, logits: np.ndarray, encoded: "Dataset", table: "Dataset") -> np.ndarray:
        """(S,) or (S, C): what the logits of an encoded table say of each of its S rows."""
        return self.predict(logits)

    def truth(self, table: "Dataset") -> np.ndarray | None:
        """(S,) or (S, C): what the labels say of each row, None where there are none."""
        return torch.tensor(table["label"][:]).numpy() if self.labelled(table) else None

    def text(self, row: Mapping[str, Any]) -> tuple[str, str | None]:
        """What a reader is shown of a row: a text, and a second one where there is one."""
        return row["text"], row.get("text_pair")

    def as_text(self, value: Any, row: Mapping[str, Any]) -> str:
        """An answer in words: a class name, the names of several, or a score."""
        if self.kind == "regression":
            return f"{float(value):.2f}"
        if self.kind == "multi_label":
            return ", ".join(label for label, on in zip(self.labels, value, strict=True) if on) or "none"
        return self.labels[int(value)]


class Supervised(nn.Module):
    """A model with the loss of its task."""

    def __init__(self, model: PreTrainedModel, task: Task) -> None:
        super().__init__()
        self.model, self.task = model, task

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`{"task": loss}` of a batch."""
        if batch.labels is None:
            raise DataError(
                expected="labels to learn from", found="a table without", fix="name the label column"
            )
        return {"task": self.task.supervised(outputs(self.model(**batch.inputs)), batch)}


def names(values: Sequence[object]) -> tuple[str, ...]:
    """Distinct label values as class names, numbers in numeric order and words in alphabetical order."""
    distinct = {str(value) for value in values}
    if all(name.lstrip("-").isdigit() for name in distinct):
        return tuple(sorted(distinct, key=int))
    return tuple(sorted(distinct))
