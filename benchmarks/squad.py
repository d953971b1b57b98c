"""SQuAD 1.1: a student of half the layers, fine-tuned alone or taught by a fine-tuned teacher, in the same steps.

MiniLM-L6 is fine-tuned on one part of SQuAD's development set and read on the other (`../shared/data`), which shares no
article with it; four further articles of the first part choose the epochs. Students are every second layer of the
teacher, copied, so both ways start alike: one learns the labels for three epochs, the other the teacher's layers for
one and its start and end logits for two, without labels. Three quarters of an hour of one core has to do for all, so
questions are those that fit into one window of 160 tokens with their context, and a thousand of them; no learning rate
was searched.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer

from attar import distill, finetune
from attar.data import squad
from attar.data.model_task import task_of
from attar.data.tables import read_table
from attar.demo.data import model_directory
from attar.distillation.student import student as build
from attar.evaluation.answers import answer_f1, exact_match
from attar.evaluation.quality import Evaluation, retained
from attar.evaluation.table import TableEvaluator
from attar.maths.statistics import Interval, Ratio, bootstrap
from attar.model.checkpoint import load
from common import Result, benchmark, figure

SHARED = Path(__file__).parents[1].parent / "shared" / "data" / "squad_v1.1_dev"
LENGTH, BATCH = 160, 8
DEV_ARTICLES = 4
SIZES = {"train": 1000, "dev": 120, "test": 800}
TEACHER = {"epochs": 4, "lr": 1e-4, "batch_size": BATCH, "patience": None}
ALONE = {"epochs": 3, "lr": 1e-4, "batch_size": BATCH, "patience": None}
STUDENT: dict[str, Any] = {"layers": 3, "init": "layers"}
DISTILL: dict[str, Any] = {
    "attention": "relations",
    "intermediate": {"epochs": 1, "lr": 3e-4, "batch_size": BATCH},
    "prediction": {"epochs": 2, "lr": 1e-4, "batch_size": BATCH},
}
WAYS = ("distilled", "fine-tuned alone")
# For --quick: who lives where, each name once in each split.
PEOPLE = {
    "train": (
        "Anna",
        "Boris",
        "Chloe",
        "David",
        "Elena",
        "Farid",
        "Greta",
        "Hugo",
        "Irene",
        "Jonas",
        "Karin",
        "Louis",
    ),
    "dev": ("Maria", "Nils", "Olga", "Pedro"),
    "test": ("Quentin", "Rosa", "Simon", "Tanja", "Ulrich", "Vera"),
}
CITIES = (
    "Oslo",
    "Lima",
    "Rome",
    "Cairo",
    "Seoul",
    "Quebec",
    "Lagos",
    "Delhi",
    "Perth",
    "Kyoto",
    "Bergen",
    "Tunis",
)


def built_in() -> dict[str, Dataset]:
    """A few questions that need no file."""
    tables = {}
    for split, names in PEOPLE.items():
        rows = []
        for number, name in enumerate(names):
            city, other = CITIES[number], CITIES[-1 - number]
            context = f"{name} was born in {other} and moved to {city} as a child."
            rows.append(
                {
                    "id": f"{split}-{number}",
                    "question": f"Where was {name} born?",
                    "context": context,
                    "answers": [{"text": other, "answer_start": context.index(other)}],
                }
            )
        tables[split] = read_table(rows)[0]
    return tables


def questions() -> dict[str, Dataset]:
    """Questions that fit into one window with their contexts; the splits share no article."""
    parts = [
        json.loads((SHARED / f"dev-v1.1.part{part}.json").read_text(encoding="utf-8"))["data"]
        for part in (1, 2)
    ]
    articles = {"train": parts[0][:-DEV_ARTICLES], "dev": parts[0][-DEV_ARTICLES:], "test": parts[1]}
    tokenizer = AutoTokenizer.from_pretrained(model_directory())
    tables = {}
    for split, data in articles.items():
        table = read_table(squad.read({"data": data}, split))[0]
        sizes = [len(ids) for ids in tokenizer(table["question"][:], table["context"][:])["input_ids"]]
        fitting = np.flatnonzero(np.array(sizes) <= LENGTH)
        chosen = np.random.default_rng(0).permutation(fitting)[: SIZES[split]]
        tables[split] = table.select(chosen)
    return tables


class Squad:
    """What the benchmark makes, each thing once, in its own directory of `work`."""

    def __init__(self, work: Path, *, quick: bool) -> None:
        self.work, self.quick = work, quick
        self.tables = built_in() if quick else questions()
        self.teacher = self.once("teacher", lambda out: self.finetune(model_directory(), out, TEACHER))
        self._said: dict[Path, Evaluation] = {}

    def once(self, name: str, make: Callable[[Path], object]) -> Path:
        """What `make` writes to a directory of that name, unless it is there."""
        out = self.work / name
        if not out.exists():
            make(out)
        return out

    def finetune(self, model: Any, out: Path, options: dict[str, Any], **more: Any) -> None:
        """Fine-tune on the labels."""
        if self.quick:
            options = options | {"epochs": 1}
        train, dev = self.tables["train"], self.tables["dev"]
        finetune(model, train, dev=dev, out=out, max_length=LENGTH, precision="fp32", **options, **more)

    def student(self, way: str, seed: int) -> Path:
        """The student of a way and a seed."""
        make = self._distil if way == "distilled" else self._alone
        return self.once(f"{way.replace(' ', '-')}-{seed}", lambda out: make(out, seed))

    def _alone(self, out: Path, seed: int) -> None:
        teacher = load(self.teacher)
        made = build(teacher.model, **STUDENT, seed=seed)
        self.finetune(made.model, out, ALONE, tokenizer=teacher.tokenizer, seed=seed)

    def _distil(self, out: Path, seed: int) -> None:
        phases = {
            name: DISTILL[name] | ({"epochs": 1} if self.quick else {})
            for name in DISTILL
            if name != "attention"
        }
        options = {**DISTILL, **phases, "student": STUDENT, "max_length": LENGTH, "seed": seed}
        dev = self.tables["dev"]
        place = self.work / "cache"
        train = self.tables["train"].remove_columns(["answers", "spans"])
        distill(
            self.teacher, data=train, dev=dev, test=dev, out=out, cache=place, precision="fp32", **options
        )

    def judge(self, place: Path) -> Evaluation:
        """A model on the test questions."""
        if place not in self._said:
            loaded = load(place)
            evaluator = TableEvaluator(
                task_of(loaded.model), self.tables["test"], loaded.tokenizer, max_length=LENGTH
            )
            self._said[place] = evaluator.evaluate(loaded.model)
        return self._said[place]


def gain(ours: list[Evaluation], theirs: list[Evaluation], metric: Ratio) -> Interval:
    """How much more one way scores than the other, seed by seed on the same questions: over new of both."""
    assert ours[0].labels is not None
    differences = [
        metric.parts(a.predictions, ours[0].labels)[0] - metric.parts(b.predictions, ours[0].labels)[0]
        for a, b in zip(ours, theirs, strict=True)
    ]
    mean = Ratio(lambda difference, _: (difference, np.ones(len(difference))))
    return bootstrap(mean, differences, np.zeros(len(differences[0])))


def main(options: argparse.Namespace, work: Path) -> Result:
    run = Squad(work, quick=options.quick)
    said = {way: [run.judge(run.student(way, seed)) for seed in options.seeds] for way in WAYS}
    return show(run, said)


def show(run: Squad, said: dict[str, list[Evaluation]]) -> Result:
    console = Console(width=110)
    teacher = run.judge(run.teacher)
    table = Table("", "EM", "F1", "of the teacher's F1, 95%", "F1 of each seed", box=None)
    table.add_row("teacher", *(f"{teacher.metrics[name]:.1%}" for name in ("exact_match", "f1")), "", "")
    # A teacher of a few steps may answer nothing right, of which nothing can be retained.
    kept = {way: retained(runs, teacher) for way, runs in said.items() if teacher.value > 0}
    for way, runs in said.items():
        means = [float(np.mean([run.metrics[name] for run in runs])) for name in ("exact_match", "f1")]
        found = kept.get(way)
        interval = f"{found.value:.1%} ({found.low:.1%} to {found.high:.1%})" if found else "–"
        each = " ".join(f"{run.metrics['f1']:.1%}" for run in runs)
        table.add_row(way, *(f"{mean:.1%}" for mean in means), interval, each)
    console.print(table)
    ours, theirs = said.values()
    gains = {"f1": gain(ours, theirs, answer_f1), "em": gain(ours, theirs, exact_match)}
    for name, found in gains.items():
        console.print(
            f"task distillation over fine-tuning alone, {name}: {100 * found.value:+.1f} points "
            f"({100 * found.low:+.1f} to {100 * found.high:+.1f})"
        )
    figures = {
        "f1_gain": figure(gains["f1"].value, 0.0),
        "f1_gain_low": figure(gains["f1"].low, 0.0),
        "em_gain": figure(gains["em"].value),
        **{f"retained_{way.split()[-1]}": figure(found.value) for way, found in kept.items()},
    }
    settings = {
        "questions": {name: len(table) for name, table in run.tables.items()},
        "max_length": LENGTH,
        "teacher": TEACHER,
        "alone": ALONE,
        "student": STUDENT,
        "distill": DISTILL,
        "teacher_metrics": teacher.metrics,
        "metrics": {way: [run.metrics for run in runs] for way, runs in said.items()},
        "intervals_95": {
            **{f"{name}_gain": [found.low, found.high] for name, found in gains.items()},
            **{f"retained {way}": [found.low, found.high] for way, found in kept.items()},
        },
    }
    return Result(figures, settings)


if __name__ == "__main__":
    benchmark(main, __doc__, quick="built-in questions, one seed: under a minute", threads=1, seeds=True)
