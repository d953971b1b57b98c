"""The models of `benchmarks/headline.py`: teachers, students of two sizes and their baselines, each made once."""

from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from attar import distill, finetune
from attar.augmentation import EmbeddingCandidates, augment
from attar.data.batches import Batches, encode
from attar.data.model_task import task_of
from attar.demo.data import model_directory, reviews, unlabelled_texts
from attar.distillation.student import student as build
from attar.evaluation.benchmark import bench
from attar.evaluation.prediction import predict
from attar.evaluation.quality import Evaluation, judge
from attar.exporting import export
from attar.model.checkpoint import load, save
from attar.model.onnx import OnnxModel
from common import once, remembered
from minilm import trimmed
from studies import say_hours, seconds_a_token

TEACHER = {"epochs": 3, "lr": 1e-4}
TEACHERS = 3
# Both start by projection; the vocabulary is that of the training sentences.
SIZES: dict[str, dict[str, Any]] = {
    "small": {"layers": 4, "hidden": 128, "heads": 4, "ffn": 512, "init": "project"},
    "tiny": {"layers": 2, "hidden": 128, "heads": 4, "ffn": 384, "embedding": 72, "init": "project"},
}
AUGMENT: dict[str, Any] = {"probability": 0.4, "k": 15, "seed": 0}
# Copies of a sentence for each phase: the teacher's hidden states of all of them are many gigabytes, its logits few.
COPIES = {"intermediate": 3, "prediction": 10}
GENERAL: dict[str, Any] = {"epochs": 1, "lr": 1e-3, "batch_size": 32, "max_length": 64}
INTERMEDIATE: dict[str, Any] = {"epochs": 3, "lr": 1e-3, "batch_size": 32}
PREDICTION: dict[str, Any] = {"epochs": 4, "batch_size": 32}
LABELS: dict[str, Any] = {"epochs": 6, "batch_size": 32, "max_length": 64, "patience": None}
RATES = {"distilled": (3e-4, 1e-3), "labels": (3e-4, 1e-3), "dropped": (1e-4, 3e-4)}
# Arm -> which rates, and which size.
ARMS: dict[str, tuple[str, str]] = {
    "small": ("distilled", "small"),
    "tiny": ("distilled", "tiny"),
    "small, labels": ("labels", "small"),
    "tiny, labels": ("labels", "tiny"),
    "layers dropped": ("dropped", ""),
}
QUICK_ROWS, LENGTH = 48, 64


