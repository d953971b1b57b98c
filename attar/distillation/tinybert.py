"""TinyBERT (1909.10351): general distillation, data augmentation, and the two phases of task distillation."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from torch import Tensor
from torch.nn.functional import normalize
from transformers import PreTrainedModel

from attar.anatomy.resolve import shape_of
from attar.augmentation import augment as augment_table
from attar.augmentation import candidates_from
from attar.data.batches import Batches, encode, fitting
from attar.data.columns import Columns
from attar.data.language_modeling import same_vocabulary
from attar.data.streaming import StreamBatches
from attar.data.tables import read_table, read_texts
from attar.distillation.cache import Teacher
from attar.distillation.defaults import intermediate_epochs, prediction_epochs, settled
from attar.distillation.duration import Phase, say_duration
from attar.distillation.embedding_head import embedding_match
from attar.distillation.objective import SEARCHED, Intermediate, Match, match
from attar.distillation.phases import Distiller, Judge, learn, logits_of, near, projections, teacher_of
from attar.distillation.setup import Setup
from attar.errors import DataError
from attar.maths.mapping import layer_map
from attar.model.checkpoint import digest, load, read_lineage, save, versions
from attar.model.embedding import SentenceEncoder
from attar.model.views import Need
from attar.options.base import Options
from attar.progress import heard, say
from attar.report.report import Point, Report
from attar.storage.writing import check_free
from attar.training import resuming
from attar.training.loop import Precision, Source, broadcast, is_main, main_first, processes

Curve = tuple[Point, ...]
# Texts of which the length of a run is told.
SAMPLED = 1000


def distill(
    teacher: str | Path | PreTrainedModel,
    *,
    out: str | Path,
    data: Any,
    texts: Any,
    dev: Any,
    test: Any,
    columns: Columns | None,
    tokenizer: Any,
    options: Options,
    precision: Precision,
    overwrite: bool,
) -> Report:
    """Distil a teacher into a student; see `attar.distill`."""
    check_free(out, overwrite=overwrite)
    loaded = load(teacher, tokenizer=tokenizer, pooling=options.pooling)
    options = settled(options, loaded.model)
    with resuming.work_directory(out) as place:
        setup = Setup(loaded, options, place, precision)
        train, held = setup.tables(data, texts, dev, columns)
        table = held if test is None else read_table(test, columns=columns, task=setup.task)[0]
        made = setup.build(train)
        curves = TinyBert(setup, made.model, made.projections).train(train, held, measured=len(table))
        rows = setup.measure(made.model, table, out)
        lineage = {
            "stage": "distill",
            "parent": loaded.name,
            "options": options.settings(),
            "metrics": dict(rows[1].metrics),
        }
        if is_main():
            save(made.model, loaded.tokenizer, out, lineage=lineage, overwrite=overwrite)
    return Report(
        f"{Path(loaded.name).name} distilled",
        setup.main,
        rows,
        curves,
        settings=options.settings(),
        versions=versions(),
        notes=(setup.measured_on(len(table), dev, test), *setup.notes),
    )


@dataclass
class TinyBert:
    """The method: a student learns from the layers of its teacher, then from its logits.

    L_layer (eq. 11) is L_embd (eq. 9) at the embeddings, L_hidn (eq. 8) + L_attn (eq. 7) at each student layer m, which
    learns from the teacher's layer g(m), and L_pred (eq. 10) at the logits. Each phase takes some of them.

    Attributes:
        setup: the teacher, its task and the options.
        student: the model that learns, in place.
        projections: W_h of eq. 8 by student layer, to start from; each phase goes on from those of the one before.
    """

    setup: Setup
    student: PreTrainedModel
    projections: Any

    def __post_init__(self) -> None:
        self.options, self.teacher = self.setup.options, self.setup.teacher
        # A student's own space is that in which it starts, whatever its layers learn.
        self._start = self.projections

    def train(self, table: Dataset, dev: Dataset, *, measured: int = 0) -> dict[str, Curve]:
        """Both stages, in the paper's order; the curve of each phase. Texts `measured` afterwards take time, too."""
        o, curves = self.options, {}
        general = None if o.general is None else (self._pretrained(o.general.teacher), self._plain_text())
        # On a GPU the first steps say little of the others.
        if broadcast(heard()) and not torch.cuda.is_available():
            but = "" if o.augment is None else ", beside the augmentation"
            but += " (of which some is done)" if any(self.setup.place.iterdir()) else ""
            phases = list(self._phases(table, general))
            say_duration(phases, self.student, measured, precision=self.setup.precision, but=but)
        judge = self.setup.watch(dev)
        if general is not None:
            curves["general"] = self.general_distillation(*general)
        if o.augment is not None:
            table = self.data_augmentation(table)
        teacher: Teacher | None = None
        if o.intermediate is not None:
            curves["intermediate"], teacher = self.intermediate_distillation(table)
        if o.prediction is not None:
            curves["prediction"] = self.prediction_distillation(table, teacher, judge)
        return curves

    def _phases(self, table: Dataset, general: tuple[PreTrainedModel, Source] | None) -> Iterator[Phase]:
        """What `train` will do, with a sample of the table in place of all its texts."""
        o, kept = self.options, self._cache is not None
        if general is not None:
            teacher, plain = general
            passes = 1 if kept and isinstance(plain, Batches) else o.general.epochs
            yield self._phase("general stage", teacher, plain, o.general.epochs, passes)
        sample = table.shuffle(seed=o.seed).select(range(min(SAMPLED, len(table))))
        times = len(table) / len(sample) * (1 + (o.augment.copies if o.augment else 0))
        if o.intermediate is not None:
            batches = self.setup.batches(sample, o.intermediate.batch_size)
            epochs = intermediate_epochs(o.intermediate.epochs, round(len(batches.lengths) * times))
            yield self._phase("intermediate", self.teacher, batches, epochs, 1 if kept else epochs, times)
        if o.prediction is not None:
            batches = self.setup.batches(sample, o.prediction.batch_size)
            epochs = prediction_epochs(o.prediction.epochs, round(len(batches.lengths) * times))
            passes = (0 if o.intermediate or self.setup.static else 1) if kept else epochs
            texts = min(round(len(batches.lengths) * times), SEARCHED)
            learner = partial(self._prediction_learner, others=self._any_embeddings(texts) if kept else None)
            yield Phase("prediction", self.teacher, Need(), learner, batches, epochs, passes, times)

    def _any_embeddings(self, count: int) -> Tensor | None:
        """(count, E) unit vectors that cost what those of the teacher will, which are not there yet."""
        if not self._tells_near_texts_apart or processes()[1] > 1:
            return None
        drawn = torch.randn(count, self.teacher.width, generator=torch.Generator().manual_seed(0))
        return normalize(drawn, dim=-1)

    def _phase(
        self, name: str, teacher: PreTrainedModel, batches: Source, epochs: int, passes: int, times: float = 1
    ) -> Phase:
        """A phase that compares layers."""
        learner = partial(self._layer_learner, teacher)
        return Phase(name, teacher, self._match(teacher).teacher, learner, batches, epochs, passes, times)

    def general_distillation(self, teacher: PreTrainedModel, batches: Source) -> Curve:
        """Section 3.1, "general distillation": the pre-trained teacher on plain text, without the prediction loss."""
        o = self.options.general
        learner = self._layer_learner(teacher, self.student, self._teacher(teacher, batches))
        curve = self._learn("general", learner, batches, o, o.epochs)
        self.projections = projections(learner)
        return curve

    def data_augmentation(self, table: Dataset) -> Dataset:
        """Section 3.2, Algorithm 1: the table with augmented copies; made once and read from disk after that."""
        o, setup = self.options.augment, self.setup
        key = digest(self.teacher, table["text"][:], o.model_dump(), self.options.seed)
        place = setup.place / f"augmented-{key}"

        def make() -> None:
            if place.exists():
                return
            candidates = candidates_from(o.source, o.vectors, self.teacher, setup.tokenizer, masks=o.masks)
            more = augment_table(
                table, candidates, copies=o.copies, probability=o.probability, k=o.k, seed=self.options.seed
            )
            part = place.with_suffix(".part")
            more.save_to_disk(str(part))
            part.rename(place)

        main_first(make)
        return Dataset.load_from_disk(str(place))

    def intermediate_distillation(self, table: Dataset) -> tuple[Curve, Teacher]:
        """Section 3.2, task distillation, first phase: L_embd + sum over m of (L_hidn + L_attn)."""
        o = self.options.intermediate
        batches = self.setup.batches(table, o.batch_size)
        self.setup.say_cut(batches)
        teacher = self._teacher(self.teacher, batches)
        learner = self._layer_learner(self.teacher, self.student, teacher)
        epochs = intermediate_epochs(o.epochs, len(batches.lengths))
        return self._learn("intermediate", learner, batches, o, epochs), teacher

    def prediction_distillation(self, table: Dataset, teacher: Teacher | None, judge: Judge | None) -> Curve:
        """Section 3.2, task distillation, second phase: L_pred = CE(z_T / t, z_S / t); the best epoch is kept."""
        o, setup = self.options.prediction, self.setup
        batches = setup.batches(table, o.batch_size)
        if self.options.intermediate is None:  # which read the same texts
            setup.say_cut(batches)
        kept: dict[str, Any] = {"cache": self._cache, "precision": setup.precision}
        teacher = logits_of(teacher, self.teacher, batches, name=digest(*batches.content), **kept)
        others = near(teacher) if self._tells_near_texts_apart else None
        batches.near = others if others is None else others.numpy()
        learner = self._prediction_learner(self.student, teacher, others)
        rows = len(batches.lengths)
        epochs = prediction_epochs(o.epochs, rows)
        if o.epochs is None:
            setup.notes = (
                *setup.notes,
                f"learned in {epochs} passes over {rows} texts: epochs were not named",
            )
        return self._learn("prediction", learner, batches, o, epochs, judge)

    def _layer_learner(self, teacher: PreTrainedModel, student: PreTrainedModel, view: Teacher) -> Distiller:
        """A student with the losses over its layers and a teacher's."""
        losses = self._losses(self._match(teacher), teacher)
        return Distiller(student, view, intermediate=losses, dropout=self.options.dropout)

    def _prediction_learner(
        self, student: PreTrainedModel, view: Teacher, others: Tensor | None = None
    ) -> Distiller:
        """A student with the loss over its logits and the teacher's, and over `others`, embeddings of texts."""
        o = self.options
        temperature = o.prediction.temperature
        given: dict[str, Any] = {"task": self.setup.task, "temperature": temperature, "dropout": o.dropout}
        if isinstance(student, SentenceEncoder):
            relations = {"dimensions": o.prediction.dimensions, "relations": o.prediction.relations}
            given["embeddings"] = embedding_match(
                self.teacher, student, self._start, **relations, others=others
            )
        return Distiller(student, view, **given)

    def _match(self, teacher: PreTrainedModel) -> Match:
        """What the intermediate losses compare: layer m with layer g(m)."""
        ours, theirs = shape_of(self.student.config), shape_of(teacher.config)
        o = self.options
        layers = layer_map(ours.layers, theirs.layers, o.mapping)
        return match(ours, theirs, layers, attention=o.attention, hidden=o.hidden, embedding=o.embedding)

    def _losses(self, compared: Match, teacher: PreTrainedModel) -> Intermediate:
        o, shapes = self.options, (shape_of(self.student.config), shape_of(teacher.config))
        return Intermediate(compared, *shapes, projection=o.projection, start=self.projections, seed=o.seed)

    def _pretrained(self, name: str | None) -> PreTrainedModel:
        parent = name or read_lineage(self.setup.loaded.name).get("parent")
        if parent is None:
            say("general stage: no pre-trained teacher is named or known, so the fine-tuned one teaches")
            return self.teacher
        say(f"general stage: {parent} teaches, as it was before fine-tuning")
        loaded = load(parent, head="base")
        same_vocabulary(self.setup.tokenizer, loaded.tokenizer, str(parent))
        return loaded.model

    def _plain_text(self) -> Source:
        o, tokenizer = self.options.general, self.setup.tokenizer
        if o.texts is None:
            raise DataError(
                expected="plain text for the general stage",
                found="none",
                fix="name files: general={'texts': …}",
            )
        texts = read_texts(o.texts, streaming=o.streaming)
        if not isinstance(texts, IterableDataset):
            encoded = encode(texts, tokenizer, max_length=fitting(o.max_length, self.teacher))
            return self.setup.deal(encoded, o.batch_size)
        rank, world = processes()
        sizes = {"batch_size": o.batch_size, "max_length": o.max_length, "steps": o.steps}
        return StreamBatches(texts, tokenizer, rank=rank, world=world, **sizes)

    def _teacher(self, model: PreTrainedModel, batches: Source) -> Teacher:
        """The teacher of layers over some batches, cached where that is possible."""
        need, name = self._match(model).teacher, digest(*batches.content)
        return teacher_of(model, need, batches, cache=self._cache, precision=self.setup.precision, name=name)

    @property
    def _tells_near_texts_apart(self) -> bool:
        return self.options.prediction.neighbours and isinstance(self.teacher, SentenceEncoder)

    @property
    def _cache(self) -> Path | None:
        cache = self.options.cache
        return (self.setup.place if cache else None) if isinstance(cache, bool) else Path(cache)

    def _learn(
        self,
        phase: str,
        learner: Distiller,
        batches: Source,
        options: Options,
        epochs: int,
        judge: Judge | None = None,
    ) -> Curve:
        """One phase, in a place that a digest of everything before it names."""
        said = (options.settings(), epochs, self.options.settings(exclude={"cache"}))
        self.setup.key = digest(self.setup.key, phase, *said, *batches.content)
        return learn(
            phase,
            learner,
            batches,
            place=self.setup.place / f"{phase}-{self.setup.key}",
            epochs=epochs,
            lr=options.lr,
            precision=self.setup.precision,
            seed=self.options.seed,
            judge=judge,
            choose=judge is not None,
        )
