"""The stages of a distillation, from the teacher and its texts to a trained student."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from transformers import PreTrainedModel

from attar import recipes as schema
from attar.anatomy.resolve import shape_of
from attar.augmentation import augment as augment_table
from attar.augmentation import candidates_from
from attar.data.batches import Batches, encode, fitting
from attar.data.columns import Columns
from attar.data.language_modeling import same_vocabulary
from attar.data.streaming import StreamBatches
from attar.data.tables import read_table, read_texts
from attar.data.tasks import Task
from attar.distillation.cache import Teacher
from attar.distillation.objective import Intermediate, Match, match
from attar.distillation.phases import Distiller, Judge, learn, logits_of, projections, teacher_of
from attar.distillation.student import Student, head_of
from attar.distillation.student import student as build
from attar.errors import DataError, ModelError, RecipeError
from attar.evaluation.quality import Evaluation, quality, retained
from attar.evaluation.table import TableEvaluator
from attar.maths.mapping import layer_map
from attar.maths.statistics import Interval
from attar.model.checkpoint import Loaded, digest, load, read_lineage
from attar.progress import say
from attar.report.report import Point, Row
from attar.training.loop import Precision, Source, main_first, processes

TASK_HEADS = ("sequence-classification", "token-classification", "question-answering")
# Sentences that the student is projected on.
SAMPLE = 2000


@dataclass
class Run:
    """One run of `distill`: what its stages share, and a digest that grows with each, naming its place on disk."""

    loaded: Loaded
    options: schema.Distill
    place: Path
    precision: Precision
    main: str = "accuracy"

    def __post_init__(self) -> None:
        self.teacher, self.tokenizer = self.loaded.model, self.loaded.tokenizer
        self.head = head_of(self.teacher)
        if self.head in TASK_HEADS:
            self.task: Task | None = Task.of(self.teacher)
        elif self.options.prediction is None:
            self.task = None
        else:
            raise ModelError(
                expected="a fine-tuned teacher: a classifier of texts or of their words, one of scores or of answers",
                found=f"{type(self.teacher).__name__}",
                fix="fine-tune it first (attar finetune), or pass prediction=None to distil its layers only",
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
        # Labels of the training texts do not teach; they count where some of these texts are held out to measure.
        table = (
            read_table(data, columns=columns, task=self.task, labels=dev is None)[0]
            if data is not None
            else self._texts(texts)
        )
        if len(table) < 2 and dev is None:
            raise DataError(
                expected="at least two texts, to hold one out",
                found=str(len(table)),
                fix="give more texts, or dev=…",
            )
        if dev is None:
            parts = table.train_test_split(
                test_size=min(1000, max(1, len(table) // 10)), seed=self.options.seed
            )
            table, held = parts["train"], parts["test"]
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

    def build(self, table: Dataset, given: str | Path | PreTrainedModel | None) -> Student:
        """The student before it learns."""
        if given is not None:
            made = Student(self._given(given))
        else:
            wanted = self.options.student
            sample = table.select(range(min(SAMPLE, len(table))))
            say(f"building the student, started by {wanted.init}")
            made = build(
                self.teacher,
                layers=wanted.layers,
                hidden=wanted.hidden,
                heads=wanted.heads,
                ffn=wanted.ffn,
                embedding=wanted.embedding,
                init=wanted.init,
                mapping=self.options.mapping,
                texts=self.batches(sample, 32, shuffle=False),
                seed=self.options.seed,
            )
        if self.task is not None and self.task.per_token:
            self.task.configure(made.model.config)
        self.key = digest(self.key, made.model)
        return made

    def _given(self, given: str | Path | PreTrainedModel) -> PreTrainedModel:
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

    def match(self, student: PreTrainedModel, teacher: PreTrainedModel) -> Match:
        """What the intermediate phases compare."""
        ours, theirs = shape_of(student.config), shape_of(teacher.config)
        o = self.options
        layers = layer_map(ours.layers, theirs.layers, o.mapping)
        return match(ours, theirs, layers, attention=o.attention, hidden=o.hidden, embedding=o.embedding)

    def stages(self, made: Student, table: Dataset, held: Dataset) -> dict[str, tuple[Point, ...]]:
        """General distillation, augmentation, intermediate and prediction phases; the student is trained in place."""
        o, curves = self.options, {}
        start, watch = made.projections, self.watch(held)
        if o.general is not None:
            curves["general"], start = self.general(made.model, start)
        if o.augment is not None:
            table = self.augmented(table)
        teacher: Teacher | None = None
        if o.intermediate is not None:
            compared = self.match(made.model, self.teacher)
            batches = self.batches(table, o.intermediate.batch_size)
            teacher = self.source(self.teacher, compared.teacher, batches)
            learner = Distiller(
                made.model,
                teacher,
                intermediate=self.losses(compared, made.model, self.teacher, start),
                dropout=o.dropout,
            )
            curves["intermediate"] = self.learn("intermediate", learner, batches, o.intermediate)
        if o.prediction is not None:
            batches = self.batches(table, o.prediction.batch_size)
            options = {"cache": self.cache, "precision": self.precision, "name": digest(*batches.content)}
            teacher = logits_of(teacher, self.teacher, batches, **options)
            learner = Distiller(
                made.model, teacher, task=self.task, temperature=o.prediction.temperature, dropout=o.dropout
            )
            curves["prediction"] = self.learn("prediction", learner, batches, o.prediction, watch=watch)
        return curves

    def general(self, student: PreTrainedModel, start: Any) -> tuple[tuple[Point, ...], Any]:
        """TinyBERT's first stage: the pre-trained teacher, plain text, intermediate losses only."""
        o = self.options.general
        assert o is not None
        if o.texts is None:
            raise DataError(
                expected="plain text for the general stage",
                found="none",
                fix="name files: general={'texts': …}",
            )
        teacher = self._pretrained(o.teacher)
        source: Source
        texts = read_texts(o.texts, streaming=o.streaming)
        if isinstance(texts, IterableDataset):
            rank, world = processes()
            source = StreamBatches(
                texts,
                self.tokenizer,
                batch_size=o.batch_size,
                max_length=o.max_length,
                steps=o.steps,
                rank=rank,
                world=world,
            )
        else:
            length = fitting(o.max_length, self.teacher)
            source = self.deal(encode(texts, self.tokenizer, max_length=length), o.batch_size)
        compared = self.match(student, teacher)
        learner = Distiller(
            student,
            self.source(teacher, compared.teacher, source),
            intermediate=self.losses(compared, student, teacher, start),
            dropout=self.options.dropout,
        )
        return self.learn("general", learner, source, o), projections(learner)

    def _pretrained(self, name: str | None) -> PreTrainedModel:
        parent = name or read_lineage(self.loaded.name).get("parent")
        if parent is None:
            say("general stage: no pre-trained teacher is named or known, so the fine-tuned one teaches")
            return self.teacher
        say(f"general stage: {parent} teaches, as it was before fine-tuning")
        loaded = load(parent, head="base")
        same_vocabulary(self.tokenizer, loaded.tokenizer, str(parent))
        return loaded.model

    def augmented(self, table: Dataset) -> Dataset:
        """The table with its augmented copies; made once and read from disk after that."""
        o = self.options.augment
        assert o is not None
        place = (
            self.place
            / f"augmented-{digest(self.teacher, table['text'][:], o.model_dump(), self.options.seed)}"
        )

        def make() -> None:
            if place.exists():
                return
            candidates = candidates_from(o.source, o.vectors, self.teacher, self.tokenizer, masks=o.masks)
            more = augment_table(
                table, candidates, copies=o.copies, probability=o.probability, k=o.k, seed=self.options.seed
            )
            part = place.with_suffix(".part")
            more.save_to_disk(str(part))
            part.rename(place)

        main_first(make)
        return Dataset.load_from_disk(str(place))

    def source(self, model: PreTrainedModel, need: Any, batches: Source) -> Any:
        """The teacher over some batches, cached where that is possible."""
        name = digest(*batches.content)
        return teacher_of(model, need, batches, cache=self.cache, precision=self.precision, name=name)

    @property
    def cache(self) -> Path | None:
        """Where the teacher's outputs are kept."""
        cache = self.options.cache
        return Path(cache) if isinstance(cache, str) else self.place if cache else None

    def losses(
        self, compared: Match, student: PreTrainedModel, teacher: PreTrainedModel, start: Any
    ) -> Intermediate:
        """The intermediate losses with projections that start at `start`."""
        shapes = shape_of(student.config), shape_of(teacher.config)
        return Intermediate(
            compared, *shapes, projection=self.options.projection, start=start, seed=self.options.seed
        )

    def learn(
        self, phase: str, learner: Distiller, batches: Source, options: Any, watch: Judge | None = None
    ) -> tuple[Point, ...]:
        """One phase, in a place that a digest of everything before it names."""
        content = digest(*batches.content)
        self.key = digest(
            self.key,
            phase,
            options.model_dump(mode="json"),
            content,
            self.options.model_dump(mode="json", exclude={"cache"}),
        )
        return learn(
            phase,
            learner,
            batches,
            place=self.place / f"{phase}-{self.key}",
            epochs=options.epochs,
            lr=options.lr,
            precision=self.precision,
            seed=self.options.seed,
            judge=watch,
            choose=watch is not None,
        )

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


def interval(
    name: str, of: Callable[[Evaluation, Evaluation], Interval], ours: Evaluation, theirs: Evaluation
) -> Interval | None:
    """An interval, or a line that says why there is none: a finished student is not thrown away for a figure."""
    try:
        return of(ours, theirs)
    except DataError as error:
        say(f"no interval of {name}: expected {error.expected}, found {error.found}")
        return None
