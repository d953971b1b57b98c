"""A smaller all-MiniLM-L6-v2 from plain texts: 8 times as fast and 7 times smaller, or at half of the teacher's time.

The first with layers (wide, small enough in int8) and without (static); the second trained, and the teacher's own
export in int8. Beside them, on the same texts: the wide student with a random start, model2vec's distillation, plain
and fine-tuned, sentence-transformers' layer reduction, and the teacher with dropped layers as it stands. All but the
exports are measured through sentence-transformers: Spearman on STS-B's test, nDCG@10 of SQuAD's questions over the
paragraphs of articles that nothing was learned from (where dimensions are the teacher's, also over the teacher's index
of them), accuracy of a logistic probe on SST-2's dev. Latency: ONNX Runtime fp32 (the export's own precision; of static
models numpy), one text of 128 tokens, one thread, in turns. Speed of learning: attar against sentence-transformers'
trainer, the same student, batches and loss, each with its own pass of the teacher.
"""

import argparse
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from embeddings_data import PROBE, similar
from embeddings_speed import EPOCHS, rates
from embeddings_study import ARMS, TEACHER, WIDE, Study
from matplotlib.figure import Figure as Drawing
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from attar import progress
from attar.maths.statistics import Interval, Ratio, paired_bootstrap
from common import Figure, Result, benchmark, figure
from studies import arms

# Arm -> times faster, times smaller, of the teacher's Spearman and nDCG@10.
TARGETS: dict[str, tuple[float, float | None, float, float]] = {
    "attar, wide, int8": (8.0, 7.0, 0.97, 0.93),
    "attar, static": (8.0, 7.0, 0.97, 0.93),
    "attar, half": (2.0, None, 0.995, 0.995),
    "teacher, int8": (2.0, None, 0.995, 0.995),
}
FASTER_LEARNING, TEXTS = 3.0, 250_000
KINDS = {
    "sts": "STS-B, Spearman",
    "search": "SQuAD, nDCG@10",
    "index": "in the teacher's index",
    "probe": "SST-2 probe",
}
# What of the teacher's own figures is kept; questions in its index are held against its own search.
KEPT = {"sts": "sts", "search": "search", "index": "search", "probe": "probe"}
# What a question gains, and whether a text's class was right, are means over rows.
MEAN = Ratio(lambda values, rows: (values, np.ones(len(rows))))

OPTIONS: dict[str, dict[str, Any]] = {
    "--texts": {"type": int, "default": TEXTS, "help": "how many are learned from"},
    "--passes": {"type": int, "default": 1, "help": "times the passes of each arm over them"},
    "--split": {"choices": ("dev", "test"), "default": "test", "help": "dev to choose settings by"},
    "--all-seeds": {
        "nargs": "*",
        "default": list(TARGETS),
        "choices": list(ARMS),
        "help": "arms of all seeds, the others of the first",
    },
    "--no-learning": {
        "dest": "learning",
        "action": "store_false",
        "help": "leave out the speed of learning",
    },
}

Array = NDArray[Any]
Scores = Mapping[str, Mapping[str, list[Array]]]


def main(options: argparse.Namespace, work: Path) -> Result:
    study = Study(work, texts=options.texts, passes=options.passes, quick=options.quick)
    if options.quick:
        options.arms = [
            "attar, wide",
            "attar, wide, int8",
            "model2vec, fine-tuned",
            "sentence-transformers, 1 layer",
        ]
    said: dict[str, dict[str, list[Array]]] = {}
    # Seed by seed, so that what is there after a stop is a whole table of fewer seeds.
    for seed in options.seeds:
        for arm in (TEACHER, *options.arms):
            if seed == options.seeds[0] or (arm in options.all_seeds and study.learns(arm)):
                for kind, values in study.score(arm, seed, options.split).items():
                    said.setdefault(arm, {}).setdefault(kind, []).append(values)
                progress.say(f"seed {seed}, {arm}: measured")
    return show(study, said, options)


