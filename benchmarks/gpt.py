"""A small GPT-2 that read books, and half of its layers: by distillation, from kept logits, and without a teacher.

A GPT-2 of 7M parameters reads eight million words of English books (`../shared/data/lm_english_books`), tokenizer
included. Students are every second of its layers, copied, and see a fifth of these words: by distillation from the
running teacher, by distillation from its k likeliest tokens and a sample of the others on disk, by the text alone, and
by the text alone for as many seconds as distillation takes. All are read by a sliding window on books of which nobody
read a word. Learning rates are chosen for each loss at the first seed, on other books held out. Seeds decide the order
of the texts and the dropout.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

from attar.distillation.top_k_cache import read_top_k, row_bytes
from attar.evaluation.language_model import DocumentLoss
from attar.maths.losses import divergence, fold, log_probabilities, sampled_divergence
from attar.maths.statistics import Interval
from attar.model.checkpoint import load
from attar.model.lm_head import last_hidden, output
from common import Result, benchmark, figure
from gpt_study import BATCH, HELD_BOOKS, LOSS, STUDENT, TAIL, TEACHER, Gpt, K
from studies import TextLoss, arms, by_seed, draw, loss_apart, verdict

TABLE = (8, 16, 32, 64, 128, 256, 512)
WAYS = ("distilled", "from the cache", "undistilled", "undistilled, for the same seconds")
OURS = WAYS[0]
# At most so many times the teacher's perplexity, what DistilGPT2 has, and kept logits over the running teacher.
TARGET, PAPER, WITHIN = 1.15, 21.1 / 16.3, 1.01


@torch.no_grad()
def by_k(run: Gpt) -> list[dict[str, float]]:
    """For each k: what of the teacher's mass and of the divergence is kept; of the latter also if half are drawn."""
    teacher, student = load(run.teacher).model, load(run.best("undistilled", 0)).model
    batch = run.blocks(run.dev).rows(np.arange(BATCH))
    ours, theirs = (
        F.linear(last_hidden(m, batch.inputs)[batch.mask], *output(m)) for m in (student, teacher)
    )
    t = LOSS["temperature"]
    whole = float(divergence(ours, theirs, temperature=t))
    found = []
    for k in (k for k in TABLE if k <= run.vocabulary):
        index = theirs.topk(k, dim=-1).indices
        kept = float(divergence(*(fold(z, index, temperature=t) for z in (ours, theirs)))) * t**2
        mass = float(theirs.softmax(-1).gather(-1, index).sum(-1).mean())
        said = read_top_k(theirs, run.key(k // 2, k - k // 2), torch.Generator().manual_seed(0))
        log_q = log_probabilities(ours, said.index, temperature=t)
        drawn = float(sampled_divergence(log_q, said.log_p[:, :-1], said.weights(k // 2))) * t**2
        numbers = {"k": k, "mass": mass, "divergence": kept / whole, "drawn": drawn / whole}
        found.append({**numbers, "bytes": row_bytes(run.key(k, 0))})
    return found


def main(options: argparse.Namespace, work: Path) -> Result:
    run = Gpt(work, quick=options.quick)
    if not options.quick:
        run.hours(options.arms, options.seeds)
    found: dict[str, list[DocumentLoss]] = {way: [] for way in options.arms}

    def bits(way: str, seed: int) -> float:
        found[way].append(run.read(run.best(way, seed)))
        return found[way][-1].metrics["bits_per_byte"]

    by_seed(options.arms, options.seeds, bits, [(OURS, way) for way in options.arms if way != OURS])
    return show(run, found)


def over(ours: Sequence[DocumentLoss], theirs: Sequence[DocumentLoss]) -> Interval:
    """Perplexity of a token over the other's, seed by seed on the same windows: over new texts and new seeds."""
    pair = [[TextLoss(one.nats, one.tokens) for one in each] for each in (ours, theirs)]
    apart = loss_apart(*pair)
    value, low, high = (float(np.exp(end)) for end in (apart.value, apart.low, apart.high))
    return Interval(value, low, high)


def show(run: Gpt, found: Mapping[str, list[DocumentLoss]]) -> Result:
    """Print the tables."""
    console = Console(width=130)
    teacher = run.read(run.teacher)
    table = Table("model", "perplexity of a token", "of a byte", "over the teacher's, 95%", "rate", box=None)
    table.add_row("teacher", *_perplexities([teacher]), "", f"{TEACHER['lr']:g}")
    bounds = {way: over(runs, [teacher] * len(runs)) for way, runs in found.items()}
    for way, runs in found.items():
        table.add_row(way, *_perplexities(runs), _told(bounds[way]), f"{run.rate(way):g}")
    console.print(table)
    figures = {
        "teacher's perplexity": figure(teacher.metrics["perplexity"]),
        "teacher's bits per byte": figure(teacher.metrics["bits_per_byte"]),
    }
    for way, around in bounds.items():
        goal = TARGET if way == OURS else None
        figures[f"{way}, perplexity over the teacher's"] = figure(around.value, goal, at_least=False)
    verdicts = {}
    for way in found:
        if OURS not in found or way == OURS:
            continue
        each = over(found[way], found[OURS])
        bounds[f"{way} over {OURS}"] = each
        verdicts[way] = verdict(Interval(each.value - 1, each.low - 1, each.high - 1))
        console.print(
            f"{way} over {OURS}: {_told(each)}; that {OURS} is ahead {verdicts[way]}", highlight=False
        )
        cached = way == "from the cache"
        figures[f"{way} over {OURS}"] = figure(each.value, WITHIN if cached else 1.0, at_least=not cached)
    faster = run.speeds["from the cache"] / run.speeds[OURS]
    said = ", ".join(f"{value:.0f} {way}" for way, value in run.speeds.items())
    console.print(f"tokens a second of processor time: {said}", highlight=False)
    figures["tokens per second, from the cache over online"] = figure(faster, 1.5)
    kept_by = by_k(run)
    sizes = Table("k", "teacher's mass", "divergence kept", "half of k drawn", "bytes a token", box=None)
    for row in kept_by:
        parts = (f"{row[name]:.4f}" for name in ("mass", "divergence", "drawn"))
        sizes.add_row(f"{row['k']:.0f}", *parts, f"{row['bytes']:.0f}")
    console.print(sizes)
    settings = {
        "teacher": {**run.sizes, "vocabulary": run.vocabulary, **run.options(TEACHER)},
        "student": {"layers": run.sizes["n_layer"] // 2, "init": "layers", **run.options(STUDENT), **LOSS},
        "rates": {way: run.rate(way) for way in found},
        "k": K,
        "tail": TAIL,
        "documents": {"teacher": len(run.train), "student": len(run.some)},
        "held-out books": HELD_BOOKS,
        "perplexities": {way: [one.metrics["perplexity"] for one in runs] for way, runs in found.items()},
        "intervals_95": {name: [one.low, one.high] for name, one in bounds.items()},
        "speeds": run.speeds,
        "verdicts": verdicts,
        "by_k": kept_by,
    }
    shown = {way: bounds[way] for way in found}
    picture = draw(
        "Perplexity over the teacher's, books never seen", shown, "times, 95%", papers={OURS: PAPER}
    )
    return Result(figures, settings, {"gpt.svg": picture})


def _perplexities(runs: Sequence[DocumentLoss]) -> tuple[str, str]:
    each = [one.metrics["perplexity"] for one in runs]
    byte = 2 ** float(np.mean([one.metrics["bits_per_byte"] for one in runs]))
    seeds = "" if len(each) == 1 else f" ({' '.join(f'{value:.2f}' for value in each)})"
    return f"{np.mean(each):.2f}{seeds}", f"{byte:.3f}"


def _told(around: Interval) -> str:
    return f"{around.value:.4f} ({around.low:.4f} to {around.high:.4f})"


if __name__ == "__main__":
    benchmark(main, __doc__, quick="tiny models: under a minute", threads=1, seeds=True, options=arms(WAYS))
