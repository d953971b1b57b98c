"""From what the search left to the winner: exported, trained to the end, and held against plainer ways."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from attar.compression.candidate import Architecture, teacher_architecture
from attar.compression.data import BATCH, Texts
from attar.compression.exports import Exports
from attar.compression.last_training import LastTraining
from attar.compression.learning import EPOCHS, Learning
from attar.compression.outcome import Finalist
from attar.compression.search import Clock, Search, Tried, distance
from attar.compression.shipping import Shipped
from attar.compression.space import Space
from attar.model.checkpoint import digest
from attar.progress import say

# Part of the time for the search; the least part that is worth training the winner in.
SEARCHING, FEWEST_TRAINED = 0.25, 0.1
# Parts of the time: after which no other finalist is exported; that exporting one may take; that labels may be tried.
BEFORE_FINAL, EXPORTING, UNDISTILLED = 0.6, 0.03, 0.08
# With a floor, the winner gets this part of the time; a smaller neighbour, or a larger one where it missed, the rest.
FIRST_ATTEMPT = 0.55
# Finalists that are exported before one is trained.
FINALISTS = 3
# Budgets beside the one that was given, of which the report says what they would buy and cost.
NEIGHBOURS = (1.2, 0.8)
# Part of the time that is left which one of them may take.
BESIDE = 0.05


def searching(left: float, end: float) -> float:
    """Seconds for the search: a part of what is left, or all but two ends where the winner could not be trained on.

    Args:
        end: seconds of the end. Its export, the longest part of it, is also made before the winner is trained on, or
            of a smaller candidate where the first is over the budget.
    """
    part = SEARCHING * left
    return part if left - part - 2 * end > FEWEST_TRAINED * left else max(part, left - 2 * end)


@dataclass(frozen=True)
class Finalists:
    """The best of a search, in the time that is left.

    Attributes:
        learning: trains them.
        search: has tried them.
        exports: makes and judges their exports.
        rate: texts a second that the teacher reads.
    """

    learning: Learning
    search: Search
    exports: Exports
    clock: Clock
    rate: float

    @property
    def texts(self) -> Texts:
        """What they are measured on."""
        return self.exports.texts

    @property
    def space(self) -> Space:
        """What there is."""
        return self.search.space

    @property
    def ending(self) -> float:
        """Seconds that the end takes."""
        return self.exports.ending(self.clock.given, self.rate)

    def verified(self) -> Finalist:
        """The best finalist whose export, as it is now, is within the limits: speed does not depend on weights."""
        found: list[Finalist] = []
        for one in self.search.finalists(FINALISTS):
            late = self.exports.training and (
                self.clock.used > BEFORE_FINAL * self.clock.given
                or self.exports.seconds > EXPORTING * self.clock.given
            )
            done = not self.exports.training and any(
                not self.exports.over(made.shipped.costs) for made in found
            )
            if found and (late or done):
                break
            found.append(self.exported(one))
            worst = max(self.exports.over(found[-1].shipped.costs).values(), default=1.0)
            if worst > 1 and (less := self.space.scaled(one.candidate, 0.98 / worst)) is not None:
                trained = self.learning.trained(less.architecture, one.steps)
                kept = self.texts.kept(trained.metrics)
                smaller = Tried(
                    less, dict(self.space.costs(less)), [distance(trained.metrics)], one.steps, kept
                )
                self.search.tried[-len(found)] = smaller
                found.append(self.exported(smaller))
        fitting = [made for made in found if not self.exports.over(made.shipped.costs)]
        if fitting and self.space.free is not None:
            return fitting[0]
        return min(found, key=lambda made: self.exports.rank(made.shipped))

    def exported(self, one: Tried) -> Finalist:
        """A candidate as it is now, exported and measured."""
        model = self.learning.at(one.candidate.architecture, one.steps)
        made = Finalist(one, self.exports.made(model, one.candidate, one.steps))
        over = self.exports.over(made.shipped.costs)
        said = (
            ", ".join(f"{name} {ratio - 1:.1%} over" for name, ratio in over.items()) or "within the limits"
        )
        say(f"{one.candidate}, exported: {said}; keeps {self.texts.kept(made.shipped.metrics):.1%} on dev")
        return made

    def neighbours(self, chosen: Tried) -> list[Tried]:
        """What a fifth more cost would buy, and a fifth less would lose, on the rung that the winner was chosen on."""
        found = []
        for scale in NEIGHBOURS:
            candidate = self.space.scaled(chosen.candidate, scale)
            if candidate is None or candidate == chosen.candidate:
                continue
            # As its pace is not known before it is built, which takes about as long as it then learns.
            seconds = 2 * self.learning.pace(chosen.candidate.architecture) * chosen.steps
            if seconds > BESIDE * (self.clock.left - self.ending):
                continue
            trained = self.learning.trained(candidate.architecture, chosen.steps)
            costs = dict(self.space.costs(candidate))
            kept = self.texts.kept(trained.metrics)
            found.append(
                Tried(
                    candidate,
                    costs,
                    [distance(trained.metrics)],
                    chosen.steps,
                    kept,
                    f"{scale:g} x the budget",
                )
            )
        return found

    def final(self, finalist: Finalist) -> Finalist:
        """The winner trained to the end; with a floor, a neighbour too, larger where the winner missed the floor."""
        if not self.exports.training or self._teacher(finalist.tried):
            return finalist
        floor = self.exports.budget.keep
        if self.space.free is None or floor is None:
            return self.finished(finalist, 1.0)
        first = self.finished(finalist, FIRST_ATTEMPT)
        met = self.texts.kept(first.shipped.metrics) >= floor
        other = self.space.scaled(finalist.tried.candidate, NEIGHBOURS[1] if met else NEIGHBOURS[0])
        if other is None or other == finalist.tried.candidate or self.clock.left < 2 * self.ending:
            return first
        say(f"{finalist.tried.candidate} {'keeps' if met else 'misses'} the floor on dev: {other} is trained")
        trained = self.learning.trained(other.architecture, finalist.tried.steps)
        one = Tried(other, dict(self.space.costs(other)), [distance(trained.metrics)], trained.steps)
        one.kept = self.texts.kept(trained.metrics)
        second = self.finished(Finalist(one, finalist.shipped), 1.0)
        if second.shipped is finalist.shipped:  # no time was left
            return first

        def worth(made: Finalist) -> tuple[float, float]:
            kept, costs = self.texts.kept(made.shipped.metrics), made.shipped.costs
            return min(kept, floor), costs["speedup"] if self.space.free == "latency" else -costs["size"]

        return max(first, second, key=worth)

    def _teacher(self, one: Tried) -> bool:
        """Whether a candidate is the teacher itself, in another precision or with fewer tokens."""
        return one.candidate.architecture == teacher_architecture(self.space.bound)

    def finished(self, finalist: Finalist, part: float) -> Finalist:
        """A finalist trained for a part of the time that is left, and exported."""
        one = finalist.tried
        architecture = one.candidate.architecture
        end = self.ending + self._undistilled_seconds(architecture)
        until = self.clock.given - end - (1 - part) * (self.clock.left - end)

        def left() -> float:
            self.clock.keep()
            return until - self.clock.used

        if left() > 0:
            say(f"training {one.candidate} for {left():.0f} seconds; {end:.0f} are kept for the end")
        name = digest(self.clock.given, self.exports.budget.given)[:8]
        trained = LastTraining(self.learning, architecture, one.steps, left, self.rate, name).run(
            lambda found: self.texts.kept(found.metrics)
        )
        if trained.steps == one.steps:
            return finalist
        done = replace(one, steps=trained.steps, kept=self.texts.kept(trained.metrics))
        return Finalist(done, self.exports.made(trained.model, one.candidate, trained.steps))

    def _undistilled_seconds(self, architecture: Architecture) -> float:
        """What the baseline on labels takes; 0 where there are none, or it takes too much of the time."""
        labelled = self.texts.tables.labelled
        if labelled is None or not self.exports.training:
            return 0.0
        seconds = EPOCHS * len(labelled) / BATCH * self.learning.pace(architecture)
        return seconds if seconds < UNDISTILLED * self.clock.given else 0.0

    def left_out(self, chosen: Tried, neighbours: Sequence[Tried]) -> list[str]:
        """What the report would have beside the result, had there been time for it."""
        found: list[str] = []
        if not self.exports.training or self._teacher(chosen):
            return found
        scaled = {self.space.scaled(chosen.candidate, scale) for scale in NEIGHBOURS} - {
            None,
            chosen.candidate,
        }
        if len(neighbours) < len(scaled):
            found.append("a fifth more and a fifth less budget")
        if self.texts.tables.labelled is not None and not self._undistilled_seconds(
            chosen.candidate.architecture
        ):
            found.append("the same student without distillation")
        return found

    def baselines(self, final: Finalist) -> dict[str, Shipped]:
        """Plainer ways to the budget: dropped layers as far as the search took them, and the same student on labels."""
        chosen, found = final.tried.candidate, {}
        drops = [
            one
            for one in self.search.tried.values()
            if one.candidate.architecture.way == "drop" and one.rungs and not self._teacher(one)
        ]
        # Without training the search measured all that they are.
        if self.exports.training and drops and chosen.architecture.way != "drop":
            best = max(drops, key=lambda one: one.kept)
            model = self.learning.at(best.candidate.architecture, best.steps)
            found[str(best.candidate)] = self.exports.made(model, best.candidate, best.steps)
        if self._undistilled_seconds(chosen.architecture) and not self._teacher(final.tried):
            assert self.texts.tables.labelled is not None
            steps = EPOCHS * len(self.texts.tables.labelled) // BATCH
            model = self.learning.undistilled(chosen.architecture, steps)
            found["the same, not distilled"] = self.exports.made(model, chosen, -steps)
        return found
