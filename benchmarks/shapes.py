"""The paper's shapes side by side: how much smaller and faster than BERT-base, in torch and in ONNX Runtime.

Random weights (speed does not depend on them), batch 1, 128 tokens, all models timed in turns in one run, the same
number of threads for all. With one thread the clock is the processor time of the calling thread: on a quiet machine
that is the latency, and on a shared one it still is, to a few percent, where the wall clock is off by factors.
"""

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedModel,
)

from attar.evaluation.benchmark import Speed, bench
from attar.evaluation.timing import Clock
from attar.exporting import export
from attar.maths.statistics import Interval
from attar.model.onnx import OnnxModel
from common import Result, benchmark, figure, once, remembered

VOCABULARY = 30522
LENGTH = 128
BASE = "BERT-base"
RUNTIMES = ("torch fp32", "ONNX Runtime fp32", "ONNX Runtime int8")
# Times fewer parameters; times as fast in fp32; int8 in ONNX Runtime against fp32 in torch.
TARGETS = (7.5, 12.0, 49.0)
SHAPES: dict[str, dict[str, int]] = {
    BASE: {"layers": 12, "hidden": 768, "ffn": 3072, "heads": 12},
    "DistilBERT": {"layers": 6, "hidden": 768, "ffn": 3072, "heads": 12},
    "TinyBERT6": {"layers": 6, "hidden": 768, "ffn": 3072, "heads": 12},
    "TinyBERT4": {"layers": 4, "hidden": 312, "ffn": 1200, "heads": 12},
}


def build(name: str, *, quick: bool = False) -> PreTrainedModel:
    """A random classifier of a shape, from a fixed seed; few layers and a small vocabulary where it is to be quick."""
    torch.manual_seed(0)
    shape = {**SHAPES[name], "layers": SHAPES[name]["layers"] // (4 if quick else 1)}
    vocabulary = 1000 if quick else VOCABULARY
    layers, hidden, ffn, heads = shape["layers"], shape["hidden"], shape["ffn"], shape["heads"]
    if name == "DistilBERT":
        small = DistilBertConfig(
            vocab_size=vocabulary, n_layers=layers, dim=hidden, hidden_dim=ffn, n_heads=heads
        )
        return DistilBertForSequenceClassification(small).eval()
    config = BertConfig(
        vocab_size=vocabulary,
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=ffn,
        num_attention_heads=heads,
    )
    return BertForSequenceClassification(config).eval()


def tokenizer() -> BertTokenizer:
    """A tokenizer over made-up words: an export carries one, and random weights know no words."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{i}" for i in range(200))]
    return BertTokenizer(vocab={word: i for i, word in enumerate(words)})


def everything(place: Path, names: list[str], threads: int, quick: bool) -> dict[str, Any]:
    """Each model in each runtime."""
    texts = [{"text": " ".join(f"word{(7 * i * j) % 200}" for j in range(4 + i))} for i in range(8)]
    models: dict[str, Any] = {}
    for name in names:
        model = build(name, quick=quick)
        models[f"{name}, {RUNTIMES[0]}"] = model
        for precision in ("fp32", "int8"):
            # The labels of random weights hang on a hair: what int8 costs is measured elsewhere, on trained models.
            options: dict[str, Any] = {} if precision == "fp32" else {"data": texts, "max_drop": 1.0}
            write = partial(export, model, tokenizer=tokenizer(), precision=precision, **options)
            out = once(place / f"{name}-{precision}", write)
            models[f"{name}, ONNX Runtime {precision}"] = OnnxModel(out, threads=threads)
    return models


def table(rows: Mapping[str, Speed], base: Speed) -> None:
    """For people."""
    heads = f"{'params M':>8} {'GFLOPs':>7} {'MB':>6} {'p50 ms':>7} {'p90 ms':>7}"
    print(f"\n{'model':12} {'runtime':18} {heads}  as fast as {base.name}")
    for key, row in rows.items():
        name, runtime = key.split(", ")
        low, middle, high = row.speedup.low, row.speedup.value, row.speedup.high
        print(
            f"{name:12} {runtime:18} {row.parameters / 1e6:8.1f} {row.flops / 1e9:7.2f} {row.bytes / 1e6:6.0f} "
            f"{row.p50 * 1e3:7.1f} {row.p90 * 1e3:7.1f}  {middle:.1f}x ({low:.1f} to {high:.1f})"
        )
    print()


def main(options: argparse.Namespace, work: Path) -> Result:
    clock: Clock = options.clock or ("cpu" if options.threads == 1 else "wall")
    repeats = options.repeats or (5 if options.quick else 40)
    names = [BASE, "TinyBERT4"] if options.quick else list(SHAPES)
    first = f"{BASE}, {RUNTIMES[0]}"

    def measure() -> list[dict[str, Any]]:
        models = everything(work, names, options.threads, options.quick)
        found = bench(
            models, lengths=(LENGTH,), repeats=repeats, threads=options.threads, clock=clock, reference=first
        )
        return [asdict(row) for row in found]

    found = remembered(work / "speeds.json", measure)
    rows = {row["name"]: Speed(**row | {"speedup": Interval(**row["speedup"])}) for row in found}
    table(rows, rows[first])
    tiny = {runtime: rows[f"TinyBERT4, {runtime}"] for runtime in RUNTIMES}
    base = {runtime: rows[f"{BASE}, {runtime}"] for runtime in RUNTIMES}
    fp32 = RUNTIMES[:2]
    smaller = base[fp32[0]].parameters / tiny[fp32[0]].parameters
    faster = {runtime: base[runtime].p50 / tiny[runtime].p50 for runtime in fp32}
    size, speed, speed8 = TARGETS
    figures = {
        "TinyBERT4 parameters, times fewer": figure(smaller, size),
        **{f"TinyBERT4, {r}, times as fast as BERT-base there": figure(faster[r], speed) for r in fp32},
        f"TinyBERT4, {RUNTIMES[2]}, times as fast as {first}": figure(
            tiny[RUNTIMES[2]].speedup.value, speed8
        ),
    }
    for key, row in rows.items():
        figures.setdefault(f"{key}, times as fast as {first}", figure(row.speedup.value))
    settings = {
        "batch_size": 1,
        "length": LENGTH,
        "repeats": repeats,
        "clock": clock,
        "int8": "dynamic, a scale per channel, QAttention, embeddings and all products but the head's",
    }
    return Result(figures, settings)


if __name__ == "__main__":
    benchmark(
        main,
        __doc__,
        quick="two shapes of few layers and tokens, few rounds",
        threads=1,
        options={
            "--clock": {"choices": ("wall", "cpu"), "help": "cpu by default where there is one thread"},
            "--repeats": {"type": int, "help": "rounds"},
        },
    )
