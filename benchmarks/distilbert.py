"""DistilBERT's recipe from MiniLM-L6: three layers by the triple loss, then GLUE tasks, and each part left out in turn.

The teacher is the demo's MiniLM (its vocabulary trimmed to the texts), given a masked-language-model head by a pass
over the demo's sentences. Students are stock DistilBERTs of three layers; all learn from the same sentences, but for
what the variant leaves out or starts from: the teacher's layers 1, 4 and 6, copied; layers fitted by least squares to
its layers 2, 4 and 6 on those sentences (attar's `init: project`; gentler steps, since more is there to lose); random
ones. Then teacher and students are fine-tuned on a part of SST-2, CoLA, RTE and STS-B (`../shared/data`; the demo's
reviews where that is absent) and read on GLUE's dev tables: a tenth of the training rows is held out to choose the
epoch. Beside them stands what needs no general stage: three layers fitted to the fine-tuned teacher and taught by it on
the task's texts (`attar distill`). Every seed draws its own order of the sentences, heads and random start. The starts,
rates and epochs were chosen on rows of STS-B and SST-2 that are in neither table.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from rich.console import Console
from rich.table import Table

from attar import distill, distill_lm, finetune, pretrain, progress
from attar.anatomy.form import form_of
from attar.data.model_task import task_of
from attar.data.tables import read_table
from attar.demo.data import model_directory, reviews, unlabelled_texts
from attar.evaluation.quality import evaluate
from attar.maths.statistics import seed_interval
from attar.model.checkpoint import load, save
from attar.pruning.apply import apply
from attar.pruning.units import everything
from attar.pruning.vocabulary import config_ids, trim
from common import Figure, Result, benchmark, figure, once

SHARED = Path(__file__).parents[1].parent / "shared" / "data"
SENTENCES = 3000
# A larger rate costs the encoder what it knows: at 5e-4 STS-B falls from 0.55 to 0.27 (training rows held out).
HEAD = {"epochs": 1, "lr": 1e-4, "batch_size": 32, "max_length": 64}
STUDENT = {"epochs": 1, "lr": 5e-4, "batch_size": 32, "max_length": 64}
FINETUNE = {"lr": 2e-4, "batch_size": 32, "patience": None}
# Task -> its metric, rows to learn from, epochs, longest text.
TASKS: dict[str, tuple[str, int, int, int]] = {
    "SST-2": ("accuracy", 1200, 3, 48),
    "CoLA": ("matthews", 2000, 3, 32),
    "RTE": ("accuracy", 200, 3, 64),
    "STS-B": ("spearman", 1200, 6, 64),
}
OTHER = ("accuracy", 1500, 3, 64)
# The authors' layers 0, 2, 4, 7, 9 and 11 of 12 are evenly spaced from the first to the last.
START: dict[str, Any] = {"student": {"family": "distilbert", "layers": 3}, "mapping": (1, 4, 6)}
PROJECTED: dict[str, Any] = {
    "student": {"family": "distilbert", "layers": 3, "init": "project"},
    "mapping": "uniform",
    "lr": 2e-4,
}
RANDOM: dict[str, Any] = {"student": {"family": "distilbert", "layers": 3, "init": "random"}}
# Variant -> what is changed, and the paper's change of the GLUE score in points.
VARIANTS: dict[str, tuple[Mapping[str, Any], float | None]] = {
    "triple loss": ({}, None),
    "projected start": (PROJECTED, None),
    "random start": (RANDOM, -3.69),
    "no divergence": ({"kl": 0.0}, -2.96),
    "no cosine": ({"cosine": 0.0}, -1.46),
    "no masked words": ({"ce": 0.0}, -0.31),
}


def glue() -> dict[str, tuple[Dataset, Dataset]]:
    """Training and dev tables of the four tasks."""
    if not SHARED.is_dir():
        tables = reviews()
        return {"reviews": (tables["train"], tables["test"])}
    found = {}
    for name, columns in {
        "SST-2": {"text": "sentence"},
        "RTE": {"text": "sentence1", "text_pair": "sentence2"},
        "STS-B": {"text": "sentence1", "text_pair": "sentence2", "label": "score"},
    }.items():
        place, task, pair = SHARED / f"glue_{name.lower().replace('-', '')}", None, []
        for part in ("train", "dev"):
            table, task = read_table(place / f"{part}.tsv", columns=columns, task=task, require_label=True)
            pair.append(table)
        found[name] = (pair[0], pair[1])
    found["CoLA"] = (_cola("train"), _cola("dev"))
    return {name: found[name] for name in TASKS}


def _cola(part: str) -> Dataset:
    # The source, the label, the author's mark and the sentence, without a header.
    lines = (SHARED / "glue_cola" / f"{part}.tsv").read_text(encoding="utf-8").strip("\n").split("\n")
    rows = [line.split("\t") for line in lines]
    return Dataset.from_dict({"text": [row[3] for row in rows], "label": [int(row[1]) for row in rows]})


class Study:
    """What the benchmark makes, each thing once, in its own directory of `work`."""

    taught = "taught by the tuned teacher"

    def __init__(self, work: Path, *, quick: bool) -> None:
        self.work, self.quick = work, quick
        work.mkdir(parents=True, exist_ok=True)
        sentences = [*reviews()["train"]["text"], *unlabelled_texts()]
        picks = np.random.default_rng(0).permutation(len(sentences))
        cut = 60 if quick else SENTENCES
        self.texts = [sentences[i] for i in picks[:cut]]
        self.held = [sentences[i] for i in picks[cut : cut + (20 if quick else 300)]]
        tasks = list(glue().items())[: 1 if quick else None]
        self.tables = {name: self._part(name, *pair) for name, pair in tasks}
        self.teacher = once(self.work / "teacher", self._teacher)

    def _part(self, name: str, train: Dataset, dev: Dataset) -> tuple[Dataset, Dataset]:
        rows = 40 if self.quick else TASKS.get(name, OTHER)[1]
        train = train.shuffle(seed=0).select(range(min(rows, len(train))))
        return train, dev.select(range(60)) if self.quick else dev

    def _teacher(self, out: Path) -> None:
        loaded = load(model_directory(), head="base")
        used = [
            text
            for pair in self.tables.values()
            for table in pair
            for name in ("text", "text_pair")
            if name in table.column_names
            for text in table[name]
        ]
        found = trim(loaded.tokenizer, [*self.texts, *self.held, *used])
        model = apply(loaded.model, replace(everything(form_of(loaded.model.config)), vocab=found.kept))
        for name, value in config_ids(loaded.model.config, found.kept).items():
            setattr(model.config, name, value)
        small = self.work / "trimmed"
        save(model, found.tokenizer, small, lineage={"stage": "trim"}, overwrite=True)
        pretrain(small, self.texts, dev=self.held, out=out, **self.options(HEAD))

    def options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options of a run."""
        return dict(options) | ({"epochs": 1} if self.quick else {})

    def student(self, variant: str, seed: int) -> Path:
        """The student of a variant."""
        options = {**self.options(STUDENT), **START, **VARIANTS[variant][0], "seed": seed}
        name = f"{variant.replace(' ', '-')}-{seed}"
        return once(
            self.work / name,
            lambda out: distill_lm(self.teacher, self.texts, dev=self.held, out=out, **options),
        )

    def tune(self, model: Path, out: Path, task: str, seed: int) -> None:
        """Fine-tune a model on the labels of a task."""
        metric, _, epochs, length = TASKS.get(task, OTHER)
        options = self.options({**FINETUNE, "epochs": epochs}) | {"metric": metric, "max_length": length}
        finetune(model, self.tables[task][0], out=out, seed=seed, **options)

    def tuned(self, task: str, seed: int) -> Path:
        """The fine-tuned teacher."""
        return once(self.work / f"tuned-{task}-{seed}", lambda out: self.tune(self.teacher, out, task, seed))

    def teach(self, out: Path, task: str, seed: int) -> None:
        """A student of the fine-tuned teacher, in as many steps as labels take; they choose its epoch, no more."""
        metric, _, epochs, length = TASKS.get(task, OTHER)
        phase = self.options({**FINETUNE, "epochs": epochs}) | {"metric": metric}
        phase.pop("patience")
        parts: dict[str, Any] = {"intermediate": None, "prediction": phase, "max_length": length}
        distill(
            self.tuned(task, seed),
            out=out,
            data=self.tables[task][0],
            student={"layers": 3},
            seed=seed,
            **parts,
        )

    def score(self, name: str, task: str, seed: int) -> float:
        """The dev metric of the teacher, a variant or `taught` on a task, in points; kept."""
        label = name if name == "teacher" else f"{name.replace(' ', '-')}-{seed}"
        kept = self.work / "scores" / f"{label}--{task}-{seed}.json"
        if kept.is_file():
            return float(json.loads(kept.read_text()))
        metric, _, _, length = TASKS.get(task, OTHER)
        with tempfile.TemporaryDirectory() as place:
            out = Path(place) / "tuned"
            if name == "teacher":
                out = self.tuned(task, seed)
            elif name == self.taught:
                self.teach(out, task, seed)
            else:
                self.tune(self.student(name, seed), out, task, seed)
            loaded = load(out)
            options: dict[str, Any] = {"task": task_of(loaded.model.config), "max_length": length}
            found = evaluate(loaded.model, self.tables[task][1], tokenizer=loaded.tokenizer, **options)
        value = round(100 * float(np.nan_to_num(found.metrics[metric])), 2)
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(json.dumps(value))
        return value


