"""The models of `benchmarks/gpt.py`: a GPT-2 that read books, and half of its layers by each way, each made once."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from attar import distill_lm, pretrain, tokenizer
from attar.data.blocks import Blocks, tokens_of
from attar.demo.data import reviews, unlabelled_texts
from attar.distillation.language_objective import FromCache, LanguageDistiller, LanguageTeacher, Live
from attar.distillation.top_k_cache import Key, top_k
from attar.evaluation.language_model import DocumentLoss, sliding_window_loss
from attar.model.checkpoint import load
from attar.model.pretrained import from_pretrained
from attar.training.loop import Step, fit
from common import once, remembered
from studies import say_hours, seconds_a_token
from texts import books, by_book, documents

CONFIG = {"n_embd": 256, "n_layer": 6, "n_head": 4, "n_positions": 256}
VOCABULARY = 8000
# Words that the teacher reads (some eleven million tokens), the share that a student does, and of books held out.
WORDS, SHARE, DEV_WORDS, TEST_WORDS = 8_000_000, 0.2, 30_000, 150_000
HELD_BOOKS = {"test": 12, "dev": 6}
LENGTH, BATCH = 256, 16
TEACHER: dict[str, Any] = {"epochs": 1, "lr": 1e-3, "batch_size": BATCH, "max_length": LENGTH}
STUDENT: dict[str, Any] = {"epochs": 1, "batch_size": BATCH, "max_length": LENGTH}
RATES = (5e-4, 1e-3)
# Ways that learn by the same loss as another, at whose rate they learn.
SAME_RATE = {"from the cache": "distilled", "undistilled, for the same seconds": "undistilled"}
# DistilGPT2's weights; no cosine loss, which a teacher that is kept as its likeliest tokens cannot give.
LOSS: dict[str, Any] = {"kl": 5.0, "ce": 2.0, "cosine": 0.0, "temperature": 2.0}
ALONE: dict[str, Any] = {"kl": 0.0, "ce": 1.0, "cosine": 0.0}
# Kept of each position, and drawn from the others.
K, TAIL = 32, 64
# Steps of each kind that are timed.
ROUNDS = 20


class Gpt:
    """What the study makes, each thing once, in its own place of `work`."""

    def __init__(self, work: Path, *, quick: bool) -> None:
        self.work, self.quick = work, quick
        self.train, self.dev, self.test = texts(quick)
        self.some = self.train[: round(SHARE * len(self.train))]
        self.vocabulary = 400 if quick else VOCABULARY
        small = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
        self.sizes = small if quick else CONFIG

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of the books."""

        def make(out: Path) -> None:
            tokenizer(self.train[:2000], out=out, kind="bpe", vocab=self.vocabulary)

        return from_pretrained(AutoTokenizer, once(self.work / "tokenizer", make))

    def untrained(self, layers: int) -> PreTrainedModel:
        """A model of so many layers, without knowledge."""
        ends = {key: self.tokenizer.eos_token_id for key in ("bos_token_id", "eos_token_id")}
        torch.manual_seed(0)
        sizes = {**self.sizes, "n_layer": layers, **ends}
        return GPT2LMHeadModel(GPT2Config(vocab_size=len(self.tokenizer), **sizes))

    @cached_property
    def teacher(self) -> Path:
        """The teacher."""
        model, options = self.untrained(self.sizes["n_layer"]), self.options(TEACHER)
        given = {"dev": self.dev, "tokenizer": self.tokenizer}
        return once(
            self.work / "teacher", lambda out: pretrain(model, self.train, out=out, **given, **options)
        )

    def options(self, options: dict[str, Any]) -> dict[str, Any]:
        """Options of a run."""
        return options | ({"max_length": 64} if self.quick else {})

    def student(self, way: str, rate: float, seed: int) -> Path:
        """The student of a way and a seed, which decides the order of the texts and the dropout."""
        loss, lines, more = (ALONE if way.startswith("undistilled") else LOSS), self.some, {}
        if way == "from the cache":
            more = {"top_k": K, "tail": TAIL, "cache": self.work / "logits"}
        if way.endswith("seconds"):  # as many more texts as steps without a teacher are faster
            count = round(len(lines) * self.speeds["undistilled"] / self.speeds["distilled"])
            lines = self.train[:count]
        options = self.options(STUDENT) | {"student": {"layers": self.sizes["n_layer"] // 2}, "seed": seed}
        options |= {"lr": rate, "dev": self.dev, **loss, **more}
        name = f"{way.replace(' ', '-').replace(',', '')}-{rate:g}-{seed}"
        return once(self.work / name, lambda out: distill_lm(self.teacher, lines, out=out, **options))

    def rate(self, way: str) -> float:
        """The learning rate of a way's loss that is best at the first seed by the books to choose by."""
        way, rates = SAME_RATE.get(way, way), RATES[:1] if self.quick else RATES
        if len(rates) == 1:
            return rates[0]
        return min(rates, key=lambda rate: self.read(self.student(way, rate, 0), "dev").metrics["perplexity"])

    def best(self, way: str, seed: int) -> Path:
        """The student of a way at its learning rate."""
        return self.student(way, self.rate(way), seed)

    def read(self, place: Path, part: str = "test") -> DocumentLoss:
        """How surprised a model is by the held-out books; kept, since it takes a while."""

        def make() -> dict[str, Any]:
            length = self.options(TEACHER)["max_length"]
            window = {"max_length": length, "stride": 3 * length // 4, "batch_size": BATCH}
            lines = self.test if part == "test" else self.dev
            found = sliding_window_loss(load(place).model, lines, self.tokenizer, **window)
            return {
                name: value.tolist() if hasattr(value, "tolist") else value
                for name, value in vars(found).items()
            }

        found = remembered(self.work / "read" / f"{place.name}-{part}.json", make)
        given: dict[str, Any] = {
            name: np.array(one) if isinstance(one, list) else one for name, one in found.items()
        }
        return DocumentLoss(**given)

    def blocks(self, lines: Sequence[str]) -> Blocks:
        """Blocks of texts."""
        length = self.options(TEACHER)["max_length"]
        return Blocks(tokens_of(lines, self.tokenizer), size=length, batch_size=BATCH)

    def key(self, k: int, tail: int) -> Key:
        """A cache of k likeliest tokens and some of the others."""
        return Key("benchmark", "benchmark", len(self.tokenizer), k, LOSS["temperature"], tail)

    @cached_property
    def speeds(self) -> dict[str, float]:
        """Tokens a second of processor time of each way's steps, in turns; kept, since one arm's texts depend on it."""
        return dict(remembered(self.work / "speeds.json", self._speeds))

    def _speeds(self) -> dict[str, float]:
        teacher = load(self.teacher).model
        blocks = self.blocks(self.some[:40])
        with tempfile.TemporaryDirectory() as place:
            cache = top_k(lambda: teacher, blocks, Path(place) / "c", self.key(K, TAIL))
            live = Live(teacher, vocab=len(self.tokenizer), beta=0.0, temperature=LOSS["temperature"])
            sources: dict[str, tuple[LanguageTeacher, dict[str, float]]] = {
                "from the cache": (FromCache(cache, beta=0.0), LOSS),
                "distilled": (live, LOSS),
                "undistilled": (live, ALONE),
            }
            steps = {name: self._steps(source, loss, blocks) for name, (source, loss) in sources.items()}
            seconds: dict[str, list[float]] = {name: [] for name in steps}
            for number in range((3 if self.quick else ROUNDS) + 1):
                for name, stream in steps.items():
                    began = time.process_time()
                    next(stream)
                    if number:
                        seconds[name].append(time.process_time() - began)
        tokens = blocks.size * blocks.batch_size
        return {name: tokens / float(np.median(each)) for name, each in seconds.items()}

    def _steps(self, source: LanguageTeacher, loss: dict[str, float], blocks: Blocks) -> Iterator[Step]:
        student = self.untrained(self.sizes["n_layer"] // 2)
        learner = LanguageDistiller(student, source, kl=loss["kl"], ce=loss["ce"], cosine=0.0)
        return fit(learner, blocks, epochs=10**4, lr=1e-5)

    def hours(self, ways: Sequence[str], seeds: Sequence[int]) -> None:
        """Say what is left to be made and how long it takes."""
        depth = self.sizes["n_layer"]
        tokens = {name: 1.35 * sum(len(line.split()) for line in lines)
                  for name, lines in (("teacher", self.train), ("student", self.some))}  # fmt: skip
        whole, read, half = (
            seconds_a_token(self.untrained(layers), rows=BATCH, length=LENGTH, train=train)
            for layers, train in ((depth, True), (depth, False), (depth // 2, True))
        )
        left = {} if (self.work / "teacher").exists() else {"teacher": tokens["teacher"] * whole}
        for way in ways:
            made = len(list(self.work.glob(f"{way.replace(' ', '-').replace(',', '')}-*")))
            tried = len(RATES) if way == SAME_RATE.get(way, way) else 1
            runs = max(0, len(seeds) + tried - 1 - made)
            # What costs as much as the running teacher, and from the cache, where it runs once.
            each = half + (read if way == "distilled" or way.endswith("seconds") else 0.0)
            left[f"{way}, {runs} runs"] = runs * tokens["student"] * each
        say_hours({name: seconds for name, seconds in left.items() if seconds})


def texts(quick: bool) -> tuple[list[str], list[str], list[str]]:
    """Documents to learn from, in a random order, and of other books to choose by and to be read once."""
    if quick:
        plain = [*reviews()["train"]["text"], *unlabelled_texts()]
        return plain[:300], plain[-40:], [" ".join(plain[400:440])]
    found = books()
    splits = by_book(found, HELD_BOOKS)
    sizes = {"train": WORDS, "dev": DEV_WORDS, "test": TEST_WORDS}
    train, dev, test = (documents(found, splits[split], words) for split, words in sizes.items())
    return train, dev, test
