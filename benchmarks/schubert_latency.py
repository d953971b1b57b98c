"""One latency budget, reached by a plan whose costs are measured seconds and by one whose costs are parameters.

The teacher (MiniLM-L6 fine-tuned on Rotten Tomatoes) is pruned by schuBERT's alphas twice: with the seconds of this
machine as the cost, and with parameters as the cost, down to the number of parameters at which the table says the same
latency. Both recover by the same steps of distillation. Latency is measured, in turns with the teacher's; what the
table predicted is printed beside it. Accuracy is on the test sentences, over seeds of alphas and recovery.
"""

import argparse
import copy
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from attar import finetune
from attar.anatomy.form import form_of
from attar.data.batches import Batches, encode
from attar.data.model_task import task_of
from attar.demo.data import model_directory, reviews
from attar.evaluation.benchmark import bench
from attar.evaluation.prediction import predict
from attar.maths.statistics import seed_interval
from attar.model.checkpoint import load
from attar.pruning.apply import apply
from attar.pruning.cost import Parameters
from attar.pruning.latency import Latency
from attar.pruning.rounds import Recovery, recover
from attar.pruning.schubert import VARIANTS, learn_alphas
from attar.pruning.selection import Cost, in_order
from attar.pruning.self_distillation import SelfDistillation
from attar.pruning.units import Kept
from common import Result, benchmark, figure

BUDGET = 0.5  # of the teacher's seconds
LENGTH = 128
ALPHAS = {"steps": 50, "lr": 0.02}
RECOVERY = {"steps": 80, "lr": 1e-4}


class Duel:
    """Both plans at one latency budget."""

    def __init__(self, work: Path, *, quick: bool, threads: int) -> None:
        self.work, self.quick, self.threads = work, quick, threads
        tables = reviews()
        self.rows = tables["train"].select(range(96 if quick else 2000))
        self.test = tables["test"].select(range(64)) if quick else tables["test"]
        teacher = work / "teacher"
        if not teacher.exists():
            some = {"epochs": 1} if quick else {"epochs": 3, "lr": 1e-4}
            train = self.rows if quick else tables["train"]
            dev = tables["dev"].select(range(64)) if quick else tables["dev"]
            finetune(model_directory(), train, dev=dev, out=teacher, **some)
        self.loaded = load(teacher)
        self.model = self.loaded.model
        self.task = task_of(self.model.config)
        self.form = form_of(self.model.config)
        path = work / "latency.json"
        if path.exists():
            self.table = Latency.read(path, self.model, length=LENGTH, threads=threads)
        else:
            seconds = 3.0 if quick else 30.0
            self.table = Latency.measure(self.model, length=LENGTH, threads=threads, seconds=seconds)
            self.table.write(path)
        self.goal = BUDGET * self.table(self.form)

    def batches(self, seed: int) -> Batches:
        """The training sentences, without labels."""
        encoded = encode(self.rows.remove_columns("label"), self.loaded.tokenizer, max_length=64)
        return Batches(encoded, self.loaded.tokenizer, batch_size=32, shuffle=True, seed=seed)

    def kept(self, cost: str, seed: int) -> Kept:
        """What stays by a cost, at the latency budget."""
        model, of = copy.deepcopy(self.model), self._cost(cost)
        steps = {**ALPHAS, "steps": 2} if self.quick else ALPHAS
        loss = SelfDistillation(model, self.model, task=self.task)
        alphas = learn_alphas(model, VARIANTS["all"], loss, self.batches(seed), of, seed=seed, **steps)  # type: ignore[arg-type]
        if cost == "latency":
            return in_order(self.form, alphas.scores(), of, self.goal)
        # As many parameters as leave a model of that latency.
        low, high = 0.05, 1.0
        for _ in range(12):
            middle = (low + high) / 2
            kept = in_order(self.form, alphas.scores(), of, middle * of(self.form))
            low, high = (middle, high) if self.table(kept.form) <= self.goal else (low, middle)
        return in_order(self.form, alphas.scores(), of, low * of(self.form))

    def _cost(self, name: str) -> Cost:
        return self.table if name == "latency" else Parameters(self.model)

    def result(self, cost: str, seed: int) -> dict[str, Any]:
        """Accuracy, predicted seconds and the model of one plan, recovered."""
        path = self.work / f"{cost}-{seed}.json"
        kept = self.kept(cost, seed) if not path.exists() else None
        if kept is not None:
            small = self.recovered(kept, seed)
            encoded = encode(self.test, self.loaded.tokenizer, max_length=64)
            said = predict(small, Batches(encoded, self.loaded.tokenizer, batch_size=64)).argmax(1)
            right = 100 * float(np.mean(said == np.array(self.test["label"][:])))
            form = kept.form
            path.write_text(
                json.dumps(
                    {
                        "accuracy": right,
                        "predicted": self.table(form) / self.table(self.form),
                        "parameters": Parameters(self.model)(form),
                        "form": {
                            "hidden": form.hidden,
                            "layers": [list(vars(x).values()) for x in form.layers],
                        },
                    }
                )
            )
            small.save_pretrained(self.work / f"{cost}-{seed}")
        return dict(json.loads(path.read_text()))

    def recovered(self, kept: Kept, seed: int) -> PreTrainedModel:
        """The cut model after the same steps of distillation."""
        small = apply(self.model, kept)
        options = {**RECOVERY, "steps": 2} if self.quick else RECOVERY
        scratch = Path(tempfile.mkdtemp(dir=self.work))
        recover(
            small,
            Recovery("distill", seed=seed, **options),  # type: ignore[arg-type]
            self.batches(seed),
            teacher=self.model,
            kept=kept,
            task=self.task,
            place=scratch,
        )
        shutil.rmtree(scratch)
        return small.eval()

    def measured(self, names: list[str]) -> Mapping[str, float]:
        """Measured seconds as a part of the teacher's, in turns."""
        models = {
            "teacher": self.work / "teacher",
            **{name: load(self.work / name, tokenizer=self.loaded.tokenizer).model for name in names},
        }
        rows = bench(
            models,
            lengths=(LENGTH,),
            repeats=10 if self.quick else 60,
            threads=self.threads,
            clock="cpu" if self.threads == 1 else "wall",
        )
        return {row.name: 1 / row.speedup.value for row in rows}


