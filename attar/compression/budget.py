"""The budget of `attar.compress`: what the compressed model may cost and what it must keep, from options or a text."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

from attar.errors import RecipeError

MILLION = 1e6


@dataclass(frozen=True)
class Budget:
    """Limits of the compressed model; a limit that is None is not set, and what it limits is made better.

    Attributes:
        size: megabytes (10⁶ bytes) on disk of the exported directory.
        parameters: how many.
        flops: operations of one call, 2 x the multiply-adds.
        latency: milliseconds of one call, p50.
        memory: megabytes, peak of the process that runs the export.
        keep: part of the teacher's figure, 0 to 1.
        smaller, faster: times fewer parameters, and times shorter latency, than the teacher.
    """

    size: float | None = None
    parameters: float | None = None
    flops: float | None = None
    latency: float | None = None
    memory: float | None = None
    keep: float | None = None
    smaller: float | None = None
    faster: float | None = None

    @property
    def limited(self) -> tuple[str, ...]:
        """The costs that have a ceiling."""
        return tuple(name for name in CEILINGS if getattr(self, name) is not None)

    @property
    def given(self) -> dict[str, float]:
        """What is set."""
        return {
            field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None
        }

    def against(self, teacher: Mapping[str, float]) -> "Budget":
        """The budget with `smaller` and `faster` as numbers of parameters and milliseconds.

        Args:
            teacher: what the teacher costs, by the names of the limits.
        """
        found = self
        for factor, name in (("smaller", "parameters"), ("faster", "latency")):
            if (times := getattr(self, factor)) is not None:
                most, own = teacher[name] / times, getattr(self, name)
                found = replace(found, **{name: most if own is None else min(most, own), factor: None})
        return found

    def broken(
        self, costs: Mapping[str, float], scale: float = 1.0, margin: Mapping[str, float] | None = None
    ) -> dict[str, float]:
        """The limits, times a factor, that costs are over, with the factor by which.

        Args:
            margin: part of a limit that is filled, by its name; all of it where left out.
        """
        over = {}
        for name in self.limited:
            limit = getattr(self, name) * scale * (margin or {}).get(name, 1.0)
            if costs.get(name, 0.0) > limit:
                over[name] = costs[name] / limit
        return over

    def __str__(self) -> str:
        return ", ".join(SAID[name](value) for name, value in self.given.items()) or "nothing"


CEILINGS = ("size", "parameters", "flops", "latency", "memory")
SAID: dict[str, Callable[[float], str]] = {
    "size": lambda x: f"{x:g} MB",
    "parameters": lambda x: f"{x / MILLION:g}M parameters",
    "flops": lambda x: f"{x / 1e9:g} GFLOPs",
    "latency": lambda x: f"{x:g} ms",
    "memory": lambda x: f"{x:g} MB memory",
    "keep": lambda x: f"keep {100 * x:g}%",
    "smaller": lambda x: f"{x:g}x smaller",
    "faster": lambda x: f"{x:g}x faster",
}

# Unit -> (limit, how much of the limit's unit it is).
_BYTES = {"kB": 1e-3, "KB": 1e-3, "MB": 1.0, "GB": 1e3, "KiB": 1.024e-3, "MiB": 1.048576, "GiB": 1073.741824}
_UNITS: dict[str, tuple[str, float]] = {
    **{unit: ("size", factor) for unit, factor in _BYTES.items()},
    **{f"{unit} memory": ("memory", factor) for unit, factor in _BYTES.items()},
    **{
        f"{scale}{space}{word}": ("parameters", factor)
        for scale, factor in {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9}.items()
        for space in ("", " ")
        for word in ("params", "parameters")
    },
    **{
        f"{scale}{space}{word}": ("flops", factor)
        for scale, factor in {"": 1.0, "M": 1e6, "G": 1e9, "T": 1e12}.items()
        for space in ("", " ")
        for word in ("FLOPs", "FLOP")
    },
    "us": ("latency", 1e-3),
    "µs": ("latency", 1e-3),
    "ms": ("latency", 1.0),
    "s": ("latency", 1e3),
    "x smaller": ("smaller", 1.0),
    "x fewer parameters": ("smaller", 1.0),
    "x faster": ("faster", 1.0),
    "% kept": ("keep", 0.01),
}
# However their letters are written: no two differ by that alone.
_FOLDED = {unit.casefold(): meaning for unit, meaning in _UNITS.items()}
_NUMBER = r"(?P<number>[-+]?(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)"
_PIECE = re.compile(rf"{_NUMBER}\s*(?P<unit>.*)", re.DOTALL)
_KEEP = re.compile(rf"keep\s+{_NUMBER}\s*(?P<percent>%?)", re.IGNORECASE)
_TIME = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?")
EXAMPLE = "10 MB, 5 ms, keep 98%"


def budget_of(text: str | None = None, **options: float | str | None) -> Budget:
    """The budget that a text and options say together; a limit is said once.

    Args:
        text: limits between commas: `10 MB, 5 ms, keep 98%`; also `3M params`, `2 GFLOPs`, `300 MB memory`,
            `8x smaller`, `10x faster`.
        options: limits by name: numbers in the units of `Budget`, or texts with a unit of the limit (`"10 MB"`).

    Raises:
        RecipeError: an unknown unit, a number outside its range, a limit that is said twice, or none at all.
    """
    found: dict[str, _Piece] = {}
    said = list(_pieces(text or ""))
    said += [_option(name, value) for name, value in options.items() if value is not None]
    for piece in said:
        if piece.limit in found:
            raise RecipeError(
                expected=f"one limit of {piece.limit}",
                found=f"{found[piece.limit].said} and {piece.said}{piece.pointed}",
                fix="leave one of them out",
            )
        _check(piece)
        found[piece.limit] = piece
    if not found:
        raise RecipeError(
            expected="a budget: at least one limit",
            found="none",
            fix=f'say what the model may cost or must keep, such as to="{EXAMPLE}" (--to "{EXAMPLE}")',
        )
    return Budget(**{limit: piece.value for limit, piece in found.items()})


def budget_in(options: Any) -> Budget:
    """The budget in the options of `attar.compress`; raises as `budget_of`."""
    return budget_of(options.to, **{name: getattr(options, name) for name in (*CEILINGS, "keep")})


def seconds_of(text: str | float) -> float:
    """Seconds of a time such as `30m`, `90s`, `1h30m`, `0`, or of a number of seconds.

    Raises:
        RecipeError: no such time.
    """
    given = str(text).replace(" ", "")
    parts = _TIME.fullmatch(given) if given else None
    if parts is None or not math.isfinite(value := _added(parts.groups())):
        raise RecipeError(
            expected="a time such as 30m, 90s or 1h30m, or 0 for no training",
            found=repr(text),
            fix='write hours, minutes and seconds: time="30m" (--time 30m)',
        )
    return value


def _added(parts: Iterable[str | None]) -> float:
    return sum(float(part or 0) * factor for part, factor in zip(parts, (3600, 60, 1), strict=True))


class _Piece(NamedTuple):
    """A limit as it was said; `pointed` shows where in a text."""

    limit: str
    value: float
    said: str
    pointed: str = ""


def _pieces(text: str) -> Iterator[_Piece]:
    """What is between commas."""
    at = 0
    for raw in text.split(","):
        piece = raw.strip()
        start = at + len(raw) - len(raw.lstrip())
        at += len(raw) + 1
        if not piece:
            continue
        pointed = f"\n  {text}\n  {' ' * start}{'^' * len(piece)}"
        if kept := _KEEP.fullmatch(piece):
            yield _Piece("keep", float(kept["number"]) * (0.01 if kept["percent"] else 1.0), piece, pointed)
            continue
        match = _PIECE.fullmatch(piece)
        if match is None or (unit := " ".join(match["unit"].casefold().split())) not in _FOLDED:
            raise _unknown(piece, pointed, None if match is None else match["unit"].strip())
        limit, factor = _FOLDED[unit]
        yield _Piece(limit, float(match["number"]) * factor, piece, pointed)


_WRITTEN = {
    "size": "10 MB",
    "parameters": "3M",
    "flops": "2G",
    "latency": "5 ms",
    "memory": "300 MB",
    "keep": "98%",
}
# What the text of an option may leave out, since the option's name says it.
_IMPLIED = {"keep": "keep {}", "memory": "{} memory", "parameters": "{} params", "flops": "{}FLOPs"}


def _option(name: str, value: float | str) -> _Piece:
    """An option: a number in the limit's own unit, or a text with a unit."""
    said = f"{name} {value}"
    try:
        return _Piece(name, float(value), said)
    except ValueError:
        pass
    for words in ("{}", _IMPLIED.get(name, "{}")):
        try:
            found = [piece._replace(said=said, pointed="") for piece in _pieces(words.format(value))]
        except RecipeError:
            continue
        if [piece.limit for piece in found] == [name]:
            return found[0]
    raise RecipeError(
        expected=f"{name}: a number, or one with its unit",
        found=repr(value),
        fix=f"write it as in {_WRITTEN[name]!r}; several limits together are for to (--to)",
    )


def _unknown(piece: str, pointed: str, unit: str | None) -> RecipeError:
    what = "no number" if unit is None else f"unit {unit!r}" if unit else "no unit"
    return RecipeError(
        expected="a number with a unit: kB, MB, GB (on disk), MB memory, M params, GFLOPs, ms, s, x smaller, x faster, "
        "or keep and a percentage",
        found=f"{what} in {piece!r}{pointed}",
        fix=f"write it as in {EXAMPLE!r}",
    )


def _check(piece: _Piece) -> None:
    limits = {"keep": (0.0, 1.0), "smaller": (1.0, math.inf), "faster": (1.0, math.inf)}
    low, high = limits.get(piece.limit, (0.0, math.inf))
    if not low < piece.value <= high or math.isinf(piece.value):
        most = f" and at most {high:g}" if high < math.inf else ""
        raise RecipeError(
            expected=f"{piece.limit} above {low:g}{most}",
            found=f"{piece.value:g} ({piece.said}){piece.pointed}",
            fix="give keep as a part or a percentage: keep 98%"
            if piece.limit == "keep"
            else "give another number",
        )
