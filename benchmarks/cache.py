"""What the teacher's cache takes and gives: KB a sentence, seconds a step, and a student beside one taught online.

Two students learn from a MiniLM-L6 fine-tuned on Rotten Tomatoes: `relations` is that of headline.py (4 x 128, four
heads; hidden states of four layers, the embedding, relations of the last layer), `scores` TinyBERT's (4 x 312, twelve
heads; attention scores of four layers in their place). KB (1000 bytes) a sentence are counted on the files; for the
sentences with augmented copies, which are longer, they follow from the copies' lengths, as do those of the same
tensors in bf16. A step's seconds are processor time, the teacher run for every batch and read from disk in turns of a
few steps. Then the first student is distilled by `attar.distill` from the cache and with the teacher online, from the
same start and in the same order: agreement with the teacher and KL from its predictions on test sentences, paired by
sentence, with a 95% interval over sentences and seeds.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from scipy.special import log_softmax

from attar import distill, finetune
from attar.anatomy.resolve import shape_of
from attar.augmentation import EmbeddingCandidates, augment
from attar.data.batches import Batches, encode
from attar.data.model_task import task_of
from attar.demo.data import model_directory, reviews
from attar.distillation.cache import CachedTeacher, LiveTeacher
from attar.distillation.objective import Intermediate, match
from attar.distillation.phases import Distiller, teacher_of
from attar.distillation.student import student
from attar.evaluation.quality import evaluate
from attar.maths.mapping import layer_map
from attar.maths.statistics import Interval, Ratio, bootstrap
from attar.model.checkpoint import load
from attar.training.loop import Step, fit
from attar.training.used_embeddings import used_rows
from common import Figure, Result, benchmark, figure, once, remembered

TEACHER: dict[str, Any] = {"epochs": 1, "lr": 1e-4, "max_length": 64}
HEADLINE: dict[str, Any] = {"layers": 4, "hidden": 128, "heads": 4, "ffn": 256, "embedding": 72}
TINYBERT: dict[str, Any] = {"layers": 4, "hidden": 312, "heads": 12, "ffn": 1200}
STUDENTS = {"relations": HEADLINE, "scores": TINYBERT}
DISTILL: dict[str, Any] = {
    "student": HEADLINE | {"init": "project"},
    "attention": "relations",
    "intermediate": {"epochs": 2, "lr": 1e-3, "batch_size": 32},
    "prediction": {"epochs": 2, "lr": 5e-4, "batch_size": 32},
    "max_length": 64,
    "precision": "fp32",
}
SENTENCES = 6000
COPIES: dict[str, Any] = {"copies": 3, "probability": 0.4, "k": 15, "seed": 0}
COPIED = 1000


class Study:
    """A fine-tuned teacher, its sentences, and the students that learn from it, each made once in `work`."""

    def __init__(self, work: Path, *, quick: bool) -> None:
        self.work, self.quick = work, quick
        self.tables = {name: table.select(range(48)) if quick else table for name, table in reviews().items()}
        self.train = self.tables["train"].select(range(min(SENTENCES, len(self.tables["train"]))))
        self.place = once(
            work / "teacher",
            lambda out: finetune(
                model_directory(), self.tables["train"], dev=self.tables["dev"], out=out, **TEACHER
            ),
        )
        self.teacher = load(self.place)

    def batches(self, table: Dataset) -> Batches:
        """Batches as `attar.distill` makes them."""
        encoded = encode(table.remove_columns("label"), self.teacher.tokenizer, max_length=64)
        return Batches(encoded, self.teacher.tokenizer, batch_size=32, shuffle=True)

    def copies(self) -> np.ndarray:
        """Lengths in tokens of some sentences and their augmented copies."""
        table = self.train.select(range(min(COPIED, len(self.train))))
        candidates = EmbeddingCandidates(self.teacher.model, self.teacher.tokenizer)
        return self.batches(augment(table, candidates, **COPIES)).lengths

    def student(self, way: str, seed: int) -> Path:
        """A student from the cache or with the teacher online."""

        def make(out: Path) -> None:
            options = DISTILL | {"seed": seed, "cache": self.work / "cache" if way == "cached" else False}
            if self.quick:
                options |= {phase: DISTILL[phase] | {"epochs": 1} for phase in ("intermediate", "prediction")}
            distill(self.place, out=out, data=self.train, dev=self.tables["dev"], **options)

        return once(self.work / f"{way}-{seed}", make)

    def apart(self, place: Path, theirs: np.ndarray) -> np.ndarray:
        """Of each test sentence the KL from the teacher's predictions, and whether the student answers the same."""
        log_p, log_q = (log_softmax(logits.astype(np.float64), -1) for logits in (theirs, self.logits(place)))
        kl = (np.exp(log_p) * (log_p - log_q)).sum(-1)
        return np.stack([kl, log_p.argmax(-1) == log_q.argmax(-1)], axis=1)

    def logits(self, place: Path) -> np.ndarray:
        """A model's logits on the test sentences."""
        loaded = load(place)
        options: dict[str, Any] = {"task": task_of(loaded.model.config), "max_length": 64}
        return evaluate(loaded.model, self.tables["test"], tokenizer=loaded.tokenizer, **options).logits


