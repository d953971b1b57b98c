"""The search: Optuna suggests candidates and stops the worse ones; each rung goes on from the last."""

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cmp_to_key
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from attar.compression.candidate import Candidate, teacher_architecture
from attar.compression.learning import Learning, Trained
from attar.compression.space import Space
from attar.model.checkpoint import digest
from attar.progress import say
from attar.storage.writing import write_atomic

# Each rung has so many times the steps of the one below; of the candidates on a rung one in so many goes on.
FACTOR = 3
# Optuna's random phase, and trials in all: no budget of time is that long.
RANDOM, MOST = 8, 400
# Proportions that do not fit are not asked for again and again.
MISSES = 60
# What a missing part of the floor weighs against the logarithm of a cost.
SHORT = 50.0


@dataclass
class Tried:
    """What became of a candidate.

    Attributes:
        candidate: what it is.
        costs: predicted.
        rungs: the error on each rung that it reached; rung 0 is before training.
        steps: that it has learned for.
        kept: part of the teacher's figure on the dev table, at its last rung.
        stopped: why it went no further; empty while it is in the race.
    """

    candidate: Candidate
    costs: Mapping[str, float]
    rungs: list[float] = field(default_factory=list)
    steps: int = 0
    kept: float = 0.0
    stopped: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)


