"""Seconds of one call of a form, from a table of times that the layers of its family take on this machine."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator
from transformers import PreTrainedModel

from attar.anatomy.form import Form, form_of
from attar.errors import PlanError
from attar.evaluation.machine import machine
from attar.model.checkpoint import digest
from attar.pruning.layer_timing import MeasuredSizes, Point, time_layers
from attar.storage.writing import write_atomic

# Units that libraries' inner loops may take at once.
STEPS = (1, 8, 16, 32)
# Times of the same thing differ by so much.
NOISE = 0.05


@dataclass(frozen=True)
class Grid:
    """Seconds measured at every combination of some sizes, linear in between, and beyond.

    Attributes:
        sizes: of each axis, ascending.
        seconds: in the order of `itertools.product(*sizes)`.
    """

    sizes: tuple[tuple[int, ...], ...]
    seconds: tuple[float, ...]

    def __call__(self, points: Sequence[tuple[int, ...]]) -> NDArray[np.float64]:
        """Seconds (N,) at N points."""
        found: NDArray[np.float64] = self._lines(np.array(points, dtype=np.float64)[:, self._axes])
        return found

    @cached_property
    def _axes(self) -> list[int]:
        """The axes with more than one size; one size says nothing of others."""
        return [n for n, sizes in enumerate(self.sizes) if len(sizes) > 1]

    @cached_property
    def _lines(self) -> Any:
        if not self._axes:
            return lambda points: np.full(len(points), self.seconds[0])
        seconds = np.array(self.seconds).reshape([len(sizes) for sizes in self.sizes]).squeeze()
        sizes = [self.sizes[axis] for axis in self._axes]
        return RegularGridInterpolator(sizes, seconds, bounds_error=False, fill_value=None)


@dataclass(frozen=True)
class Latency:
    """Seconds of one call of a form: what is outside its layers, and the layers one by one.

    Attributes:
        about: the model, the call and the machine that it was measured for.
        attention: a layer's attention over (hidden, heads, size of key and value), with all that is in the layer but
            its feed-forward part.
        ffn: a layer's feed-forward part over (hidden, ffn).
        uneven: what attention takes longer where key and value differ in size, since one of them is padded to the
            other for torch's fast kernel; over (heads,).
        outside: embedding and head over (hidden, embedding, vocab).
        scale, each: how much longer a layer takes among others, whose weights crowd its own out of the caches: a factor
            of its seconds, and seconds that do not depend on its size; from the whole model and one of half its sizes.
        probes: seconds at neighbouring sizes of an axis, for `step`.
    """

    about: Mapping[str, Any]
    attention: Grid
    ffn: Grid
    uneven: Grid
    outside: Grid
    scale: float
    probes: Mapping[str, Mapping[int, float]]
    each: float = 0.0

    def __call__(self, form: Form, /) -> float:
        """Seconds of one call."""
        layers, h = form.layers, form.hidden
        sizes = [(h, x.heads, size) for x in layers for size in (x.key, x.value)]
        # Key and value cost alike: two products with a matrix each, one with the scores.
        seconds = self.attention(sizes).sum() / 2 + self.ffn([(h, x.ffn) for x in layers]).sum()
        uneven = [(x.heads,) for x in layers if x.key != x.value]
        seconds += self.uneven(uneven).sum() if uneven else 0.0
        around = self.outside([(h, form.embedding, form.vocab)])[0]
        return float(self.scale * seconds + self.each * len(layers) + around)

    def step(self, axis: str) -> int:
        """The smallest of 1, 8, 16 and 32 whose multiples are no slower than larger sizes are, within noise.

        1 where nothing was measured: for axes other than hidden, key, value and ffn, and for small models.
        """
        seconds = self.probes.get(axis, {})
        for step, larger in pairwise(STEPS):
            multiples = [n for n in seconds if n % step == 0 and n % larger]
            if not any(_slower(seconds, multiples, unit) for unit in STEPS if unit > step):
                return step
        return STEPS[-1]

    @classmethod
    def measure(
        cls,
        model: PreTrainedModel,
        *,
        length: int = 128,
        batch: int = 1,
        threads: int | None = None,
        seconds: float = 30.0,
    ) -> "Latency":
        """Time layers of many sizes in turns, in torch and fp32.

        Args:
            model: that forms are of.
            length: tokens per text, T.
            batch: texts per call, B.
            threads: that compute; torch's present number where None. One is timed by the processor's clock, which
                other work on the machine disturbs far less.
            seconds: to spend on timing, about; small models need less.
        """
        count = threads or torch.get_num_threads()
        sizes, found = time_layers(model, length=length, batch=batch, threads=count, seconds=seconds)
        return _table(sizes, found, about(model, length=length, batch=batch, threads=count))

    def write(self, path: str | Path) -> Path:
        """Write the table as JSON, whole or not at all."""
        path = Path(path)
        write_atomic(path, json.dumps(dataclasses.asdict(self), indent=1) + "\n")
        return path

    @classmethod
    def read(
        cls,
        path: str | Path,
        model: PreTrainedModel,
        *,
        length: int = 128,
        batch: int = 1,
        threads: int | None = None,
    ) -> "Latency":
        """Read a table that was measured for this model and this call, here.

        Raises:
            PlanError: it is not there or no such table, or was measured for another model, call or machine.
        """
        from pydantic import TypeAdapter, ValidationError

        path, again = Path(path), "measure it again: Latency.measure(model).write(path)"
        if not path.is_file():
            raise PlanError(expected=f"a table of latencies at {path}", found="no such file", fix=again)
        try:
            table = TypeAdapter(cls).validate_json(path.read_bytes())
        except ValidationError as error:
            found = str(error.errors()[0]["msg"])
            raise PlanError(expected=f"a table of latencies in {path.name}", found=found, fix=again) from None
        table.check(model, length=length, batch=batch, threads=threads)
        return table

    def check(
        self, model: PreTrainedModel, *, length: int = 128, batch: int = 1, threads: int | None = None
    ) -> None:
        """See that the table is for this model and this call, here.

        Raises:
            PlanError: it is not; the message says in what it differs.
        """
        ours = about(model, length=length, batch=batch, threads=threads)
        other = [name for name in ours if self.about.get(name) != ours[name]]
        if other:
            raise PlanError(
                expected="a table of latencies for " + ", ".join(f"{name} {ours[name]}" for name in other),
                found="one for " + ", ".join(f"{name} {self.about.get(name)}" for name in other),
                fix="measure one here: Latency.measure(model)",
            )

    @property
    def digest(self) -> str:
        """A name for what the table is about, equal for tables that may stand for each other."""
        return digest(dict(self.about))


def _slower(seconds: Mapping[int, float], sizes: list[int], unit: int) -> bool:
    """Whether sizes take longer than the next multiples of a unit."""
    pairs = [(n, -(-n // unit) * unit) for n in sizes]
    ratios = [seconds[n] / seconds[above] for n, above in pairs if above in seconds]
    return bool(ratios) and float(np.median(ratios)) > 1 + NOISE


def about(
    model: PreTrainedModel, *, length: int = 128, batch: int = 1, threads: int | None = None
) -> dict[str, Any]:
    """What a time depends on: sizes and class of the model, the call, processor, threads, torch."""
    form = form_of(model.config)
    return {
        "model": type(model).__name__,
        "sizes": f"{form.hidden} hidden, {form.embedding} embedding, {form.vocab} tokens, layers "
        + digest(dataclasses.asdict(form)),
        "length": length,
        "batch": batch,
        "threads": threads or torch.get_num_threads(),
        "processor": machine()["processor"],
        "torch": torch.__version__,
    }


def _table(sizes: MeasuredSizes, found: dict[Any, float], about: dict[str, Any]) -> Latency:
    least, size = sizes.ffn[0], sizes.head[-1]
    attention = {point: found["attention", *point] for point in sizes.attention()}
    # More units take no less time; on a busy machine their measured times may say so, and the sum of a form's parts, of
    # which `scale` is a quotient, would be negative.
    ffn = {
        (h, f): max(0.0, found["ffn", h, f] - found["ffn", h, least])
        for h, f in product(sizes.hidden, sizes.ffn)
    }
    uneven: dict[Point, float] = {}
    narrow = sizes.hidden[0]
    for heads in sizes.heads:
        even = (attention[narrow, heads, sizes.head[0]] + attention[narrow, heads, size]) / 2
        uneven[(heads,)] = max(0.0, found["uneven", heads] - even)
    outside = {
        point: max(0.0, found["outside", *point] - attention[point[0], 1, size]) for point in sizes.outside()
    }
    table = Latency(
        about=about,
        attention=_grid(attention),
        ffn=_grid(ffn),
        uneven=_grid(uneven),
        outside=_grid(outside),
        scale=1.0,
        probes=_probes(sizes, found),
    )
    return _calibrated(table, sizes, found)


def _calibrated(table: Latency, sizes: MeasuredSizes, found: dict[Any, float]) -> Latency:
    """The table with `scale` and `each` such that the whole and the half model take what they took.

    Where their times contradict the parts', as on a busy machine, `scale` follows from the whole model alone; where
    that took no longer than what is outside its layers, it stays 1. It is above 0 in any case.
    """
    forms = {"whole": sizes.form, "half": sizes.half()}
    around = {name: float(table.outside([(f.hidden, f.embedding, f.vocab)])[0]) for name, f in forms.items()}
    alone = {name: table(form) - around[name] for name, form in forms.items()}
    real = {name: found[(name,)] - around[name] for name in forms}
    apart = alone["whole"] - alone["half"]
    if apart > 0:
        scale = (real["whole"] - real["half"]) / apart
        each = (real["whole"] - scale * alone["whole"]) / len(sizes.form.layers)
        if scale > 0 and each > 0:
            return replace(table, scale=scale, each=each)
    return replace(table, scale=real["whole"] / alone["whole"]) if real["whole"] > 0 else table


def _grid(found: Mapping[Any, float]) -> Grid:
    axes = [tuple(sorted(set(axis))) for axis in zip(*found, strict=True)]
    if len(found) < np.prod([len(axis) for axis in axes]):  # the embedding is as wide as the hidden states
        axes[1] = axes[1][:1]
    return Grid(tuple(axes), tuple(found.values()))


def _probes(sizes: MeasuredSizes, found: dict[Any, float]) -> dict[str, dict[int, float]]:
    probes: dict[str, dict[int, float]] = {"hidden": {}, "ffn": {}, "value": {}, "key": {}}
    for axis, n in sizes.neighbours():
        probes[axis][n] = found["neighbour", axis, n]
    if not sizes.rotary:
        probes["key"] = probes["value"]  # the two were measured as one
    return probes