def steps(learner: Distiller, batches: Batches) -> Iterator[Step]:
    """Steps without end."""
    with used_rows(learner.student, batches):
        yield from fit(learner, batches, epochs=1000, lr=5e-5, precision="fp32")


def measure(study: Study, kind: str, options: argparse.Namespace, copies: np.ndarray) -> dict[str, Any]:
    """Seconds a step of each way, by round, and what the cache takes, for one of `STUDENTS`."""
    model, batches = study.teacher.model, study.batches(study.train.select(range(options.sentences)))
    learners, found = {}, {}
    with tempfile.TemporaryDirectory() as place:
        for name in ("live", "cached"):
            small = student(model, **STUDENTS[kind], init="random", seed=0).model
            shapes = shape_of(small.config), shape_of(model.config)
            compared = match(*shapes, layer_map(4, 6), attention=kind)  # type: ignore[arg-type]
            began = time.process_time()
            source: Any = LiveTeacher(model, compared.teacher, precision="fp32")
            if name == "cached":
                kept: dict[str, Any] = {"cache": Path(place), "name": "benchmark"}
                source = teacher_of(model, compared.teacher, batches, precision="fp32", **kept)
                found = {"fill": time.process_time() - began, **sizes(source, batches, copies, Path(place))}
            learners[name] = steps(
                Distiller(small, source, intermediate=Intermediate(compared, *shapes)), batches
            )
        return found | {"seconds": turns(learners, options)}


def sizes(teacher: CachedTeacher, batches: Batches, copies: np.ndarray, place: Path) -> dict[str, float]:
    """KB a sentence: on disk, with augmented copies, and of these in bf16 with the embedding and nothing made anew."""
    disk = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    need, model = teacher.live.need, teacher.live.model.config
    vectors = len(need.hidden) + 3 * len(need.relations)
    scores = len(need.scores) * model.num_attention_heads
    return {
        "kb": disk / len(batches.lengths) / 1000,
        "kb_copies": float(teacher.layout.bytes(copies).mean()) / 1000,
        "kb_bf16": float((2 * copies * (vectors * model.hidden_size + scores * copies)).mean()) / 1000,
    }


def turns(learners: dict[str, Iterator[Step]], options: argparse.Namespace) -> dict[str, list[float]]:
    """Processor seconds a step, by round; who begins changes with the round."""
    seconds: dict[str, list[float]] = {name: [] for name in learners}
    for learner in learners.values():
        next(learner)
    for number in range(options.rounds):
        for name in list(learners) if number % 2 else list(learners)[::-1]:
            began = time.process_time()
            for _ in range(options.steps):
                next(learners[name])
            seconds[name].append((time.process_time() - began) / options.steps)
    return seconds