def show(study: Study, said: Scores, options: argparse.Namespace) -> Result:
    """Print the table, and draw the frontier."""
    fast = study.latencies(list(options.arms))
    labels = similar(options.split, study.quick).scores
    kept = {arm: {kind: retained(kind, runs, said[TEACHER][KEPT[kind]][0], labels) for kind, runs in each.items()}
            for arm, each in said.items() if arm != TEACHER}  # fmt: skip
    means = {arm: {kind: float(np.mean([value(kind, run, labels) for run in runs])) for kind, runs in each.items()}
             for arm, each in said.items()}  # fmt: skip
    size = {arm: study.megabytes(arm) for arm in said}
    table = Table("", "MB", "ms", "faster", *KINDS.values(), "of the teacher's, 95%", "minutes", box=None)
    for arm, each in means.items():
        around = [f"{kept[arm][k].value:.1%} ({kept[arm][k].low:.1%} to {kept[arm][k].high:.1%})"
                  for k in ("sts", "search", "index") if k in kept.get(arm, {})]  # fmt: skip
        seconds, speed = fast[arm]
        took = "+".join(f"{minutes:.1f}" for minutes in study.minutes(arm))
        shown = [f"{each[kind]:.3f}" if kind in each else "" for kind in KINDS]
        table.add_row(
            arm,
            f"{size[arm]:.1f}",
            f"{seconds * 1e3:.2f}",
            f"{speed.value:.1f}x",
            *shown,
            "\n".join(around),
            took,
        )
    Console(width=150).print(table)
    print(
        f"minutes of one core: the teacher's pass over {len(study.texts)} texts, and learning, at the first seed\n"
    )
    figures: dict[str, Figure] = {}
    for arm, (faster, smaller, sts, search) in TARGETS.items():
        if arm in said:
            figures[f"{arm}, times faster"] = figure(fast[arm][1].value, faster)
            figures[f"{arm}, times smaller"] = figure(size[TEACHER] / size[arm], smaller)
            figures[f"{arm}, of the teacher's Spearman"] = figure(kept[arm]["sts"].value, sts)
            figures[f"{arm}, of the teacher's nDCG@10"] = figure(kept[arm]["search"].value, search)
    apart = {}
    for arm, runs in said.items():  # one seed of each, paired by text
        if arm.startswith("wide, ") and "attar, wide" in said:
            for kind in ("sts", "search"):
                found = retained(kind, said["attar, wide"][kind][:1], runs[kind][0], labels)
                apart[f"attar, wide over {arm}, {KINDS[kind]}"] = [found.value, found.low, found.high]
    for name, (middle, low, high) in apart.items():
        print(f"{name}: {middle:.3f} times ({low:.3f} to {high:.3f})")
    learning = rates(study, WIDE) if options.learning else None
    if learning:
        figures["sentences a second, times sentence-transformers' trainer"] = figure(
            learning["ratio"], FASTER_LEARNING
        )
        print(f"sentences a second over {EPOCHS} epochs and the teacher's pass: {learning}\n")
    settings = {
        "arms": {arm: ARMS[arm] for arm in options.arms},
        "texts read": len(study.texts),
        "seeds of each arm": {arm: len(each["sts"]) for arm, each in said.items()},
        "probe's texts": PROBE,
        "quality": means,
        "intervals_95": {arm: {kind: [x.low, x.high] for kind, x in each.items()} for arm, each in kept.items()},
        "times another start's, 95%": apart,
        "each seed": {arm: {kind: [value(kind, run, labels) for run in runs] for kind, runs in said[arm].items()}
                      for arm in TARGETS if arm in said},
        "megabytes": size,
        "milliseconds": {arm: fast[arm][0] * 1e3 for arm in said},
        "times faster, 95%": {arm: [fast[arm][1].low, fast[arm][1].high] for arm in said},
        "minutes of the teacher's pass, and of learning": {arm: study.minutes(arm) for arm in said},
        "speed of learning": learning,
    }  # fmt: skip
    picture = draw(kept, {arm: fast[arm][0] * 1e3 for arm in said})
    part = "" if options.texts == TEXTS else str(options.texts)
    return Result(figures, settings, {f"embeddings{part and '-'}{part}.svg": picture}, part)


def value(kind: str, found: Array, labels: Array) -> float:
    """A model's figure: of similarities their rank correlation with people's, of the others the mean."""
    return spearman(found, labels) if kind == "sts" else float(found.mean())


def spearman(found: Array, labels: Array) -> float:
    """Rank correlation."""
    return float(spearmanr(found, labels)[0])


def retained(kind: str, runs: Sequence[Array], teacher: Array, labels: Array) -> Interval:
    """How much of the teacher's figure is kept, over new rows and seeds."""
    metric, rows = (spearman, labels) if kind == "sts" else (MEAN, np.zeros(len(teacher)))
    return paired_bootstrap(metric, list(runs), teacher, rows)


def draw(kept: Mapping[str, Mapping[str, Interval]], milliseconds: Mapping[str, float]) -> str:
    """What is kept against latency, as SVG."""
    drawing = Drawing(figsize=(9, 4.2), layout="constrained")
    for axes, kind in zip(drawing.subplots(1, 2), ("sts", "search"), strict=True):
        axes.axhline(1, color="#999999", linewidth=0.8, linestyle=":")
        axes.plot([milliseconds[TEACHER]], [1], "s", color="#333333")
        axes.annotate(TEACHER, (milliseconds[TEACHER], 1), fontsize=7, xytext=(-4, 5), textcoords="offset points",
                      ha="right")  # fmt: skip
        for arm, each in kept.items():
            around, ours = each[kind], arm.startswith("attar")
            colour = "#3b6fb6" if ours else "#b0413e"
            axes.plot([milliseconds[arm]] * 2, [around.low, around.high], color=colour, linewidth=1.2)
            axes.plot([milliseconds[arm]], [around.value], "o" if ours else "D", color=colour, markersize=5)
            axes.annotate(arm, (milliseconds[arm], around.value), fontsize=7, xytext=(5, -8),
                          textcoords="offset points")  # fmt: skip
        axes.set_xscale("log")
        axes.set_xlabel("ms, 128 tokens, one thread")
        axes.set_title(f"{KINDS[kind]}, of the teacher's", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    text = StringIO()
    drawing.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


if __name__ == "__main__":
    benchmark(
        main,
        __doc__,
        quick="few texts, one pass, some arms",
        threads=1,
        seeds=True,
        options=arms(list(ARMS)) | OPTIONS,
    )
