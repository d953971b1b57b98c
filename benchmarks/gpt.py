"""A small GPT-2 distilled to half its layers: perplexity beside the same student undistilled, and from kept logits.

A GPT-2 of 10M parameters is trained on the English text at hand (the demo's reviews and plots; the validation text of
WikiText-2 where `../shared/data` is present), tokenizer included. Students are every second of its layers, copied, and
see the same tokens: by distillation from the running teacher, by distillation from its k likeliest tokens and a sample
of the others on disk, and by the text alone. All are read on the test text of WikiText-2 by a sliding window (held-out
plots where it is absent). No learning rate was searched: the teacher's and the students' are usual ones, the same for
every way.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from attar import distill_lm, pretrain, tokenizer
from attar.data.blocks import Blocks, tokens_of
from attar.demo.data import reviews, unlabelled_texts
from attar.distillation.language_objective import FromCache, LanguageDistiller, LanguageTeacher, Live
from attar.distillation.top_k_cache import Key, read_top_k, row_bytes, top_k
from attar.evaluation.language_model import DocumentLoss, ratio, sliding_window_loss
from attar.maths.losses import divergence, fold, log_probabilities, sampled_divergence
from attar.model.checkpoint import load
from attar.model.lm_head import last_hidden, output
from attar.training.loop import fit
from common import Result, benchmark, figure, once

SHARED = Path(__file__).parents[1].parent / "shared" / "data" / "lm_wikitext2_validtest"
CONFIG = {"n_embd": 320, "n_layer": 6, "n_head": 5, "n_positions": 256}
VOCABULARY = 8000
# Of the demo's texts, beside WikiText-2: three quarters of an hour of one core has to do for all.
REVIEWS = 6000
LENGTH, BATCH = 256, 8
TEACHER = {"epochs": 3, "lr": 1e-3, "batch_size": BATCH, "max_length": LENGTH}
STUDENT = {"epochs": 1, "lr": 5e-4, "batch_size": BATCH, "max_length": LENGTH}
# DistilGPT2's weights; no cosine loss, which a teacher that is kept as its likeliest tokens cannot give.
LOSS: dict[str, Any] = {"kl": 5.0, "ce": 2.0, "cosine": 0.0, "temperature": 2.0}
ALONE: dict[str, Any] = {"kl": 0.0, "ce": 1.0, "cosine": 0.0}
# Kept of each position, and drawn from the others.
K, TAIL = 32, 64
TABLE = (8, 16, 32, 64, 128, 256, 512)
WAYS = ("distilled", "from the cache", "undistilled")


class Gpt:
    """What the benchmark makes, each thing once, in its own directory of `work`."""

    def __init__(self, work: Path, *, quick: bool) -> None:
        self.work, self.quick = work, quick
        work.mkdir(parents=True, exist_ok=True)
        self.train, self.dev, self.test = texts(quick)
        self.vocabulary = 400 if quick else VOCABULARY
        place = once(
            self.work / "tokenizer",
            lambda out: tokenizer(self.train, out=out, kind="bpe", vocab=self.vocabulary),
        )
        self.tokenizer = AutoTokenizer.from_pretrained(place)
        self.teacher = once(self.work / "teacher", self._teacher)

    def _teacher(self, out: Path) -> None:
        ends = {key: self.tokenizer.eos_token_id for key in ("bos_token_id", "eos_token_id")}
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=len(self.tokenizer), **self.sizes, **ends))
        pretrain(model, self.train, dev=self.dev, tokenizer=self.tokenizer, out=out, **self.options(TEACHER))

    @property
    def sizes(self) -> dict[str, int]:
        """The teacher's config."""
        small = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
        return small if self.quick else CONFIG

    def options(self, options: dict[str, Any]) -> dict[str, Any]:
        """Options of a run."""
        return options | ({"epochs": 1, "max_length": 64} if self.quick else {})

    def student(self, way: str, seed: int) -> Path:
        """The student of a way and a seed, which decides the order of the texts and the dropout."""
        loss = ALONE if way == "undistilled" else LOSS
        more: dict[str, Any] = {}
        if way == "from the cache":
            more = {"top_k": K, "tail": TAIL, "cache": self.work / "logits"}
        options = self.options(STUDENT) | {"student": {"layers": self.sizes["n_layer"] // 2}, "seed": seed}
        return once(
            self.work / f"{way.replace(' ', '-')}-{seed}",
            lambda out: distill_lm(
                self.teacher, self.train, dev=self.dev, out=out, **options, **loss, **more
            ),
        )

    def read(self, place: Path) -> DocumentLoss:
        """How surprised a model is by the test text; kept, since it takes a while."""
        kept = self.work / "read" / f"{place.name}.npz"
        if not kept.is_file():
            length = self.options(TEACHER)["max_length"]
            window = {"max_length": length, "stride": 3 * length // 4, "batch_size": BATCH}
            found = sliding_window_loss(load(place).model, self.test, self.tokenizer, **window)
            kept.parent.mkdir(exist_ok=True)
            np.savez(kept, **found.__dict__)
        with np.load(kept) as there:
            return DocumentLoss(**{name: there[name] for name in there.files})

    def blocks(self, lines: Sequence[str]) -> Blocks:
        """Blocks of texts."""
        length = self.options(TEACHER)["max_length"]
        return Blocks(tokens_of(lines, self.tokenizer), size=length, batch_size=BATCH)

    def key(self, k: int, tail: int) -> Key:
        """A cache of k likeliest tokens and some of the others."""
        return Key("benchmark", "benchmark", len(self.tokenizer), k, LOSS["temperature"], tail)


def texts(quick: bool) -> tuple[list[str], list[str], list[str]]:
    """Train, dev and test texts: documents."""
    labelled = reviews()
    plain = [*labelled["train"]["text"], *unlabelled_texts()]
    if quick:
        return plain[:300], plain[-40:], [" ".join(plain[400:440])]
    if not SHARED.is_dir():
        return plain[:-1500], plain[-1500:-1000], ["\n".join(plain[-1000:])]
    lines = [line for line in wiki("valid").split("\n") if line.strip()]
    cut = len(lines) * 9 // 10
    return [*plain[:REVIEWS], *lines[:cut]], lines[cut:], [wiki("test")]


def wiki(part: str) -> str:
    """WikiText-2, as it is distributed."""
    return (SHARED / f"wiki.{part}.tokens").read_text(encoding="utf-8")


def speeds(run: Gpt, rounds: int) -> tuple[float, float, float]:
    """Tokens per second of processor time, from the cache and from the running teacher, and their ratio."""
    teacher = load(run.teacher).model
    blocks = run.blocks(run.train[: 400 if run.quick else 1500])
    with tempfile.TemporaryDirectory() as place:
        cache = top_k(lambda: teacher, blocks, Path(place) / "c", run.key(K, TAIL))
        sources: dict[str, LanguageTeacher] = {
            "cache": FromCache(cache, beta=0.0),
            "live": Live(teacher, vocab=len(run.tokenizer), beta=0.0, temperature=LOSS["temperature"]),
        }
        steps = {name: _steps(run, source, blocks) for name, source in sources.items()}
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for number in range(rounds + 1):
            for name, stream in steps.items():
                began = time.process_time()
                next(stream)
                if number:
                    seconds[name].append(time.process_time() - began)
    tokens = blocks.size * blocks.batch_size
    cached, live = (tokens / float(np.median(seconds[name])) for name in ("cache", "live"))
    return cached, live, cached / live


def _steps(run: Gpt, source: LanguageTeacher, blocks: Blocks) -> Any:
    student = load(run.student("undistilled", 0)).model
    learner = LanguageDistiller(student, source, kl=LOSS["kl"], ce=LOSS["ce"], cosine=0.0)
    return fit(learner, blocks, epochs=10**4, lr=1e-5, precision="fp32")


@torch.no_grad()
def by_k(run: Gpt) -> list[dict[str, float]]:
    """For each k: what of the teacher's mass and of the divergence is kept; of the latter also if half are drawn."""
    teacher, student = load(run.teacher).model, load(run.student("undistilled", 0)).model
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
    places = {way: [run.student(way, seed) for seed in options.seeds] for way in WAYS}
    return show(run, places, options.seeds, rounds=3 if options.quick else 30)


def show(run: Gpt, places: dict[str, list[Path]], seeds: list[int], *, rounds: int) -> Result:
    """Print the tables."""
    console = Console(width=110)
    teacher = run.read(run.teacher)
    table = Table("model", "parameters", "perplexity", "over the teacher's", "bits per byte", box=None)
    metrics = teacher.metrics
    numbers = f"{metrics['perplexity']:.1f}", "", f"{metrics['bits_per_byte']:.3f}"
    table.add_row("teacher", _millions(run.teacher), *numbers)
    found: dict[str, list[float]] = {}
    for way, made in places.items():
        runs = [run.read(place) for place in made]
        found[way] = [s.metrics["perplexity"] for s in runs]
        bits = float(np.mean([s.metrics["bits_per_byte"] for s in runs]))
        over = ratio(runs[0], teacher)
        each = " ".join(f"{value:.1f}" for value in found[way])
        kept = f"{np.mean(found[way]) / metrics['perplexity']:.3f} (seed {seeds[0]}: {over.low:.3f} to {over.high:.3f})"
        table.add_row(way, _millions(made[0]), f"{np.mean(found[way]):.1f} ({each})", kept, f"{bits:.3f}")
    console.print(table)
    kept_by = by_k(run)
    sizes = Table("k", "teacher's mass", "divergence kept", "half of k drawn", "bytes a token", box=None)
    for row in kept_by:
        parts = (f"{row[name]:.4f}" for name in ("mass", "divergence", "drawn"))
        sizes.add_row(str(row["k"]), *parts, str(row["bytes"]))
    console.print(sizes)
    cached, live, faster = speeds(run, rounds)
    console.print(
        f"tokens per second of processor time: {cached:.0f} from the cache, {live:.0f} with the teacher"
    )
    mean = {way: float(np.mean(values)) for way, values in found.items()}
    spread = max(float(np.ptp(found["distilled"])), float(np.ptp(found["undistilled"])))
    gain = mean["undistilled"] - mean["distilled"]
    figures = {
        "student's perplexity over the teacher's": figure(
            mean["distilled"] / metrics["perplexity"], 1.15, at_least=False
        ),
        "undistilled student's over the teacher's": figure(mean["undistilled"] / metrics["perplexity"]),
        "from the cache over online": figure(
            mean["from the cache"] / mean["distilled"], 1.01, at_least=False
        ),
        "tokens per second, from the cache over online": figure(faster, 1.5),
        "teacher's perplexity": figure(metrics["perplexity"]),
        **{f"perplexity, {way}": figure(value) for way, value in mean.items()},
        **{f"divergence kept, k = {row['k']}": figure(row["divergence"]) for row in kept_by},
        **{f"divergence, {row['k']} kept, half of them drawn": figure(row["drawn"]) for row in kept_by},
    }
    if len(seeds) > 1:
        figures["gain over undistilled, in spreads of the seeds"] = figure(gain / spread, 1.0)
    settings = {
        "teacher": {**run.sizes, "vocabulary": run.vocabulary, **run.options(TEACHER)},
        "student": {"layers": run.sizes["n_layer"] // 2, "init": "layers", **run.options(STUDENT), **LOSS},
        "k": K,
        "tail": TAIL,
        "tokens": len(tokens_of(run.train, run.tokenizer).ids),
        "test": f"{'WikiText-2 test' if SHARED.is_dir() else 'plots'}, by a window that slides by three quarters",
        "perplexities": {way: [round(v, 3) for v in values] for way, values in found.items()},
        "by_k": json.loads(json.dumps(kept_by)),
    }
    return Result(figures, settings)


def _millions(place: Path) -> str:
    return f"{load(place).model.num_parameters() / 1e6:.1f}M"


if __name__ == "__main__":
    benchmark(main, __doc__, quick="tiny models: under a minute", threads=1, seeds=True)
