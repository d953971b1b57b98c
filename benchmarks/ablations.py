"""TinyBERT's parts left out in turn, beside the paper's table: which of its orderings hold at this scale.

The demo's teacher, student and method on fewer sentences (--rows), several seeds. Figures are dev accuracies in points,
as the paper's are (mean of MNLI-m, MNLI-mm, MRPC and CoLA on dev, 1909.10351 tables 2 and 3). The spread of a
difference is over seeds, each seed paired with its own full run.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset

from attar import distill, finetune, progress
from attar.demo.data import model_directory, reviews, unlabelled_texts
from attar.maths.statistics import seed_interval
from common import Figure, Result, benchmark, figure

STUDENT: dict[str, Any] = {
    "layers": 4,
    "hidden": 128,
    "heads": 4,
    "ffn": 256,
    "embedding": 64,
    "init": "project",
}
FULL: dict[str, Any] = {
    "attention": "relations",
    "general": {"epochs": 1, "lr": 1e-3},
    "augment": {"copies": 1},
    "intermediate": {"epochs": 2, "lr": 1e-3},
    "prediction": {"epochs": 3, "lr": 5e-4},
    "max_length": 64,
}
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
    """The teacher and one distillation a variant and seed, each in its own directory of `work`."""

    def __init__(self, work: Path, rows: int, *, quick: bool) -> None:
        self.work, self.quick = work, quick
        tables = reviews()
        self.train: Dataset = tables["train"].select(range(rows))
        self.dev: Dataset = tables["dev"].select(range(64)) if quick else tables["dev"]
        self.texts = work / "texts.txt"
        self.texts.write_text("\n".join(unlabelled_texts()[:rows]) + "\n", encoding="utf-8")
        self.teacher = work / "teacher"
        if not self.teacher.exists():
            options = {"epochs": 1} if quick else {"epochs": 3, "lr": 1e-4}
            finetune(
                model_directory(),
                self.train if quick else tables["train"],
                dev=self.dev,
                out=self.teacher,
                **options,
            )

    def accuracy(self, name: str, seed: int) -> float:
        """Dev accuracy of one variant in points, from an earlier run of the same work directory where there is one."""
        done = self.work / f"{name.replace(' ', '-')}-{seed}.json"
        if not done.exists():
            done.write_text(json.dumps(self.measure(name, seed)), encoding="utf-8")
        return float(json.loads(done.read_text(encoding="utf-8")))

    def measure(self, name: str, seed: int) -> float:
        """Distil one variant; its dev accuracy in points."""
        options = {**FULL, **VARIANTS[name][0], "cache": self.work / "cache"}
        labels = options.pop("labels", False)
        if options["general"] is not None:
            options["general"] = {
                **options["general"],
                "texts": str(self.texts),
                "teacher": str(model_directory()),
            }
        if self.quick:
            options = {
                k: {**v, "epochs": 1} if isinstance(v, dict) and "epochs" in v else v
                for k, v in options.items()
            }
        out = self.work / f"{name.replace(' ', '-')}-{seed}"
        found = distill(
            self.teacher,
            out=out,
            data=self.train,
            dev=self.dev,
            student=STUDENT,
            seed=seed,
            overwrite=True,
            **options,
        )
        if labels:  # the paper's "without": the labels teach in place of the teacher's predictions
            place = out.with_name(out.name + "-labels")
            found = finetune(out, self.train, dev=self.dev, out=place, seed=seed, overwrite=True, **LABELS)
        return 100 * found.rows[-1].metrics["accuracy"]


def main(options: argparse.Namespace, work: Path) -> Result:
    names = list(VARIANTS)
    if options.quick:
        options.rows, names = 32, ["full", "no task stage"]
    run = Ablations(work, options.rows, quick=options.quick)
    found: dict[str, list[float]] = {name: [] for name in names}
    for seed in options.seeds:
        for name in names:
            found[name].append(run.accuracy(name, seed))
            progress.say(f"seed {seed}, {name}: {found[name][-1]:.1f}")
    return show(found)


def show(found: Mapping[str, list[float]]) -> Result:
    print(f"\n{'':24}{'dev':>7}{'full minus it, 95%':>24}{'paper':>8}{'minus':>8}   ordering")
    figures: dict[str, Figure] = {}
    settings: dict[str, Any] = {"student": STUDENT, "distill": FULL, "labels": LABELS, "accuracies": found}
    settings |= {"intervals_95": {}, "orderings": {}}
    for name, values in found.items():
        theirs = VARIANTS["full"][1] - VARIANTS[name][1]
        mean = sum(values) / len(values)
        figures[name] = figure(mean)
        if name == "full":
            print(f"{name:24}{mean:7.1f}{'':24}{VARIANTS[name][1]:8.1f}")
            continue
        lost = [whole - part for whole, part in zip(found["full"], values, strict=True)]
        around = seed_interval(lost)
        verdict = (
            "as in the paper"
            if around.low > 0
            else "the other way"
            if around.high < 0
            else "not settled by these seeds"
        )
        interval = f"{around.value:+.1f} ({around.low:+.1f} to {around.high:+.1f})"
        print(f"{name:24}{mean:7.1f}{interval:>24}{VARIANTS[name][1]:8.1f}{theirs:8.1f}   {verdict}")
        figures[f"lost: {name}"] = figure(around.value)
        settings["intervals_95"][name] = [around.low, around.high]
        settings["orderings"][name] = verdict
    print()
    return Result(figures, settings)


if __name__ == "__main__":
    benchmark(
        main,
        __doc__,
        quick="two variants on few sentences: under a minute",
        seeds=True,
        options={
            "--rows": {"type": int, "default": 800, "help": "training sentences, and sentences of plain text"}
        },
    )
