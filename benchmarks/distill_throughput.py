"""Tokens per second of task distillation: attar against TextBrewer, a textbook loop and a tuned loop, in one run.

All contenders train the same student (4 layers of 312, FFN 1200, 12 heads, the same random weights) by TinyBERT's
intermediate losses on the same sentences of Rotten Tomatoes, 32 in a batch. They take turns of a few batches, each
going on where it was, and each round gives one ratio, so that a busy machine slows all alike.

- `textbrewer`: TextBrewer's GeneralDistiller, fp32, AdamW, batches padded to their longest sentence. It is not a
  dependency; without it this says how to get it and runs on. `distill_peers.TextBrewer` says what was adapted.
- `textbook`: the plain PyTorch loop, fp32, AdamW, sentences in random order, padded likewise.
- `tuned`: the same with fused AdamW, sentences of like length in a batch, and bf16 autocast where this CPU is faster
  with it (measured at the start).
- `attar`: as `attar.distill` does it, from the second epoch on. What the first epoch costs more, running the teacher
  into its cache, is printed beside the ratios. Its student trains without dropout (attar's default), the peers' with.
"""

import argparse
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from distill_peers import BATCH, LR, PIP, Contender, Loop, Setting, TextBrewer, Turn, collate
from torch import nn
from transformers import AutoTokenizer

from attar.anatomy.resolve import shape_of
from attar.data.batches import Batches, encode
from attar.demo.data import model_directory, reviews
from attar.distillation.objective import Intermediate, match
from attar.distillation.phases import Distiller, teacher_of
from attar.maths.mapping import layer_map
from attar.model.pretrained import from_pretrained
from attar.training.loop import Step, faster_precision, fit
from attar.training.used_embeddings import used_rows
from common import Figure, Result, benchmark, figure, remembered

TARGETS: dict[str, float | None] = {"textbrewer": 6.0, "textbook": None, "tuned": 2.0}
FIGURES = {"textbrewer": "over_textbrewer", "textbook": "over_textbook_loop", "tuned": "over_tuned_loop"}


class Attar:
    """The rooms that `attar.distill` walks through: the teacher's cache, the objective, the training loop."""

    name = "attar"

    def __init__(self, setting: Setting, batches: Batches, cache: Path) -> None:
        self.batches = batches
        teacher, student = setting.models()
        for model in (teacher, student):
            model.set_attn_implementation("sdpa")
        shapes = shape_of(student.config), shape_of(teacher.config)
        compared = match(*shapes, setting.layers)
        start = time.perf_counter()
        source = teacher_of(
            teacher, compared.teacher, batches, cache=cache, precision="auto", name="benchmark"
        )
        self.cache_seconds = time.perf_counter() - start
        self.cache_bytes = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file())
        weights = {m: p.weight.T for (m, _), p in zip(setting.pairs, setting.projections(), strict=True)}
        self.learner = Distiller(student, source, intermediate=Intermediate(compared, *shapes, start=weights))
        self.steps = self.attar_epoch()

    def attar_epoch(self) -> Iterator[Step]:
        """Epoch after epoch, one optimizer step each time it is asked."""
        with used_rows(self.learner.student, self.batches):
            yield from fit(self.learner, self.batches, epochs=1000, lr=LR)

    def loss(self, rows: np.ndarray) -> torch.Tensor:
        """The sum of all parts for the rows of one batch."""
        return torch.stack(list(self.learner(self.batches.rows(rows)).values())).sum()

    def step_batches(self, n: int) -> Turn:
        """Train on the next `n` batches."""
        start = time.perf_counter()
        steps = [next(self.steps) for _ in range(n)]
        seconds = time.perf_counter() - start
        orders = {epoch: self.batches.order(epoch) for epoch in {step.epoch for step in steps}}
        done = np.concatenate([orders[step.epoch][(step.index - 1) % len(self.batches)] for step in steps])
        return Turn(len(done), int(self.batches.lengths[done].sum()), seconds)


