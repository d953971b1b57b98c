"""The candidates of a budget: proportions are suggested by Optuna, and the size that fills the budget is computed."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import optuna

from attar.anatomy.resolve import Bound
from attar.compression.budget import CEILINGS, Budget
from attar.compression.candidate import Architecture, Candidate, teacher_architecture
from attar.errors import PlanError

# Hidden sizes are multiples of this: matrix kernels take so many numbers at once. Small models have finer steps.
STEP = 16
HEAD_SIZES = (16, 32, 64)
FFN_RATIOS = (1.0, 2.0, 3.0, 4.0)
EMBEDDINGS = (1.0, 0.5)
# Parts of the parameters of which a pruned model is tried.
FINEST = 100
# Times of the same export differ by a few hundredths: what is filled leaves some room.
MARGIN = {"latency": 0.96, "memory": 0.96}
# Where so much of each of the teacher's costs may stay, what was pruned and fitted begins nearer to it than students.
MILD = 0.4
# Candidates that are measured, of the same proportions, until one fills the budget.
SETTLING = 3
# A candidate that minimises a cost is looked for between these parts of the teacher's.
LEAST, MOST = 0.02, 0.9

Costs = Callable[[Candidate], Mapping[str, float]]


@dataclass(frozen=True)
class Space:
    """What may be tried.

    Attributes:
        bound: the teacher.
        costs: what a candidate costs, by the names of the limits.
        budget: the ceilings.
        ways, axes: how candidates come about, and what pruned ones are cut along.
        vocabularies, precisions: of exports.
        free: the cost that is minimised where quality has a floor; None where quality is maximised.
        measure: makes what is predicted of a candidate, and of those like it, more certain; False where it did not.
    """

    bound: Bound
    costs: Costs
    budget: Budget
    ways: Sequence[str]
    axes: Sequence[str]
    vocabularies: Sequence[str]
    precisions: Sequence[str]
    free: str | None = None
    measure: Callable[[Candidate], bool] = lambda candidate: False

    def fits(self, candidate: Candidate, scale: float = 1.0) -> bool:
        """Whether the predicted costs are within the ceilings times a factor."""
        return not self.broken(self.costs(candidate), scale, MARGIN)

    def broken(
        self, costs: Mapping[str, float], scale: float = 1.0, margin: Mapping[str, float] | None = None
    ) -> dict[str, float]:
        """The limits that costs are over, with the factor by which."""
        return self.budget.broken(costs, scale, margin)

    def suggest(self, trial: optuna.trial.BaseTrial) -> Candidate | None:
        """A candidate that fits, with the largest size that does; None where there is none of these proportions."""
        space = self._at(trial)
        candidate = Candidate(
            teacher_architecture(self.bound),
            trial.suggest_categorical("vocabulary", list(self.vocabularies)),  # type: ignore[arg-type]
            trial.suggest_categorical("precision", list(self.precisions)),  # type: ignore[arg-type]
        )
        way, depth = trial.suggest_categorical("way", list(self.ways)), self.bound.shape.layers
        if way == "distil":
            shape: dict[str, Any] = {
                "layers": trial.suggest_int("layers", 1, depth),
                "size": trial.suggest_categorical("head", list(HEAD_SIZES)),
                "ratio": trial.suggest_categorical("ffn", list(FFN_RATIOS)),
                "part": trial.suggest_categorical("embedding", self.embeddings),
            }
            return space.largest_student(candidate, **shape)
        if way == "drop":
            found = candidate.but(architecture=self._dropped(trial.suggest_int("kept", 1, depth)))
            return space.settled(lambda: found if space.fits(found) else None)
        return space.largest_pruned(candidate, trial.suggest_categorical("axes", list(self.axes)))

    def _at(self, trial: optuna.trial.BaseTrial) -> "Space":
        """The space with a ceiling on the cost that is free, where there is one."""
        if self.free is None:
            return self
        part = trial.suggest_float("part", LEAST, MOST, log=True)
        whole = self.costs(Candidate(teacher_architecture(self.bound)))[self.free]
        budget = Budget(**{**self.budget.given, self.free: part * whole})
        return replace(self, budget=budget, free=None)

    def settled(self, find: Callable[[], Candidate | None]) -> Candidate | None:
        """What is found once the costs of what is found first are measured, which may change what fits."""
        for _ in range(SETTLING):
            found = find()
            if found is None or not self.measure(found):
                return found
        return find()

    @property
    def embeddings(self) -> list[float]:
        """Sizes of the embedding that students of the family may have, as parts of the hidden size."""
        anatomy = self.bound.anatomy
        return [1.0] if anatomy.pre_norm or anatomy.causal else list(EMBEDDINGS)

    def scaled(self, candidate: Candidate, scale: float) -> Candidate | None:
        """A candidate of the same proportions for the ceilings times a factor."""
        given = dict(self.budget.given)
        if self.free is not None:
            given[self.free] = self.costs(candidate)[self.free]
        budget = {name: value * scale if name in CEILINGS else value for name, value in given.items()}
        space = replace(self, budget=Budget(**budget), free=None)
        a = candidate.architecture
        if a.way == "prune":
            return space.largest_pruned(candidate, a.axes)
        if a.way == "drop":
            shorter = (
                candidate.but(architecture=self._dropped(n)) for n in range(1, self.bound.shape.layers + 1)
            )
            return max(filter(space.fits, shorter), key=lambda one: one.architecture.layers, default=None)
        return space.largest_student(
            candidate,
            layers=a.layers,
            size=a.hidden // a.heads,
            ratio=a.ffn / a.hidden,
            part=a.embedding / a.hidden,
        )

    def smallest(self) -> Candidate:
        """About the smallest candidate that there is: what no budget can be below."""
        heads = _heads(self.bound, self.step, self.step)
        smallest = [Architecture("distil", 1, self.step, heads, self.step, self.step)]
        if "distil" not in self.ways:
            smallest = [self._dropped(1)] if "drop" in self.ways else []
            smallest += map(self._smallest_pruned, self.axes)
        return min(
            (
                Candidate(architecture, vocabulary, precision)  # type: ignore[arg-type]
                for architecture in smallest
                for vocabulary in self.vocabularies
                for precision in self.precisions
            ),
            key=lambda candidate: self.costs(candidate)["size"],
        )

    def largest_student(
        self, candidate: Candidate, *, layers: int, size: int, ratio: float, part: float
    ) -> Candidate | None:
        """The widest student of some proportions that fits."""
        step = self.step

        def of(number: int) -> Candidate:
            hidden = number * step
            heads = _heads(self.bound, hidden, size)
            embedding = hidden if part == 1 else max(step, round(hidden * part / step) * step)
            sizes = Architecture("distil", layers, hidden, heads, max(step, round(hidden * ratio)), embedding)
            return candidate.but(architecture=sizes)

        return self.settled(lambda: _largest(of, self.bound.shape.hidden // step, self.fits))

    def largest_pruned(self, candidate: Candidate, axes: str) -> Candidate | None:
        """The largest pruned form that fits."""
        own = self.bound.shape

        def of(number: int) -> Candidate:
            sizes = (own.layers, own.hidden, own.heads, own.ffn, own.embedding)
            return candidate.but(architecture=Architecture("prune", *sizes, axes, number / FINEST))

        def within(candidate: Candidate) -> bool:
            try:
                return self.fits(candidate)
            except PlanError:  # smaller than what must stay, so it is no candidate, but larger ones may be
                return True

        def find() -> Candidate | None:
            found = _largest(of, FINEST - 1, within)
            try:
                return found if found is not None and self.fits(found) else None
            except PlanError:
                return None

        return self.settled(find)

    def _smallest_pruned(self, axes: str) -> Architecture:
        own = self.bound.shape
        sizes = (own.layers, own.hidden, own.heads, own.ffn, own.embedding)
        for number in range(1, FINEST):
            found = Architecture("prune", *sizes, axes, number / FINEST)
            with suppress(PlanError):  # less than what must stay
                self.costs(Candidate(found))
                return found
        return teacher_architecture(self.bound)

    @property
    def step(self) -> int:
        """What hidden sizes are multiples of; of the heads that share keys and values, too."""
        own = self.bound.shape
        return own.group * max(1, min(STEP, own.hidden // (8 * own.group)))

    def _dropped(self, layers: int) -> Architecture:
        own = self.bound.shape
        return Architecture("drop", layers, own.hidden, own.heads, own.ffn, own.embedding)

    def defaults(self) -> list[dict[str, Any]]:
        """Proportions to begin with: what is usually good, so that the first candidates are worth their time."""
        depth = self.bound.shape.layers
        found: list[dict[str, Any]] = []
        for precision in self.precisions:
            common = {"vocabulary": self.vocabularies[-1], "precision": precision}
            depths = (max(1, round(depth * 2 / 3)), max(1, depth // 2)) if "distil" in self.ways else ()
            for layers in dict.fromkeys(depths):
                sizes = {"layers": layers, "head": 32, "ffn": 2.0, "embedding": self.embeddings[-1]}
                found.append({**common, "way": "distil", **sizes})
        for axes in self.axes:
            common = {"vocabulary": self.vocabularies[-1], "precision": self.precisions[-1]}
            found.append({**common, "way": "prune", "axes": axes})
        # All of them are the teacher itself, in int8 or with fewer tokens.
        drops = [n for n in range(1, depth + 1) if self._drop_fits(n)]
        if drops and "drop" in self.ways:
            common = {"vocabulary": self.vocabularies[-1], "precision": self.precisions[-1]}
            found.append({**common, "way": "drop", "kept": max(drops)})
        if self.free is not None:
            return [{**one, "part": part} for one in found for part in (0.5, 0.2, 0.08)]
        whole = self.costs(Candidate(teacher_architecture(self.bound)))
        if min(getattr(self.budget, name) / whole[name] for name in self.budget.limited) >= MILD:
            ways = ("prune", "drop", "distil")
            found.sort(key=lambda one: ways.index(one["way"]))
        return found

    def _drop_fits(self, layers: int) -> bool:
        used, last = self.vocabularies[-1], self.precisions[-1]
        return self.fits(Candidate(self._dropped(layers), used, last))  # type: ignore[arg-type]


def _heads(bound: Bound, hidden: int, size: int) -> int:
    """The number of heads that divides the hidden size and gives heads of about a size.

    Whole groups, where heads share keys and values. Of a decoder sizes in whole eights where there are any: rotary
    positions turn pairs, in some families of a quarter of a head. Where the family gives heads a size of their own, as
    many as the teacher has for its hidden size.
    """
    own = bound.shape
    if own.own_head_dim is not None:
        return own.group * max(1, round(own.heads / own.group * hidden / own.hidden))
    divisors = [n for n in range(own.group, hidden + 1, own.group) if hidden % n == 0]
    units = (8, 4, 2, 1) if bound.anatomy.causal else (1,)
    fitting = ([n for n in divisors if hidden // n % unit == 0] for unit in units)
    return min(next(filter(None, fitting)), key=lambda n: abs(hidden / n - size))


def _largest(
    of: Callable[[int], Candidate], most: int, fits: Callable[[Candidate], bool]
) -> Candidate | None:
    """The candidate of the largest number from 1 to `most` that fits; costs rise with it."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(of(middle)) else (low, middle - 1)
    return of(low) if low else None
