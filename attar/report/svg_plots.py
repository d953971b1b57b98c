"""What the plots of a page share: axes, colours and the SVG text, the same bytes for the same figures."""

import math
import re
import warnings
from io import StringIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# matplotlib draws in these stand-in colours; in the SVG each becomes a variable of the page, so that one drawing
# serves light and dark.
COLOURS = {
    name: f"#0102{i:02x}"
    for i, name in enumerate(
        ("ink", "muted", "rule", "card", "teacher", "student", "baseline", "c0", "c1", "c2", "c3", "c4", "c5")
    )
}
LABEL = 12.0
_DPI = 72.0  # one point is one pixel of the SVG


def axes_of(
    width: int, height: int, *, left: int, right: int, top: int, bottom: int
) -> tuple["Figure", "Axes"]:
    """An empty plot; all lengths in pixels of the SVG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    figure.patch.set_visible(False)
    inside = (left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height)
    axes = figure.add_axes(inside)
    axes.patch.set_visible(False)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(COLOURS["muted"])
    axes.tick_params(colors=COLOURS["muted"], labelsize=11, length=0, pad=6, which="both")
    axes.grid(axis="y", color=COLOURS["rule"], linewidth=1)
    axes.set_axisbelow(True)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_color(COLOURS["muted"])
        axis.label.set_fontsize(11.5)
        axis.labelpad = 8
    return figure, axes


def latency_ticks(axes: "Axes") -> None:
    """1, 2 and 5 of each decade along a logarithmic axis."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = axes.get_xlim()
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 300 else (1,)
    axes.xaxis.set_major_locator(
        FixedLocator([s * 10.0**d for d in decades for s in steps if low <= s * 10.0**d <= high])
    )
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def escape(text: str) -> str:
    """Text as matplotlib shows it: a dollar would start a formula."""
    return text.replace("$", r"\$")


def svg(figure: "Figure", prefix: str, title: str) -> str:
    """A drawing as SVG text whose colours are variables of the page; `prefix` keeps its ids apart from others'."""
    import matplotlib

    out = StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}), warnings.catch_warnings():
        # Letters are drawn by the reader's browser: that matplotlib's own font lacks them is no matter.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        figure.savefig(
            out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    for name, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    # Several drawings share one page, and with it one space of ids.
    safe = re.sub(r"\W+", "-", prefix)
    text = re.sub(r'\bid="', f'id="{safe}-', text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{safe}-", text)
    text = re.sub(
        r'(<svg[^>]*?) width="[^"]*"',
        r"\1",
        re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1),
        count=1,
    )
    label = title.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
