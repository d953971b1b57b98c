"""Calls timed in turns, so that what disturbs the machine for a while disturbs all of them."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from attar.maths.statistics import Interval
from attar.progress import track

Array = NDArray[Any]
Clock = Literal["wall", "cpu"]
WARMUP = 3


def interleaved(
    calls: Mapping[str, Callable[[], Any]], *, repeats: int, clock: Clock = "wall", description: str = "time"
) -> dict[str, Array]:
    """Seconds (repeats,) of each call, timed in rounds whose order rotates."""
    now = time.perf_counter if clock == "wall" else time.thread_time
    names = list(calls)
    seconds = {name: np.zeros(repeats) for name in names}
    for name in names:
        for _ in range(WARMUP):
            calls[name]()
    for round_ in track(range(repeats), description):
        first = round_ % len(names)
        for name in names[first:] + names[:first]:
            calls[name]()
            start = now()
            calls[name]()
            seconds[name][round_] = now() - start
    return seconds


def median_interval(values: Array) -> Interval:
    """Median of (N,) values with its 95% interval from order statistics: no assumption on how they are spread."""
    ordered = np.sort(values)
    count = len(ordered)
    # Ranks of the binomial distribution of how many values lie below the median, by its normal approximation.
    half = 1.96 * np.sqrt(count) / 2
    low = max(0, int(np.floor(count / 2 - half)))
    high = min(count - 1, int(np.ceil(count / 2 + half)))
    return Interval(float(np.median(ordered)), float(ordered[low]), float(ordered[high]))


@contextlib.contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Torch computes with so many threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
