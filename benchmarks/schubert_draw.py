"""Draw what `benchmarks/schubert.py` found: the frontier of size and held-out loss, and shapes."""

import io
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from attar.report.shape import Shape, Sizes, shape_svg

COLOURS = {
    "all": "#b0413e",
    "close": "#8e5aa8",
    "searched": "#e07b00",
    "inside": "#d46aa5",
    "h": "#3b6fb6",
    "f": "#4f9d69",
    "taylor": "#c98a2b",
    "magnitude": "#7ab0b0",
    "uniform": "#8a8a8a",
    "dropped": "#222222",
}


def frontier(settings: Mapping[str, Any]) -> str:
    """Held-out loss after recovery over parameters, a line a way, with the range of the seeds."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    losses, sizes = settings["losses"], settings["sizes"]
    for way, colour in COLOURS.items():
        names = sorted(
            (name for name in losses if name.rpartition("-")[0] == way), key=lambda name: sizes[name]
        )
        if not names:
            continue
        values = [losses[name] for name in names] + [[settings["whole"]]]
        x = [sizes[name] / 1e6 for name in names] + [sizes["whole"] / 1e6]
        middle = [sum(each) / len(each) for each in values]
        spread = [[m - min(v) for m, v in zip(middle, values, strict=True)],
                  [max(v) - m for m, v in zip(middle, values, strict=True)]]  # fmt: skip
        axes.errorbar(x, middle, yerr=spread, color=colour, label=way, marker="o", capsize=3, linewidth=1.4)
    axes.set_xlabel("parameters, millions")
    axes.set_ylabel("nats a hidden token of held-out books")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return _svg(figure)


def shapes(settings: Mapping[str, Any], name: str) -> str:
    """The shape of one model over that of the whole one."""

    def of(form: Mapping[str, Any]) -> Sizes:
        layers = tuple(tuple(layer) for layer in form["layers"])
        return Sizes(form["hidden"], form["hidden"], form["vocab"], layers)

    found, whole = (of(settings["shapes"][key]) for key in (name, "whole"))
    return shape_svg(Shape(name, whole, found, tuple(range(len(found.layers)))))


def draw(settings: Mapping[str, Any]) -> dict[str, str]:
    """All drawings of a result by file name."""
    named = [
        name
        for name in settings["shapes"]
        if name.rpartition("-")[0] in {"all", "inside", "close", "searched"}
    ]
    return {"schubert-frontier.svg": frontier(settings)} | {
        f"schubert-{name}.svg": shapes(settings, name) for name in named
    }


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
