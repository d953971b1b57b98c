"""The task of embedding models: vectors of texts whose similarities say how like the texts are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset, concatenate_datasets
from numpy.typing import NDArray
from torch import Tensor

from attar.data import batches as data
from attar.data.batches import Batch
from attar.data.tasks import Task
from attar.errors import ModelError
from attar.model.embedding import KEY
from attar.model.sentence_modules import Head

Array = NDArray[Any]
# Texts that each text of a table is compared with, where nothing says how like two texts are.
ANCHORS = 200
NEAREST = 10
# Similarities that are distances, and scipy's names of these.
DISTANCES = {"euclidean": "euclidean", "manhattan": "cityblock"}


@dataclass(frozen=True)
class Embedding(Task):
    """Embeddings (N, E) of texts.

    A table of pairs with labels (STS) asks how like the two texts of each row are. Without labels a model is held
    against its teacher: by the rank correlation, over `ANCHORS` other texts, of how like each text is to them.

    Attributes:
        similarity: how two embeddings are compared: cosine, dot, euclidean or manhattan.
        longest: tokens of a text where nothing else is asked for.
        prompt: stands before every text: the model's default prompt.
    """

    similarity: str = "cosine"
    longest: int = 128
    prompt: str = ""
    head: ClassVar[Any] = "embedding"
    answers_by_row: ClassVar[bool] = False

    @classmethod
    def of_config(cls, config: Any) -> "Embedding":
        """Read the task from the config of an embedding model."""
        head = Head.of(getattr(config, KEY))
        longest = min(head.max_length or cls.max_length, cls.max_length)
        prompt = head.prompts.get(head.default_prompt or "", "")
        return cls("embedding", (), head.similarity, longest, prompt)

    def configure(self, config: Any) -> None:
        """What the task is stands in the config of the teacher, from which the student's is made."""

    def encode(self, table: Dataset, tokenizer: Any, *, max_length: int = 128, stride: int = 128) -> Dataset:
        """One row a text, after the prompt; of pairs the second texts stand after all first ones."""
        first = table.select_columns("text")
        if "text_pair" in table.column_names:
            second = table.select_columns("text_pair").rename_column("text_pair", "text")
            first = concatenate_datasets([first, second])
        if self.prompt:
            first = Dataset.from_dict({"text": [self.prompt + text for text in first["text"]]})
        return data.encode(first, tokenizer, max_length=max_length)

    def supervised(self, logits: Tensor, batch: Batch) -> Tensor:
        """Refused: what embeddings learn from labels, sentence-transformers teaches."""
        raise ModelError(
            expected="a teacher whose embeddings are learned from",
            found="labels to fine-tune an embedding model on",
            fix="name its directory: attar finetune my-embedder --data pairs.csv",
        )

    def answers(self, logits: Array, encoded: Dataset, table: Dataset) -> Array:
        """(S,) similarities of labelled pairs; else (S, A), of each text the ranks of its similarities to A texts.

        Ranks are standardised, so that the product of two models' is their rank correlation.
        """
        from scipy import stats

        rows = len(table)
        first, second = logits[:rows], logits[-rows:]
        if self.labelled(table):
            return np.concatenate(
                [self.alike(a[None], b[None])[0] for a, b in zip(first, second, strict=True)]
            )
        at = np.linspace(0, rows - 1, min(rows, ANCHORS)).round().astype(int)
        ranks = stats.rankdata(self.alike(first, second[at]), axis=1)
        spread = ranks.std(axis=1, keepdims=True)
        return np.asarray((ranks - ranks.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1.0))

    def alike(self, first: Array, second: Array) -> Array:
        """(N, M) similarities of embeddings (N, E) and (M, E), in float64; the negative of what is a distance."""
        x, y = (np.asarray(side, dtype=np.float64) for side in (first, second))
        if self.similarity in DISTANCES:
            from scipy.spatial.distance import cdist

            return np.asarray(-cdist(x, y, DISTANCES[self.similarity]))
        if self.similarity == "cosine":
            x, y = (side / np.maximum(np.linalg.norm(side, axis=-1, keepdims=True), 1e-12) for side in (x, y))
        return np.asarray(x @ y.T)

    def nearest(self, embeddings: Array, teacher: Array, *, most: int = 2000) -> float:
        """How many of the ten texts nearest to each text are the same for student and teacher, of the first `most`."""
        count = min(len(embeddings), most)
        near = min(NEAREST, count - 1)
        if near < 1:
            return 1.0
        sides = []
        for given in (embeddings, teacher):
            alike = self.alike(given[:count], given[:count])
            np.fill_diagonal(alike, -np.inf)
            sides.append(np.argpartition(-alike, near - 1, axis=1)[:, :near])
        same = [len(np.intersect1d(ours, theirs)) for ours, theirs in zip(*sides, strict=True)]
        return float(np.mean(same) / near)

    def as_text(self, value: Any, row: Mapping[str, Any]) -> str:
        """A similarity in words; nothing of a text alone."""
        return f"{float(value):.2f}" if np.ndim(value) == 0 else ""
