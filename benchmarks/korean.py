"""A Korean encoder from nothing, and a quarter of its layers by DistilKoBERT's recipe, on 400,000 film reviews.

A WordPiece tokenizer and a BERT of four layers are trained on the reviews (`../shared/data/lm_korean_reviews`), in
three passes, and the model is fine-tuned on NSMC's labels (20,000 reviews) and on KorSTS's scores (5,749 pairs): the
teachers. Students have one layer. Their starts:

- copied: the pre-trained model's first layer;
- read on: that layer after reading 200,000 of the reviews by masked words, without a teacher;
- distilled: that layer after reading the same reviews by the triple loss, as DistilBERT was made;
- fitted: a layer fitted by least squares to the fine-tuned teacher (attar's `init: project`).

Then they learn the task from its labels, or from the fine-tuned teacher without labels, in as many steps; one arm also
learns what the teacher says of 40,000 reviews that have no label. Learning
rates are chosen for each arm on rows held out (NSMC) and KorSTS's dev table, at the first seed; NSMC's dev table and
KorSTS's test table are read once a model. Seeds are of the task; the tokenizer, the pre-trained model and the starts
are made once.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from attar.evaluation.quality import Evaluation, retained
from attar.maths.statistics import Interval, seed_interval
from common import Figure, Result, benchmark, figure
from korean_study import ARMS, GENERAL, LAYERS, PRETRAIN, READ, STARTS, TASKS, Korean
from studies import TextLoss, arms, by_seed, collapsed, draw, loss_apart, verdict

OPTIONS: dict[str, dict[str, Any]] = {
    "--tasks": {
        "nargs": "+",
        "default": list(TASKS),
        "choices": list(TASKS),
        "help": "tasks to learn and to report",
    }
}
OURS, BARE = "distilled, teacher", "copied, labels"
PAPER = 0.985


def main(options: argparse.Namespace, work: Path) -> Result:
    run = Korean(work, quick=options.quick)
    if not options.quick:
        run.hours()
    figures, bounds = held_out({name: run.lost(name) for name in ("teacher", *STARTS)})
    teachers = {task: run.said(run.best("teacher", task, 0), task, "test") for task in options.tasks}
    said: dict[str, dict[str, list[Evaluation]]] = {
        arm: {task: [] for task in teachers} for arm in options.arms
    }

    def points(arm: str, seed: int) -> float:
        for task, found in said[arm].items():
            found.append(run.said(run.best(arm, task, seed), task, "test"))
        return 100 * float(np.mean([found[-1].value for found in said[arm].values()]))

    asked = [(OURS, arm) for arm in options.arms if arm != OURS]
    means = by_seed(options.arms, options.seeds, points, asked)
    return show(run, teachers, said, means, figures, bounds)


def held_out(lost: Mapping[str, TextLoss]) -> tuple[dict[str, Figure], dict[str, Interval]]:
    """Print what the general stage is worth on held-out reviews, before any task; its figures and intervals."""
    table = Table("held-out reviews", "nats a masked word piece", "more than the teacher, 95%", box=None)
    figures, bounds = {}, {}
    for name, found in lost.items():
        apart = loss_apart([found], [lost["teacher"]])
        table.add_row(name, f"{found.mean:.3f}", "" if name == "teacher" else _signed(apart, ".3f"))
        figures[f"held-out loss, {name}"] = figure(found.mean)
        bounds[f"held-out loss, {name} over the teacher"] = apart
    Console(width=110).print(table)
    apart = loss_apart([lost["distilled"]], [lost["read on"]])
    bounds["held-out loss, distilled over read on"] = apart
    print(f"distilled over read on: {_signed(apart, '.3f')} nats")
    return figures, bounds


def show(
    run: Korean,
    teachers: Mapping[str, Evaluation],
    said: Mapping[str, Mapping[str, list[Evaluation]]],
    means: Mapping[str, Sequence[float]],
    figures: dict[str, Figure],
    bounds: dict[str, Interval],
) -> Result:
    """Print what the arms are worth on the tasks."""
    console, whole = Console(width=130), 100 * float(np.mean([one.value for one in teachers.values()]))
    heads = (f"{task}, {'Spearman' if task == 'KorSTS' else 'accuracy'}" for task in teachers)
    table = Table("arm", *heads, "mean", "by seed", "of the teacher's mean, 95%", box=None)
    table.add_row("teacher", *(f"{100 * one.value:.2f}" for one in teachers.values()), f"{whole:.2f}")
    kept: dict[str, Interval] = {}
    for arm, tasks in said.items():
        kept[arm] = seed_interval([value / whole for value in means[arm]])
        cells = []
        for task, runs in tasks.items():
            if teachers[task].value > 0:  # that of a teacher of a few steps may not be
                bounds[f"kept, {arm}, {task}"] = retained(runs, teachers[task])
            note = " collapsed" if any(map(collapsed, runs)) else ""
            cells.append(f"{100 * np.mean([one.value for one in runs]):.2f}{note}")
        each = " ".join(f"{value:.2f}" for value in means[arm])
        table.add_row(arm, *cells, f"{np.mean(means[arm]):.2f}", each, _share(kept[arm]))
        figures[f"kept, {arm}"] = figure(kept[arm].value, PAPER if arm == OURS else None)
    console.print(table)
    verdicts = {}
    fallen = {
        arm for arm, tasks in said.items() if any(collapsed(one) for runs in tasks.values() for one in runs)
    }
    for arm in means:
        if OURS not in means or arm == OURS or {arm, OURS} & fallen:
            continue
        apart = seed_interval([a - b for a, b in zip(means[OURS], means[arm], strict=True)])
        bounds[f"{OURS} over {arm}, points"], verdicts[arm] = apart, verdict(apart)
        console.print(f"{OURS} over {arm}: {_signed(apart, '.2f')} points, {verdicts[arm]}", highlight=False)
        figures[f"{OURS} over {arm}, points"] = figure(apart.value, 0.0)
    if OURS in means and BARE in means and len(means[OURS]) > 1:
        spread = max(float(np.ptp(means[arm])) for arm in (OURS, BARE))
        gain = float(np.mean(means[OURS]) - np.mean(means[BARE]))
        figures["gain over the copied layer on labels, in spreads of the seeds"] = figure(gain / spread, 1.0)
    settings = {
        "sizes": run.sizes,
        "layers": list(LAYERS),
        "pre-training": PRETRAIN,
        "reading": READ,
        "reviews": {"read": len(run.texts), "general": GENERAL, "held out": len(run.held)},
        "rates": {arm: {task: run.rate(arm, task) for task in teachers} for arm in ("teacher", *means)},
        "points": {arm: {task: [100 * one.value for one in runs] for task, runs in tasks.items()}
                   for arm, tasks in said.items()}
        | {"teacher": {task: 100 * one.value for task, one in teachers.items()}},
        "intervals_95": {name: [one.low, one.high] for name, one in bounds.items()},
        "collapsed": sorted(fallen),
        "verdicts": verdicts,
    }  # fmt: skip
    picture = draw(
        f"Of the teacher's mean of {' and '.join(teachers)}",
        kept,
        "share kept, 95%",
        papers=dict.fromkeys(kept, PAPER),
    )
    return Result(figures, settings, {"korean.svg": picture})


def _signed(around: Interval, form: str) -> str:
    return f"{around.value:+{form}} ({around.low:+{form}} to {around.high:+{form}})"


def _share(around: Interval) -> str:
    return f"{100 * around.value:.1f}% ({100 * around.low:.1f} to {100 * around.high:.1f})"


if __name__ == "__main__":
    benchmark(
        main,
        __doc__,
        quick="a few sentences, tiny models: under a minute",
        threads=1,
        seeds=True,
        options=arms(list(ARMS)) | OPTIONS,
    )
