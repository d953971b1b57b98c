"""The texts of a compression: those to learn from, those that choices are made by, and those for the end."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel

from attar.anatomy.resolve import Bound
from attar.data.batches import Batches
from attar.data.columns import Columns
from attar.data.tables import SampleBy, read_table, read_texts
from attar.data.tasks import Task
from attar.errors import DataError
from attar.model.checkpoint import Loaded
from attar.model.onnx import OnnxModel
from attar.progress import say
from attar.report.report import Report, Role
from attar.training.loop import Precision

# Rows held out for choices and for the end, at most and as a part of all; and under which number nothing is learned.
DEV, TEST, PART, FEWEST = 1000, 1000, 0.15, 20
# Rows of a dev table that are read at most, and in a short run (seconds): every candidate is measured on them.
LOOKED, GLANCED, SHORT = 1000, 400, 300.0
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
    task: Task,
    *,
    data: Any,
    texts: Any,
    dev: Any,
    test: Any,
    columns: Columns | None,
    sample_by: SampleBy,
    seed: int,
    rows: int = LOOKED,
) -> Tables:
    """Read the texts, and hold out what is not given.

    Args:
        rows: of the dev table that are read at most.

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
        table = read_texts(texts, sample_by=sample_by)
        if task.per_token:  # words to tag are those between spaces
            table = read_table(table, task=task)[0]
    table, held = held_out(
        table,
        {"dev": dev, "test": test},
        lambda source: read_table(source, columns=columns, task=task)[0],
        most={"test": TEST, "dev": DEV},
        seed=seed,
    )
    held["dev"] = drawn(held["dev"], rows, seed)
    labels = [name for name in task.targets if name in table.column_names]
    labelled = table if task.labelled(table) else None
    return Tables(table.remove_columns(labels), **held, labelled=labelled)


def held_out(
    table: Dataset,
    given: Mapping[str, Any],
    read: Callable[[Any], Dataset],
    *,
    most: Mapping[str, int],
    seed: int,
) -> tuple[Dataset, dict[str, Dataset]]:
    """The rows to learn from, and the other tables by name: read, or held out of these rows.

    Args:
        given: where a table is read from; None for one that is held out.
        most: rows that are held out at most, in this order.

    Raises:
        DataError: too few rows.
    """
    found = {name: read(source) for name, source in given.items() if source is not None}
    for name in most:
        if name not in found:
            if len(table) < FEWEST:
                raise DataError(
                    expected=f"at least {FEWEST} texts, to hold some out",
                    found=str(len(table)),
                    fix="give more texts, or tables dev=… and test=… (--dev, --test)",
                )
            parts = table.train_test_split(
                test_size=min(most[name], max(2, int(len(table) * PART))), seed=seed
            )
            table, found[name] = parts["train"], parts["test"]
            say(f"no {name} table: {len(parts['test']):,} of the texts are held out")
    return table, found


def first(table: Dataset, rows: int) -> Dataset:
    """The first rows of a table; all where it has no more."""
    return table.select(range(min(rows, len(table))))


def drawn(table: Dataset, rows: int, seed: int) -> Dataset:
    """So many rows of a table at random; the table as it is where it has no more."""
    return table if len(table) <= rows else table.shuffle(seed=seed).select(range(rows))


class Texts(ABC):
    """What a compression has to know of its texts and of what the model is asked of them.

    Attributes:
        loaded: the teacher and its tokenizer.
        tables: the texts.
        task: that the model answers; None of a language model.
        max_length: tokens that are read at once.
        teaching: part of the time that the teacher may read for, where all is taught from one record of its outputs.
    """

    loaded: Loaded
    tables: Tables
    task: Task | None
    max_length: int
    seed: int
    teaching: float

    @property
    @abstractmethod
    def main(self) -> str:
        """The name of the figure that counts."""

    @property
    @abstractmethod
    def key(self) -> str:
        """A digest of the teacher, the texts and how they are read."""

    @property
    @abstractmethod
    def teacher_metrics(self) -> Mapping[str, float]:
        """Figures of the teacher on the dev table."""

    @abstractmethod
    def check_teacher(self) -> None:
        """Refuse a teacher that knows nothing."""

    @abstractmethod
    def measured(self, model: PreTrainedModel | OnnxModel, tokenizer: Any = None) -> dict[str, float]:
        """Figures of a model, or of an export, on the dev table; the tokenizer is the teacher's own where None."""

    @abstractmethod
    def kept(self, metrics: Mapping[str, float]) -> float:
        """What part of the teacher's figure is kept, of figures on the dev table."""

    @property
    @abstractmethod
    def compared(self) -> Dataset:
        """Rows that an int8 export is held against torch on."""

    @property
    def judge(self) -> Any:
        """Chooses the best of several epochs on labels, as `learn` asks it; None without labels."""
        return None

    @abstractmethod
    def lengths(self) -> np.ndarray:
        """Tokens of each dev text."""

    @abstractmethod
    def rate(self) -> float:
        """Texts a second that the teacher reads."""

    @abstractmethod
    def table(self, place: Path, affordable: int) -> Dataset:
        """The training texts, with copies or cut to as many as the teacher can afford to read."""

    @abstractmethod
    def batches(self, table: Dataset) -> Any:
        """Training batches of a table."""

    @abstractmethod
    def teacher(self, batches: Any, layers: int, *, cache: Path, precision: Precision) -> Any:
        """One record of the teacher's outputs for all candidates; it has so many layers."""

    @abstractmethod
    def learner(
        self,
        model: PreTrainedModel,
        teacher: Any,
        bound: Bound,
        projections: Mapping[int, Tensor] | None,
    ) -> Any:
        """A student with what it learns from the record of `teacher`, whose own shape is in `bound`."""

    def longer(self, place: Path, rows: int) -> Dataset | None:
        """As many training texts as that, where more can be made than the table has."""
        return None

    def answering(
        self, model: PreTrainedModel, batches: Any, teacher: Any, *, cache: Path, precision: Precision
    ) -> Any:
        """A student that learns the teacher's answers alone; None where it learns no other thing anyway.

        Args:
            teacher: the record of these batches; None where there is none yet.
        """
        return None

    @abstractmethod
    def report(self, models: Mapping[str, tuple[Role, Path]], **options: Any) -> Report:
        """Exports, the teacher's first, side by side on the test table."""

    @abstractmethod
    def in_order(self, table: Dataset) -> Batches:
        """Batches of the rows of a table one by one, in their order."""

    def sample(self, rows: int) -> Batches:
        """The first rows of the training texts: what weights are projected and fitted on."""
        return self.in_order(first(self.tables.train, rows))

    def words(self) -> Sequence[str]:
        """All texts that a candidate may learn from: what a vocabulary is trimmed to."""
        train = self.tables.train
        names = [name for name in train.column_names if isinstance(train[0][name], str)]
        if "tokens" in train.column_names:
            return [" ".join(row) for row in train["tokens"][:]]
        return [text for name in names for text in train[name][:]]