def main(options: argparse.Namespace, work: Path) -> Result:
    names = ["teacher", *list(VARIANTS)[: 1 if options.quick else None], Study.taught]
    study = Study(work, quick=options.quick)
    found: dict[str, dict[str, list[float]]] = {}
    for seed in options.seeds:
        for name in names:
            for task in study.tables:
                value = study.score(name, task, seed)
                found.setdefault(name, {}).setdefault(task, []).append(value)
                progress.say(f"seed {seed}, {name}, {task}: {value:.1f}")
    return show(study, found, options.seeds)


def show(study: Study, found: dict[str, dict[str, list[float]]], seeds: list[int]) -> Result:
    """Print the table."""
    means = {name: np.mean(list(tasks.values()), axis=0) for name, tasks in found.items()}
    whole = means["triple loss"]
    table = Table("model", *study.tables, "mean", "change", "the paper's", box=None)
    figures: dict[str, Figure] = {}
    for name, tasks in found.items():
        cells = [f"{np.mean(values):.1f}" for values in tasks.values()]
        change, paper = "", ""
        if name not in ("teacher", "triple loss"):
            apart = seed_interval(list(means[name] - whole)) if len(seeds) > 1 else None
            mean = float(np.mean(means[name] - whole))
            change = f"{mean:+.1f}" + (f" ({apart.low:+.1f} to {apart.high:+.1f})" if apart else "")
            told = VARIANTS.get(name, ({}, None))[1]
            paper = "" if told is None else f"{told:+.2f}"
            figures[f"{name}, change of the mean"] = figure(mean)
        table.add_row(name, *cells, f"{np.mean(means[name]):.1f}", change, paper)
    Console(width=110).print(table)
    kept = {
        name: float(np.mean(means[name]) / np.mean(means["teacher"]))
        for name in ("triple loss", "projected start", Study.taught)
        if name in means
    }
    pair = study.teacher, study.student("triple loss", seeds[0])
    sizes = [load(place).model.base_model.num_parameters() for place in pair]
    first = {
        **{f"of the teacher's mean, {name}": figure(value, 0.97) for name, value in kept.items()},
        "times fewer parameters, without heads": figure(sizes[0] / sizes[1]),
    }
    settings = {
        "sentences": len(study.texts),
        "student": {**study.options(STUDENT), **START},
        "projected start": PROJECTED,
        "fine-tuning": FINETUNE,
        "tasks": {
            name: {"metric": metric, "rows": rows, "epochs": epochs}
            for name, (metric, rows, epochs, _) in TASKS.items()
        },
        "points": found,
    }
    return Result(first | figures, settings)


if __name__ == "__main__":
    benchmark(main, __doc__, quick="few sentences, one seed, two variants", threads=1, seeds=True)
