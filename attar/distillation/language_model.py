"""`distill_lm`: a smaller language model that has learned its teacher's distribution over every token."""

from collections.abc import Mapping, Sequence
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
from attar.data.tables import SampleBy
from attar.distillation.distilbert import to_distilbert
from attar.distillation.language_objective import FromCache, LanguageDistiller, LanguageTeacher, Live
from attar.distillation.lazy_teacher import LazyTeacher
from attar.distillation.student import student as build
from attar.distillation.top_k_cache import Key, TopK, top_k
from attar.errors import DataError, ModelError
from attar.evaluation.language_model import LOSS, MAIN, measure
from attar.maths.mapping import layer_map
from attar.model.checkpoint import digest, load, save, versions
from attar.model.lm_head import output
from attar.progress import say, track
from attar.recipes import DistillLm
from attar.recipes.reading import options_of
from attar.report.report import Point, Report, Row
from attar.storage.writing import check_free
from attar.training import resuming
from attar.training.loop import Precision, broadcast, fit, is_main, processes

# Texts that a student is projected on.
SAMPLE = 2000


def distill_lm(
    teacher: str | Path | PreTrainedModel,
    texts: Texts,
    *,
    out: str | Path,
    dev: Texts | None = None,
    tokenizer: Any = None,
    student: Mapping[str, Any] | str | Path | PreTrainedModel | None = None,
    mapping: str | Sequence[int] = "uniform",
    kl: float = 5.0,
    ce: float = 2.0,
    cosine: float = 1.0,
    beta: float = 0.0,
    temperature: float = 2.0,
    top_k: int | None = None,
    tail: int = 32,
    cache: str | Path | None = None,
    epochs: int = 3,
    lr: float = 5e-4,
    batch_size: int = 32,
    max_length: int = 128,
    dropout: bool = True,
    mask: float = 0.15,
    whole_word: bool = False,
    sample_by: SampleBy = "line",
    streaming: bool = False,
    steps: int = 1000,
    seed: int = 0,
    precision: Precision = "auto",
    overwrite: bool = False,
) -> Report:
    """Distil a language model, masked or causal, on plain text: DistilBERT, DistilGPT2, and any GPT's smaller child.

    The loss is `kl` times the divergence of student and teacher over every token's distribution (times t², 1503.02531),
    `ce` times the student's own loss on the text, and `cosine` times 1 - cos of the last hidden states (1910.01108,
    section 3, whose weights are the defaults). The best epoch by the student's own loss on the dev texts is kept.

    Args:
        teacher: a language model: directory, hub name, or model (then with its `tokenizer`).
        texts: plain text, as for `pretrain`.
        out: the directory to write; it appears whole, after it was loaded again and compared.
        dev: texts to measure on; where None a twentieth of the texts is held out.
        student: sizes and start as `schema.LanguageStudent` names them (`{"layers": 6, "init": "layers"}`), or a model
            that exists already, with the teacher's tokenizer. Where no size is named, half of the teacher's layers.
        mapping: teacher layer of each student layer, counted from 1 (see `layer_map`).
        kl, ce, cosine: weights of the three losses. Where the hidden sizes differ there is no cosine loss.
        beta: 0 the forward KL, 1 the reverse KL, between them the generalised Jensen-Shannon divergence.
        temperature: t, flattens both distributions; it takes no part in `ce`.
        top_k: causal teachers: run once, keep the k likeliest tokens of every position on disk, and learn from these;
            there is no cosine loss then. Where the cache is whole the teacher is not loaded at all (but for a student
            that is started from it).
        tail: with `top_k`, tokens that are drawn at every position from the others by their probability, which makes
            the loss right on average (2503.16870); 0 takes the others together as one class, which is biased.
        cache: the directory of those, to keep and share; beside `out`, and gone in the end, where None.
        max_length: tokens of a text, or of a causal model's packed blocks.
        dropout: whether the student's dropout is on, as in the paper.
        mask, whole_word: of a masked model, see `pretrain`.
        sample_by: what a document is in a file: a line, a paragraph (up to a blank line), or the whole file.
        streaming: read lines as they are needed; an epoch is then `steps` batches.

    Returns:
        A report with teacher and student on the dev texts, and the training curves.

    Raises:
        RecipeError: an option that the schema does not know.
        ModelError: no language-model head, another tokenizer, sizes that no class expresses. DataError: no text, k
            above the vocabulary, a cache of another teacher. OutputError, TrainingError: see the functions called.
    """
    check_free(out, overwrite=overwrite)
    given = dict(locals())
    names = {*DistillLm.model_fields} - {"student", "mapping", "cache"}
    options = options_of(
        "distill_lm",
        {
            **{name: given[name] for name in names},
            "student": student if isinstance(student, Mapping) else {},
            "mapping": mapping if isinstance(mapping, str) else tuple(mapping),
            "cache": None if cache is None else str(cache),
        },
    )
    origin = LazyTeacher(teacher, tokenizer)
    corpus = read_corpus(texts, dev, streaming=streaming, sample_by=sample_by, seed=seed)
    existing = None if isinstance(student, Mapping) else student
    with resuming.work_directory(out) as place:
        run = Run(origin, corpus, options, place, precision)
        made = run.build(existing)
        curve, watched = run.learn(made)
        rows = run.rows(made, out)
        lineage = {
            "stage": "distill_lm",
            "parent": origin.name,
            "options": options.model_dump(mode="json"),
            "metrics": dict(rows[1].metrics),
        }
        if is_main():
            save(made, origin.tokenizer, out, lineage=lineage, overwrite=overwrite)
    return Report(
        f"{origin.name} distilled",
        MAIN[origin.causal],
        rows,
        {"distillation": curve, "dev": watched},
        settings=options.model_dump(mode="json"),
        versions=versions(),
    )