class Headline:
    """What the study makes, each thing once, in its own place of `work`."""

    def __init__(self, work: Path, *, quick: bool) -> None:
        self.work, self.quick = work, quick
        cut = QUICK_ROWS if quick else None
        self.tables = {name: table.select(range(cut)) if cut else table for name, table in reviews().items()}
        self.plain = unlabelled_texts()[:cut]

    def _tune(self, model: Any, out: Path, options: dict[str, Any], **more: Any) -> None:
        options = options | ({"epochs": 1} if self.quick else {})
        finetune(model, self.tables["train"], dev=self.tables["dev"], out=out, **options, **more)

    def tuned(self, seed: int) -> Path:
        """A fine-tuned teacher; all of them begin with one head, so that their weights can be averaged."""

        def make(out: Path) -> None:
            torch.manual_seed(0)
            whole = load(model_directory(), head="sequence-classification", fresh_head=True, num_labels=2)
            self._tune(whole.model, out, TEACHER, tokenizer=whole.tokenizer, seed=seed)

        return once(self.work / f"teacher-{seed}", make)

    @cached_property
    def teacher(self) -> Path:
        """The teacher that students are held against."""
        return self.tuned(0)

    @cached_property
    def averaged(self) -> Path:
        """The mean of the weights of teachers of several seeds (Wortsman et al., 2203.05482), only to teach."""

        def make(out: Path) -> None:
            each = [load(self.tuned(seed)) for seed in range(1 if self.quick else TEACHERS)]
            states = [one.model.state_dict() for one in each]
            mean = {
                name: torch.stack([state[name].float() for state in states]).mean(0).to(value.dtype)
                for name, value in states[0].items()
            }
            each[0].model.load_state_dict(mean)
            save(each[0].model, each[0].tokenizer, out, lineage={"stage": "average"})

        return once(self.work / "teacher-averaged", make)

    @cached_property
    def teaching(self) -> Path:
        """The teacher that teaches, the better of the two on dev, with the vocabulary of the training sentences."""
        better = max((self.averaged, self.teacher), key=lambda place: self.said(place, "dev").value)
        texts = self.tables["train"]["text"][:]
        return once(self.work / "teaching", lambda out: trimmed(load(better), texts, out))

    @cached_property
    def pretrained(self) -> Path:
        """MiniLM itself with the same vocabulary, the teacher of the general stage."""
        texts = self.tables["train"]["text"][:]
        return once(
            self.work / "pretrained", lambda out: trimmed(load(model_directory(), head="base"), texts, out)
        )

    def augmented(self, phase: str) -> Dataset:
        """The training sentences with their copies, the same for all seeds, so that the teacher runs over them once."""

        def make(out: Path) -> None:
            teacher = load(self.teaching)
            copies = 1 if self.quick else COPIES[phase]
            candidates = EmbeddingCandidates(teacher.model, teacher.tokenizer)
            augment(self.tables["train"], candidates, copies=copies, **AUGMENT).save_to_disk(out)

        found = Dataset.load_from_disk(str(once(self.work / f"augmented-{phase}", make)))
        return found.remove_columns([name for name in found.column_names if name == "label"])

    def model(self, arm: str, rate: float, seed: int) -> Path:
        """A model of an arm at a learning rate."""
        way, size = ARMS[arm]
        make = {"distilled": self._distil, "labels": self._labels, "dropped": self._dropped}[way]
        name = f"{arm.replace(' ', '-').replace(',', '')}-{rate:g}-{seed}"
        return once(self.work / name, partial(make, size, rate, seed))

    def _distil(self, size: str, rate: float, seed: int, out: Path) -> None:
        dev, short = self.tables["dev"], {"epochs": 1} if self.quick else {}
        given: dict[str, Any] = {"dev": dev, "test": dev, "seed": seed, "max_length": LENGTH}
        given |= {"cache": self.work / "cache", "attention": "relations"}

        def layers(place: Path) -> None:
            file = self.work / "plain.txt"
            file.write_text("\n".join(self.plain) + "\n", encoding="utf-8")
            general = {**GENERAL, **short, "texts": str(file), "teacher": str(self.pretrained)}
            phases: dict[str, Any] = {"general": general, "intermediate": {**INTERMEDIATE, **short}}
            data = self.augmented("intermediate")
            distill(
                self.teaching, out=place, data=data, student=SIZES[size], prediction=None, **phases, **given
            )

        start = once(self.work / f"{size}-layers-{seed}", layers)
        phase = {**PREDICTION, **short, "lr": rate}
        data = self.augmented("prediction")
        distill(
            self.teaching, out=out, data=data, student=start, intermediate=None, prediction=phase, **given
        )

    def _labels(self, size: str, rate: float, seed: int, out: Path) -> None:
        teacher, rows = load(self.teaching), self.tables["train"]
        sample = encode(rows.select(range(min(2000, len(rows)))), teacher.tokenizer)
        made = build(teacher.model, **SIZES[size], texts=Batches(sample, teacher.tokenizer), seed=seed)
        self._tune(made.model, out, {**LABELS, "lr": rate}, tokenizer=teacher.tokenizer, seed=seed)

    def _dropped(self, _: str, rate: float, seed: int, out: Path) -> None:
        torch.manual_seed(seed)
        whole = load(model_directory(), head="sequence-classification", fresh_head=True, num_labels=2)
        made = build(whole.model, layers=1, init="layers", mapping="bottom", seed=seed)
        self._tune(made.model, out, {**LABELS, "lr": rate}, tokenizer=whole.tokenizer, seed=seed)

    def rate(self, arm: str) -> float:
        """The learning rate that is best at the first seed on dev."""
        rates = RATES[ARMS[arm][0]][: 1 if self.quick else None]
        return max(rates, key=lambda rate: self.said(self.model(arm, rate, 0), "dev").value)

    def best(self, arm: str, seed: int) -> Path:
        """A model of an arm at its learning rate."""
        return self.model(arm, self.rate(arm), seed)

    def said(self, place: Path, split: str) -> Evaluation:
        """What a model says of a split, kept."""
        loaded, table = load(place), self.tables[split]

        def make() -> Any:
            encoded = encode(table, loaded.tokenizer, max_length=LENGTH)
            return np.asarray(predict(loaded.model, Batches(encoded, loaded.tokenizer))).tolist()

        logits = np.array(remembered(self.work / "said" / f"{place.name}-{split}.json", make))
        return judge(task_of(loaded.model.config), logits, np.array(table["label"][:]))

    def speeds(self, arms: list[str]) -> dict[str, Any]:
        """How many times as fast as the teacher the first seed's models are, as ONNX, in turns."""
        sources = {"teacher": self.teacher, **{arm: self.best(arm, 0) for arm in arms}}
        models = {}
        for name, source in sources.items():
            place = once(self.work / f"onnx-{source.name}", partial(export, source, precision="fp32"))
            models[name] = OnnxModel(place, threads=1)
        rows = bench(models, repeats=5 if self.quick else 200, threads=1, clock="cpu")
        return {row.name: row.speedup for row in rows}

    def hours(self, arms: list[str], seeds: list[int]) -> None:
        """Say what is left to be made and how long it takes."""
        teacher = load(model_directory(), head="masked-lm", fresh_head=True).model
        whole, read = (seconds_a_token(teacher, rows=32, length=27, train=train) for train in (True, False))
        rows = 27 * len(self.tables["train"])
        made = sum((self.work / f"teacher-{seed}").exists() for seed in range(TEACHERS))
        left = {"teachers": (TEACHERS - made) * TEACHER["epochs"] * rows * whole}
        if not (self.work / "cache").exists():
            left["the teacher's outputs"] = rows * (2 + sum(COPIES.values())) * read
        # A student's step was a fifth of a teacher's forward pass and more, with what is read from disk.
        step = 0.35 * read
        passes = {"distilled": INTERMEDIATE["epochs"] * (1 + COPIES["intermediate"])
                  + PREDICTION["epochs"] * (1 + COPIES["prediction"]),
                  "labels": LABELS["epochs"], "dropped": LABELS["epochs"]}  # fmt: skip
        for arm in arms:
            way = ARMS[arm][0]
            runs = len(seeds) + len(RATES[way]) - 1
            runs -= len(list(self.work.glob(f"{arm.replace(' ', '-').replace(',', '')}-[0-9]*")))
            left[f"{arm}, {max(0, runs)} runs"] = max(0, runs) * passes[way] * rows * step
        say_hours({name: seconds for name, seconds in left.items() if seconds})
