"""Seconds of one epoch of task distillation with the teacher run for every batch, and with its outputs read from disk.

The 4 x 312 student of TinyBERT learns from MiniLM-L6 on Rotten Tomatoes (scores, hidden states, embedding); both ways
take turns of a few steps, each going on where it was, so that a busy machine slows both alike. What filling the cache
costs, and the disk it takes, are printed beside it.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from attar.anatomy.resolve import shape_of
from attar.data.batches import Batches, encode
from attar.demo.data import model_directory, reviews
from attar.distillation.cache import LiveTeacher
from attar.distillation.objective import Intermediate, match
from attar.distillation.phases import Distiller, teacher_of
from attar.distillation.student import student
from attar.maths.mapping import layer_map
from attar.model.checkpoint import load
from attar.training.loop import Step, fit
from attar.training.used_embeddings import used_rows
from common import Result, benchmark, figure, remembered

SIZES: dict[str, Any] = {"layers": 4, "hidden": 312, "heads": 12, "ffn": 1200}


def steps(learner: Distiller, batches: Batches) -> Iterator[Step]:
    """Steps without end."""
    with used_rows(learner.student, batches):
        yield from fit(learner, batches, epochs=1000, lr=5e-5)


def main(options: argparse.Namespace, work: Path) -> Result:
    if options.quick:
        options.sentences, options.rounds, options.steps = 96, 2, 1
    teacher = load(model_directory(), head="sequence-classification", fresh_head=True, num_labels=2)
    table = reviews()["train"].select(range(options.sentences)).remove_columns("label")
    batches = Batches(encode(table, teacher.tokenizer), teacher.tokenizer, batch_size=32, shuffle=True)
    with tempfile.TemporaryDirectory() as place:  # filling it is part of what is measured
        found = remembered(
            work / "seconds.json", lambda: measure(teacher.model, batches, Path(place), options)
        )
    return show(found, len(batches), options.sentences)


def measure(teacher: Any, batches: Batches, place: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds a step of each way, by round, and what the cache costs."""
    learners = {}
    for name in ("live", "cached"):
        small = student(teacher, **SIZES, init="random", seed=0).model
        shapes = shape_of(small.config), shape_of(teacher.config)
        compared = match(*shapes, layer_map(4, 6))
        began = time.perf_counter()
        if name == "live":
            source: Any = LiveTeacher(teacher, compared.teacher)
        else:
            source = teacher_of(
                teacher, compared.teacher, batches, cache=place, precision="auto", name="benchmark"
            )
        fill = time.perf_counter() - began
        learners[name] = steps(
            Distiller(small, source, intermediate=Intermediate(compared, *shapes)), batches
        )
    disk = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    seconds: dict[str, list[float]] = {name: [] for name in learners}
    for learner in learners.values():
        next(learner)
    for number in range(options.rounds):
        names = list(learners) if number % 2 else list(learners)[::-1]
        for name in names:
            began = time.perf_counter()
            for _ in range(options.steps):
                next(learners[name])
            seconds[name].append((time.perf_counter() - began) / options.steps)
    return {"seconds": seconds, "fill": fill, "disk": disk}


def show(found: dict[str, Any], batches: int, sentences: int) -> Result:
    ratios = np.array(found["seconds"]["live"]) / np.array(found["seconds"]["cached"])
    drawn = np.median(np.random.default_rng(0).choice(ratios, (2000, len(ratios))), axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    epochs = {name: float(np.median(values)) * batches for name, values in found["seconds"].items()}
    for name, seconds in epochs.items():
        print(f"{'teacher ' + name:16}{seconds:8.1f} s an epoch of {sentences} sentences")
    print(f"{'filling':16}{found['fill']:8.1f} s, {found['disk'] / 2**20:.0f} MiB on disk")
    print(f"{'ratio':16}{np.median(ratios):8.2f} (95% {low:.2f} to {high:.2f})\n")
    figures = {
        "live_over_cached": figure(float(np.median(ratios)), 1.0),
        "seconds_live": figure(epochs["live"]),
        "seconds_cached": figure(epochs["cached"]),
        "seconds_filling": figure(found["fill"]),
        "mib_on_disk": figure(found["disk"] / 2**20),
    }
    settings = {"student": SIZES, "intervals_95": {"live_over_cached": [float(low), float(high)]}}
    return Result(figures, settings)


if __name__ == "__main__":
    benchmark(
        main,
        __doc__,
        quick="few sentences and steps: under a minute",
        options={
            "--sentences": {"type": int, "default": 4000},
            "--rounds": {"type": int, "default": 12},
            "--steps": {"type": int, "default": 6, "help": "batches in a turn"},
        },
    )
