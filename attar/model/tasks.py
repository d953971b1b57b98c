"""What a model is asked: one class of several, any of several, or a number."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from attar.errors import DataError, ModelError
from attar.model.data import Batch

Kind = Literal["single_label", "multi_label", "regression"]

PROBLEM_TYPES: dict[Kind, str] = {
    "single_label": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}


@dataclass(frozen=True)
class Task:
    """A prediction task over C outputs.

    Attributes:
        kind: one class per text, any number of classes per text, or a real-valued score.
        labels: names of the C outputs, in the order of the model's logits.
    """

    kind: Kind
    labels: tuple[str, ...]

    @classmethod
    def of(cls, config: Any) -> "Task":
        """Read the task from a Hugging Face config.

        Where `problem_type` is not written, one output means regression and several mean one class of several:
        transformers' own rule.

        Raises:
            ModelError: `problem_type` is none of the three that transformers knows.
        """
        labels = tuple(str(config.id2label[i]) for i in range(config.num_labels))
        written = config.problem_type
        if written is None:
            return cls("regression" if len(labels) == 1 else "single_label", labels)
        for kind, name in PROBLEM_TYPES.items():
            if name == written:
                return cls(kind, labels)
        raise ModelError(
            expected=f"problem_type in config.json to be one of {', '.join(PROBLEM_TYPES.values())}",
            found=repr(written),
            fix="correct config.json",
        )

    def configure(self, config: Any) -> None:
        """Write the task into a Hugging Face config, so that pipelines print class names."""
        config.id2label = dict(enumerate(self.labels))
        config.label2id = {name: i for i, name in enumerate(self.labels)}
        config.problem_type = PROBLEM_TYPES[self.kind]

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
        logits = self.model(**batch.inputs).logits
        return {"task": self.task.loss(logits, batch.labels, count=batch.counts.examples)}


def names(values: Sequence[object]) -> tuple[str, ...]:
    """Distinct label values as class names, numbers in numeric order and words in alphabetical order."""
    distinct = {str(value) for value in values}
    if all(name.lstrip("-").isdigit() for name in distinct):
        return tuple(sorted(distinct, key=int))
    return tuple(sorted(distinct))
