"""A Korean encoder from nothing, and a quarter of it: tokenizer, pre-training, fine-tuning, DistilKoBERT's recipe.

NSMC film reviews (`../shared/data/nsmc`, labels 0 and 1). A WordPiece tokenizer and a BERT of four layers are trained
on the training reviews' text, and the model is fine-tuned on their labels. The student is a stock DistilBERT of its
first layer, which learns from the pre-trained model by the triple loss on the same text, and is then fine-tuned on
the labels, or by the fine-tuned teacher without labels; the baseline is the copied layer, fine-tuned on the labels
without any distillation. A tenth of the training rows chooses epochs; the dev table is read once a model.
(Eight layers and a learning rate of 1e-3 did not train: their fine-tuned teacher stayed at 50%.)
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

from attar import distill, distill_lm, finetune, pretrain, tokenizer
from attar.data.model_task import task_of
from attar.data.tables import read_table
from attar.distillation.distilbert import to_distilbert
from attar.evaluation.quality import Evaluation, evaluate, retained
from attar.maths.statistics import Interval
from attar.model.checkpoint import load
from common import Result, benchmark, figure, once

SHARED = Path(__file__).parents[1].parent / "shared" / "data" / "nsmc"
ROWS, DEV_ROWS, VOCABULARY = 12_000, 5000, 8000
SIZES = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "max_position_embeddings": 128,
}
LAYERS = (1,)
PRETRAIN = {"epochs": 3, "lr": 5e-4, "batch_size": 32, "max_length": 64}
FINETUNE = {"epochs": 2, "lr": 2e-4, "batch_size": 32, "max_length": 64, "patience": None}
DISTILL_LM = {"epochs": 1, "lr": 5e-4, "batch_size": 32, "max_length": 64}
# What a fine-tuned teacher adds: TinyBERT's prediction phase.
PREDICTION = {"epochs": 2, "lr": 2e-4, "batch_size": 32}
WAYS = ("distilled, then labels", "distilled, then the teacher", "layer copied, labels")
# A film is good or bad in every tongue: what a quick run without the data reads.
SAMPLE = {
    0: ["별로 재미없다", "지루한 영화", "돈이 아깝다"],
    1: ["정말 재미있다", "감동적인 영화", "또 보고 싶다"],
}


class Korean:
    """What the benchmark makes, each thing once, in its own directory of `work`."""

    def __init__(self, work: Path, *, quick: bool) -> None:
        self.work, self.quick = work, quick
        work.mkdir(parents=True, exist_ok=True)
        self.train, self.dev = tables(quick)
        parts = self.train.train_test_split(test_size=0.1, seed=0)
        self.train, self.held = parts["train"], parts["test"]
        vocabulary = 200 if quick else VOCABULARY
        texts = list(self.train["text"])
        place = once(
            self.work / "tokenizer", lambda out: tokenizer(texts, out=out, kind="wordpiece", vocab=vocabulary)
        )
        self.tokenizer = AutoTokenizer.from_pretrained(place)
        self.base = once(self.work / "base", self._base)

    def options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options of a run."""
        return dict(options) | ({"epochs": 1} if self.quick else {})

    def _base(self, out: Path) -> None:
        torch.manual_seed(0)
        sizes = SIZES | ({"hidden_size": 24, "intermediate_size": 48} if self.quick else {})
        pad = self.tokenizer.pad_token_id
        model = BertForMaskedLM(BertConfig(vocab_size=len(self.tokenizer), pad_token_id=pad, **sizes))
        options = {**self.options(PRETRAIN), "dev": self.held["text"][:500]}
        pretrain(model, list(self.train["text"]), tokenizer=self.tokenizer, out=out, **options)

    def teacher(self, seed: int) -> Path:
        """The fine-tuned teacher."""
        return once(self.work / f"teacher-{seed}", lambda out: self._tune(self.base, out, seed))

    def _tune(self, model: Any, out: Path, seed: int) -> None:
        finetune(model, self.train, dev=self.held, out=out, seed=seed, **self.options(FINETUNE))

    def distilled(self, seed: int) -> Path:
        """The student after general distillation."""
        options = {**self.options(DISTILL_LM), "dev": self.held["text"][:500], "seed": seed}
        student = {"family": "distilbert", "layers": len(LAYERS)}
        return once(
            self.work / f"distilled-{seed}",
            lambda out: distill_lm(
                self.base, list(self.train["text"]), out=out, student=student, mapping=LAYERS, **options
            ),
        )

    def student(self, way: str, seed: int) -> Path:
        """A student of one of the ways."""
        number = WAYS.index(way)

        def make(out: Path) -> None:
            if number == 1:
                phase = self.options(PREDICTION)
                plain = self.train.remove_columns("label")
                options: dict[str, Any] = {
                    "intermediate": None,
                    "prediction": phase,
                    "max_length": 64,
                    "seed": seed,
                }
                start = self.distilled(seed)
                distill(self.teacher(seed), out=out, data=plain, dev=self.held, student=start, **options)
                return
            start = self.distilled(seed)
            if number == 2:
                start = once(self.work / "copied", self._copied)
            self._tune(start, out, seed)

        return once(self.work / f"student-{number}-{seed}", make)

    def _copied(self, out: Path) -> None:
        loaded = load(self.base)
        model = to_distilbert(loaded.model, LAYERS)
        model.save_pretrained(out)
        loaded.tokenizer.save_pretrained(out)

    def judge(self, place: Path) -> Evaluation:
        """A model on the dev table."""
        loaded = load(place)
        task = task_of(loaded.model.config)
        return evaluate(loaded.model, self.dev, tokenizer=loaded.tokenizer, task=task, max_length=64)


