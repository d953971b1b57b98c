"""The models of `benchmarks/squad.py`: the fine-tuned teacher and its students, each made once, and their answers."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import AutoTokenizer

from attar import distill, finetune
from attar.data import squad
from attar.data.model_task import task_of
from attar.data.tables import read_table
from attar.demo.data import model_directory
from attar.distillation.student import student as build
from attar.evaluation.quality import Evaluation
from attar.evaluation.table import TableEvaluator
from attar.model.checkpoint import load
from attar.model.pretrained import from_pretrained
from common import once, remembered
from studies import say_hours, seconds_a_token
from texts import SHARED

LENGTH, BATCH = 224, 16
# Articles of the first part that choose epochs and rates, and the most questions that they and the second part ask.
DEV_ARTICLES, ASKED = 3, {"dev": 300, "test": 2000}
EPOCHS = {"teacher": 4, "alone": 6, "intermediate": 3, "prediction": 3}
RATES = {"teacher": (1e-4, 2e-4), "student": (1e-4, 3e-4)}
LAYERS = 3
INTERMEDIATE: dict[str, Any] = {"epochs": EPOCHS["intermediate"], "lr": 3e-4, "batch_size": BATCH}
# Way -> the students' start, and whether the teacher teaches.
WAYS: dict[str, tuple[str, bool]] = {
    "distilled": ("layers", True),
    "distilled, fitted": ("project", True),
    "fine-tuned alone": ("layers", False),
}
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
        json.loads((SHARED / "squad_v1.1_dev" / f"dev-v1.1.part{part}.json").read_text(encoding="utf-8"))
        for part in (1, 2)
    ]
    first, second = (part["data"] for part in parts)
    articles = {"train": first[:-DEV_ARTICLES], "dev": first[-DEV_ARTICLES:], "test": second}
    tokenizer = from_pretrained(AutoTokenizer, model_directory())
    tables = {}
    for split, data in articles.items():
        table = read_table(squad.read({"data": data}, split))[0]
        sizes = [len(ids) for ids in tokenizer(table["question"][:], table["context"][:])["input_ids"]]
        fitting = np.flatnonzero(np.array(sizes) <= LENGTH)
        tables[split] = table.select(np.random.default_rng(0).permutation(fitting)[: ASKED.get(split)])
    return tables


class Squad:
    """What the study makes, each thing once, in its own place of `work`."""

    def __init__(self, work: Path, *, quick: bool) -> None:
        self.work, self.quick = work, quick
        self.tables = built_in() if quick else questions()
        self._said: dict[tuple[str, str], Evaluation] = {}

    @cached_property
    def teacher(self) -> Path:
        """The fine-tuned teacher, at the rate that is best on dev."""

        def make(rate: float) -> Path:
            tune = lambda out: self._tune(model_directory(), out, rate, "teacher")  # noqa: E731
            return once(self.work / f"teacher-{rate:g}", tune)

        made = [make(rate) for rate in self._rates("teacher")]
        return max(made, key=lambda place: self.judge(place, "dev").value)

    def _rates(self, name: str) -> tuple[float, ...]:
        return RATES[name][:1] if self.quick else RATES[name]

    def _epochs(self, name: str) -> int:
        return 1 if self.quick else EPOCHS[name]

    def _tune(self, model: Any, out: Path, rate: float, epochs: str, **more: Any) -> None:
        train, dev = self.tables["train"], self.tables["dev"]
        options: dict[str, Any] = {
            "epochs": self._epochs(epochs),
            "lr": rate,
            "batch_size": BATCH,
            "max_length": LENGTH,
        }
        finetune(model, train, dev=dev, out=out, patience=None, **options, **more)

    def student(self, way: str, rate: float, seed: int) -> Path:
        """The student of a way at a learning rate."""
        start, taught = WAYS[way]
        options: dict[str, Any] = {"layers": LAYERS, "init": start}

        def make(out: Path) -> None:
            if not taught:
                teacher = load(self.teacher)
                made = build(teacher.model, **options, seed=seed)
                self._tune(made.model, out, rate, "alone", tokenizer=teacher.tokenizer, seed=seed)
                return
            phases: dict[str, Any] = {
                "intermediate": {**INTERMEDIATE, "epochs": self._epochs("intermediate")},
                "prediction": {"epochs": self._epochs("prediction"), "lr": rate, "batch_size": BATCH},
            }
            dev, train = self.tables["dev"], self.tables["train"].remove_columns(["answers", "spans"])
            given = {"data": train, "dev": dev, "test": dev, "cache": self.work / "cache", "seed": seed}
            distill(
                self.teacher,
                out=out,
                student=options,
                attention="relations",
                max_length=LENGTH,
                **phases,
                **given,
            )

        return once(self.work / f"{way.replace(' ', '-').replace(',', '')}-{rate:g}-{seed}", make)

    def rate(self, way: str) -> float:
        """The learning rate that is best at the first seed on dev."""
        return max(
            self._rates("student"), key=lambda rate: self.judge(self.student(way, rate, 0), "dev").value
        )

    def best(self, way: str, seed: int) -> Path:
        """The student of a way at its learning rate."""
        return self.student(way, self.rate(way), seed)

    def judge(self, place: Path, part: str = "test") -> Evaluation:
        """What a model answers to the questions of a part; its logits are kept."""
        if (place.name, part) not in self._said:
            loaded = load(place)
            table, task = self.tables[part], task_of(loaded.model)
            evaluator = TableEvaluator(task, table, loaded.tokenizer, max_length=LENGTH)
            kept = self.work / "said" / f"{place.name}-{part}.json"
            logits = remembered(kept, lambda: evaluator.logits(loaded.model).round(4).tolist())
            self._said[place.name, part] = evaluator.evaluate_logits(np.array(logits, dtype=np.float32))
        return self._said[place.name, part]

    def hours(self, ways: list[str], seeds: list[int]) -> None:
        """Say what is left to be made and how long it takes."""
        teacher, typical = (
            load(model_directory(), head="masked-lm", fresh_head=True).model,
            round(0.7 * LENGTH),
        )
        half = build(teacher, layers=LAYERS, init="layers").model
        whole, read, step = (
            seconds_a_token(model, rows=BATCH, length=typical, train=train)
            for model, train in ((teacher, True), (teacher, False), (half, True))
        )
        tokens = len(self.tables["train"]) * typical
        runs = len(RATES["teacher"]) - len(list(self.work.glob("teacher-*")))
        left = {f"teacher, {runs} runs": runs * EPOCHS["teacher"] * tokens * whole}
        for way in ways:
            made = len(list(self.work.glob(f"{way.replace(' ', '-').replace(',', '')}-[0-9]*")))
            runs = max(0, len(seeds) + len(RATES["student"]) - 1 - made)
            left[f"{way}, {runs} runs"] = runs * tokens * EPOCHS["alone"] * step + (runs > 0) * tokens * read
        say_hours({name: seconds for name, seconds in left.items() if seconds})