class Clock:
    """The time that a compression was given; what killed sittings used of it counts.

    Args:
        given: seconds in all; 0 where nothing may be trained.
        record: a file that keeps the seconds that were used, as soon as its place is known.
    """

    def __init__(self, given: float, record: Path | None = None) -> None:
        self.given = given
        self._began = time.monotonic()
        self.record: Path | None = None
        if record is not None:
            self.resume(record)

    def resume(self, record: Path) -> None:
        """Count what was used before, if anything, and write down in the same file what is used."""
        self.record = record
        if record.is_file():
            self._began -= float(record.read_text())

    @property
    def used(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.given - self.used

    def keep(self) -> None:
        """Write down what was used, for a sitting that goes on after this one was killed."""
        if self.record is not None:
            write_atomic(self.record, f"{self.used:.1f}")

    def stop(self) -> None:
        """The work is done: another call begins anew."""
        if self.record is not None:
            self.record.unlink(missing_ok=True)


class Search:
    """Successive halving over the candidates of a space (1502.07943; asynchronous, as in 1810.05934).

    Args:
        place: where the study is kept; a killed search goes on from there.
        figure: what part of the teacher's figure metrics of the dev table keep.
        rungs: steps of each rung, in all; the first is 0.
        floor: the part that must be kept, where a cost is minimised.
        seed: of the sampler.
        blind: draw candidates at random and train each to the end: what a search is held against.
    """

    def __init__(
        self,
        space: Space,
        learning: Learning,
        place: Path,
        *,
        figure: Callable[[Mapping[str, float]], float],
        rungs: Sequence[int],
        floor: float | None,
        seed: int,
        blind: bool = False,
    ) -> None:
        self.space, self.learning, self.figure = space, learning, figure
        self.blind = blind
        self.rungs, self.floor = tuple(rungs), floor
        self.tried: dict[int, Tried] = {}
        place.mkdir(parents=True, exist_ok=True)
        self.place = place
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.random = optuna.samplers.RandomSampler(seed=seed)
        self.sampler: optuna.samplers.BaseSampler = optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=RANDOM
        )
        pruner: optuna.pruners.BasePruner = optuna.pruners.SuccessiveHalvingPruner(
            min_resource=1, reduction_factor=FACTOR
        )
        if blind:
            self.sampler, pruner = self.random, optuna.pruners.NopPruner()
        # Optuna refuses a study whose choices are others than they were.
        choices = [space.ways, space.axes, space.vocabularies, space.precisions]
        storage = JournalStorage(JournalFileBackend(str(place / "study.log")))
        self.study = optuna.create_study(
            study_name=f"compress-{digest(space.budget.given, choices, rungs, floor, seed, blind)}",
            storage=storage,
            load_if_exists=True,
            direction="minimize",
            sampler=self.sampler,
            pruner=pruner,
        )
        self._again()

    def _again(self) -> None:
        """Take up what a killed search left: its last trial is tried again, from what is on disk."""
        trials = self.study.get_trials(deepcopy=False)
        if not trials and not self.blind:
            for params in self._first():
                self.study.enqueue_trial(params, skip_if_exists=True)
        for trial in trials:
            if trial.state == TrialState.RUNNING:
                self.study.tell(trial.number, state=TrialState.FAIL)
                self.study.enqueue_trial(trial.params)
            elif "tried" in trial.user_attrs:
                kept = dict(trial.user_attrs["tried"])
                kept["candidate"] = Candidate.of(kept["candidate"])
                self.tried[trial.number] = Tried(**kept)

    def _first(self) -> list[dict[str, Any]]:
        """What is tried first; where nothing is trained, each way once before any again."""
        found, seen = self.space.defaults(), Counter[str]()
        if len(self.rungs) > 1:
            return found
        turns = []
        for params in found:
            key = params["way"] + params.get("axes", "")
            turns.append(seen[key])
            seen[key] += 1
        return [found[n] for n in sorted(range(len(found)), key=turns.__getitem__)]

    def run(self, clock: Clock, until: float, least: int = 1) -> None:
        """Try candidates until so many seconds of the clock are used, and some in any case.

        Args:
            least: how many at least.
        """
        misses = 0
        while (clock.used < until or len(self.tried) < least) and len(self.tried) < MOST and misses < MISSES:
            # What was tried before is suggested again and again by a sampler that learns from it.
            self.study.sampler = self.random if misses else self.sampler
            trial = self.study.ask()
            candidate = self.space.suggest(trial)
            twin = None if candidate is None else self._same(candidate)
            if candidate is None or twin is not None:
                misses += 1
                # A twin has the value of the first; proportions that do not fit have none.
                state = TrialState.FAIL if twin is None or not twin.rungs else TrialState.COMPLETE
                self.study.tell(trial, twin.rungs[-1] if twin and twin.rungs else None, state=state)
                continue
            misses = 0
            self._try(trial, candidate, clock, until)
            clock.keep()

    def _same(self, candidate: Candidate) -> Tried | None:
        return next((one for one in self.tried.values() if one.candidate == candidate), None)

    def _try(self, trial: optuna.Trial, candidate: Candidate, clock: Clock, until: float) -> None:
        one = Tried(candidate, dict(self.space.costs(candidate)), params=trial.params)
        self.tried[trial.number] = one
        for rung, steps in enumerate(self.rungs):
            if rung and candidate.architecture == teacher_architecture(self.space.bound):
                break  # it has nothing to learn from itself
            if rung and clock.used + self._seconds(candidate, steps) > until:
                one.stopped = "no time for the next rung"
                break
            found = self._reach(candidate, steps)
            one.steps, one.kept = steps, self.figure(found.metrics)
            one.rungs.append(self._error(one, found.metrics))
            trial.report(one.rungs[-1], FACTOR**rung)
            if rung + 1 < len(self.rungs) and trial.should_prune():
                one.stopped = f"behind others after {steps} steps"
                break
        kept = {
            **vars(one),
            "candidate": candidate.settings,
            "costs": dict(one.costs),
            "params": dict(one.params),
        }
        trial.set_user_attr("tried", json.loads(json.dumps(kept)))
        self.study.tell(trial, one.rungs[-1] if one.rungs else math.inf)
        say(f"{candidate}: keeps {one.kept:.1%} after {one.steps:,} steps; {one.stopped or 'a finalist'}")

    def _reach(self, candidate: Candidate, steps: int) -> Trained:
        known = self.learning.known(candidate.architecture, steps)
        if known is None:
            found = self.learning.trained(candidate.architecture, steps)
        else:
            found = Trained(self.learning.texts.loaded.model, steps, known["metrics"], known["seconds"])
        return found

    def _seconds(self, candidate: Candidate, steps: int) -> float:
        """What it will take to bring a candidate to so many steps."""
        if self.learning.known(candidate.architecture, steps) is not None:
            return 0.0
        done = self.learning.steps_done(candidate.architecture, steps)
        return (steps - done) * self.learning.pace(candidate.architecture)

    def _error(self, one: Tried, metrics: Mapping[str, float]) -> float:
        """What is minimised: the distance from the teacher; or a cost, and what is short of the floor."""
        if self.space.free is None or self.floor is None:
            return distance(metrics)
        left = len(self.rungs) - 1 - len(one.rungs)
        expected = 1 - (1 - one.kept) * GAIN**left
        return math.log(one.costs[self.space.free]) + SHORT * max(0.0, self.floor - expected)

    def finalists(self, count: int) -> list[Tried]:
        """The best candidates, the best first: of two the one that was better on the last rung that both reached.

        On the last rungs those that came first would win otherwise, since time ends before others reach them.
        """
        fitting = [one for one in self.tried.values() if one.rungs]
        furthest = sorted(fitting, key=lambda one: (-len(one.rungs), one.rungs[-1]))
        return sorted(furthest, key=cmp_to_key(_behind))[:count]


def _behind(one: Tried, other: Tried) -> int:
    rung = min(len(one.rungs), len(other.rungs)) - 1
    return (one.rungs[rung] > other.rungs[rung]) - (one.rungs[rung] < other.rungs[rung])


# What a rung of training leaves of the part that is not kept, until measured otherwise.
GAIN = 0.75


def distance(metrics: Mapping[str, float]) -> float:
    """How far a candidate is from its teacher: KL in nats where there is one, else what is not agreed with.

    Of a language model its bits per byte.
    """
    if "bits_per_byte" in metrics:
        return metrics["bits_per_byte"]
    kl = metrics.get("kl", math.nan)
    return kl if math.isfinite(kl) else 1.0 - metrics.get("agreement", 0.0)


def announce(rungs: Sequence[int], seconds: float, step: float) -> None:
    """Say what a search of so many seconds can do."""
    said = ", ".join(f"{n:,}" for n in rungs[1:]) or "none"
    say(
        f"search: about {seconds:.0f} seconds; rungs of {said} steps, {step:.3g} seconds a step of the first candidate"
    )