def tables(quick: bool) -> tuple[Dataset, Dataset]:
    """Training and dev tables of texts and labels."""
    if not SHARED.is_dir() or quick:
        rows = [{"text": text, "label": label} for label, texts in SAMPLE.items() for text in texts * 30]
        return Dataset.from_list(rows), Dataset.from_list(rows[::3])
    found = []
    for part, most in (("train", ROWS), ("dev", DEV_ROWS)):
        lines = (SHARED / f"raw_assembled_{part}.txt").read_text(encoding="utf-8-sig").split("\n")[1:]
        fields = [line.split("\t") for line in lines if line.strip()]
        rows = [{"text": text, "label": label} for _, text, label in fields if text.strip()]
        found.append(
            read_table(rows, require_label=True)[0].shuffle(seed=0).select(range(min(most, len(rows))))
        )
    return found[0], found[1]


def main(options: argparse.Namespace, work: Path) -> Result:
    run = Korean(work, quick=options.quick)
    teachers = [run.judge(run.teacher(seed)) for seed in options.seeds]
    students = {way: [run.judge(run.student(way, seed)) for seed in options.seeds] for way in WAYS}
    return show(run, teachers, students, options.seeds)


def show(
    run: Korean,
    teachers: list[Evaluation],
    students: Mapping[str, list[Evaluation]],
    seeds: list[int],
) -> Result:
    """Print the table."""
    mean = float(np.mean([one.value for one in teachers]))
    table = Table("model", "parameters", "dev accuracy", "by seed", "of its teacher's", box=None)
    table.add_row("teacher", _millions(run.teacher(seeds[0])), f"{100 * mean:.2f}", _seeds(teachers), "")
    kept: dict[str, float] = {}
    bounds: dict[str, Interval] = {}
    for way, runs in students.items():
        kept[way] = float(np.mean([run.value for run in runs])) / mean
        # Of the first seed over its rows; seeds are beside it.
        bounds[way] = retained(runs[0], teachers[0])
        ends = f"{100 * kept[way]:.1f}% (seed {seeds[0]}: {100 * bounds[way].low:.1f} to {100 * bounds[way].high:.1f})"
        place = run.student(way, seeds[0])
        table.add_row(way, _millions(place), f"{100 * kept[way] * mean:.2f}", _seeds(runs), ends)
    Console(width=110).print(table)
    best = WAYS[1]
    figures = {
        "accuracy kept, by distillation throughout": figure(kept[best], 0.985),
        **{f"accuracy kept, {way}": figure(value) for way, value in kept.items()},
        "teacher's accuracy": figure(mean),
    }
    settings = {
        "rows": len(run.train),
        "dev rows": len(run.dev),
        "sizes": SIZES,
        "layers": list(LAYERS),
        "pre-training": PRETRAIN,
        "fine-tuning": FINETUNE,
        "distillation": DISTILL_LM,
        "prediction": PREDICTION,
        "accuracies": {"teacher": [one.value for one in teachers]}
        | {way: [one.value for one in runs] for way, runs in students.items()},
    }
    return Result(figures, settings)


def _seeds(runs: list[Evaluation]) -> str:
    return " ".join(f"{100 * run.value:.2f}" for run in runs)


def _millions(place: Path) -> str:
    return f"{load(place).model.num_parameters() / 1e6:.2f}M"


if __name__ == "__main__":
    benchmark(main, __doc__, quick="a few sentences, a tiny model: under a minute", threads=1, seeds=True)
