"""Knowledge distillation of a language model on plain text, as DistilBERT (1910.01108) and DistilGPT2 were made."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset
from transformers import PreTrainedModel

from attar.anatomy.resolve import shape_of
from attar.data.batches import Batches, encode
from attar.data.blocks import Blocks
from attar.data.corpus import Corpus, Texts, read_corpus
from attar.data.language_modeling import Reading, TextBatches, reading, same_vocabulary
from attar.distillation.distilbert import to_distilbert
from attar.distillation.language_objective import FromCache, LanguageDistiller, LanguageTeacher, Live
from attar.distillation.lazy_teacher import LazyTeacher
from attar.distillation.student import check_sizes, larger_than
from attar.distillation.student import student as build
from attar.distillation.top_k_cache import Key, TopK, top_k
from attar.errors import DataError, ModelError
from attar.evaluation.language_model import LOSS, MAIN, measure
from attar.maths.mapping import layer_map
from attar.model.checkpoint import digest, load, save, versions
from attar.model.lm_head import output
from attar.options.base import Options
from attar.progress import say, track
from attar.report.report import Point, Report, Row
from attar.storage.writing import check_free
from attar.training import resuming
from attar.training.loop import Precision, Step, broadcast, fit, is_main, processes

# Texts that a student is projected on.
SAMPLE = 2000


def distill_lm(
    teacher: str | Path | PreTrainedModel,
    texts: Texts,
    *,
    out: str | Path,
    dev: Texts | None,
    tokenizer: Any,
    options: Options,
    precision: Precision,
    overwrite: bool,
) -> Report:
    """Distil a language model on plain text; see `attar.distill_lm`."""
    check_free(out, overwrite=overwrite)
    lazy = LazyTeacher(teacher, tokenizer)
    o = options
    corpus = read_corpus(texts, dev, streaming=o.streaming, sample_by=o.sample_by, seed=o.seed)
    with resuming.work_directory(out) as place:
        run = LanguageModelDistillation(lazy, corpus, options, place, precision)
        made = run.build()
        curve, watched = run.learn(made)
        rows = run.rows(made, out)
        lineage = {
            "stage": "distill_lm",
            "parent": lazy.name,
            "options": options.settings(),
            "metrics": dict(rows[1].metrics),
        }
        if is_main():
            save(made, lazy.tokenizer, out, lineage=lineage, overwrite=overwrite)
    return Report(
        f"{Path(lazy.name).name} distilled",
        MAIN[lazy.causal],
        rows,
        {"distillation": curve, "dev": watched},
        settings=options.settings(),
        versions=versions(),
        notes=run.notes,
    )


@dataclass
class LanguageModelDistillation:
    """One run of `distill_lm`: what its steps share."""

    teacher: LazyTeacher
    corpus: Corpus
    options: Options
    place: Path
    precision: Precision
    held: TextBatches | None = field(default=None, init=False)
    notes: tuple[str, ...] = field(default=(), init=False)

    def build(self) -> PreTrainedModel:
        """The student before it learns."""
        wanted, tokenizer = self.options.student, self.teacher.tokenizer
        if isinstance(wanted, Options):
            made = self._from_sizes(wanted)
        else:
            own = tokenizer if isinstance(wanted, PreTrainedModel) else None
            loaded = load(wanted, tokenizer=own, head="language")
            same_vocabulary(tokenizer, loaded.tokenizer, str(loaded.name))
            made = loaded.model
        self.notes = larger_than(made, self.teacher.config, self.teacher.parameters)
        return made

    def _from_sizes(self, wanted: Options) -> PreTrainedModel:
        o, depth = self.options, shape_of(self.teacher.config).layers
        sizes = wanted.model_dump(exclude={"family", "init"}, exclude_none=True)
        if not sizes:
            sizes["layers"] = len(o.mapping) if isinstance(o.mapping, tuple) else max(1, depth // 2)
            say(f"no size is named: the student gets {sizes['layers']} of the teacher's {depth} layers")
        check_sizes(self.teacher.model, **sizes)
        layers = layer_map(sizes.get("layers", depth), depth, o.mapping)
        begin = "random weights" if wanted.init == "random" else f"layers {', '.join(map(str, layers))}"
        say(f"building the student, started by {wanted.init}: {begin}")
        if wanted.family == "distilbert" and wanted.init == "layers" and not {*sizes} - {"layers"}:
            return to_distilbert(self.teacher.model, layers)
        sample = None if wanted.init != "project" else self._sample()
        made = build(
            self.teacher.model, init=wanted.init, mapping=o.mapping, texts=sample, seed=o.seed, **sizes
        )
        if wanted.family == "distilbert":
            return to_distilbert(made.model, tuple(range(1, len(layers) + 1)))
        return made.model

    def _sample(self) -> Batches:
        texts = self.corpus.train
        if isinstance(texts, IterableDataset):
            table = Dataset.from_dict({"text": [row["text"] for row in texts.take(SAMPLE)]})
        else:
            table = texts.shuffle(seed=self.options.seed).select(range(min(SAMPLE, len(texts))))
        return Batches(
            encode(table, self.teacher.tokenizer, max_length=self.options.max_length), self.teacher.tokenizer
        )

    def learn(self, student: PreTrainedModel) -> tuple[tuple[Point, ...], tuple[Point, ...]]:
        """Train the student in place; its curve, and its dev loss by epoch."""
        o, tokenizer = self.options, self.teacher.tokenizer
        if student is self.teacher.source:
            raise ModelError(
                expected="a student of its own", found="the teacher itself", fix="pass a copy (copy.deepcopy)"
            )
        how = self._reading(student)
        rank, world = processes()
        batches = how.batches(self.corpus.train, tokenizer, shuffle=True, rank=rank, world=world)
        self.held = how.batches(self.corpus.dev, tokenizer)
        said = o.settings(exclude={"cache"})
        key = digest(student, self.teacher.key, *batches.content, *self.held.content, said, self.precision)
        place = self.place / f"learn-{key}"
        place.mkdir(parents=True, exist_ok=True)
        learner = LanguageDistiller(
            student,
            self._teacher(student, batches),
            kl=o.kl,
            ce=o.ce,
            cosine=self._cosine(student),
            dropout=o.dropout,
        )
        best, curve = resuming.BestEpoch(place, None), resuming.TrainingCurve(place / "curve.json")
        loss = LOSS[how.causal]
        steps = fit(
            learner,
            batches,
            epochs=o.epochs,
            lr=o.lr,
            precision=self.precision,
            seed=o.seed,
            checkpoint=place / "state",
        )
        for step in track(steps, "distil", o.epochs * len(batches), done=Step.done):
            curve.add(step)
            if step.last_of_epoch:
                found = broadcast(measure(student, self.held)[loss])
                best.add(step.epoch, -found, student)
                say(f"epoch {step.epoch + 1} of {o.epochs}: dev loss {found:.4f}, loss {curve.recent():.4f}")
        best.restore(student)
        watched = tuple(
            ((epoch + 1) * len(batches), {loss.removesuffix("_loss"): -value})
            for epoch, value in sorted(best.history.items())
        )
        return curve.points(), watched

    def _reading(self, student: PreTrainedModel) -> Reading:
        o = self.options
        names = ("batch_size", "mask", "whole_word", "steps", "seed")
        return reading(student, max_length=o.max_length, **{name: getattr(o, name) for name in names})

    def _cosine(self, student: PreTrainedModel) -> float:
        o, sizes = self.options, [shape_of(c).hidden for c in (student.config, self.teacher.config)]
        if o.cosine and o.top_k is None and sizes[0] != sizes[1]:
            say(
                f"no cosine loss: the student's hidden states have {sizes[0]} entries, the teacher's {sizes[1]}"
            )
            return 0.0
        return float(o.cosine)

    def _vocab(self, student: PreTrainedModel) -> int:
        """Logits that both models have; beyond the tokenizer's tokens there are only padding rows."""
        sizes = [output(student)[0].shape[0], self.teacher.config.vocab_size]
        tokens = len(self.teacher.tokenizer)
        if min(sizes) < tokens:
            raise ModelError(
                expected=f"a row for each of the tokenizer's {tokens} tokens in both models",
                found=f"{sizes[0]} rows in the student, {sizes[1]} in the teacher",
                fix="resize the smaller model's embedding, or build the student from the teacher",
            )
        if sizes[0] != sizes[1]:
            say(f"{sizes[0]} and {sizes[1]} rows: the first {min(sizes)} are compared, the rest is padding")
        return int(min(sizes))

    def _teacher(self, student: PreTrainedModel, batches: TextBatches) -> LanguageTeacher:
        o, vocab = self.options, self._vocab(student)
        if o.top_k is None:
            return Live(
                self.teacher.model,
                vocab=vocab,
                beta=o.beta,
                temperature=o.temperature,
                precision=self.precision,
            )
        if not isinstance(batches, Blocks):
            raise DataError(
                expected="next tokens of texts that are read whole, to keep a teacher's logits",
                found="a stream" if self.teacher.causal else "masked tokens, which are others in every epoch",
                fix="leave out top_k" + (" or streaming" if self.teacher.causal else ""),
            )
        return FromCache(self._cached(batches, vocab), beta=o.beta)

    def _cached(self, blocks: Blocks, vocab: int) -> TopK:
        o = self.options
        assert o.top_k is not None
        data = digest(*blocks.content, self.teacher.tokenizer.get_vocab())
        key = Key(self.teacher.key, data, vocab, o.top_k, o.temperature, o.tail)
        directory = Path(o.cache) if o.cache else self.place / f"logits-{digest(key.__dict__)}"
        return top_k(lambda: self.teacher.model, blocks, directory, key, precision=self.precision)

    def rows(self, student: PreTrainedModel, out: str | Path) -> tuple[Row, Row]:
        """Teacher and student on the dev texts."""
        assert self.held is not None
        o = self.options
        kept = Path(o.cache) / "teacher-on-dev.json" if o.cache else None
        theirs, size = self.teacher.figures(self.held, kept)
        ours = measure(student, self.held)
        return (
            Row("teacher", "teacher", metrics=theirs, parameters=size),
            Row(
                Path(out).name,
                "student",
                metrics=ours,
                parameters=student.num_parameters(),
                directory=str(out),
            ),
        )
