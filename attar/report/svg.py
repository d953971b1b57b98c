"""Drawings written as text, in the fonts and colours of the page that they are set into."""

from collections.abc import Iterable
from html import escape


def drawing(label: str, width: float, height: float, parts: Iterable[str]) -> str:
    """An SVG, with a label for those who do not see it."""
    head = f'<svg role="img" aria-label="{escape(label)}" viewBox="0 0 {width:g} {height:g}">'
    return "\n".join([head, *parts, "</svg>"])


def words(
    x: float,
    y: float,
    text: str,
    colour: str,
    *,
    anchor: str = "middle",
    size: float = 11.5,
    bold: bool = False,
    bare: bool = False,
    faint: bool = False,
) -> str:
    """A text on the line y; `bare` on a coloured ground, where the page's halo would be in the way."""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size:.1f}"'
    weight = ' font-weight="600"' if bold else ""
    own = ' style="stroke: none"' if bare else ""
    pale = ' opacity="0.7"' if faint else ""
    return f'<text {place} fill="var(--{colour})"{weight}{own}{pale}>{escape(text)}</text>'


def box(
    x: float, y: float, width: float, height: float, colour: str, *, opacity: float = 1, round_: float = 2
) -> str:
    """A rectangle."""
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{round_:g}"'
    return f'<rect {place} fill="var(--{colour})" opacity="{opacity:.3g}"/>'
