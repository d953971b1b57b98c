"""TinyBERT's parts left out in turn, beside the paper's table: which orderings hold, from a random start and from ours.

The teacher is MiniLM-L6 fine-tuned on Rotten Tomatoes. Students of four layers and the teacher's twelve heads, so that
attention scores compare, begin at random as the paper's do; the general stage reads books (`../shared/data`), the task
stage the training sentences (`--rows`) with four augmented copies of each. The same from attar's projected start is a
column of its own: what that start makes unnecessary shows there. Figures are dev accuracies in points, as the paper's
are (mean of MNLI-m, MNLI-mm, MRPC and CoLA on dev, 1909.10351 tables 2 and 3). The spread of a difference is over
seeds, each seed paired with its own full run.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from rich.console import Console
from rich.table import Table

from attar import distill, finetune
from attar.demo.data import model_directory, reviews, unlabelled_texts
from attar.maths.statistics import Interval, seed_interval
from attar.model.checkpoint import load
from common import Figure, Result, benchmark, figure, once, remembered
from minilm import HELD_BOOKS
from studies import arms, by_seed, draw, say_hours, seconds_a_token, verdict
from texts import books, by_book, paragraphs

SIZES: dict[str, Any] = {"layers": 4, "hidden": 192, "heads": 12, "ffn": 768}
STARTS = ("random", "project")
WORDS = 1_000_000  # of books, for the general stage
FULL: dict[str, Any] = {
    "attention": "scores",
    "general": {"epochs": 1, "lr": 1e-3, "max_length": 64},
    "augment": {"copies": 4},
    "intermediate": {"epochs": 5, "lr": 1e-3},
    "prediction": {"epochs": 3, "lr": 5e-4},
    "max_length": 64,
}
TEACHER: dict[str, Any] = {"epochs": 3, "lr": 1e-4}
LABELS: dict[str, Any] = {"epochs": 3, "lr": 3e-4, "max_length": 64, "patience": None}
# Name -> what is changed, and what the paper has for it; 75.6 for all of it.
VARIANTS: dict[str, tuple[Mapping[str, Any], float]] = {
    "full": ({}, 75.6),
    "no general stage": ({"general": None}, 72.5),
    "no task stage": ({"augment": None, "intermediate": None, "prediction": None, "labels": True}, 68.5),
    "no augmentation": ({"augment": None}, 68.4),
    "no embedding loss": ({"embedding": False}, 74.1),
    "no prediction loss": ({"prediction": None, "labels": True}, 73.5),
    "no transformer losses": ({"attention": "none", "hidden": False}, 56.3),
    "no attention loss": ({"attention": "none"}, 71.0),
    "no hidden loss": ({"hidden": False}, 72.9),
    "map top": ({"mapping": "top"}, 70.9),
    "map bottom": ({"mapping": "bottom"}, 71.3),
}


class Ablations:
    """The teacher and one distillation a start, variant and seed, each made once in a place of `work`."""

    def __init__(self, work: Path, rows: int, *, quick: bool) -> None:
        self.work, self.quick, tables = work, quick, reviews()
        self.train: Dataset = tables["train"].select(range(rows))
        self.dev: Dataset = tables["dev"].select(range(64)) if quick else tables["dev"]
        self.texts = work / "texts.txt"
        once(self.texts, lambda out: out.write_text("\n".join(self._plain()) + "\n", encoding="utf-8"))
        whole = self.train if quick else tables["train"]
        options = TEACHER | ({"epochs": 1} if quick else {})
        self.teacher = once(
            work / "teacher",
            lambda out: finetune(model_directory(), whole, dev=self.dev, out=out, **options),
        )

    def _plain(self) -> list[str]:
        if self.quick:
            return unlabelled_texts()[:32]
        found = books()
        return paragraphs(found, by_book(found, HELD_BOOKS)["train"], WORDS)

    def accuracy(self, start: str, name: str, seed: int) -> float:
        """Dev accuracy of one variant in points, kept."""
        done = self.work / f"{start}-{name.replace(' ', '-')}-{seed}.json"
        return float(remembered(done, lambda: self._measure(start, name, seed)))

    def _measure(self, start: str, name: str, seed: int) -> float:
        options = {**FULL, **VARIANTS[name][0], "cache": self.work / "cache"}
        labels = options.pop("labels", False)
        if options["general"] is not None:
            given = {"texts": str(self.texts), "teacher": str(model_directory())}
            options["general"] = {**options["general"], **given}
        if self.quick:
            options = {
                k: {**v, "epochs": 1} if isinstance(v, dict) and "epochs" in v else v
                for k, v in options.items()
            }
        out = self.work / f"{start}-{name.replace(' ', '-')}-{seed}"
        options |= {"student": {**SIZES, "init": start}, "seed": seed, "overwrite": True}
        found = distill(self.teacher, out=out, data=self.train, dev=self.dev, **options)
        if labels:  # the paper's "without": the labels teach in place of the teacher's predictions
            place = out.with_name(out.name + "-labels")
            found = finetune(out, self.train, dev=self.dev, out=place, seed=seed, overwrite=True, **LABELS)
        return 100 * found.rows[-1].metrics["accuracy"]

    def hours(self, starts: Sequence[str], names: Sequence[str], seeds: Sequence[int]) -> None:
        """Say what is left to be made and how long it takes."""
        teacher = load(model_directory(), head="masked-lm", fresh_head=True).model
        read = seconds_a_token(teacher, rows=32, length=27, train=False)
        rows = 27 * len(self.train)
        task = (
            rows
            * (1 + FULL["augment"]["copies"])
            * (FULL["intermediate"]["epochs"] + FULL["prediction"]["epochs"])
        )
        each = (
            1.35 * WORDS * 2 * read + 1.2 * read * task
        )  # a student's step is about a teacher's forward pass
        left = {}
        for start in starts:
            made = len(list(self.work.glob(f"{start}-*.json")))
            runs = len(names) * len(seeds) - made
            left[f"{start} start, {runs} runs"] = runs * each
        say_hours({name: seconds for name, seconds in left.items() if seconds})


def main(options: argparse.Namespace, work: Path) -> Result:
    if options.quick:
        options.rows, options.arms = 32, ["full", "no task stage"]
    run = Ablations(work, options.rows, quick=options.quick)
    if not options.quick:
        run.hours(options.starts, options.arms, options.seeds)
    pairs = [("full", name) for name in options.arms if name != "full"]
    found = {}
    for start in options.starts:
        measure = lambda name, seed, start=start: run.accuracy(start, name, seed)  # noqa: E731
        found[start] = by_seed(options.arms, options.seeds, measure, pairs)
    return show(found)


def show(found: Mapping[str, Mapping[str, Sequence[float]]]) -> Result:
    """Print the table."""
    heads = [f"{start}: {what}" for start in found for what in ("dev", "full minus it, 95%", "ordering")]
    table = Table("", *heads, "paper", "full minus it", box=None)
    figures: dict[str, Figure] = {}
    bounds: dict[str, Interval] = {}
    orderings: dict[str, str] = {}
    for name, (_, theirs) in VARIANTS.items():
        cells: list[str] = []
        for start, by in found.items():
            if name not in by:
                cells += [""] * 3
                continue
            mean = sum(by[name]) / len(by[name])
            figures[f"{start} start, {name}"] = figure(mean)
            cells.append(f"{mean:.1f}")
            if name == "full" or "full" not in by:
                cells += [""] * 2
                continue
            around = seed_interval([whole - part for whole, part in zip(by["full"], by[name], strict=True)])
            title = f"{start} start, lost: {name}"
            bounds[title], orderings[title] = around, verdict(around)
            figures[title] = figure(around.value)
            cells += [f"{around.value:+.1f} ({around.low:+.1f} to {around.high:+.1f})", orderings[title]]
        minus = "" if name == "full" else f"{VARIANTS['full'][1] - theirs:+.1f}"
        table.add_row(name, *cells, f"{theirs:.1f}", minus)
    Console(width=150).print(table)
    settings = {
        "student": SIZES,
        "distill": FULL,
        "labels": LABELS,
        "words": WORDS,
        "accuracies": found,
        "intervals_95": {name: [one.low, one.high] for name, one in bounds.items()},
        "orderings": orderings,
    }
    papers = {f"{start} start, lost: {name}": VARIANTS["full"][1] - theirs
              for start in found for name, (_, theirs) in VARIANTS.items()}  # fmt: skip
    picture = draw(
        "What each part is worth, points of dev accuracy", bounds, "lost without it, 95%", papers=papers
    )
    return Result(figures, settings, {"ablations.svg": picture})


if __name__ == "__main__":
    benchmark(
        main,
        __doc__,
        quick="two variants on few sentences",
        threads=1,
        seeds=True,
        options={
            **arms(list(VARIANTS)),
            "--starts": {"nargs": "+", "default": list(STARTS), "choices": list(STARTS)},
            "--rows": {"type": int, "default": 3000, "help": "training sentences"},
        },
    )
