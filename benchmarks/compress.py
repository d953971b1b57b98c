"""`attar compress` against what it has to beat, and against the time that it is given.

headline: MiniLM-L6 fine-tuned on Rotten Tomatoes, the budget of headline.py, for each of `--minutes`; at the longest,
    what is kept against what the student there keeps (its committed result), less one point; time used over given.
latency: a half and a quarter of the teacher's latency in fp32, against what else is as fast, in points of what is kept:
    dropped layers in the same time, and TextPruner and Torch-Pruning. Of these the largest of 47 sizes that is as fast
    (exported, 128 tokens, in turns with the teacher, processor time) learns labels for `--short` minutes of
    processor time. The way to score is the one that prune_peers.py chose for a tool and kind of cut. Rate (of two,
    after a quarter of the time), epoch and kind of cut are those that are best on dev.
untrained: `--time 0` at the numbers of parameters of prune_peers.py, whole vocabulary, fp32, against the peers' cuts of
    the same model to these sizes without recovery, of each peer the one that is best on dev, in points of what is kept.
search: the search against random search without halving, same time and candidates, `--seeds`.
costs: predicted latency and size of 24 candidates, students and pruned forms, against those of their exports: the part
    within a tenth, what repeating the measurement gives, and the largest error of the size.
sst2, korsts: SST-2, and scores of Korean sentence pairs, from ../shared/data, with nothing changed but the texts. The
    teacher of the pairs is MiniLM with another vocabulary, not a Korean encoder: compress_korsts_study.py says how.

One thread. What a run is given is time on the clock: the share of a core that it got is in the settings.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress_study import Runs
from export_costs_study import shares
from prune_peers_tools import environment
from rich.console import Console
from rich.table import Table

from attar.maths.statistics import Ratio, bootstrap, seed_interval
from common import Figure, Result, benchmark, committed, figure

PARTS = ("headline", "untrained", "latency", "search", "costs", "sst2", "korsts")
SMALLER, QUICKER = 7.5, 9.4
HEADLINE = f"{SMALLER}x fewer parameters, {QUICKER}x faster"
FASTER = {"2x faster": 2.0, "4x faster": 4.0}
# What is right, by sentence, over what the teacher is right on: of a difference, points of what is kept.
SHARE = Ratio(lambda ours, teacher: (ours, teacher))
# Time used over given.
KEPT_TIME = (0.9, 1.1)
LIKE: dict[str, Any] = {"formats": ["fp32"], "vocabulary": "all"}


def headline(runs: Runs, minutes: list[float]) -> dict[str, Figure]:
    """What is kept at the headline's budget, and how the time was kept."""
    figures: dict[str, Figure] = {}
    found = {time: runs.compressed(f"headline-{time:g}m", to=HEADLINE, time=60 * time) for time in minutes}
    target = float(committed("headline-small")["figures"]["small, of the teacher's accuracy"]["value"])
    for time, one in found.items():
        goal = target - 0.01 if time == max(found) else None
        figures[f"headline, {time:g} minutes, kept"] = figure(one["kept"], goal)
        rows = one["rows"]
        faster = rows["teacher"]["p50"] / rows["small"]["p50"]
        smaller = runs.parameters / one["parameters"]
        figures[f"headline, {time:g} minutes, times smaller"] = figure(smaller, SMALLER)
        figures[f"headline, {time:g} minutes, times faster, timed in turns"] = figure(faster, QUICKER)
        ratio = one["seconds"] / (60 * time)
        figures[f"headline, {time:g} minutes, time used over given"] = {
            **figure(ratio, KEPT_TIME[1], at_least=False),
            "met": KEPT_TIME[0] <= ratio <= KEPT_TIME[1],
        }
    return figures


