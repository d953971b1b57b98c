"""schuBERT's claims at the size of MiniLM: one budget by learned shapes, by uniform shrinking, by dropping layers.

MiniLM-L6 (its vocabulary trimmed to the texts, so that the embedding's share of the parameters is like BERT-base's)
gets a masked-language-model head, is pruned to the sizes that 4, 3 and 1 of its 6 layers have (77%, 66% and 43%; the
paper's 9, 6 and 3 of 12 are 81%, 61% and 40%), recovers on plain text, and is fine-tuned on Rotten Tomatoes and SST-2.
Every variant gets the same steps; dropped layers get those that the others learn alphas in on top. "close" learns the
alphas and recovers by staying close to the unpruned model; the others by masked words, as the paper. Figures are test
accuracies in points over seeds of the fine-tuning; the pruning has one seed. Nothing is fitted by least squares after
a cut, as the paper has it (`attar.prune` does that by default).
"""

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import schubert_draw
from schubert_study import FOLDED_AT, QUICK, SETTINGS, SIZES, WAYS, Study

from attar import progress
from attar.anatomy.form import Form, form_of
from attar.errors import AttarError
from attar.maths.statistics import seed_interval
from common import Figure, Result, benchmark, figure


def run(study: Study, options: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Accuracies by model and task, in the order of the seeds."""
    found: dict[str, dict[str, list[float]]] = {}
    models: dict[str, Callable[[], Path]] = {"whole": lambda: study.work / "whole"}
    for layers in options.sizes:
        for way in options.ways:
            if (way != "folded" or layers == FOLDED_AT) and _possible(study, way, layers):
                recovery = "distill" if way == "close" else "mlm"
                models[f"{way}-{layers}"] = partial(study.pruned, way, layers, recovery)
        if "all" in options.ways:
            models[f"all-distilled-{layers}"] = partial(study.pruned, "all", layers, "distill")
    for seed in options.seeds:
        for name, place in models.items():
            for task in study.tasks:
                if options.tasks and task not in options.tasks:
                    continue
                value = study.accuracy(name, place, task, seed)
                found.setdefault(name, {}).setdefault(task, []).append(value)
                progress.say(f"seed {seed}, {name}, {task}: {value:.1f}")
    return found


def _possible(study: Study, way: str, layers: int) -> bool:
    """Whether a way reaches a size: the feed-forward layers alone are not enough for the smallest."""
    try:
        study.kept(way, layers)
    except AttarError as error:
        print(f"{way} at the size of {layers} layers: {error.found}")
        return False
    return True


def show(study: Study, found: Mapping[str, Mapping[str, list[float]]], options: argparse.Namespace) -> Result:
    tasks = [task for task in study.tasks if not options.tasks or task in options.tasks]
    means = {
        name: [float(np.mean(values)) for values in zip(*(by[task] for task in tasks), strict=True)]
        for name, by in found.items()
    }
    whole = study.cost(form_of(study.whole.model.config))
    print(f"\n{'model':18}{'params':>8}" + "".join(f"{task:>24}" for task in tasks) + f"{'mean':>24}")
    for name, by in found.items():
        size = _size(study, name) / whole
        cells = [_cell(by[task]) for task in tasks] + [_cell(means[name])]
        print(f"{name:18}{size:8.0%}" + "".join(f"{cell:>24}" for cell in cells))
    figures: dict[str, Figure] = {"whole": figure(float(np.mean(means["whole"])))}
    settings: dict[str, Any] = {**study.settings, "tasks": tasks, "accuracies": found}
    settings["sizes"] = {name: _size(study, name) for name in found}
    settings["shapes"] = {name: _shape(study, name) for name in found}
    settings["intervals_95"] = {}
    print()
    for layers in options.sizes:
        figures |= _margins(layers, means, settings)
    return Result(figures, settings, schubert_draw.draw(settings))


def _margins(layers: int, means: Mapping[str, list[float]], settings: dict[str, Any]) -> dict[str, Figure]:
    """Differences of mean accuracy at one size, paired by seed: the best schuBERT variant against the others."""
    names = [f"{way}-{layers}" for way in ("all", "h", "f", "close", "all-distilled")]
    learned = [name for name in names if name in means]
    best = max(learned, key=lambda name: float(np.mean(means[name])))
    paper, over_dropped, over_uniform = SIZES[layers]
    pairs = {
        f"{paper}: best (-{best.rpartition('-')[0]}) over dropped": (best, f"dropped-{layers}", over_dropped),
        f"{paper}: best (-{best.rpartition('-')[0]}) over uniform": (best, f"uniform-{layers}", 0.0),
        f"{paper}: recovery by distillation over by fine-tuning": (
            f"all-distilled-{layers}",
            f"all-{layers}",
            0.0,
        ),
        f"{paper}: alphas not folded over folded": (f"all-{layers}", f"folded-{layers}", None),
    }
    figures: dict[str, Figure] = {}
    for name, (ours, theirs, target) in pairs.items():
        if ours not in means or theirs not in means:
            continue
        around = seed_interval([a - b for a, b in zip(means[ours], means[theirs], strict=True)])
        told = f"(paper's uniform margin {over_uniform})" if "uniform" in name else ""
        print(f"{name:58}{around.value:+6.1f} ({around.low:+.1f} to {around.high:+.1f})  {told}")
        figures[name] = figure(around.value, target)
        settings["intervals_95"][name] = [around.low, around.high]
    return figures


def _cell(values: list[float]) -> str:
    around = seed_interval(values)
    return f"{around.value:.1f} ({around.low:.1f} to {around.high:.1f})"


def _form(study: Study, name: str) -> Form:
    if name == "whole":
        return form_of(study.whole.model.config)
    way, layers = name.replace("-distilled", "").split("-")
    return study.kept(way, int(layers)).form


def _size(study: Study, name: str) -> float:
    return study.cost(_form(study, name))


def _shape(study: Study, name: str) -> dict[str, Any]:
    form = _form(study, name)
    return {
        "hidden": form.hidden,
        "vocab": form.vocab,
        "layers": [list(vars(layer).values()) for layer in form.layers],
    }


def main(options: argparse.Namespace, work: Path) -> Result:
    if options.quick:
        options.sizes, options.ways = [3], ["all", "dropped"]
    study = Study(work, QUICK if options.quick else SETTINGS, quick=options.quick)
    return show(study, run(study, options), options)


if __name__ == "__main__":
    benchmark(
        main,
        __doc__,
        quick="one size, few sentences: under a minute",
        seeds=True,
        options={
            "--sizes": {"type": int, "nargs": "+", "default": list(SIZES), "choices": list(SIZES)},
            "--ways": {"nargs": "+", "default": list(WAYS), "choices": list(WAYS)},
            "--tasks": {"nargs": "+", "help": "the tasks of one of several processes"},
        },
    )
