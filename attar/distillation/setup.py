"""What every phase of a task's distillation needs: the teacher, its task, tables, batches, the student, the figures."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel

from attar.anatomy.resolve import resolve
from attar.data.batches import Batches, encode, fitting, say_cut
from attar.data.columns import Columns
from attar.data.language_modeling import same_vocabulary
from attar.data.model_task import task_of
from attar.data.tables import hold_out, read_table, read_texts
from attar.data.tasks import Task
from attar.distillation import static_start
from attar.distillation.phases import Judge
from attar.distillation.static import StaticLearning
from attar.distillation.student import Student, check_sizes, head_of, larger_than
from attar.distillation.student import student as build
from attar.errors import DataError, ModelError, RecipeError
from attar.evaluation.quality import Evaluation, quality, retained
from attar.evaluation.table import TableEvaluator
from attar.maths.statistics import Interval
from attar.model.checkpoint import Loaded, digest, load
from attar.model.embedding import SentenceEncoder
from attar.options.base import Options
from attar.progress import say
from attar.report.report import Row
from attar.training.loop import Precision, processes

TASK_HEADS = ("sequence-classification", "token-classification", "question-answering", "embedding")
STARTS = {
    "random": "with random weights",
    "layers": "from layers of the teacher",
    "project": "from the teacher's weights, projected",
    "static": "from the token vectors of a static student",
}
# Sentences that the student is projected on.
SAMPLE = 2000


@dataclass
class Setup:
    """A teacher with its task, and the options of its distillation.

    Attributes:
        loaded: the teacher and its tokenizer.
        options: of `attar.distill`.
        place: the work directory.
        precision: of the training.
        main: name of the metric that counts, known once the models were measured.
        notes: what a reader of the report has to know of the student, known once it was built.
        key: a digest that grows with each phase and names its place on disk.
    """

    loaded: Loaded
    options: Options
    place: Path
    precision: Precision
    main: str = "accuracy"
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.teacher, self.tokenizer = self.loaded.model, self.loaded.tokenizer
        self.head = head_of(self.teacher)
        if self.head in TASK_HEADS:
            self.task: Task | None = task_of(self.teacher)
        elif self.options.prediction is None:
            self.task = None
        else:
            raise ModelError(
                expected="a fine-tuned teacher: a classifier of texts or of their words, one of scores or of answers",
                found=f"{type(self.teacher).__name__}",
                fix="fine-tune it first (attar finetune), pass prediction=None to distil its layers only, or "
                "pooling='mean' (--pooling mean) to make an embedding model of it",
            )
        if self.task is not None and self.task.per_token and self.options.augment is not None:
            raise RecipeError(
                expected="texts to augment",
                found=f"a teacher with a {self.head} head, whose answers stand in the words",
                fix="leave augment out",
            )
        if self.task is not None:
            self.length = self.task.window(self.teacher, self.options.max_length)
        else:
            self.length = fitting(self.options.max_length or Task.max_length, self.teacher)
        if (
            isinstance(self.teacher, SentenceEncoder)
            and not self.teacher.head.normalize
            and getattr(self.task, "similarity", "") == "cosine"
        ):
            say(
                "the teacher compares embeddings by cosine and does not normalise them: the student learns "
                "their lengths, too, which no cosine reads; who compares by dot products instead gets another order"
            )
        windows = (self.length, self.options.doc_stride)
        self.key = digest(self.teacher, self.options.seed, windows, self.precision)

    def tables(self, data: Any, texts: Any, dev: Any, columns: Columns | None) -> tuple[Dataset, Dataset]:
        """The task's texts, without labels, and the dev table."""
        if data is None and texts is None:
            raise DataError(
                expected="texts of the task",
                found="neither data nor texts",
                fix="pass data=… (a table) or texts=… (one text a line)",
            )
        if data is not None and texts is not None:
            raise DataError(
                expected="the texts once",
                found="data and texts",
                fix="pass one of them, or one table of all",
            )
        # Labels of the training texts do not teach; they count where some of these texts are held out to measure.
        table = (
            read_table(data, columns=columns, task=self.task, labels=dev is None)[0]
            if data is not None
            else self._texts(texts)
        )
        if dev is None:
            table, held = hold_out(table, seed=self.options.seed)
            say(f"no dev table: {len(held)} of the texts are held out to watch the student")
        else:
            held = read_table(dev, columns=columns, task=self.task)[0]
        targets = ("label",) if self.task is None else self.task.targets
        return table.remove_columns([name for name in targets if name in table.column_names]), held

    def _texts(self, texts: Any) -> Dataset:
        """Plain texts as the task reads them: words to tag are those between spaces."""
        table = read_texts(texts)
        if self.task is None or not self.task.per_token:
            return table
        return read_table(table, task=self.task)[0]

    def batches(self, table: Dataset, batch_size: int, *, shuffle: bool = True) -> Batches:
        """Batches of a table of the task for this process."""
        if self.task is None:
            return self.deal(
                encode(table, self.tokenizer, max_length=self.length), batch_size, shuffle=shuffle
            )
        options = {"max_length": self.length, "stride": self.options.doc_stride}
        return self.deal(self.task.encode(table, self.tokenizer, **options), batch_size, shuffle=shuffle)

    def say_cut(self, batches: Batches, what: str = "texts") -> None:
        """Say how many texts are cut, where they are not read in windows."""
        if self.task is None or not self.task.per_token:
            say_cut(batches.lengths, self.length, what)

    def deal(self, encoded: Dataset, batch_size: int, *, shuffle: bool = True) -> Batches:
        """Batches of an encoded table for this process."""
        rank, world = processes() if shuffle else (0, 1)
        return Batches(
            encoded,
            self.tokenizer,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=self.options.seed,
            rank=rank,
            world=world,
        )

    @property
    def static(self) -> bool:
        """Whether the student starts as a static one, which has read the teacher's embeddings of all texts by then."""
        return isinstance(self.options.student, Options) and self.options.student.init == "static"

    def build(self, table: Dataset) -> Student:
        """The student before it learns."""
        wanted = self.options.student
        if not isinstance(wanted, Options):
            made = Student(self._existing(wanted))
        else:
            sizes = wanted.model_dump(exclude={"init", "dense"})
            check_sizes(self.teacher, **sizes)
            sample = table.select(range(min(SAMPLE, len(table))))
            vectors = self._token_vectors(table, wanted) if self.static else None
            say(f"building the student, {STARTS[wanted.init]}")
            made = build(
                self.teacher,
                **sizes,
                init=wanted.init,
                mapping=self.options.mapping,
                texts=self.batches(sample, 32, shuffle=False),
                vectors=vectors,
                dense=wanted.dense,
                seed=self.options.seed,
            )
        if self.task is not None and self.task.per_token:
            self.task.configure(made.model.config)
        self.notes = larger_than(made.model, self.teacher.config, self.teacher.num_parameters())
        self.key = digest(self.key, made.model)
        return made

    def _token_vectors(self, table: Dataset, wanted: Options) -> Tensor:
        """(V, n), of a static student that learned from the texts, as many numbers as the student has room for."""
        if not isinstance(self.teacher, SentenceEncoder):
            raise RecipeError(
                expected="an embedding model as the teacher, with init static",
                found=f"{type(self.teacher).__name__}",
                fix="init: project",
            )
        if processes()[1] > 1:
            raise RecipeError(
                expected="one process, with init static",
                found=f"{processes()[1]}",
                fix="init: project, or one process",
            )
        static_start.check(self.teacher)  # of whose family the student is, before anything learns
        learning = StaticLearning(
            self.loaded,
            table.select_columns("text"),
            length=self.length,
            batch_size=static_start.BATCH_SIZE,
            cache=self.place if isinstance(self.options.cache, bool) else Path(self.options.cache),
            place=self.place,
            precision=self.precision,
            seed=self.options.seed,
        )
        _, made = learning.start(static_start.dimensions(self.teacher, **wanted.model_dump()))
        learning.learn(made, epochs=static_start.EPOCHS, lr=static_start.RATE)
        return static_start.aligned(made, self.tokenizer, resolve(self.teacher).shape.vocab)

    def _existing(self, given: str | Path | PreTrainedModel) -> PreTrainedModel:
        """A student that exists; one that was saved without the task's head (a language model) gets it, at random."""
        loaded = load(given, tokenizer=self.tokenizer if isinstance(given, PreTrainedModel) else None)
        same_vocabulary(self.tokenizer, loaded.tokenizer, str(given))
        if self.task is None or isinstance(given, PreTrainedModel) or head_of(loaded.model) == self.head:
            return loaded.model
        say(f"{given} has no {self.head} head: it gets one, which starts at random")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.options.seed)
            outputs = self.teacher.config.num_labels
            model = load(given, head=self.head, fresh_head=True, num_labels=outputs).model
        self.task.configure(model.config)
        return model

    def watch(self, held: Dataset) -> Judge | None:
        """Watches the dev table in the prediction phase."""
        if self.task is None or self.options.prediction is None:
            return None
        evaluator = self.evaluator(self.task, held, 64)
        return Judge(
            evaluator,
            evaluator.evaluate_teacher(evaluator.logits(self.teacher)),
            self.options.prediction.metric,
        )

    def evaluator(self, task: Task, table: Dataset, batch_size: int) -> TableEvaluator:
        """A table to measure on."""
        options = {"max_length": self.length, "stride": self.options.doc_stride}
        return TableEvaluator(task, table, self.tokenizer, batch_size=batch_size, **options)

    def measure(self, student: PreTrainedModel, table: Dataset, out: str | Path) -> tuple[Row, ...]:
        """Rows of teacher and student on a table."""
        sizes = [model.num_parameters() for model in (self.teacher, student)]
        name = Path(out).name
        if self.task is None:
            return (
                Row("teacher", "teacher", parameters=sizes[0]),
                Row(name, "student", parameters=sizes[1], directory=str(out)),
            )
        evaluator = self.evaluator(self.task, table, 32)
        self.say_cut(evaluator.batches, "texts that are measured on")
        theirs = evaluator.evaluate_teacher(evaluator.logits(self.teacher))
        ours = evaluator.evaluate(student, theirs)
        self.main = ours.main
        return (
            Row(
                "teacher",
                "teacher",
                metrics=theirs.metrics,
                quality=interval("quality", quality, theirs, theirs),
                parameters=sizes[0],
            ),
            Row(
                name,
                "student",
                metrics=ours.metrics,
                quality=interval("quality", quality, ours, theirs),
                retained=interval("retained", retained, ours, theirs),
                parameters=sizes[1],
                directory=str(out),
            ),
        )

    def measured_on(self, texts: int, dev: Any, test: Any) -> str:
        """A line that says what the figures are measured on."""
        if self.task is None:
            return f"sizes alone: a {type(self.teacher).__name__} has no head whose answers could be compared"
        if test is not None:
            return f"measured on the {texts} texts of the test table"
        chose = ", which also chose the best epoch" if self.options.prediction is not None else ""
        where = "of the dev table" if dev is not None else "held out"
        return f"measured on the {texts} texts {where}{chose}"


def interval(
    name: str, of: Callable[[Evaluation, Evaluation], Interval], ours: Evaluation, theirs: Evaluation
) -> Interval | None:
    """An interval, or a line that says why there is none: a finished student is not thrown away for a figure."""
    try:
        return of(ours, theirs)
    except DataError as error:
        say(f"no interval of {name}: expected {error.expected}, found {error.found}")
        return None