def latency(runs: Runs, minutes: float) -> dict[str, Figure]:
    """What is kept at parts of the teacher's latency, against dropped layers and the peers."""
    asked = dict(list(FASTER.items())[: 1 if runs.quick else None])
    if not runs.quick:
        names = [f"latency-{to}{way}" for to in asked for way in ("", "-drop")]
        runs.say_left(names, minutes, list(asked.values()))
    figures: dict[str, Figure] = {}
    for to, times in asked.items():
        options: dict[str, Any] = {"to": to, "time": 60 * minutes, "formats": ["fp32"]}
        ours = runs.compressed(f"latency-{to}", **options)
        runs.compressed(f"latency-{to}-drop", **options, ways=["drop"])
        figures[f"{to}, kept"] = figure(ours["kept"])
        others = {"dropped layers": runs.right(f"latency-{to}-drop"), **runs.peers_at(to, times, minutes)}
        for name, theirs in others.items():
            more = 100 * (runs.right(f"latency-{to}") - theirs)
            around = bootstrap(SHARE, [more], runs.right("teacher"))
            figures[f"{to}, over {name}, points"] = figure(around.value, 0.0)
            runs.bounds[f"{to}, over {name}, points"] = [around.low, around.high]
    return figures


def untrained(runs: Runs) -> dict[str, Figure]:
    """What is kept without training, against the peers."""
    figures: dict[str, Figure] = {}
    for size, budget in committed("prune_peers")["settings"]["budgets"].items():
        name = f"untrained-{size}"
        ours = runs.compressed(name, to=f"{budget} params", time=0, **LIKE)
        figures[f"{size}, --time 0, seconds"] = figure(ours["seconds"], 75.0, at_least=False)
        figures[f"{size}, --time 0, kept"] = figure(ours["kept"])
        if runs.peers is None or size not in runs.peers.setup.budgets:  # a quick run has one size
            continue
        for peer, theirs in runs.peers.untrained(size).items():
            said = f"{size}, --time 0, over {peer}, points"
            around = bootstrap(SHARE, [100 * (runs.right(name) - theirs)], runs.right("teacher"))
            figures[said] = figure(around.value, 0.0)
            runs.bounds[said] = [around.low, around.high]
    return figures


def search(runs: Runs, minutes: float, seeds: list[int]) -> dict[str, Figure]:
    """What the search keeps more than random search."""
    options: dict[str, Any] = {"to": HEADLINE, "time": 60 * minutes}
    pairs = [
        [runs.compressed(f"search-{kind}-{seed}", **options, seed=seed, blind=kind == "random")["kept"]
         for kind in ("halving", "random")]
        for seed in seeds
    ]  # fmt: skip
    around = seed_interval([100 * (ours - theirs) for ours, theirs in pairs])
    runs.bounds["search over random search, points"] = [around.low, around.high]
    return {"search over random search, points": figure(around.value, 0.0)}


def costs(runs: Runs) -> dict[str, Figure]:
    """How near predictions are to exports."""
    figures: dict[str, Figure] = {}
    for precision, rows in runs.export_costs().items():
        found = shares(rows)
        figures[f"{precision}, latency within 10% of predicted, part"] = figure(
            found["latency within a tenth"], 0.9
        )
        figures[f"{precision}, latency within 10%, as multiples of a reference, part"] = figure(
            found["latency within a tenth, as multiples"], 0.9
        )
        figures[f"{precision}, repeats within 10%, part"] = figure(found["repeats within a tenth"])
        figures[f"{precision}, spread of repeats, median"] = figure(found["spread of repeats"])
        figures[f"{precision}, error of size, largest"] = figure(
            found["largest error of size"], 0.01, at_least=False
        )
    return figures


def sst2(runs: Runs, minutes: float) -> dict[str, Figure]:
    """What is kept of SST-2."""
    one = runs.compressed("sst2", data="sst2", to=HEADLINE, time=60 * minutes)
    return {f"SST-2, {minutes:g} minutes, kept": figure(one["kept"])}


