"""Plain text of a causal language model: next tokens are taught, and quality is bits per byte."""

import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel

from attar.anatomy.resolve import Bound
from attar.compression.data import BATCH, Tables, Texts, first, held_out
from attar.data.batches import Batches, encode, fitting
from attar.data.blocks import Blocks, blocks_of
from attar.data.tables import SampleBy, read_texts
from attar.distillation.language_objective import FromCache, LanguageDistiller
from attar.distillation.top_k_cache import Key, top_k
from attar.errors import ModelError
from attar.evaluation.language_model import sliding_window_loss
from attar.evaluation.opening import open_reader
from attar.evaluation.perplexity import against_teacher
from attar.model.checkpoint import Loaded, digest
from attar.model.lm_head import output
from attar.model.onnx import OnnxModel
from attar.progress import say
from attar.report.report import Report, Role
from attar.training.loop import Precision

# Tokens of a block where none is asked for, and blocks of a step.
LENGTH, BLOCKS = 128, 8
# Bytes that are held out to choose by and for the end, and of these the texts that int8 is held against torch on.
DEV, TEST, COMPARED = 30_000, 60_000, 40
# What is kept of the teacher's distribution at each token, and how it is learned; at temperature 1, since what counts
# is the loss there. The weights of the losses are DistilBERT's (1910.01108).
TOP_K, TAIL, TEMPERATURE, KL, CE = 16, 32, 1.0, 5.0, 2.0


def split_plain(texts: Any, *, dev: Any, test: Any, sample_by: SampleBy, seed: int) -> Tables:
    """Read plain texts, and hold out what is not given.

    Raises:
        DataError: too few to hold some out.
    """
    table = read_texts(texts, sample_by=sample_by)
    each = sum(len(text.encode()) for text in table["text"]) / len(table)
    most = {"test": max(1, int(TEST / each)), "dev": max(1, int(DEV / each))}
    given = {"dev": dev, "test": test}
    train, held = held_out(
        table, given, lambda source: read_texts(source, sample_by=sample_by), most=most, seed=seed
    )
    return Tables(train, **held)


class LanguageTexts(Texts):
    """Plain texts, as a causal teacher and its candidates read them.

    Args:
        loaded: the teacher and its tokenizer.
        max_length: tokens of a block, and of the window that slides over what is measured on.

    Raises:
        ModelError: a teacher without a language model's head.
    """

    task = None
    # More than of a classifier: no copies are made of a text, and each token is seen again in a later epoch.
    teaching = 0.2
    main = "bits_per_byte"

    def __init__(self, loaded: Loaded, tables: Tables, *, max_length: int | None, seed: int) -> None:
        self.loaded, self.tables, self.seed = loaded, tables, seed
        self.max_length = fitting(max_length or LENGTH, loaded.model)
        output(loaded.model)

    @property
    def key(self) -> str:
        """A digest of the teacher, the texts and how they are read."""
        train = self.batches(self.tables.train).content
        return digest(self.loaded.model, *train, self.tables.dev["text"][:], self.max_length, self.seed)

    def check_teacher(self) -> None:
        """Refuse a teacher that knows no more than that all tokens are equally likely.

        Raises:
            ModelError: its perplexity is above the number of its tokens.
        """
        found, tokens = self.teacher_metrics["perplexity"], len(self.loaded.tokenizer)
        if found >= tokens:
            raise ModelError(
                expected=f"a teacher whose perplexity is below its {tokens:,} tokens",
                found=f"a perplexity of {found:,.0f} on the dev texts",
                fix="check that tokenizer and texts are the model's, or train it first (attar pretrain)",
            )

    @cached_property
    def teacher_metrics(self) -> dict[str, float]:
        """By a window that slides over each dev text."""
        return self.measured(self.loaded.model)

    def measured(self, model: PreTrainedModel | OnnxModel, tokenizer: Any = None) -> dict[str, float]:
        """By a window that slides over each dev text."""
        tokenizer = tokenizer or self.loaded.tokenizer
        window = {"max_length": self.max_length, "batch_size": BLOCKS}
        return sliding_window_loss(model, self.tables.dev["text"][:], tokenizer, **window).metrics

    def kept(self, metrics: Mapping[str, float]) -> float:
        """The teacher's bits per byte over the student's."""
        return self.teacher_metrics["bits_per_byte"] / metrics["bits_per_byte"]

    @property
    def compared(self) -> Dataset:
        """A few dev texts: an export gives the logits of every token at once."""
        return first(self.tables.dev, COMPARED)

    def lengths(self) -> np.ndarray:
        """Tokens of each dev text."""
        rows = self.loaded.tokenizer(self.tables.dev["text"][:], verbose=False)["input_ids"]
        return np.array([len(row) for row in rows])

    def rate(self) -> float:
        """From a few of the training texts."""
        few = first(self.tables.train, 64)
        began = time.perf_counter()
        sliding_window_loss(
            self.loaded.model,
            few["text"][:],
            self.loaded.tokenizer,
            max_length=self.max_length,
            stride=self.max_length,
            batch_size=BLOCKS,
        )
        return len(few) / (time.perf_counter() - began)

    def table(self, place: Path, affordable: int) -> Dataset:
        """As many of the texts as the teacher can read."""
        train = self.tables.train
        rows = min(len(train), max(BATCH, affordable))
        if rows < len(train):
            say(f"the teacher has time to read {rows:,} of {len(train):,} texts, which students learn from")
        return first(train, rows)

    def batches(self, table: Dataset) -> Blocks:
        """Packed blocks."""
        made = blocks_of(
            table,
            self.loaded.tokenizer,
            size=self.max_length,
            batch_size=BLOCKS,
            shuffle=True,
            seed=self.seed,
        )
        assert isinstance(made, Blocks)  # no stream
        return made

    def in_order(self, table: Dataset) -> Batches:
        """Not packed: each row is a text."""
        encoded = encode(table, self.loaded.tokenizer, max_length=self.max_length)
        return Batches(encoded, self.loaded.tokenizer, batch_size=BATCH)

    def teacher(self, batches: Blocks, layers: int, *, cache: Path, precision: Precision) -> FromCache:
        """Its likeliest next tokens and a sample of the others."""
        model, tokenizer = self.loaded.model, self.loaded.tokenizer
        vocab = len(output(model)[0])
        data = digest(*batches.content, tokenizer.get_vocab())
        key = Key(digest(model), data, vocab, min(TOP_K, vocab), TEMPERATURE, TAIL)
        place = cache / f"logits-{digest(vars(key))}"
        return FromCache(top_k(lambda: model, batches, place, key, precision=precision), beta=0.0)

    def learner(
        self,
        model: PreTrainedModel,
        teacher: Any,
        bound: Bound,
        projections: Mapping[int, Tensor] | None,
    ) -> LanguageDistiller:
        """The teacher's distribution of the next token, and the text itself."""
        return LanguageDistiller(model, teacher, kl=KL, ce=CE, cosine=0.0, dropout=False)

    def report(self, models: Mapping[str, tuple[Role, Path]], **options: Any) -> Report:
        """With intervals over texts."""
        opened = [(role, open_reader(place, name=name)) for name, (role, place) in models.items()]
        lines = self.tables.test["text"][:]
        return against_teacher(opened, lines, length=self.max_length, batch_size=BLOCKS, **options)
