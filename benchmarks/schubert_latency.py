"""One latency budget, reached by a plan whose costs are measured seconds and by one whose costs are parameters.

The model of `schubert.py`, MiniLM with a masked-language-model head that has read books, is pruned by schuBERT's alphas
of all axes twice: with the seconds of this machine as the cost, and with parameters as the cost, down to the number of
parameters at which the table says the same latency. Both are fitted by least squares and recover by the same steps of
masked words. Latency is measured, in turns with the whole model's; what the table predicted is printed beside it. What
they are worth is the loss of hidden tokens of books that nobody read, paired by text, over seeds of both.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from schubert_study import ALPHAS, RECOVERY, Study

from attar.anatomy.form import Form, form_of
from attar.data.masking import MaskedLanguage
from attar.evaluation.benchmark import bench
from attar.maths.statistics import Interval, seed_interval
from attar.model.checkpoint import load, save
from attar.pruning.apply import apply
from attar.pruning.latency import Latency
from attar.pruning.reconstruction import reconstruct
from attar.pruning.rounds import Recovery, recover
from attar.pruning.schubert import VARIANTS, learn_alphas
from attar.pruning.selection import in_order
from attar.pruning.units import Kept
from common import Figure, Result, benchmark, figure, once, remembered
from studies import TextLoss, by_seed, draw, loss_apart, masked_loss, verdict

BUDGET = 0.5  # of the whole model's seconds
LENGTH = 128
COSTS = ("latency", "params")
# The most that a predicted latency may be off.
WITHIN = 0.10


class Duel(Study):
    """Both plans at one latency budget, each model made once."""

    def __init__(self, work: Path, *, quick: bool, threads: int) -> None:
        super().__init__(work, quick=quick)
        self.threads, self.form = threads, form_of(self.whole.model.config)
        path, seconds = work / "latency.json", 3.0 if quick else 60.0

        def measure(out: Path) -> None:
            table = Latency.measure(self.whole.model, length=LENGTH, threads=threads, seconds=seconds)
            table.write(out)

        self.table = Latency.read(once(path, measure), self.whole.model, length=LENGTH, threads=threads)
        self.goal = BUDGET * self.table(self.form)

    def _plan(self, name: str, seed: int) -> Kept:
        """What stays by a cost, at the latency budget."""
        if name == "latency":
            model, texts = self.whole.model, self.batches(seed, masked=True)
            learn = MaskedLanguage(model), texts, self.table
            alphas = learn_alphas(model, VARIANTS["all"], *learn, seed=seed, **self._steps(ALPHAS))
            return in_order(self.form, alphas.scores(), self.table, self.goal)
        alphas, of = self.alphas("all", seed), self.cost
        low, high = 0.05, 1.0  # as many parameters as leave a model of that latency
        for _ in range(12):
            middle = (low + high) / 2
            kept = in_order(self.form, alphas.scores(), of, middle * of(self.form))
            low, high = (middle, high) if self.table(kept.form) <= self.goal else (low, middle)
        return in_order(self.form, alphas.scores(), of, low * of(self.form))

    def model(self, name: str, seed: int) -> Path:
        """The model of a plan, fitted and recovered, with what was predicted of it."""

        def make(out: Path) -> None:
            kept, model = self._plan(name, seed), self.whole.model
            small = apply(model, kept)
            reconstruct(small, model, kept, self.batches(seed, masked=False).epoch())
            scratch = Path(tempfile.mkdtemp(dir=self.work))
            how = Recovery("mlm", seed=seed, **self._steps(RECOVERY))
            texts = self.batches(seed + 100, masked=True)
            recover(small, how, texts, teacher=model, kept=kept, task=None, place=scratch)
            shutil.rmtree(scratch)
            save(small, self.whole.tokenizer, out, lineage={"stage": "prune"})
            (out / "shape.json").write_text(json.dumps(self._told(kept.form)))

        return once(self.work / f"{name}-{seed}", make)

    def _told(self, form: Form) -> dict[str, Any]:
        layers = [list(vars(layer).values()) for layer in form.layers]
        share = self.table(form) / self.table(self.form)
        return {"predicted": share, "parameters": self.cost(form), "hidden": form.hidden, "layers": layers}

    def lost(self, name: str, seed: int) -> TextLoss:
        """What a model loses on held-out books, kept."""

        def make() -> Any:
            loaded = load(self.model(name, seed), head="masked-lm")
            found = masked_loss(loaded.model, self.texts["test"], loaded.tokenizer, max_length=LENGTH)
            return [found.nats.tolist(), found.tokens.tolist()]

        return TextLoss(*map(np.array, remembered(self.work / "lost" / f"{name}-{seed}.json", make)))

    def measured(self, seeds: Sequence[int]) -> dict[str, float]:
        """Measured seconds of every model as a part of the whole one's, in turns."""
        names = [f"{cost}-{seed}" for seed in seeds for cost in COSTS]
        models = {
            "whole": self.whole.model,
            **{name: load(self.work / name, head="masked-lm").model for name in names},
        }
        clock: Any = "cpu" if self.threads == 1 else "wall"
        repeats = 10 if self.quick else 60
        rows = bench(models, lengths=(LENGTH,), repeats=repeats, threads=self.threads, clock=clock)
        return {row.name: 1 / row.speedup.value for row in rows}