def korsts(runs: Runs, minutes: float) -> dict[str, Figure]:
    """What is kept of KorSTS's correlation."""
    one = runs.compressed("korsts", data="korsts", to=HEADLINE, time=60 * minutes)
    return {
        f"KorSTS, {minutes:g} minutes, kept": figure(one["kept"]),
        "KorSTS, the teacher's correlation": figure(one["teacher"]),
    }


def show(runs: Runs) -> None:
    """A row for each run."""
    table = Table("run", "kept, 95%", "found", "p50", "MB", "used over given", "of a core", "tried", box=None)
    for name, one in runs.done.items():
        kept = f"{one['kept']:.1%}"
        if one["low"] is not None:  # as it is of few texts
            kept += f" ({one['low']:.1%} to {one['high']:.1%})"
        given = f"{one['seconds']:.0f} s / {one['given']:.0f} s"
        share = f"{one['of_a_core']:.0%}"
        cost = f"{one['latency']:.2f} ms", f"{one['size']:.1f}"
        table.add_row(name, kept, one["candidate"], *cost, given, share, str(one["tried"]))
    Console(width=160).print(table)


def show_peers(rows: Mapping[str, Mapping[str, Any]], minutes: float) -> None:
    """A row for each recovery of a peer's cut."""
    heads = ("peer", "times as fast, 95%", "parameters", "dev", "test", "rate", "passes", "used over given")
    table = Table(*heads, box=None)
    for name, one in rows.items():
        low, high = one["times_95"]
        times = f"{one['times']:.2f} ({low:.2f} to {high:.2f})"
        if "rate" not in one:
            table.add_row(name, f"{times}, the smallest", f"{one['parameters'] / 1e6:.1f}M")
            continue
        passes = f"{one['epochs']} of {one['rows']:,}"
        cells = (
            f"{one['parameters'] / 1e6:.1f}M",
            f"{one['dev']:.1%}",
            f"{one['test']:.1%}",
            f"{one['rate']:g}",
        )
        table.add_row(name, times, *cells, passes, f"{one['seconds']:.0f} s / {60 * minutes:.0f} s")
    Console(width=160).print(table)


def main(options: argparse.Namespace, work: Path) -> Result:
    chosen = options.parts or (["headline"] if options.quick else PARTS)
    python, missing = environment(options.peers_venv)
    if missing and {"latency", "untrained"} & set(chosen):
        if options.keep:
            raise SystemExit(
                f"{missing}, so latency and untrained are not to be kept\ndo this: name --peers-venv, or --parts"
            )
        print(missing)
    runs = Runs(work, python, quick=options.quick)
    minutes = options.minutes[:1] if options.quick else options.minutes
    short = 0.0 if options.quick else options.short
    middle = sorted(minutes)[len(minutes) // 2]
    parts: Mapping[str, Any] = {
        "headline": lambda: headline(runs, minutes),
        "untrained": lambda: untrained(runs),
        "latency": lambda: latency(runs, short),
        "search": lambda: search(runs, short, options.seeds),
        "costs": lambda: costs(runs),
        "sst2": lambda: sst2(runs, middle),
        "korsts": lambda: korsts(runs, middle),
    }
    figures: dict[str, Figure] = {}
    for part in chosen:
        figures |= parts[part]()
    show(runs)
    show_peers(runs.peer_rows, short)
    alone = chosen[0] if len(chosen) == 1 else ""
    settings = {"parts": chosen, "runs": runs.done, "peers": runs.peer_rows, "intervals_95": runs.bounds}
    return Result(figures, settings, part=alone)


if __name__ == "__main__":
    benchmark(
        main,
        __doc__,
        quick="few sentences, one run or those of --parts, without training",
        threads=1,
        seeds=True,
        options={
            "--parts": {"nargs": "+", "choices": PARTS, "help": "figures to make, all where left out"},
            "--minutes": {"nargs": "+", "type": float, "default": [2.0, 10.0, 30.0], "help": "times given"},
            "--peers-venv": {"type": Path, "help": "environment of the peers, made if absent"},
            "--short": {"type": float, "default": 5.0, "help": "minutes of latency and search"},
        },
    )