@dataclass
class Run:
    """One run of `distill_lm`: what its steps share."""

    origin: LazyTeacher
    corpus: Corpus
    options: DistillLm
    place: Path
    precision: Precision
    held: TextBatches | None = field(default=None, init=False)

    def build(self, given: str | Path | PreTrainedModel | None) -> PreTrainedModel:
        """The student before it learns."""
        o, tokenizer = self.options, self.origin.tokenizer
        if given is not None:
            loaded = load(
                given, tokenizer=tokenizer if isinstance(given, PreTrainedModel) else None, head="language"
            )
            same_vocabulary(tokenizer, loaded.tokenizer, str(loaded.name))
            return loaded.model
        wanted, depth = o.student, shape_of(self.origin.config).layers
        sizes = wanted.model_dump(exclude={"family", "init"}, exclude_none=True)
        if not sizes:
            sizes["layers"] = len(o.mapping) if isinstance(o.mapping, tuple) else max(1, depth // 2)
            say(f"no size is named: the student gets {sizes['layers']} of the teacher's {depth} layers")
        layers = layer_map(sizes.get("layers", depth), depth, o.mapping)
        begin = "random weights" if wanted.init == "random" else f"layers {', '.join(map(str, layers))}"
        say(f"building the student, started by {wanted.init}: {begin}")
        if wanted.family == "distilbert" and wanted.init == "layers" and not {*sizes} - {"layers"}:
            return to_distilbert(self.origin.model, layers)
        sample = None if wanted.init != "project" else self._sample()
        made = build(
            self.origin.model, init=wanted.init, mapping=o.mapping, texts=sample, seed=o.seed, **sizes
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
            encode(table, self.origin.tokenizer, max_length=self.options.max_length), self.origin.tokenizer
        )

    def learn(self, student: PreTrainedModel) -> tuple[tuple[Point, ...], tuple[Point, ...]]:
        """Train the student in place; its curve, and its dev loss by epoch."""
        o, tokenizer = self.options, self.origin.tokenizer
        if student is self.origin.source:
            raise ModelError(
                expected="a student of its own", found="the teacher itself", fix="pass a copy (copy.deepcopy)"
            )
        how = self._reading(student)
        rank, world = processes()
        batches = how.batches(self.corpus.train, tokenizer, shuffle=True, rank=rank, world=world)
        self.held = how.batches(self.corpus.dev, tokenizer)
        said = o.model_dump(mode="json", exclude={"cache"})
        key = digest(student, self.origin.key, *batches.content, *self.held.content, said, self.precision)
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
        best, curve, loss = (
            resuming.BestEpoch(place, None),
            resuming.TrainingCurve(place / "curve.json"),
            LOSS[how.causal],
        )
        steps = fit(
            learner,
            batches,
            epochs=o.epochs,
            lr=o.lr,
            precision=self.precision,
            seed=o.seed,
            checkpoint=place / "state",
        )
        for step in track(steps, "distil", o.epochs * len(batches)):
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
        o, sizes = self.options, [shape_of(c).hidden for c in (student.config, self.origin.config)]
        if o.cosine and o.top_k is None and sizes[0] != sizes[1]:
            say(
                f"no cosine loss: the student's hidden states have {sizes[0]} entries, the teacher's {sizes[1]}"
            )
            return 0.0
        return o.cosine

    def _vocab(self, student: PreTrainedModel) -> int:
        """Logits that both models have; beyond the tokenizer's tokens there are only padding rows."""
        sizes = [output(student)[0].shape[0], self.origin.config.vocab_size]
        tokens = len(self.origin.tokenizer)
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
                self.origin.model,
                vocab=vocab,
                beta=o.beta,
                temperature=o.temperature,
                precision=self.precision,
            )
        if not isinstance(batches, Blocks):
            raise DataError(
                expected="next tokens of texts that are read whole, to keep a teacher's logits",
                found="a stream" if self.origin.causal else "hidden tokens, which are others in every epoch",
                fix="leave out top_k" + (" or streaming" if self.origin.causal else ""),
            )
        return FromCache(self._cached(batches, vocab), beta=o.beta)

    def _cached(self, blocks: Blocks, vocab: int) -> TopK:
        o = self.options
        assert o.top_k is not None
        data = digest(*blocks.content, self.origin.tokenizer.get_vocab())
        key = Key(self.origin.key, data, vocab, o.top_k, o.temperature, o.tail)
        directory = Path(o.cache) if o.cache else self.place / f"logits-{digest(key.__dict__)}"
        return top_k(lambda: self.origin.model, blocks, directory, key, precision=self.precision)

    def rows(self, student: PreTrainedModel, out: str | Path) -> tuple[Row, Row]:
        """Teacher and student on the dev texts."""
        assert self.held is not None
        o = self.options
        kept = Path(o.cache) / "teacher-on-dev.json" if o.cache else None
        theirs, size = self.origin.figures(self.held, kept)
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
