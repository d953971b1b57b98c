"""schuBERT's claims at the size of MiniLM: one budget by learned shapes, by uniform shrinking, by dropping layers.

MiniLM-L6 with a masked-language-model head, which has read eight million words of books
(`../shared/data/lm_english_books`; its vocabulary trimmed to frequent words, so that the embedding's share of the
parameters is like BERT-base's), is pruned to the sizes that 4, 3 and 1 of its 6 layers have (77%, 66% and 43%; the
paper's 9, 6 and 3 of 12 are 81%, 61% and 40%) and recovers on books. "close" learns the alphas by staying close to the
unpruned model; the others by masked words, as the paper. Every way is measured fitted by least squares and not, and
recovers by masked words and by distillation, in the same steps; what needs no alphas gets those that the others learn
alphas in on top. First comes the loss of hidden tokens of books that nobody read, paired by text, over seeds of alphas
and recovery; then, with `--tasks`, what GLUE's tasks make of the best learned shape, of the uniform one, and of
dropped layers.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import schubert_draw
from rich.console import Console
from rich.table import Table
from schubert_study import ALPHAS, LEARNED, MODES, RATES, RECOVERY, SIZES, WAYS, Study

from attar.anatomy.form import form_of
from attar.errors import AttarError
from attar.maths.statistics import Interval, seed_interval
from common import Figure, Result, benchmark, figure
from glue import TASKS
from minilm import HELD_BOOKS, READ, WORDS
from studies import TextLoss, arms, by_seed, loss_apart, verdict

Losses = dict[tuple[str, int, str], list[TextLoss]]


def main(options: argparse.Namespace, work: Path) -> Result:
    study, ways, sizes = Study(work, quick=options.quick), options.arms, options.sizes
    if options.quick:
        ways, sizes, options.tasks = ["all", "dropped"], [3], ["SST-2"]
    else:
        study.hours(ways, sizes, options.seeds)
    cells = {
        f"{way}-{layers}": (way, layers) for layers in sizes for way in ways if _possible(study, way, layers)
    }
    lost: Losses = {}

    def loss(name: str, seed: int) -> float:
        way, layers = cells[name]
        for mode in MODES:
            lost.setdefault((way, layers, mode), []).append(study.after(way, layers, mode, seed))
        for fit in (True, False):
            found = study.before(way, layers, seed, fit=fit)
            lost.setdefault((way, layers, "fitted, before" if fit else "cut, before"), []).append(found)
        return lost[way, layers, "fitted"][-1].mean

    pairs = [
        (f"{way}-{n}", f"{other}-{n}") for n in sizes for way in LEARNED for other in ("uniform", "dropped")
    ]
    by_seed(list(cells), options.seeds, loss, pairs)
    return show(study, lost, options.tasks, options.seeds)


def _possible(study: Study, way: str, layers: int) -> bool:
    """Whether a way reaches a size: the feed-forward layers alone are not enough for the smallest."""
    try:
        study.kept(way, layers, 0)
    except AttarError as error:
        print(f"{way} at the size of {layers} layers: {error.found}")
        return False
    return True


def show(study: Study, lost: Losses, tasks: Sequence[str], seeds: Sequence[int]) -> Result:
    """Print the tables."""
    console, whole = Console(width=140), study.lost_whole()
    columns = ("cut, before", "fitted, before", *MODES)
    table = Table("nats a hidden token", *columns, box=None)
    table.add_row("whole", *[""] * 4, f"{whole.mean:.4f}")
    for way, layers in dict.fromkeys((way, layers) for way, layers, _ in lost):
        table.add_row(f"{way}-{layers}", *(f"{_mean(lost[way, layers, column]):.4f}" for column in columns))
    console.print(table)
    figures: dict[str, Figure] = {"held-out loss, whole": figure(whole.mean)}
    bounds: dict[str, Interval] = {}
    verdicts: dict[str, str] = {}
    best: dict[int, str] = {}
    for layers in dict.fromkeys(layers for _, layers, _ in lost):
        learned = [way for way in LEARNED if (way, layers, "fitted") in lost]
        if learned:
            best[layers] = min(learned, key=lambda way: _mean(lost[way, layers, "fitted"]))
        for other in ("uniform", "dropped"):
            if layers not in best or (other, layers, "fitted") not in lost:
                continue
            for mode in columns:
                pair = lost[best[layers], layers, mode], lost[other, layers, mode]
                apart = loss_apart(*pair)
                title = f"{SIZES[layers][0]}, {mode}: best (-{best[layers]}) less than {other}, nats"
                bounds[title] = Interval(-apart.value, -apart.high, -apart.low)
                verdicts[title] = verdict(bounds[title])
                console.print(f"{title}: {_signed(bounds[title], '.4f')}, {verdicts[title]}", highlight=False)
                figures[title] = figure(bounds[title].value, 0.0 if mode == "fitted" else None)
    points = _tasks(study, lost, best, tasks, seeds, figures, bounds)
    settings = _settings(study, lost, best, points, bounds, verdicts)
    settings["whole"] = whole.mean
    return Result(figures, settings, schubert_draw.draw(settings))


def _tasks(
    study: Study,
    lost: Losses,
    best: Mapping[int, str],
    tasks: Sequence[str],
    seeds: Sequence[int],
    figures: dict[str, Figure],
    bounds: dict[str, Interval],
) -> dict[str, dict[str, list[float]]]:
    """What the tasks make of the models: points by model and task; margins over dropped layers beside the paper's."""
    points: dict[str, dict[str, list[float]]] = {}
    if not tasks:
        return points
    beside = {n: [way for way in ("dropped", "uniform") if (way, n, "fitted") in lost] for n in best}
    chosen = [("whole", 0), *((way, n) for n in best for way in (best[n], *beside[n]))]
    for seed in seeds:
        for way, layers in chosen:
            for task in tasks:
                by = points.setdefault(f"{way}-{layers}", {}).setdefault(task, [])
                by.append(study.value(way, layers, task, seed))
    means = {name: np.mean(list(by.values()), axis=0) for name, by in points.items()}
    for layers, way in best.items():
        paper, over_dropped, over_uniform = SIZES[layers]
        for other in beside[layers]:
            margin = over_dropped if other == "dropped" else over_uniform
            apart = seed_interval(list(means[f"{way}-{layers}"] - means[f"{other}-{layers}"]))
            title = f"{paper}: best (-{way}) over {other}, points of the tasks' mean"
            bounds[title] = apart
            figures[title] = figure(apart.value, margin)
            print(f"{title}: {_signed(apart, '.1f')}, {verdict(apart)}; paper {margin:+.1f}")
    return points


