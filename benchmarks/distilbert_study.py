"""The models of `benchmarks/distilbert.py`: the teacher that read books, its students, and what they are worth."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from attar import distill, distill_lm, finetune
from attar.data.batches import Batches, encode
from attar.data.model_task import task_of
from attar.distillation.student import student as build
from attar.evaluation.prediction import predict
from attar.evaluation.quality import Evaluation, judge
from attar.model.checkpoint import load
from common import once, remembered
from glue import TASKS, glue, texts_of
from minilm import READ, WORDS, book_teacher, book_texts, small_vocabulary
from studies import TextLoss, masked_loss, say_hours, seconds_a_token

STUDENT: dict[str, Any] = {"epochs": 1, "lr": 5e-4, "batch_size": 32, "max_length": 128}
# The authors' layers 0, 2, 4, 7, 9 and 11 of 12 are evenly spaced from the first to the last.
COPIED: dict[str, Any] = {"student": {"family": "distilbert", "layers": 3}, "mapping": (1, 4, 6)}
# Gentler steps, since more is there to lose.
FITTED: dict[str, Any] = {
    "student": {"family": "distilbert", "layers": 3, "init": "project"},
    "mapping": "uniform",
    "lr": 2e-4,
}
RANDOM: dict[str, Any] = {"student": {"family": "distilbert", "layers": 3, "init": "random"}}
# Of the books that a variant reads: all of them where the share of the teacher's mean is asked for, else this.
SHARE = 0.3
# Variant -> what is changed, its share of the books, and the paper's change of the GLUE score in points.
VARIANTS: dict[str, tuple[Mapping[str, Any], float, float | None]] = {
    "triple loss": ({}, 1.0, None),
    "triple loss, layers fitted": (FITTED, 1.0, None),
    "part": ({}, SHARE, None),
    "part, random start": (RANDOM, SHARE, -3.69),
    "part, no divergence": ({"kl": 0.0}, SHARE, -2.96),
    "part, no cosine": ({"cosine": 0.0}, SHARE, -1.46),
    "part, no masked words": ({"ce": 0.0}, SHARE, -0.31),
}
TAUGHT = "taught by the tuned teacher"
RATES = (1e-4, 3e-4)


class Study:
    """What the study makes, each thing once, in its own place of `work`."""

    def __init__(self, work: Path, *, quick: bool) -> None:
        self.work, self.quick = work, quick
        self.texts = book_texts(quick)
        self.tables = glue(quick)

    @cached_property
    def teacher(self) -> Path:
        """MiniLM that read books."""
        return book_teacher(self.work, self.texts, texts_of(self.tables))

    def student(self, variant: str, seed: int) -> Path:
        """The student of a variant."""
        changed, share, _ = VARIANTS[variant]
        lines = self.texts["train"][: round(share * len(self.texts["train"]))]
        options = {**STUDENT, **COPIED, **changed, "seed": seed, "dev": self.texts["dev"]}
        return once(
            self.work / _name(variant, seed), lambda out: distill_lm(self.teacher, lines, out=out, **options)
        )

    def lost(self, variant: str, seed: int) -> TextLoss:
        """What the teacher or a variant loses on books that nobody read."""
        place = self.teacher if variant == "teacher" else self.student(variant, seed)

        def make() -> Any:
            loaded = load(place)
            found = masked_loss(
                loaded.model, self.texts["test"], loaded.tokenizer, max_length=READ["max_length"]
            )
            return [found.nats.tolist(), found.tokens.tolist()]

        return TextLoss(*map(np.array, remembered(self.work / "lost" / f"{place.name}.json", make)))

    def model(self, arm: str, task: str, rate: float, seed: int) -> Path:
        """The teacher, a variant or `TAUGHT` after it learned a task."""
        what, data = TASKS[task], self.tables[task]
        phase: dict[str, Any] = {
            "epochs": 1 if self.quick else what.epochs,
            "lr": rate,
            "metric": what.metric,
        }
        given: dict[str, Any] = {"dev": data["choose"], "seed": seed, "max_length": what.length}

        def make(out: Path) -> None:
            if arm == TAUGHT:  # fitted to the fine-tuned teacher, which teaches it without labels
                parts: dict[str, Any] = {"intermediate": None, "prediction": phase, "student": {"layers": 3}}
                plain = data["train"].remove_columns("label")
                distill(self.best("teacher", task, seed), out=out, data=plain, **parts, **given)
                return
            start = self.teacher if arm == "teacher" else self.student(arm, seed)
            finetune(start, data["train"], out=out, patience=None, **phase, **given)

        return once(self.work / "tuned" / f"{_name(arm, seed)}-{task}-{rate:g}", make)

    def rate(self, arm: str, task: str) -> float:
        """The learning rate that is best at the first seed on the rows to choose by."""
        rates = RATES[: 1 if self.quick else None]
        return max(rates, key=lambda rate: self.value(self.model(arm, task, rate, 0), task, "choose"))

    def best(self, arm: str, task: str, seed: int) -> Path:
        """A fine-tuned model at its arm's learning rate."""
        return self.model(arm, task, self.rate(arm, task), seed)

    def value(self, place: Path, task: str, part: str = "test") -> float:
        """A model's metric on a table, in points; nothing where it says the same of all rows."""
        return 100 * float(np.nan_to_num(self.said(place, task, part).metrics[TASKS[task].metric]))

    def said(self, place: Path, task: str, part: str = "test") -> Evaluation:
        """What a model says of a table, kept."""
        loaded, table = load(place), self.tables[task][part]

        def make() -> Any:
            encoded = encode(table, loaded.tokenizer, max_length=TASKS[task].length)
            return np.asarray(
                predict(loaded.model, Batches(encoded, loaded.tokenizer, batch_size=64))
            ).tolist()

        logits = np.array(remembered(self.work / "said" / f"{place.name}-{part}.json", make))
        return judge(task_of(loaded.model.config), logits, np.array(table["label"][:]))

    def hours(self, arms: list[str], seeds: list[int]) -> None:
        """Say what is left to be made and how long it takes."""
        tokens = 1.35 * WORDS
        small = small_vocabulary(self.work, self.texts, texts_of(self.tables))
        whole = load(small, head="masked-lm", fresh_head=True).model
        half: PreTrainedModel = build(whole, layers=3, init="layers").model
        rates = {
            name: seconds_a_token(model, rows=16, length=100, train=train)
            for name, model, train in (
                ("teacher", whole, True),
                ("read", whole, False),
                ("student", half, True),
            )
        }
        left = {} if (self.work / "teacher").exists() else {"teacher": tokens * rates["teacher"]}
        letters = {task: sum(map(len, texts_of({task: parts}))) for task, parts in self.tables.items()}
        learned = sum(TASKS[task].epochs * count / 4 for task, count in letters.items())
        for arm in ("teacher", *arms):
            if arm in VARIANTS:
                made = sum((self.work / _name(arm, seed)).exists() for seed in seeds)
                each = VARIANTS[arm][1] * tokens * (rates["student"] + rates["read"])
                left[f"{arm}, {len(seeds) - made} students"] = (len(seeds) - made) * each
            if arm.startswith("part"):  # read on books alone
                continue
            made = len(list((self.work / "tuned").glob(f"{_name(arm, 0)[:-2]}-*")))
            runs = max(0, len(self.tables) * (len(seeds) + len(RATES) - 1) - made)
            each = learned / len(self.tables) * rates["teacher" if arm == "teacher" else "student"]
            left[f"{arm}, tasks, {runs} runs"] = runs * each
        say_hours({name: seconds for name, seconds in left.items() if seconds})


def _name(arm: str, seed: int) -> str:
    return f"{arm.replace(' ', '-').replace(',', '')}-{seed}"
