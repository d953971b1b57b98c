"""What learning a shape costs: a step of learning alphas beside a training step, and the memory of planning.

Steps of the same batches in turns: alphas on frozen weights (what `attar.plan` does), the frozen model trained plainly
(all weights, AdamW), and forward and backward of the frozen model alone, to its embedding. Peak memory of `attar.plan`
and of `attar.finetune` is that of a process each, with all that it loads.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from attar.data.batches import Batch, Batches, encode
from attar.data.tasks import Supervised, Task
from attar.demo.data import model_directory, reviews
from attar.evaluation.timing import Clock, interleaved, median_interval
from attar.model.checkpoint import load
from attar.pruning.alphas import alphas_for, betas, gated
from attar.pruning.cost import Parameters
from attar.pruning.schubert import VARIANTS, Penalised
from attar.pruning.scores import frozen
from common import Result, benchmark, figure, remembered

# A process that does one job and prints the bytes of memory it took at most, libraries included. The kernel's own mark:
# getrusage's begins at what the parent process had.
JOB = """
import sys, tempfile
import torch
from attar import finetune, plan
from attar.demo.data import model_directory, reviews
torch.set_num_threads(int(sys.argv[3]))
rows = int(sys.argv[2])
table = reviews()["train"].select(range(rows))
with tempfile.TemporaryDirectory() as place:
    if sys.argv[1] == "plan":
        from attar.model.checkpoint import load
        names = dict(enumerate(table.features["label"].names))
        loaded = load(model_directory(), head="sequence-classification", fresh_head=True, num_labels=2,
                      id2label=names, label2id={name: i for i, name in names.items()})
        plan(loaded.model, tokenizer=loaded.tokenizer, budget=0.6, data=table, loss=sys.argv[4],
             steps=rows // 32, max_length=64)
    else:
        finetune(model_directory(), table, dev=table.select(range(32)), out=place + "/out", epochs=1,
                 max_length=64)
from attar.evaluation.memory import resident
print(resident("VmHWM"))
"""


def steps(model: PreTrainedModel, batches: list[Batch]) -> dict[str, Callable[[], Any]]:
    """One training step each, on the next of the same batches."""
    task = Task("single_label", ("0", "1"))
    learner = Supervised(model, task)
    alphas = alphas_for(model, VARIANTS["all"])
    penalised = Penalised(alphas, learner, betas(alphas, Parameters(model)), 0.1)
    weights = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)
    units = torch.optim.AdamW(alphas.parameters(), lr=0.0, fused=True)
    turns = {name: cycle(batches) for name in ("alphas", "plain", "frozen")}

    def total(parts: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.stack(list(parts.values())).sum()

    def learn_alphas() -> None:
        with frozen(model), gated(model, alphas):
            total(penalised(next(turns["alphas"]))).backward()
            units.step()
            units.zero_grad()

    def plain() -> None:
        total(learner(next(turns["plain"]))).backward()
        weights.step()
        weights.zero_grad()

    def through() -> None:
        with frozen(model):
            # A gradient for the embedding's output alone draws one through all layers.
            entry = model.get_input_embeddings().register_forward_hook(
                lambda _, __, out: out.requires_grad_()
            )
            total(learner(next(turns["frozen"]))).backward()
            entry.remove()

    return {"alphas": learn_alphas, "plain": plain, "frozen": through}


def peak(job: str, rows: int, threads: int, loss: str) -> int:
    """Peak bytes of a job in a process of its own."""
    command = [sys.executable, "-c", JOB, job, str(rows), str(threads), loss]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).parent)
    return int(done.stdout.split()[-1])


def seconds_a_step(rounds: int, clock: Clock) -> dict[str, list[float]]:
    """Seconds of one step of each way, by round."""
    loaded = load(model_directory(), head="sequence-classification", fresh_head=True, num_labels=2)
    table = reviews()["train"].select(range(320))
    encoded = encode(table, loaded.tokenizer, max_length=64)
    batches = list(Batches(encoded, loaded.tokenizer, batch_size=32, shuffle=True))
    found = interleaved(steps(loaded.model, batches), repeats=rounds, clock=clock)
    return {name: values.tolist() for name, values in found.items()}


def main(options: argparse.Namespace, work: Path) -> Result:
    if options.quick:
        options.rounds, options.rows = 2, 32
    clock: Clock = "cpu" if options.threads == 1 else "wall"
    found = remembered(work / "seconds.json", partial(seconds_a_step, options.rounds, clock))
    seconds = {name: np.array(values) for name, values in found.items()}
    over = {name: median_interval(seconds["alphas"] / seconds[name]) for name in ("plain", "frozen")}
    memory = {}
    for job, loss in (("finetune", ""), ("plan", "task"), ("plan", "distill"))[: 2 if options.quick else 3]:
        name = f"{job}, {loss}" if loss else job
        memory[name] = remembered(
            work / f"{name}.json", partial(peak, job, options.rows, options.threads, loss)
        )
    for name, values in seconds.items():
        print(f"{name:14} {sorted(values)[len(values) // 2] * 1000:8.0f} ms a step (median)")
    for name, around in over.items():
        print(f"alphas / {name:8} {around.value:5.2f} (95% {around.low:.2f} to {around.high:.2f})")
    for name, bytes_ in memory.items():
        print(f"{name:14} {bytes_ / 2**20:8.0f} MiB, {bytes_ / memory['finetune']:.2f} of fine-tuning")
    return Result(
        {
            "alpha step over plain training step": figure(over["plain"].value, 1.15, at_least=False),
            "alpha step over frozen forward and backward": figure(over["frozen"].value),
            **{
                f"planning memory over fine-tuning ({name.removeprefix('plan, ')})": figure(
                    size / memory["finetune"], 1.3, at_least=False
                )
                for name, size in memory.items()
                if name != "finetune"
            },
        },
        {
            "clock": clock,
            "batch": 32,
            "intervals_95": {name: [a.low, a.high] for name, a in over.items()},
            "memory_bytes": memory,
        },
    )


if __name__ == "__main__":
    benchmark(
        main,
        __doc__,
        quick="few steps: under a minute",
        threads=1,
        options={
            "--rounds": {"type": int, "default": 30},
            "--rows": {"type": int, "default": 640, "help": "sentences of the memory runs"},
        },
    )
