"""The models of `benchmarks/korean.py`: each made once, read on held-out reviews and on the tasks' tables."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, PreTrainedModel

from attar import distill, distill_lm, finetune, pretrain, tokenizer
from attar.data.batches import Batches, encode
from attar.data.model_task import task_of
from attar.data.tables import read_table
from attar.distillation.distilbert import to_distilbert
from attar.evaluation.prediction import predict
from attar.evaluation.quality import Evaluation, judge
from attar.model.checkpoint import load
from attar.model.pretrained import from_pretrained
from common import once, remembered
from studies import TextLoss, masked_loss, say_hours, seconds_a_token
from texts import SHARED, korean_reviews

# Reviews held out, read in the general stage, labelled to learn from, and labelled to choose by.
HELD, GENERAL, ROWS, CHOOSE, VOCABULARY = 2000, 200_000, 20_000, 2000, 8000
# Reviews without labels beside NSMC's rows, for a student that learns from its teacher alone.
MORE = 40_000
SIZES = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "max_position_embeddings": 128,
}
LAYERS = (1,)
# After one pass over the reviews four layers know no more than one of them that reads on: there is nothing to teach.
PRETRAIN: dict[str, Any] = {"epochs": 3, "lr": 5e-4, "batch_size": 64, "max_length": 64}
READ: dict[str, Any] = {"epochs": 1, "lr": 5e-4, "batch_size": 64, "max_length": 64}
# Task -> epochs and the longest text in tokens.
TASKS: dict[str, tuple[int, int]] = {"NSMC": (2, 64), "KorSTS": (4, 96)}
RATES: dict[str, tuple[float, ...]] = {"teacher": (1e-4, 3e-4), "student": (2e-4, 5e-4)}
# Arm -> where the student starts and what teaches it the task.
ARMS: dict[str, tuple[str, str]] = {
    "copied, labels": ("copied", "labels"),
    "read on, labels": ("read on", "labels"),
    "distilled, labels": ("distilled", "labels"),
    "distilled, teacher": ("distilled", "teacher"),
    "distilled, teacher, reviews": ("distilled", "teacher"),
    "fitted, teacher": ("fitted", "teacher"),
}
STARTS = ("copied", "read on", "distilled")
# What a quick run reads in place of the reviews.
SAMPLE = {
    0: ["별로 재미없다", "지루한 영화", "돈이 아깝다"],
    1: ["정말 재미있다", "감동적인 영화", "또 보고 싶다"],
}


def tables(quick: bool) -> dict[str, dict[str, Dataset]]:
    """Of each task the rows to learn from, to choose by, and to be read once."""
    if quick:
        rows = [{"text": text, "label": label} for label, texts in SAMPLE.items() for text in texts * 10]
        turned = zip(rows, rows[::-1], strict=True)
        pairs = [
            {"text": a["text"], "text_pair": b["text"], "label": 0.5 + 0.3 * (n % 9)}
            for n, (a, b) in enumerate(turned)
        ]
        return {
            name: {part: Dataset.from_list(each) for part in ("train", "choose", "test")}
            for name, each in (("NSMC", rows), ("KorSTS", pairs))
        }
    train = _nsmc("train").shuffle(seed=0)
    columns = {"text": "sentence1", "text_pair": "sentence2", "label": "score"}
    korsts, task = {}, None
    for part, file in (("train", "train"), ("choose", "dev"), ("test", "test")):
        path = SHARED / "korsts" / f"sts-{file}.tsv"
        korsts[part], task = read_table(path, columns=columns, task=task, require_label=True)
    nsmc = {
        "train": train.select(range(ROWS)),
        "choose": train.select(range(ROWS, ROWS + CHOOSE)),
        "test": _nsmc("dev"),
    }
    return {"NSMC": nsmc, "KorSTS": korsts}


def _nsmc(part: str) -> Dataset:
    lines = (SHARED / "nsmc" / f"raw_assembled_{part}.txt").read_text(encoding="utf-8-sig").split("\n")[1:]
    fields = [line.split("\t") for line in lines if line.strip()]
    rows = [{"text": text, "label": label} for _, text, label in fields if text.strip()]
    return read_table(rows, require_label=True)[0]


class Korean:
    """What the study makes, each thing once, in its own place of `work`."""

    def __init__(self, work: Path, *, quick: bool) -> None:
        self.work, self.quick = work, quick
        lines = SAMPLE[0] * 40 + SAMPLE[1] * 40 if quick else korean_reviews()
        held = 20 if quick else HELD
        self.texts, self.held = lines[:-held], lines[-held:]
        self.tables = tables(quick)
        self.sizes = SIZES | ({"hidden_size": 24, "intermediate_size": 48} if quick else {})

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of the reviews."""
        vocabulary = 200 if self.quick else VOCABULARY
        make = lambda out: tokenizer(self.texts, out=out, kind="wordpiece", vocab=vocabulary)  # noqa: E731
        return from_pretrained(AutoTokenizer, once(self.work / "tokenizer", make))

    def untrained(self, layers: int) -> PreTrainedModel:
        """A model of so many layers, without knowledge."""
        torch.manual_seed(0)
        sizes = {**self.sizes, "num_hidden_layers": layers, "pad_token_id": self.tokenizer.pad_token_id}
        return BertForMaskedLM(BertConfig(vocab_size=len(self.tokenizer), **sizes))

    @cached_property
    def base(self) -> Path:
        """The pre-trained model."""
        model = self.untrained(self.sizes["num_hidden_layers"])
        short = {"epochs": 1} if self.quick else {}
        options = {**PRETRAIN, **short, "dev": self.held, "tokenizer": self.tokenizer}
        return once(self.work / "base", lambda out: pretrain(model, self.texts, out=out, **options))

    def start(self, name: str) -> Path:
        """A student before it learns the task."""
        place, some = self.work / name.replace(" ", "-"), self.texts[:GENERAL]
        if name == "copied":
            return once(place, self._copied)
        options = {**READ, "dev": self.held}
        if name == "read on":
            return once(place, lambda out: pretrain(self.start("copied"), some, out=out, **options))
        student = {"family": "distilbert", "layers": len(LAYERS)}
        options |= {"student": student, "mapping": LAYERS}
        return once(place, lambda out: distill_lm(self.base, some, out=out, **options))

    def _copied(self, out: Path) -> None:
        loaded = load(self.base)
        to_distilbert(loaded.model, LAYERS).save_pretrained(out)
        loaded.tokenizer.save_pretrained(out)

    def lost(self, name: str) -> TextLoss:
        """What the pre-trained model or a start loses on the held-out reviews."""

        def make() -> list[list[float]]:
            loaded = load(self.base if name == "teacher" else self.start(name))
            found = masked_loss(loaded.model, self.held, loaded.tokenizer, max_length=READ["max_length"])
            return [found.nats.tolist(), found.tokens.tolist()]

        return TextLoss(
            *map(np.array, remembered(self.work / "lost" / f"{name.replace(' ', '-')}.json", make))
        )

    def model(self, arm: str, task: str, rate: float, seed: int) -> Path:
        """A fine-tuned model at a learning rate."""
        (epochs, length), data = TASKS[task], self.tables[task]
        start, teacher = ARMS.get(arm, (None, "labels"))
        options: dict[str, Any] = {"max_length": length, "dev": data["choose"], "seed": seed}
        phase: dict[str, Any] = {"epochs": 1 if self.quick else epochs, "lr": rate, "batch_size": 32}

        def make(out: Path) -> None:
            if teacher == "labels":
                model = self.base if start is None else self.start(start)
                finetune(model, data["train"], out=out, patience=None, **phase, **options)
                return
            student = {"layers": len(LAYERS)} if start == "fitted" else self.start(str(start))
            parts: dict[str, Any] = {"intermediate": None, "prediction": phase, "student": student}
            plain = data["train"].remove_columns("label")
            if arm.endswith("reviews") and task == "NSMC":
                plain = Dataset.from_dict({"text": [*plain["text"], *self.texts[:MORE]]})
            distill(self.best("teacher", task, 0), out=out, data=plain, **parts, **options)

        return once(self.work / f"{arm.replace(' ', '-').replace(',', '')}-{task}-{rate:g}-{seed}", make)

    def rate(self, arm: str, task: str) -> float:
        """The learning rate that is best at the first seed, by the rows to choose by."""
        rates = RATES["teacher" if arm == "teacher" else "student"]
        return max(rates, key=lambda rate: self.said(self.model(arm, task, rate, 0), task, "choose").value)

    def best(self, arm: str, task: str, seed: int) -> Path:
        """A fine-tuned model at its arm's learning rate."""
        return self.model(arm, task, self.rate(arm, task), seed)

    def said(self, place: Path, task: str, part: str) -> Evaluation:
        """What a model says of a table, kept."""
        kept = self.work / "said" / f"{place.name}-{part}.json"
        loaded = load(place)

        def make() -> Any:
            encoded = encode(self.tables[task][part], loaded.tokenizer, max_length=TASKS[task][1])
            return np.asarray(
                predict(loaded.model, Batches(encoded, loaded.tokenizer, batch_size=64))
            ).tolist()

        labels = np.array(self.tables[task][part]["label"][:])
        return judge(task_of(loaded.model.config), np.array(remembered(kept, make)), labels)

    def hours(self) -> None:
        """Say what is left to be made and how long it takes."""
        long = float(np.mean([len(row) for row in self.tokenizer(self.texts[::500])["input_ids"]]))
        depth, thin = self.sizes["num_hidden_layers"], len(LAYERS)
        cost = {
            (layers, train): seconds_a_token(self.untrained(layers), rows=64, length=round(long), train=train)
            for layers, train in ((depth, True), (depth, False), (thin, True))
        }
        passes = {task: TASKS[task][0] * len(data["train"]) * long * (2 if task == "KorSTS" else 1)
                  for task, data in self.tables.items()}  # fmt: skip
        general = min(GENERAL, len(self.texts)) * long
        parts = {
            "base": PRETRAIN["epochs"] * len(self.texts) * long * cost[depth, True],
            "read-on": general * cost[thin, True],
            "distilled": general * (cost[thin, True] + cost[depth, False]),
        }
        left = {name: seconds for name, seconds in parts.items() if not (self.work / name).exists()}
        for arm in ("teacher", *ARMS):
            each = cost[depth if arm == "teacher" else thin, True]
            each += cost[depth, False] if ARMS.get(arm, ("", ""))[1] == "teacher" else 0.0
            for task, tokens in passes.items():
                made = len(list(self.work.glob(f"{arm.replace(' ', '-').replace(',', '')}-{task}-*")))
                runs = max(0, (2 if arm == "teacher" else 4) - made)
                left[f"{arm}, {task}, {runs} runs"] = runs * tokens * each
        say_hours({name: seconds for name, seconds in left.items() if seconds})