def main(options: argparse.Namespace, work: Path) -> Result:
    duel = Duel(work, quick=options.quick, threads=options.threads)
    if not options.quick:
        duel.hours([], [], [], 0)
    lost: dict[str, list[TextLoss]] = {cost: [] for cost in COSTS}

    def loss(cost: str, seed: int) -> float:
        lost[cost].append(duel.lost(cost, seed))
        return lost[cost][-1].mean

    made = by_seed(COSTS, options.seeds, loss, [COSTS])
    seeds = options.seeds[: len(made["latency"])]
    return show(duel, lost, duel.measured(seeds), seeds)


def show(
    duel: Duel, lost: Mapping[str, Sequence[TextLoss]], seconds: Mapping[str, float], seeds: Sequence[int]
) -> Result:
    """Print the table."""
    table = Table(
        "plan", "nats a hidden token", "params", "predicted", "measured", "error", "shape", box=None
    )
    shapes, errors = {}, []
    for cost in COSTS:
        for number, seed in enumerate(seeds):
            name = f"{cost}-{seed}"
            shapes[name] = told = json.loads((duel.work / name / "shape.json").read_text())
            errors.append(told["predicted"] / seconds[name] - 1)
            cells = (f"{told['parameters'] / 1e6:.1f}M", f"{told['predicted']:.1%}", f"{seconds[name]:.1%}")
            form = f"h {told['hidden']}: " + " ".join("/".join(map(str, layer)) for layer in told["layers"])
            table.add_row(name, f"{lost[cost][number].mean:.4f}", *cells, f"{errors[-1]:+.1%}", form)
    Console(width=150).print(table)
    apart = loss_apart(lost["params"], lost["latency"])
    real = {cost: [seconds[f"{cost}-{seed}"] for seed in seeds] for cost in COSTS}
    faster = seed_interval([b / a for a, b in zip(real["latency"], real["params"], strict=True)])
    print(
        f"the latency plan loses {apart.value:.4f} nats less ({apart.low:+.4f} to {apart.high:+.4f}), "
        f"{verdict(apart)}; "
        f"it is {faster.value:.2f} times as fast ({faster.low:.2f} to {faster.high:.2f})"
    )
    figures: dict[str, Figure] = {
        "nats that the latency plan loses less": figure(apart.value, 0.0),
        "speed of the latency plan over the params plan": figure(faster.value),
        "largest error of predicted latency": figure(max(map(abs, errors)), WITHIN, at_least=False),
        "measured part of the whole model's latency": figure(
            float(np.mean(real["latency"])), BUDGET, at_least=False
        ),
    }
    settings = {
        "budget": BUDGET,
        "length": LENGTH,
        "alphas": ALPHAS,
        "recovery": RECOVERY,
        "losses": {cost: [one.mean for one in runs] for cost, runs in lost.items()},
        "shapes": shapes,
        "measured": dict(seconds),
        "intervals_95": {"nats": [apart.low, apart.high], "speed": [faster.low, faster.high]},
        "verdict": verdict(apart),
    }
    shown: dict[str, Interval] = {
        cost: seed_interval([one.mean for one in runs]) for cost, runs in lost.items()
    }
    picture = draw("Two plans of one latency", shown, "nats a hidden token of held-out books, 95% over seeds")
    return Result(figures, settings, {"schubert-latency.svg": picture})


if __name__ == "__main__":
    benchmark(main, __doc__, quick="few sentences, one seed", threads=1, seeds=True)