def _settings(
    study: Study,
    lost: Losses,
    best: Mapping[int, str],
    points: Mapping[str, Any],
    bounds: Mapping[str, Interval],
    verdicts: Mapping[str, str],
) -> dict[str, Any]:
    form = form_of(study.whole.model.config)
    whole = {
        "hidden": form.hidden,
        "vocab": form.vocab,
        "layers": [list(vars(layer).values()) for layer in form.layers],
    }
    shapes = {
        f"{way}-{layers}": study.shape(way, layers, 0) for way, layers, mode in lost if mode == "fitted"
    }
    return {
        "words": WORDS,
        "held-out books": HELD_BOOKS,
        "teacher": READ,
        "alphas": ALPHAS,
        "recovery": RECOVERY,
        "tasks": {name: TASKS[name]._asdict() for name in TASKS},
        "rates": RATES,
        "losses": {
            f"{way}-{n}": [one.mean for one in runs]
            for (way, n, mode), runs in lost.items()
            if mode == "fitted"
        },
        "losses by mode": {
            f"{way}-{n}, {mode}": [one.mean for one in runs] for (way, n, mode), runs in lost.items()
        },
        "sizes": {name: shape["parameters"] for name, shape in shapes.items()} | {"whole": study.cost(form)},
        "shapes": shapes | {"whole": whole},
        "best": {SIZES[n][0]: way for n, way in best.items()},
        "points": points,
        "intervals_95": {name: [one.low, one.high] for name, one in bounds.items()},
        "verdicts": verdicts,
    }


def _mean(runs: Sequence[TextLoss]) -> float:
    return float(np.mean([run.mean for run in runs]))


def _signed(around: Interval, form: str) -> str:
    return f"{around.value:+{form}} ({around.low:+{form}} to {around.high:+{form}})"


if __name__ == "__main__":
    benchmark(
        main,
        __doc__,
        quick="one size, two ways, few sentences",
        threads=1,
        seeds=True,
        options={
            **arms(WAYS),
            "--sizes": {"type": int, "nargs": "+", "default": list(SIZES), "choices": list(SIZES)},
            "--tasks": {
                "nargs": "*",
                "default": [],
                "choices": list(TASKS),
                "help": "tasks to learn, none by default",
            },
        },
    )
