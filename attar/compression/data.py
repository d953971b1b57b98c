"""The texts of a compression: those to learn from, those that choices are made by, and those for the end."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from attar.augmentation import EmbeddingCandidates, augment
from attar.data.batches import Batches
from attar.data.columns import Columns
from attar.data.model_task import task_of
from attar.data.tables import read_table, read_texts
from attar.data.tasks import Task
from attar.errors import DataError, ModelError
from attar.evaluation.quality import Evaluation
from attar.evaluation.table import TableEvaluator
from attar.model.checkpoint import Loaded, digest
from attar.progress import say

# Rows held out for choices and for the end, at most and as a part of all; and under which number nothing is learned.
DEV, TEST, PART, FEWEST = 1000, 1000, 0.15, 20
# Augmented copies are made until there are so many rows, but no more than so many of each.
ROWS, COPIES = 30_000, 8
BATCH = 32


@dataclass(frozen=True)
class Tables:
    """Texts that no row of another table is in.

    Attributes:
        train: of which labels are left out: the teacher's outputs teach.
        dev: chooses among candidates and epochs.
        test: read once, at the end.
        labelled: the training rows with their labels, for baselines; None without labels.
    """

    train: Dataset
    dev: Dataset
    test: Dataset
    labelled: Dataset | None = None


def split(
    task: Task, *, data: Any, texts: Any, dev: Any, test: Any, columns: Columns | None, seed: int
) -> Tables:
    """Read the texts, and hold out what is not given.

    Raises:
        DataError: no texts, or too few to hold some out.
    """
    if data is None and texts is None:
        raise DataError(
            expected="texts of the task",
            found="neither data nor texts",
            fix="pass texts=… (--texts FILE, one a line), or data=… (--data TABLE)",
        )
    if data is not None:
        table = read_table(data, columns=columns, task=task)[0]
    else:
        table = read_texts(texts)
        if task.per_token:  # words to tag are those between spaces
            table = read_table(table, task=task)[0]
    given: dict[str, Any] = {
        name: None if source is None else read_table(source, columns=columns, task=task)[0]
        for name, source in (("dev", dev), ("test", test))
    }
    for name, most in (("test", TEST), ("dev", DEV)):
        if given[name] is None:
            if len(table) < FEWEST:
                raise DataError(
                    expected=f"at least {FEWEST} texts, to hold some out",
                    found=str(len(table)),
                    fix="give more texts, or tables dev=… and test=… (--dev, --test)",
                )
            parts = table.train_test_split(test_size=min(most, max(2, int(len(table) * PART))), seed=seed)
            table, given[name] = parts["train"], parts["test"]
            say(f"no {name} table: {len(parts['test']):,} of the texts are held out")
    labels = [name for name in task.targets if name in table.column_names]
    labelled = table if task.labelled(table) else None
    return Tables(table.remove_columns(labels), **given, labelled=labelled)


class Texts:
    """The tables as a teacher and its candidates read them.

    Args:
        loaded: the teacher and its tokenizer.
        max_length: tokens of a text; the task's own where None.

    Raises:
        ModelError: a teacher without a task.
    """

    def __init__(
        self, loaded: Loaded, tables: Tables, *, max_length: int | None, stride: int, seed: int
    ) -> None:
        self.loaded, self.tables, self.seed = loaded, tables, seed
        self.task = task_of(loaded.model)
        self.window = {"max_length": self.task.window(loaded.model, max_length), "stride": stride}

    def evaluator(self, table: Dataset, tokenizer: Any = None) -> TableEvaluator:
        """A table to measure on, as a tokenizer reads it, the teacher's own where None."""
        return TableEvaluator(
            self.task, table, tokenizer or self.loaded.tokenizer, batch_size=64, **self.window
        )

    @cached_property
    def dev(self) -> TableEvaluator:
        """The dev table."""
        return self.evaluator(self.tables.dev)

    @cached_property
    def teacher_on_dev(self) -> Evaluation:
        """What the teacher says of the dev table."""
        return self.dev.evaluate_teacher(self.dev.logits(self.loaded.model))

    def batches(self, table: Dataset, *, shuffle: bool = True) -> Batches:
        """Batches of a table."""
        encoded = self.task.encode(table, self.loaded.tokenizer, **self.window)
        return Batches(encoded, self.loaded.tokenizer, batch_size=BATCH, shuffle=shuffle, seed=self.seed)

    def sample(self, rows: int) -> Batches:
        """The first rows of the training texts: what weights are projected and fitted on."""
        return self.batches(self.tables.train.select(range(min(rows, len(self.tables.train)))), shuffle=False)

    def words(self) -> Sequence[str]:
        """All texts that a candidate may learn from: what a vocabulary is trimmed to."""
        train = self.tables.train
        names = [name for name in train.column_names if isinstance(train[0][name], str)]
        if "tokens" in train.column_names:
            return [" ".join(row) for row in train["tokens"][:]]
        return [text for name in names for text in train[name][:]]

    def lengths(self) -> np.ndarray:
        """Tokens of each dev text."""
        found: np.ndarray = self.dev.batches.lengths
        return found

    @property
    def key(self) -> str:
        """A digest of the teacher, the texts and how they are read."""
        read = self.batches(self.tables.train, shuffle=False)
        return digest(self.loaded.model, *read.content, *self.dev.batches.content, self.window, self.seed)

    def augmented(self, place: Path, copies: int) -> Dataset:
        """The training texts with copies in which words are replaced by their neighbours in the teacher's embedding."""
        train = self.tables.train
        if copies < 1 or self.task.per_token:
            return train
        out = place / f"augmented-{copies}"
        if not out.exists():
            more = augment(
                train,
                EmbeddingCandidates(self.loaded.model, self.loaded.tokenizer),
                copies=copies,
                seed=self.seed,
            )
            part = out.with_suffix(".part")
            more.save_to_disk(str(part))
            part.rename(out)
        return Dataset.load_from_disk(str(out))

    def copies(self, affordable: int) -> int:
        """How many augmented copies of each text to make, where the teacher can read so many rows in the time."""
        rows = len(self.tables.train)
        return int(max(0, min(COPIES, (min(ROWS, affordable) - rows) // max(1, rows))))


def check_teacher(task: Task, said: Evaluation) -> None:
    """Refuse a teacher that is no better than the most frequent label.

    Raises:
        ModelError: it is at chance on the dev table.
    """
    if said.labels is None or task.kind != "single_label" or task.per_token:
        return
    labels = np.asarray(said.labels)
    frequent = float(np.bincount(labels).max() / len(labels))
    right = float((said.predictions == labels).mean())
    error = 2 * (frequent * (1 - frequent) / len(labels)) ** 0.5
    if right <= frequent + error:
        raise ModelError(
            expected="a teacher that is better than its most frequent label",
            found=f"{right:.1%} right on {len(labels)} labelled texts, of which {frequent:.1%} have that label",
            fix="check that the labels are named as the model's, or fine-tune it first (attar finetune)",
        )
