"""What a compression found, as its report has it: the frontier of all that was tried, and notes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from attar.compression.budget import SAID, Budget
from attar.compression.search import Tried
from attar.compression.shipping import Shipped
from attar.maths.statistics import Interval
from attar.report.formatting import metric_name
from attar.report.frontier import Frontier, FrontierPoint, State
from attar.report.report import Report, Role, Row

# Its row in the report.
TEACHER = "teacher"


@dataclass(frozen=True)
class Finalist:
    """A candidate with its export."""

    tried: Tried
    shipped: Shipped


@dataclass(frozen=True)
class Outcome:
    """What a compression found.

    Attributes:
        budget: with all limits as numbers, in milliseconds of the time when the teacher's latency was measured.
        kept: what part of the teacher's figure some metrics keep.
        main: name of that figure.
        teacher: its exports, by precision.
        tried: every candidate of the search.
        chosen: the winner as the search left it.
        final: the winner after the last training.
        neighbours: the same proportions for a larger and a smaller budget.
        baselines: plainer ways to the budget, by name.
        left_out: what there was no time for.
        precisions: whether the teacher has a row in the report for each precision, else one in fp32.
    """

    budget: Budget
    kept: Callable[[Mapping[str, float]], float]
    main: str
    teacher: Mapping[str, Shipped]
    tried: Sequence[Tried]
    chosen: Tried
    final: Finalist
    neighbours: Sequence[Tried]
    baselines: Mapping[str, Shipped]
    left_out: Sequence[str] = ()
    precisions: bool = True

    def rows(self, student: str) -> dict[str, tuple[Role, Shipped]]:
        """What the report has a row of, by name, the teacher first.

        Args:
            student: its name, that of a directory; where another row has it, the student gets a longer one.
        """
        others = {in_precision(name): made for name, made in self.teacher.items() if name != "fp32"}
        others = {**(others if self.precisions else {}), **self.baselines}
        while student in {TEACHER, *others}:
            student += " (student)"
        return {
            TEACHER: ("teacher", self.teacher["fp32"]),
            student: ("student", self.final.shipped),
            **{name: ("baseline", made) for name, made in others.items()},
        }

    def timed_in_turns(self, asked: Budget, rows: Mapping[str, Row]) -> "Outcome":
        """The same with latencies of one time, in which the report timed the exports in turns.

        What the report has no row of, and what was predicted, has its latency as a part of the teacher's.

        Args:
            asked: the budget as it was given.
            rows: of the report, by the names that `rows` gives them.
        """
        row = rows[TEACHER]
        assert row.p50 is not None
        whole = 1e3 * row.p50
        pace = whole / self.teacher["fp32"].costs["latency"]

        def measured(made: Shipped, row: Row | None) -> Shipped:
            if row is None or row.p50 is None or row.speedup is None:
                found = {"latency": whole / made.costs["speedup"]}
            else:
                found = {"latency": 1e3 * row.p50, "speedup": row.speedup.value}
            return replace(made, costs={**made.costs, **found})

        def predicted(one: Tried) -> Tried:
            return replace(one, costs={**one.costs, "latency": pace * one.costs["latency"]})

        student = next(row for row in rows.values() if row.role == "student")
        teacher = {
            name: measured(made, row if name == "fp32" else rows.get(in_precision(name)))
            for name, made in self.teacher.items()
        }
        return replace(
            self,
            budget=asked.against(teacher["fp32"].costs),
            teacher=teacher,
            tried=[predicted(one) for one in self.tried],
            chosen=predicted(self.chosen),
            final=Finalist(predicted(self.final.tried), measured(self.final.shipped, student)),
            neighbours=[predicted(one) for one in self.neighbours],
            baselines={name: measured(made, rows.get(name)) for name, made in self.baselines.items()},
        )

    def short(self, report: Report) -> Interval | None:
        """What the result keeps of the test table, where that is less than was asked for."""
        retained = None if report.student is None else report.student.retained
        if self.budget.keep is None or retained is None or retained.value >= self.budget.keep:
            return None
        return retained

    def notes(self, over: Mapping[str, float], report: Report) -> list[str]:
        """What is missed, by how much, and what other budgets would buy.

        Args:
            over: the limits that the export breaks, and the factor by which.
        """
        costs, found = self.final.shipped.costs, []
        for name, ratio in over.items():
            said = SAID[name](float(f"{costs[name]:.3g}"))
            if name == "latency":
                said += f", {costs['speedup']:.3g}x faster than the model"
            found.append(
                f"{name} is {100 * (ratio - 1):.2g}% over its limit: {said}, which would have to be the limit"
            )
        if retained := self.short(report):
            said = f"{retained.value:.1%} ({retained.low:.1%} to {retained.high:.1%})"
            found.append(
                f"keep is short: {said} on the test texts, {self.budget.keep:.1%} was asked for; "
                "more time or a larger budget keeps more"
            )
        for one in self.neighbours:
            change = 100 * (one.kept - self.chosen.kept)
            found.append(f"{one.stopped}: {one.candidate}, {change:+.1f} points on dev after as many steps")
        if self.final.shipped.int8:
            found.append(f"int8: {self.final.shipped.int8}")
        if self.left_out:
            found.append(f"left out, as there was no time for it: {'; '.join(self.left_out)}")
        return found

    def frontier(self) -> Frontier:
        """Every candidate, for the page."""
        final = self.final.tried
        points = [
            self._measured(f"teacher, {name}", "teacher" if name == "fp32" else "baseline", made)
            for name, made in self.teacher.items()
        ]
        points += [self._measured(name, "baseline", made) for name, made in self.baselines.items()]
        points += [
            _predicted(one, "stopped" if one.stopped.startswith("behind") else "tried")
            for one in self.tried
            if one.rungs and one.candidate != final.candidate
        ]
        points += [_predicted(one, "neighbour") for one in self.neighbours]
        points.append(self._measured(str(final.candidate), "chosen", self.final.shipped, final.steps))
        limits = {"latency": 1e-3, "size": 1e6, "keep": 1.0}
        asked = {
            name: scale * value for name, scale in limits.items() if (value := getattr(self.budget, name))
        }
        if "size" in asked:
            asked["bytes"] = asked.pop("size")
        what = (
            "agreement with the teacher"
            if self.main == "agreement"
            else f"teacher's {metric_name(self.main)}"
        )
        return Frontier(tuple(points), what, asked)

    def _measured(self, name: str, state: State, made: Shipped, steps: int = 0) -> FrontierPoint:
        costs = made.costs["latency"] / 1e3, made.costs["size"] * 1e6
        return FrontierPoint(name, state, self.kept(made.metrics), *costs, steps)


def in_precision(name: str) -> str:
    """The name of the teacher's export in a precision other than fp32."""
    return f"{TEACHER} in {name}"


def _predicted(one: Tried, state: State) -> FrontierPoint:
    costs = one.costs["latency"] / 1e3, one.costs["size"] * 1e6
    return FrontierPoint(str(one.candidate), state, one.kept, *costs, one.steps, one.stopped)
