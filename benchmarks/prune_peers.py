"""attar's pruning beside TextPruner 1.1.post2 and Torch-Pruning 1.6.1: one fine-tuned model, one budget, one recovery.

MiniLM-L6, fine-tuned on Rotten Tomatoes, loses 30% and 50% of its encoder's parameters. Two kinds of cut: heads and FFN
units (all that TextPruner cuts), and all axes (attar: hidden, heads, key, value, FFN; Torch-Pruning: hidden, heads,
FFN). The budget is the number of all parameters, embeddings included, that TextPruner's sizes leave: 8 heads and 1100
FFN units a layer on average, and 6 and 768. Who cuts hidden units saves in the embeddings too, and may keep more of
the encoder.

Every tool scores on the same 512 training sentences; attar also fits what stays on them, by least squares and without
labels. Of the settings of a tool, the one of the best mean accuracy on
dev sentences before recovery is recovered, by as many steps of cross-entropy on the same training sentences, in the
same loop; attar's also by its own distillation. Predictions on test sentences are only held against their labels when
all is done. Seeds draw the scoring and recovery sentences and the order of batches. Differences are paired by seed and
sentence.

The peers run in an environment of their own, made at `--peers-venv` where it is absent (prune_textpruner.py and
prune_torchpruning.py say what they needed). Their pruned weights are read into attar's model of the same sizes, whose
logits must be theirs on 8 sentences. A result without them is not kept.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from prune_peers_setup import QUICK, SETTINGS, Setting
from prune_peers_study import Study
from prune_peers_tools import NEEDED, PEERS, environment

from attar.evaluation.prediction import predict
from attar.maths.statistics import Interval, Ratio, bootstrap, seed_interval
from common import Figure, Result, benchmark, figure

# The mean over sentences, as a metric of which rows and seeds can be resampled.
MEAN = Ratio(lambda values, _: (values, np.ones(len(values))))


def run(study: Study, seeds: list[int]) -> dict[tuple[str, str], Setting]:
    """Cut by every setting, choose one for each tool and kind of cut, recover it; what was chosen."""
    working = []
    for setting in study.tried:
        try:
            for seed in seeds:
                for size in study.budgets:
                    study.predictions(setting, size, seed, "none")
            working.append(setting)
        except (RuntimeError, AssertionError) as error:
            study.failed[setting.name] = str(error).strip().splitlines()[0]
            print(f"{setting.tool}, {setting.axes}, {setting.way} failed: {study.failed[setting.name]}")
    chosen: dict[tuple[str, str], Setting] = {}
    for setting in working:
        now = chosen.setdefault((setting.tool, setting.axes), setting)
        if _mean(study, setting, seeds, "dev") > _mean(study, now, seeds, "dev"):
            chosen[setting.tool, setting.axes] = setting
    for seed in seeds:
        for setting in chosen.values():
            for size in study.budgets:
                study.predictions(setting, size, seed, "task")
                if setting.tool == "attar":
                    study.predictions(setting, size, seed, "distill")
    return chosen


def _mean(study: Study, setting: Setting, seeds: list[int], part: str) -> float:
    return float(
        np.mean([study.points(setting, size, s, "none", part) for size in study.budgets for s in seeds])
    )


def difference(
    study: Study, ours: tuple[Setting, str], theirs: tuple[Setting, str], size: str, seeds: list[int]
) -> Interval:
    """Points that ours has more, paired by seed and sentence; the interval is over both."""
    pairs = [
        study.points(ours[0], size, s, ours[1]) - study.points(theirs[0], size, s, theirs[1]) for s in seeds
    ]
    return bootstrap(MEAN, pairs, np.zeros(len(pairs[0])))


def show(study: Study, chosen: Mapping[tuple[str, str], Setting], seeds: list[int]) -> dict[str, Any]:
    """The tables for people; what they hold."""
    found: dict[str, Any] = {}
    picked = set(chosen.values())
    labels = np.array(study.tables["test"]["label"][: study.settings["test_rows"]])
    whole = 100 * float(np.mean(predict(study.model, study.test).argmax(1) == labels))
    found["whole"] = {"accuracy": whole, "total": study.cost(study.form)}
    print(f"\nthe whole model: {whole:.1f} on test, {study.cost(study.form) / 1e6:.2f}M parameters")
    for size, budget in study.budgets.items():
        print(f"\n{size} of the encoder, budget {budget / 1e6:.2f}M parameters")
        print(
            f"{'tool':14}{'axes':11}{'way':18}{'params':>8}{'encoder':>8}{'hidden':>7}{'passes':>7}", end=""
        )
        print(f"{'not recovered':>22}{'by labels':>22}{'by distillation':>22}")
        for setting in study.tried:
            if setting.name in study.failed:
                continue
            runs = [study.predictions(setting, size, seed, "none") for seed in seeds]
            passes = study.passes(setting, size, seeds[0])
            row: dict[str, Any] = {
                "parameters": [int(r["total"]) for r in runs],
                "encoder": [float(r["encoder"]) for r in runs],
                "hidden": [int(r["hidden"]) for r in runs],
                "layers": [r["layers"].tolist() for r in runs],
                "passes": passes,
                "dev": _mean(study, setting, seeds, "dev"),
            }
            kinds = ["none", *(["task"] if setting in picked else [])]
            kinds += ["distill"] if setting in picked and setting.tool == "attar" else []
            for kind in kinds:
                row[kind] = [float(study.points(setting, size, seed, kind).mean()) for seed in seeds]
            found[f"{size} {setting.name}"] = row
            cells = [_cell(row[kind]) if kind in row else "" for kind in ("none", "task", "distill")]
            total, encoder, hidden = (float(np.mean(row[key])) for key in ("parameters", "encoder", "hidden"))
            sizes = f"{total / 1e6:7.2f}M{encoder:8.0%}{hidden:7.0f}"
            print(f"{setting.tool:14}{setting.axes:11}{setting.way:18}{sizes}{passes:7}", end="")
            print("".join(f"{cell:>22}" for cell in cells))
    return found


def _cell(values: list[float]) -> str:
    around = seed_interval(values)
    return f"{around.value:.1f} ({around.low:.1f} to {around.high:.1f})"


def margins(
    study: Study, chosen: Mapping[tuple[str, str], Setting], seeds: list[int]
) -> tuple[dict[str, Figure], dict[str, list[float]]]:
    """What attar's accuracy is above a peer's, where both cut the same kind of units."""
    figures: dict[str, Figure] = {}
    intervals: dict[str, list[float]] = {}
    print("\npoints that attar has more on test (95% over sentences and seeds)")
    for (tool, axes), theirs in chosen.items():
        if tool == "attar":
            for size in study.budgets:
                for kind in ("none", "task", "distill"):
                    points = [float(study.points(theirs, size, s, kind).mean()) for s in seeds]
                    figures[f"{size}, {axes}, attar, recovery {kind}"] = figure(float(np.mean(points)))
            continue
        ours = chosen["attar", axes]
        for size in study.budgets:
            for name, kinds in {
                "not recovered": ("none", "none"),
                "recovered by labels": ("task", "task"),
                "attar's own recovery": ("distill", "task"),
            }.items():
                around = difference(study, (ours, kinds[0]), (theirs, kinds[1]), size, seeds)
                key = f"{size}, {axes}, over {tool}, {name}"
                print(f"{key:62}{around.value:+6.1f} ({around.low:+.1f} to {around.high:+.1f})")
                figures[key] = figure(around.value, 0.0)
                intervals[key] = [around.low, around.high]
    return figures, intervals


def main(options: argparse.Namespace, work: Path) -> Result:
    python, missing = environment(options.peers_venv)
    if missing and options.keep:
        raise SystemExit(f"{missing}, so there is nothing to keep\ndo this: name --peers-venv")
    if missing:
        print(missing)
    study = Study(work, QUICK if options.quick else SETTINGS, python, quick=options.quick)
    chosen = run(study, options.seeds)
    rows = show(study, chosen, options.seeds)
    figures, intervals = margins(study, chosen, options.seeds)
    settings = {
        **study.settings,
        "parameters": "all, embeddings included; encoder: without the four parts of the embeddings",
        "budgets": study.budgets,
        "peers": {tool: package for tool, (_, package) in PEERS.items()} | {"in": NEEDED}
        if python
        else missing,
        "failed": study.failed,
        "chosen_on_dev": {" ".join(key): setting.way for key, setting in chosen.items()},
        "intervals_95": intervals,
        "rows": rows,
    }
    return Result(figures, settings)


if __name__ == "__main__":
    benchmark(
        main,
        __doc__,
        quick="few sentences and steps: under a minute",
        threads=1,
        seeds=True,
        options={"--peers-venv": {"type": Path, "help": "environment of the peers, made if absent"}},
    )
