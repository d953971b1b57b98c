"""What a temperature does to a teacher: its likeliest tokens at several of them, as a table and as a drawing."""

import math
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from attar.errors import OutputError
from attar.report.formatting import plain_text
from attar.report.svg import box, drawing, words

if TYPE_CHECKING:
    from rich.table import Table

_WIDTH, _LEFT, _TOP, _ROW, _GAP, _FOOT = 880, 116, 58, 25, 22, 40
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_CAPTION = (
    "Bars are drawn against the likeliest token of their own temperature: what is second and third to the teacher, "
    "and by how much, is what a student learns beyond the right answer. Numbers are shares of the whole vocabulary."
)


@dataclass(frozen=True)
class TokenProbabilities:
    """A teacher's prediction at one temperature t: softmax(z / t).

    Attributes:
        temperature: t.
        probabilities: of the tokens shown, in their order.
        entropy: of the whole distribution, in nats.
    """

    temperature: float
    probabilities: tuple[float, ...]
    entropy: float

    @property
    def bits(self) -> float:
        """The entropy in bits."""
        return self.entropy / math.log(2)

    @property
    def choices(self) -> float:
        """Among how many equally likely tokens it would be as hard to choose: the exponential of the entropy."""
        return math.exp(self.entropy)


@dataclass(frozen=True)
class Temperatures:
    """The likeliest tokens of one place of a text at several temperatures; their order is the same at each.

    Attributes:
        model: its name.
        text: with `[MASK]` where a masked word is predicted, else the next token is.
        tokens: likeliest first, as they are shown: a space as ␣, a piece that continues a word as its tokenizer
            writes it, bytes that are no whole letter in hexadecimal.
        at: one for each temperature, in the order asked for.
    """

    model: str
    text: str
    tokens: tuple[str, ...]
    at: tuple[TokenProbabilities, ...]

    def table(self, width: int = 80) -> "Table":
        """For a terminal of `width` letters; bars fill what the numbers leave."""
        from rich.table import Table
        from rich.text import Text

        table = Table(
            title=Text(self.text, style="bold"), title_justify="left", header_style="bold", box=None
        )
        table.pad_edge, table.padding = False, (0, 2, 0, 0)
        names = min(18, max(map(len, (*self.tokens, "equal choices"))))
        room = max(0, (width - names - 2) // len(self.at) - 9)
        table.add_column("token", max_width=names, no_wrap=True, header_style="dim")
        for warm in self.at:
            table.add_column(f"t = {warm.temperature:g}", no_wrap=True)
        for n, token in enumerate(self.tokens):
            cells = [
                Text.assemble(
                    (_bar(warm.probabilities[n] / max(warm.probabilities), room), "cyan"),
                    f" {_share(warm.probabilities[n])}",
                )
                for warm in self.at
            ]
            table.add_row(Text(token), *cells)
        for name, figures in self._foot():
            cells = [Text(" " * room + f" {text}", style="dim") for text in figures]
            table.add_row(Text(name, style="dim"), *cells)
        return table

    def __str__(self) -> str:
        return plain_text(self.table(120), 120)

    def _foot(self) -> list[tuple[str, list[str]]]:
        return [
            (f"these {len(self.tokens)}", [_share(sum(warm.probabilities)) for warm in self.at]),
            ("nats", [f"{warm.entropy:>6.2f}" for warm in self.at]),
            ("bits", [f"{warm.bits:>6.2f}" for warm in self.at]),
            ("equal choices", [f"{warm.choices:>6.4g}" for warm in self.at]),
        ]

    def svg(self) -> str:
        """A column of bars for each temperature."""
        step = (_WIDTH - _LEFT + _GAP) / len(self.at)
        height = _TOP + _ROW * len(self.tokens) + _FOOT
        size = min(11.5, step / 16)
        parts = []
        for n, token in enumerate(self.tokens):
            shown = token if len(token) <= 16 else token[:15] + "…"
            parts.append(words(_LEFT - 10, _TOP + n * _ROW + 17, shown, "ink", anchor="end", size=12.5))
        for column, warm in enumerate(self.at):
            x, wide = _LEFT + column * step, step - _GAP
            parts.append(words(x, 16, f"t = {warm.temperature:g}", "ink", anchor="start", size=14, bold=True))
            said = f"{warm.entropy:.2f} nats, {warm.bits:.2f} bits"
            parts.append(words(x, 34, said, "muted", anchor="start", size=size))
            parts.append(
                words(x, 49, f"like {warm.choices:.4g} equal choices", "muted", anchor="start", size=size)
            )
            for n, value in enumerate(warm.probabilities):
                y, long = _TOP + n * _ROW, value / max(warm.probabilities) * (wide - 54)
                tip = f"<title>{escape(f'{self.tokens[n]}: {value:.4g}')}</title>"
                bar = box(x, y + 4, max(long, 1.5), _ROW - 8, "teacher", round_=3)
                parts.append(f"<g>{tip}{bar}</g>")
                parts.append(
                    words(
                        x + max(long, 1.5) + 6,
                        y + 17,
                        _share(value).strip(),
                        "muted",
                        anchor="start",
                        size=11,
                    )
                )
            rest = 1 - sum(warm.probabilities)
            y = _TOP + len(self.tokens) * _ROW + 20
            parts.append(words(x, y, f"{_share(rest).strip()} elsewhere", "muted", anchor="start", size=size))
        label = f"Likeliest tokens of {self.model} at {len(self.at)} temperatures: {self.text}"
        return drawing(label, _WIDTH, height, parts)

    def html(self) -> str:
        """A page that opens offline."""
        return (
            f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(self.text)}</title>\n'
            f"<style>{_style()}</style>\n</head>\n<body><main>\n"
            f'<header><p class="eyebrow">{escape(self.model)} at {len(self.at)} temperatures</p>'
            f"<h1>{escape(self.text)}</h1></header>\n"
            f'<section class="plot"><p class="note">{_CAPTION}</p>\n{self.svg()}\n</section>\n'
            "</main></body>\n</html>\n"
        )

    def write(self, path: str | Path) -> Path:
        """Write the drawing, alone (.svg) or on a page (.html); both stand by themselves.

        Raises:
            OutputError: another suffix, or a place that cannot be written.
        """
        from attar.storage.writing import write_atomic

        path = Path(path)
        if path.suffix not in {".svg", ".html"}:
            raise OutputError(expected="a file .html or .svg", found=path.name, fix="name it so")
        write_atomic(path, self.html() if path.suffix == ".html" else _alone(self.svg()))
        return path


def _alone(svg: str) -> str:
    """A drawing in a file of its own: with the page's colours, its ground and its letters."""
    first, rest = svg.split("\n", 1)
    first = first.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    own = "svg { background: var(--card); font-family: system-ui, sans-serif; padding: 12px; }"
    return f"{first}\n<style>{_style()}{own}</style>\n{rest}\n"


@cache
def _style() -> str:
    """The report's style, which says what the drawings' colours are."""
    page = files("attar.report").joinpath("report.html.j2").read_text(encoding="utf-8")
    return page.partition("<style>")[2].partition("</style>")[0]


def _share(value: float) -> str:
    """A probability in percent, with as many digits as distinguish it from its neighbours."""
    percent = 100 * value
    digits = 0 if percent >= 99.95 else 1 if percent >= 1 else 2 if percent >= 0.1 else 3
    return f"{percent:>5.{digits}f}%" if percent >= 0.0005 or not value else " <0.001%"


def _bar(part: float, room: int) -> str:
    eighths = max(1, round(part * room * 8)) if room else 0
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()).ljust(room)
