"""schuBERT's claims at the size of MiniLM: one budget by learned shapes, by uniform shrinking, by dropping layers.

MiniLM-L6 with a masked-language-model head, which has read eight million words of books
(`../shared/data/lm_english_books`; its vocabulary trimmed to frequent words, so that the embedding's share of the
parameters is like BERT-base's), is pruned to the sizes that 4, 3 and 1 of its 6 layers have (77%, 66% and 43%; the
paper's 9, 6 and 3 of 12 are 81%, 61% and 40%) and recovers on books. "close" learns the alphas by staying close to the
unpruned model, the others by masked words, as the paper; "inside" leaves the hidden size alone. The first seed says, on
books to choose by, which learned shape of a size all seeds measure. With `--modes` every way is also measured without
the least-squares fit, and recovers by distillation in place of masked words, in the same steps; what needs no alphas
gets those that the others learn alphas in on top, but not those after which "searched" chooses axes. First comes the
loss of hidden tokens of books that nobody read, paired by text, over seeds of alphas and recovery; then, with
`--tasks`, what GLUE's tasks make of the best learned shape, of the uniform one, and of dropped layers.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
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
# The mode that ways are compared in; the others stand beside it.
MAIN = "fitted"
# What learned shapes are held against.
RIVALS = ("dropped", "uniform")
# What a model is before it recovers, fitted by least squares or not.
BEFORE = {False: "cut, before", True: "fitted, before"}


def main(options: argparse.Namespace, work: Path) -> Result:
    study, ways, sizes = Study(work, quick=options.quick), options.arms, options.sizes
    modes = [mode for mode in MODES if mode == MAIN or mode in options.modes]
    if options.quick:
        ways, sizes, options.tasks = ["all", "dropped"], [3], ["SST-2"]
    else:
        later = sum(way in RIVALS for way in ways) + any(way in LEARNED for way in ways)
        cells = len(modes) * len(sizes) * (len(ways) + (len(options.seeds) - 1) * later)
        study.hours(ways, sizes, options.seeds, cells)
    named = {
        f"{way}-{layers}": (way, layers) for layers in sizes for way in ways if _possible(study, way, layers)
    }
    lost: dict[tuple[str, int, str], dict[int, TextLoss]] = {}

    def loss(name: str, seed: int) -> float:
        way, layers = named[name]
        for mode in modes:
            lost.setdefault((way, layers, mode), {})[seed] = study.after(way, layers, mode, seed)
        for fit in sorted({MODES[mode][0] for mode in modes}):
            found = study.before(way, layers, seed, fit=fit)
            lost.setdefault((way, layers, BEFORE[fit]), {})[seed] = found
        return lost[way, layers, MAIN][seed].mean

    # One seed says, on books to choose by, which of the learned shapes all seeds measure.
    by_seed(list(named), options.seeds[:1], loss)
    best = _best(study, named.values(), options.seeds[0])
    pairs = [(f"{way}-{n}", f"{other}-{n}") for n, way in best.items() for other in RIVALS]
    asked = [name for name, (way, n) in named.items() if way in (best.get(n), *RIVALS)]
    by_seed(asked, options.seeds, loss, pairs)
    runs = {cell: [each[seed] for seed in options.seeds if seed in each] for cell, each in lost.items()}
    return show(study, runs, best, options.tasks, options.seeds)


def _best(study: Study, cells: Iterable[tuple[str, int]], seed: int) -> dict[int, str]:
    """For each size the learned shape that loses least on the books to choose by, at one seed."""
    found: dict[int, str] = {}
    for n in dict.fromkeys(layers for _, layers in cells):
        learned = [way for way, layers in cells if layers == n and way in LEARNED]
        if learned:
            found[n] = min(learned, key=lambda way: study.after(way, n, MAIN, seed, "dev").mean)
    return found


def _possible(study: Study, way: str, layers: int) -> bool:
    """Whether a way reaches a size: the feed-forward layers alone are not enough for the smallest."""
    try:
        study.kept(way, layers, 0)
    except AttarError as error:
        print(f"{way} at the size of {layers} layers: {error.found}")
        return False
    return True


def show(
    study: Study, lost: Losses, best: Mapping[int, str], tasks: Sequence[str], seeds: Sequence[int]
) -> Result:
    """Print the tables."""
    console, whole = Console(width=140), study.lost_whole()
    columns = [column for column in (*BEFORE.values(), *MODES) if any(column == found for *_, found in lost)]
    table = Table("nats a hidden token", *columns, box=None)
    table.add_row("whole", *[f"{whole.mean:.4f}" if column == MAIN else "" for column in columns])
    for way, layers in dict.fromkeys((way, layers) for way, layers, _ in lost):
        table.add_row(f"{way}-{layers}", *(f"{_mean(lost[way, layers, column]):.4f}" for column in columns))
    console.print(table)
    figures: dict[str, Figure] = {"held-out loss, whole": figure(whole.mean)}
    bounds: dict[str, Interval] = {}
    verdicts: dict[str, str] = {}
    for layers in best:
        for other in (other for other in RIVALS if (other, layers, MAIN) in lost):
            for mode in columns:
                pair = lost[best[layers], layers, mode], lost[other, layers, mode]
                apart = loss_apart(*pair)
                title = f"{SIZES[layers][0]}, {mode}: {best[layers]} less than {other}, nats"
                bounds[title] = Interval(-apart.value, -apart.high, -apart.low)
                verdicts[title] = verdict(bounds[title])
                console.print(f"{title}: {_signed(bounds[title], '.4f')}, {verdicts[title]}", highlight=False)
                figures[title] = figure(bounds[title].value, 0.0 if mode == MAIN else None)
    points = _tasks(study, lost, best, tasks, seeds, figures, bounds)
    settings = _settings(study, lost, best, points, bounds, verdicts)
    settings["whole"] = whole.mean
    one = (
        len({layers for _, layers, _ in lost}) == 1
    )  # of one size there is no frontier, and a result of its own
    return Result(
        figures,
        settings,
        {} if one else schubert_draw.draw(settings),
        next(SIZES[layers][0].lower() for _, layers, _ in lost) if one else "",
    )


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
    beside = {n: [way for way in RIVALS if (way, n, MAIN) in lost] for n in best}
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
            title = f"{paper}: {way} over {other}, points of the tasks' mean"
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
    shapes = {f"{way}-{layers}": study.shape(way, layers, 0) for way, layers, mode in lost if mode == MAIN}
    return {
        "words": WORDS,
        "held-out books": HELD_BOOKS,
        "teacher": READ,
        "alphas": ALPHAS,
        "recovery": RECOVERY,
        "tasks": {name: TASKS[name]._asdict() for name in TASKS},
        "rates": RATES,
        "losses": {
            f"{way}-{n}": [one.mean for one in runs] for (way, n, mode), runs in lost.items() if mode == MAIN
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
            "--modes": {
                "nargs": "*",
                "default": [mode for mode in MODES if mode != MAIN],
                "choices": [mode for mode in MODES if mode != MAIN],
                "help": f"how pruned models are mended, beside {MAIN!r}",
            },
            "--tasks": {
                "nargs": "*",
                "default": [],
                "choices": list(TASKS),
                "help": "tasks to learn, none by default",
            },
        },
    )