def ratio(seconds: dict[str, list[float]]) -> Interval:
    """Median over rounds of the teacher's time online over that from the cache, with a bootstrap interval."""
    ratios = np.array(seconds["live"]) / np.array(seconds["cached"])
    drawn = np.median(np.random.default_rng(0).choice(ratios, (2000, len(ratios))), axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Interval(float(np.median(ratios)), float(low), float(high))


def mean(runs: list[np.ndarray]) -> Interval:
    """The mean over test sentences and seeds."""
    of_rows = Ratio(lambda values, ones: (values, ones))
    return bootstrap(of_rows, runs, np.ones(len(runs[0])))


def main(options: argparse.Namespace, work: Path) -> Result:
    if options.quick:
        options.sentences, options.rounds, options.steps = 48, 2, 1
    study = Study(work, quick=options.quick)
    copies = study.copies()
    found = {
        kind: remembered(work / f"{kind}.json", partial(measure, study, kind, options, copies))
        for kind in STUDENTS
    }
    theirs = study.logits(study.place)
    apart = {
        way: [study.apart(study.student(way, seed), theirs) for seed in options.seeds]
        for way in ("cached", "live")
    }
    (taken, taken_intervals), (learned, learned_intervals) = costs(found), quality(apart)
    settings = {
        "teacher": TEACHER,
        "students": STUDENTS,
        "distill": DISTILL | {"sentences": SENTENCES},
        "augment": COPIES,
        "intervals_95": taken_intervals | learned_intervals,
    }
    return Result(taken | learned, settings)


def costs(found: dict[str, Any]) -> tuple[dict[str, Figure], dict[str, list[float]]]:
    """What the cache of each of `STUDENTS` takes: figures and intervals."""
    figures: dict[str, Figure] = {}
    intervals = {}
    heads = ("KB", "copies", "in bf16", "filling", "live", "cached", "ratio")
    print(f"\n{'':12}" + "".join(f"{head:>9}" for head in heads) + f"{'95%':>14}")
    for kind, one in found.items():
        live, cached = (float(np.median(one["seconds"][way])) for way in ("live", "cached"))
        faster = ratio(one["seconds"])
        print(
            f"{kind:12}{one['kb']:9.1f}{one['kb_copies']:9.1f}{one['kb_bf16']:9.1f}{one['fill']:8.1f}s"
            f"{1000 * live:7.0f}ms{1000 * cached:7.0f}ms{faster.value:9.2f}{faster.low:9.2f}-{faster.high:.2f}"
        )
        target = 60.0 if kind == "relations" else None
        figures |= {
            f"kb_a_sentence, {kind}": figure(one["kb"], target, at_least=False),
            f"kb_a_sentence_with_copies, {kind}": figure(one["kb_copies"], target, at_least=False),
            f"kb_in_bf16_with_copies, {kind}": figure(one["kb_bf16"]),
            f"live_over_cached, {kind}": figure(faster.value, 1.0),
            f"seconds_a_step_live, {kind}": figure(live),
            f"seconds_a_step_cached, {kind}": figure(cached),
            f"seconds_filling, {kind}": figure(one["fill"]),
        }
        intervals[f"live_over_cached, {kind}"] = [faster.low, faster.high]
    return figures, intervals


def quality(apart: dict[str, list[np.ndarray]]) -> tuple[dict[str, Figure], dict[str, list[float]]]:
    """How far students of both ways are from their teacher on test: figures and intervals."""
    figures: dict[str, Figure] = {}
    intervals = {}
    print(f"\n{'on test':12}{'online':>10}{'cached':>10}{'difference':>12}{'95%':>22}")
    for column, name in enumerate(("kl", "agreement")):
        online, cached = (mean([run[:, column] for run in apart[way]]) for way in ("live", "cached"))
        pairs = zip(apart["cached"], apart["live"], strict=True)
        more = mean([ours[:, column] - others[:, column] for ours, others in pairs])
        ends = f"{more.low:+.4f} to {more.high:+.4f}"
        print(f"{name:12}{online.value:10.4f}{cached.value:10.4f}{more.value:+12.4f}{ends:>22}")
        # Good enough: at most a twentieth more KL, at most a point less agreement.
        target = 0.05 * online.value if name == "kl" else -0.01
        figures |= {
            f"{name}_online": figure(online.value),
            f"{name}_cached": figure(cached.value),
            f"{name}_cached_less_online": figure(more.value, target, at_least=name != "kl"),
        }
        intervals[f"{name}_cached_less_online"] = [more.low, more.high]
    print()
    return figures, intervals


if __name__ == "__main__":
    benchmark(
        main,
        __doc__,
        quick="few sentences and steps, one seed: under a minute",
        threads=1,
        seeds=True,
        options={
            "--sentences": {"type": int, "default": 2000, "help": "of which size and speed are measured"},
            "--rounds": {"type": int, "default": 12},
            "--steps": {"type": int, "default": 6, "help": "batches in a turn"},
        },
    )
