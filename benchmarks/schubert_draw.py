"""Draw what `benchmarks/schubert.py` found: the frontier of size and accuracy, and the shapes that were learned."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from attar.report.shape import Shape, Sizes, shape_svg

COLOURS = {
    "all": "#b0413e",
    "all-distilled": "#e0898a",
    "close": "#8e5aa8",
    "h": "#3b6fb6",
    "f": "#4f9d69",
    "uniform": "#8a8a8a",
    "dropped": "#222222",
}


def frontier(settings: Mapping[str, Any]) -> str:
    """Mean test accuracy over parameters, a line a way, with the range of the seeds."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    sizes, accuracies = settings["sizes"], settings["accuracies"]

    def points(way: str) -> list[tuple[float, np.ndarray]]:
        names = [name for name in accuracies if name.rpartition("-")[0] == way]
        found = [(sizes[name] / 1e6, _means(accuracies[name])) for name in names]
        return sorted(found, key=lambda point: point[0])

    whole = (sizes["whole"] / 1e6, _means(accuracies["whole"]))
    for way, colour in COLOURS.items():
        line = points(way)
        if not line:
            continue
        x = [size for size, _ in [*line, whole]]
        values = [means for _, means in [*line, whole]]
        middle = [float(v.mean()) for v in values]
        axes.errorbar(
            x,
            middle,
            yerr=[
                [m - v.min() for m, v in zip(middle, values, strict=True)],
                [v.max() - m for m, v in zip(middle, values, strict=True)],
            ],
            color=colour,
            label=way,
            marker="o",
            capsize=3,
            linewidth=1.4,
        )
    axes.set_xlabel("parameters, millions")
    axes.set_ylabel("test accuracy, points (range of seeds)")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg")
    return drawn.getvalue()


def shapes(settings: Mapping[str, Any], name: str) -> str:
    """The shape of one model over that of the whole one."""
    found, whole = settings["shapes"][name], settings["shapes"]["whole"]

    def of(form: Mapping[str, Any]) -> Sizes:
        layers = tuple(tuple(layer) for layer in form["layers"])
        return Sizes(form["hidden"], form["hidden"], form["vocab"], layers)

    shape = Shape(name, of(whole), of(found), tuple(range(len(found["layers"]))))
    return shape_svg(shape)


def draw(settings: Mapping[str, Any]) -> dict[str, str]:
    """All drawings of a result, by file name."""
    drawings = {"schubert-frontier.svg": frontier(settings)}
    for name in settings["shapes"]:
        if name.rpartition("-")[0] in {"all", "close"}:
            drawings[f"schubert-{name}.svg"] = shapes(settings, name)
    return drawings


def _means(by: Mapping[str, list[float]]) -> np.ndarray:
    """(seeds,) mean over tasks."""
    means: np.ndarray = np.asarray([by[task] for task in by]).mean(axis=0)
    return means
