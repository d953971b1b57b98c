"""Where a stage keeps what it can go on from: a hidden directory beside its output, gone when the output is there."""

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from attar.report.report import Point
from attar.storage.writing import make_directory, save_tensors, write_atomic
from attar.training.loop import Step, is_main, wait

# Steps averaged into one point of a training curve: few enough to see the shape, many enough to hide the noise.
POINT = 20


@contextmanager
def work_directory(out: str | Path) -> Iterator[Path]:
    """The work directory of an output; kept when the block fails with something to resume from, else removed."""
    out = Path(out)
    place = out.with_name(f".{out.name}.work")
    make_directory(place)
    try:
        yield place
    except BaseException:
        if is_main() and not any(path.is_file() for path in place.rglob("*")):
            shutil.rmtree(place, ignore_errors=True)
        raise
    wait()  # the others may still read from it
    if is_main():
        shutil.rmtree(place, ignore_errors=True)
    wait()  # what the block wrote is there for every process that goes on


class TrainingCurve:
    """A training curve: the mean of each loss part over every `POINT` steps; on disk, so a resumed run has it whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.steps: dict[int, dict[str, float]] = {}
        if path.is_file():
            self.steps = {int(k): v for k, v in json.loads(path.read_text()).items()}

    def add(self, step: Step) -> None:
        """Note a step; a step that is repeated after a kill replaces itself."""
        self.steps[step.index] = dict(step.parts)
        if is_main() and (step.last_of_epoch or step.index % 200 == 0):
            write_atomic(self.path, json.dumps(self.steps))

    def recent(self) -> float:
        """Mean loss of the last `POINT` steps."""
        last = sorted(self.steps)[-POINT:]
        return sum(sum(self.steps[i].values()) for i in last) / max(1, len(last))

    def points(self) -> tuple[Point, ...]:
        """(step, mean parts) of each group of `POINT` steps."""
        found: list[tuple[int, Mapping[str, float]]] = []
        indexes = sorted(self.steps)
        for begin in range(0, len(indexes), POINT):
            group = indexes[begin : begin + POINT]
            names = self.steps[group[0]]
            found.append(
                (
                    group[-1],
                    {name: sum(self.steps[i].get(name, 0.0) for i in group) / len(group) for name in names},
                )
            )
        return tuple(found)


@dataclass
class BestEpoch:
    """The best epoch by the dev metric, kept on disk so that a killed run goes on with it."""

    place: Path
    patience: int | None
    history: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.weights, self.log = self.place / "best.pt", self.place / "history.json"
        if self.log.is_file() and self.weights.is_file():
            self.history = {int(k): v for k, v in json.loads(self.log.read_text()).items()}

    def add(self, epoch: int, value: float, model: nn.Module) -> None:
        """Note an epoch's dev metric; keep its weights where it is the best so far (the first of equals)."""
        # Spearman of constant scores is no number, and nothing would ever be better than it.
        value = float("-inf") if math.isnan(value) else value
        earlier = [v for e, v in self.history.items() if e < epoch]
        better = not earlier or value > max(earlier)
        self.history[epoch] = value
        if is_main():
            if better:
                save_tensors(model.state_dict(), self.weights)
            write_atomic(self.log, json.dumps(self.history))

    @property
    def exhausted(self) -> bool:
        """Whether the last `patience` epochs brought nothing better."""
        best = max(self.history, key=lambda epoch: (self.history[epoch], -epoch))
        return self.patience is not None and max(self.history) - best >= self.patience

    def restore(self, model: nn.Module) -> None:
        """Put the best epoch's weights back, once the main process has written them."""
        wait()
        model.load_state_dict(torch.load(self.weights, weights_only=True))