def contenders(options: argparse.Namespace, cache: Path) -> dict[str, Contender]:
    """All that are here, proven to compute the same loss; attar first."""
    tokenizer = from_pretrained(AutoTokenizer, model_directory())
    texts = reviews()["train"]["text"][: options.sentences]
    encoded = encode(Dataset.from_dict({"text": texts}), tokenizer)
    setting = Setting([list(row) for row in encoded["input_ids"]], layer_map(4, 6))
    bf16 = faster_precision() == "bf16"
    ours = Attar(setting, Batches(encoded, tokenizer, batch_size=BATCH, shuffle=True), cache)
    peers: list[Any] = [Loop(setting, tuned=True, bf16=bf16), Loop(setting, tuned=False)]
    if importlib.util.find_spec("textbrewer") is None:
        print(f"textbrewer is not installed, so it is left out. To measure it: {PIP}")
    else:
        peers.append(TextBrewer(setting))
    batch = collate(setting.rows[:BATCH])
    losses = {"attar": without_dropout(ours.learner, lambda: ours.loss(np.arange(BATCH)))}
    losses |= {peer.name: without_dropout(peer.student, lambda peer=peer: peer.loss(batch)) for peer in peers}
    print("loss of the first batch: " + ", ".join(f"{name} {value:.4f}" for name, value in losses.items()))
    if max(losses.values()) > 1.01 * min(losses.values()):
        raise SystemExit("the contenders do not compute the same loss, so their speeds cannot be compared")
    print(
        f"attar's cache: {ours.cache_seconds:.1f} s and {ours.cache_bytes / 2**20:.0f} MiB for {len(texts)} sentences; "
        f"the tuned loop runs in {'bf16' if bf16 else 'fp32'}\n"
    )
    return {one.name: one for one in [ours, *peers]}


def without_dropout(module: nn.Module, loss: Any) -> float:
    module.eval()
    with torch.no_grad():
        value = float(loss())
    module.train()
    return value


def measure(runners: dict[str, Contender], rounds: int, steps: int) -> dict[str, list[Turn]]:
    """`rounds` turns of each, after up to two batches that are not counted; who begins changes with the round."""
    turns: dict[str, list[Turn]] = {name: [] for name in runners}
    names = list(runners)
    for name in names:
        runners[name].step_batches(min(2, steps))
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            turns[name].append(runners[name].step_batches(steps))
    return turns


def ratios(turns: dict[str, list[Turn]], peer: str) -> tuple[float, float, float]:
    """Median over rounds of attar's tokens per second over the peer's, with a 95% bootstrap interval."""
    pairs = zip(turns["attar"], turns[peer], strict=True)
    values = np.array([(a.tokens / a.seconds) / (b.tokens / b.seconds) for a, b in pairs])
    drawn = np.random.default_rng(0).choice(values, (2000, len(values)))
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
    return float(np.median(values)), float(low), float(high)


def table(turns: dict[str, list[Turn]]) -> None:
    print(f"{'':12}{'tokens/s':>10}{'sentences/s':>13}{'attar is':>11}{'95%':>15}")
    for name, own in turns.items():
        tokens = statistics.median(turn.tokens / turn.seconds for turn in own)
        sentences = statistics.median(turn.sentences / turn.seconds for turn in own)
        line = f"{name:12}{tokens:10.0f}{sentences:13.1f}"
        if name != "attar":
            value, low, high = ratios(turns, name)
            line += f"{value:10.2f}x{low:9.2f}-{high:.2f}"
        print(line)
    print()


def main(options: argparse.Namespace, work: Path) -> Result:
    if options.quick:
        options.sentences, options.rounds, options.steps = 128, 2, 1
    with tempfile.TemporaryDirectory() as cache:  # filling it is part of what is measured
        found = remembered(
            work / "turns.json",
            lambda: measure(contenders(options, Path(cache)), options.rounds, options.steps),
        )
    turns = {name: [Turn(*turn) for turn in own] for name, own in found.items()}
    table(turns)
    figures: dict[str, Figure] = {}
    settings: dict[str, Any] = {"intervals_95": {}, "not_measured": []}
    for name, key in FIGURES.items():
        if name in turns:
            value, low, high = ratios(turns, name)
            figures[key] = figure(value, TARGETS[name])
            settings["intervals_95"][key] = [low, high]
        else:
            figures[key] = figure(None, TARGETS[name])
            settings["not_measured"].append(key)
    return Result(figures, settings)


if __name__ == "__main__":
    benchmark(
        main,
        __doc__,
        quick="few sentences, few rounds: under a minute",
        options={
            "--sentences": {"type": int, "help": "of the train split; all by default"},
            "--rounds": {"type": int, "default": 15},
            "--steps": {"type": int, "default": 8, "help": "batches in a turn"},
        },
    )