def main(options: argparse.Namespace, work: Path) -> Result:
    seeds = options.seeds
    duel = Duel(work, quick=options.quick, threads=options.threads)
    found = {cost: [duel.result(cost, seed) for seed in seeds] for cost in ("latency", "params")}
    seconds = duel.measured([f"{cost}-{seed}" for cost in found for seed in seeds])
    print(f"\n{'plan':12}{'accuracy':>10}{'params':>10}{'predicted':>11}{'measured':>10}{'error':>8}  shape")
    errors, real = [], {cost: [seconds[f"{cost}-{seed}"] for seed in seeds] for cost in found}
    for cost, results in found.items():
        for n, result in enumerate(results):
            error = result["predicted"] / real[cost][n] - 1
            errors.append(abs(error))
            form = result["form"]
            told = f"h {form['hidden']}: " + " ".join("/".join(map(str, x)) for x in form["layers"])
            print(
                f"{cost + ' ' + str(seeds[n]):12}{result['accuracy']:10.1f}{result['parameters'] / 1e6:9.1f}M"
                f"{result['predicted']:11.1%}{real[cost][n]:10.1%}{error:+8.1%}  {told}"
            )
    gain = seed_interval(
        [a["accuracy"] - b["accuracy"] for a, b in zip(found["latency"], found["params"], strict=True)]
    )
    faster = seed_interval([b / a for a, b in zip(real["latency"], real["params"], strict=True)])
    print(
        f"latency plan over params plan: {gain.value:+.1f} points ({gain.low:+.1f} to {gain.high:+.1f}), "
        f"{faster.value:.2f} times as fast ({faster.low:.2f} to {faster.high:.2f})"
    )
    return Result(
        {
            "accuracy of latency plan over params plan, points": figure(gain.value, 0.0),
            "speed of latency plan over params plan": figure(faster.value),
            "largest error of predicted latency": figure(max(errors)),
            "measured part of the teacher's latency": figure(
                float(np.mean(real["latency"])), BUDGET, at_least=False
            ),
        },
        {
            "budget": BUDGET,
            "length": LENGTH,
            "alphas": ALPHAS,
            "recovery": RECOVERY,
            "results": found,
            "measured": seconds,
            "intervals_95": {"accuracy": [gain.low, gain.high], "speed": [faster.low, faster.high]},
        },
    )


if __name__ == "__main__":
    benchmark(main, __doc__, quick="few sentences and steps: under a minute", seeds=True)
