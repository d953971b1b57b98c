"""SQuAD 1.1: students of half the layers, fine-tuned alone or taught by a fine-tuned teacher, in the same steps.

MiniLM-L6 is fine-tuned on one part of SQuAD's development set (21 articles, all questions that fit into one window of
224 tokens with their context) and read on the other part (`../shared/data`), which shares no article with it. Students
have three layers: every second one of the teacher, copied, which learn the labels for six epochs, or the teacher's
layers for three and its start and end logits for three, without labels; and layers fitted to the teacher by least
squares (attar's `init: project`), taught alike. Three further articles of the first part choose epochs and, at the
first seed, the learning rates of every way.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from attar.evaluation.answers import answer_f1, exact_match
from attar.evaluation.quality import Evaluation, retained
from attar.maths.statistics import Interval, Ratio, bootstrap
from common import Figure, Result, benchmark, figure
from squad_study import ASKED, DEV_ARTICLES, EPOCHS, INTERMEDIATE, LAYERS, LENGTH, WAYS, Squad
from studies import arms, by_seed, draw, verdict

BARE = "fine-tuned alone"
# The share of the teacher's F1 to keep, and what DistilBERT keeps.
TARGET, PAPER = 0.85, 86.9 / 88.5


def gain(ours: list[Evaluation], theirs: list[Evaluation], metric: Ratio) -> Interval:
    """How much more one way scores than the other, seed by seed on the same questions: over new of both."""
    assert ours[0].labels is not None
    differences = [
        metric.parts(a.predictions, ours[0].labels)[0] - metric.parts(b.predictions, ours[0].labels)[0]
        for a, b in zip(ours, theirs, strict=True)
    ]
    mean = Ratio(lambda difference, _: (difference, np.ones(len(difference))))
    return bootstrap(mean, differences, np.zeros(len(differences[0])))


def main(options: argparse.Namespace, work: Path) -> Result:
    run = Squad(work, quick=options.quick)
    if not options.quick:
        run.hours(options.arms, options.seeds)
    said: dict[str, list[Evaluation]] = {way: [] for way in options.arms}

    def points(way: str, seed: int) -> float:
        said[way].append(run.judge(run.best(way, seed)))
        return 100 * said[way][-1].value

    by_seed(options.arms, options.seeds, points, [(way, BARE) for way in options.arms if way != BARE])
    return show(run, said)


def show(run: Squad, said: Mapping[str, Sequence[Evaluation]]) -> Result:
    """Print the tables."""
    console = Console(width=120)
    teacher = run.judge(run.teacher)
    table = Table("", "EM", "F1", "of the teacher's F1, 95%", "F1 of each seed", "rate", box=None)
    table.add_row("teacher", *(f"{teacher.metrics[name]:.1%}" for name in ("exact_match", "f1")), "", "")
    # A teacher of a few steps may answer nothing right, of which nothing can be retained.
    kept = {way: retained(runs, teacher) for way, runs in said.items() if teacher.value > 0}
    for way, runs in said.items():
        means = [float(np.mean([run.metrics[name] for run in runs])) for name in ("exact_match", "f1")]
        found = kept.get(way)
        interval = f"{found.value:.1%} ({found.low:.1%} to {found.high:.1%})" if found else "–"
        each = " ".join(f"{run.metrics['f1']:.1%}" for run in runs)
        table.add_row(way, *(f"{mean:.1%}" for mean in means), interval, each, f"{run.rate(way):g}")
    console.print(table)
    figures: dict[str, Figure] = {}
    bounds = {f"kept, {way}": found for way, found in kept.items()}
    for way, found in kept.items():
        figures[f"of the teacher's F1, {way}"] = figure(found.value, None if way == BARE else TARGET)
    verdicts = {}
    for way in said:
        if way == BARE or BARE not in said:
            continue
        for name, metric in (("F1", answer_f1), ("EM", exact_match)):
            found = gain(list(said[way]), list(said[BARE]), metric)
            title = f"{way} over {BARE}, {name}"
            bounds[title], verdicts[title] = found, verdict(found)
            ends = f"{100 * found.value:+.1f} points ({100 * found.low:+.1f} to {100 * found.high:+.1f})"
            console.print(f"{title}: {ends}, {verdicts[title]}", highlight=False)
            figures[title] = figure(found.value, 0.0)
    settings = {
        "questions": {name: len(table) for name, table in run.tables.items()},
        "articles to choose by": DEV_ARTICLES,
        "asked at most": ASKED,
        "max_length": LENGTH,
        "layers": LAYERS,
        "epochs": EPOCHS,
        "intermediate": INTERMEDIATE,
        "rates": {way: run.rate(way) for way in said},
        "teacher_metrics": teacher.metrics,
        "metrics": {way: [run.metrics for run in runs] for way, runs in said.items()},
        "intervals_95": {name: [found.low, found.high] for name, found in bounds.items()},
        "verdicts": verdicts,
    }
    papers = {way: PAPER for way in kept if way != BARE}
    picture = draw("Of the teacher's F1 on SQuAD, half of its layers", kept, "share kept, 95%", papers=papers)
    return Result(figures, settings, {"squad.svg": picture})


if __name__ == "__main__":
    benchmark(
        main,
        __doc__,
        quick="built-in questions, under a minute",
        threads=1,
        seeds=True,
        options=arms(list(WAYS)),
    )
