"""Where a stage keeps what it can go on from: a hidden directory beside its output, gone when the output is there."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from attar.measure.report import Point
from attar.model.checkpoint import write_atomic
from attar.train import Step, is_main

# Steps averaged into one point of a training curve: few enough to see the shape, many enough to hide the noise.
POINT = 20


@contextmanager
def space(out: str | Path) -> Iterator[Path]:
    """The work directory of an output; kept when the block fails, so that the next run resumes, else removed."""
    out = Path(out)
    place = out.with_name(f".{out.name}.work")
    place.mkdir(parents=True, exist_ok=True)
    yield place
    if is_main():
        shutil.rmtree(place, ignore_errors=True)


class Curve:
    """A training curve: the mean of each loss part over every `POINT` steps, on disk so that a resumed run has it whole."""

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
            found.append((group[-1], {name: sum(self.steps[i].get(name, 0.0) for i in group) / len(group) for name in names}))
        return tuple(found)
