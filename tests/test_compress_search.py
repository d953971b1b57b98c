"""Laws of the search: candidates fill the budget, few learn long, and nothing is trained twice."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from attar.compression.candidate import Candidate
from attar.compression.live_table import live_table
from attar.compression.search import FACTOR, Clock, Search, Tried
from attar.errors import PlanError
from attar.report.formatting import plain_text
from compressing import Ticks, costs, space


@pytest.mark.parametrize("limit", ["40k params", "4 ms", "0.2 MB", "60k params, 4 ms"])
def test_a_suggested_candidate_fits_and_the_next_size_does_not(limit):
    import optuna

    found = space(limit)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    candidates = [found.suggest(study.ask()) for _ in range(60)]
    ways = {one.architecture.way for one in candidates if one is not None}
    assert ways == {"distil", "prune", "drop"}
    for one in candidates:
        if one is None:
            continue
        assert found.fits(one)
        a = one.architecture
        if a.way == "distil" and a.hidden < 64 and a.hidden > found.step:
            ratio, part = a.ffn / a.hidden, a.embedding / a.hidden
            larger = vars(a) | {"hidden": a.hidden + found.step}
            larger["ffn"], larger["embedding"] = (
                round(larger["hidden"] * ratio),
                round(larger["hidden"] * part),
            )
            assert costs(one.but(architecture=type(a)(**larger)))["parameters"] > costs(one)["parameters"]
            assert not found.fits(one.but(architecture=type(a)(**larger))) or part < 1


@pytest.mark.parametrize("ways", [("distil",), ("prune",), ("drop",), ("prune", "drop")])
def test_what_is_tried_first_comes_about_in_the_ways_that_are_asked_for(ways):
    import optuna

    found = space("60k params", ways=ways, axes=("all",) if "prune" in ways else ())
    first = [found.suggest(optuna.trial.FixedTrial(params)) for params in found.defaults()]
    assert {one.architecture.way for one in first} == set(ways)


def test_where_most_may_stay_pruned_forms_are_tried_first():
    whole = costs(Candidate(space("1 params")._dropped(4)))["parameters"]
    for part, first in ((0.7, "prune"), (0.3, "distil")):
        found = space(f"{part * whole} params", vocabularies=("all",))
        assert found.defaults()[0]["way"] == first


def test_a_smaller_budget_has_a_smaller_candidate_of_the_same_proportions():
    found = space("60k params")
    one = found.largest_student(Candidate(found._dropped(4)), layers=3, size=16, ratio=2.0, part=1.0)
    less, more = found.scaled(one, 0.5), found.scaled(one, 1.3)
    assert costs(less)["parameters"] < costs(one)["parameters"] < costs(more)["parameters"]
    assert less.architecture.layers == more.architecture.layers == 3


@pytest.mark.parametrize(("ways", "layers"), [(("drop",), 1), (("prune",), 4), (("distil", "drop"), 1)])
def test_the_smallest_that_a_budget_can_be_comes_about_in_the_ways_that_are_asked_for(ways, layers):
    found = space("60k params", ways=ways, axes=("all",) if "prune" in ways else ())
    smallest = found.smallest()
    assert smallest.architecture.way == ways[0]
    assert smallest.architecture.layers == layers
    assert (smallest.vocabulary, smallest.precision) == ("used", "int8")
    assert smallest.architecture.way != "prune" or smallest.architecture.budget == 0.01


def test_the_teacher_itself_is_a_candidate_and_is_not_trained(tmp_path):
    """In int8, or without tokens that the texts have not."""
    whole = costs(Candidate(space("1 MB")._dropped(4), "all", "int8"))["size"]
    learning, search = Pretended(), None
    options = {"figure": lambda metrics: metrics["agreement"], "rungs": (0, 10), "floor": None, "seed": 0}
    search = Search(space(f"{1.01 * whole} MB"), learning, tmp_path, **options)
    search.run(Ticks(60, tmp_path / "clock"), 60)
    teacher = [one for one in search.tried.values() if one.candidate.architecture.layers == 4
               and one.candidate.architecture.way == "drop"]  # fmt: skip
    assert teacher
    assert {one.steps for one in teacher} == {0}
    assert not any(one.stopped for one in teacher)
    assert all(one.candidate.precision == "int8" for one in teacher)


def test_what_pruning_cannot_reach_is_no_candidate():
    """Under a third of the parameters there is nothing that may go."""

    def stubborn(candidate):
        if candidate.architecture.budget < 0.33:
            raise PlanError(expected="more", found="less", fix="more")
        return costs(candidate)

    whole = costs(Candidate(space("1 params")._dropped(4)))["parameters"]
    for part, possible in ((0.5, True), (0.2, False)):
        base = space(f"{part * whole} params")
        found = replace(base, costs=stubborn).largest_pruned(Candidate(base._dropped(4)), "heads, FFN")
        assert (found is not None) == possible
        assert found is None or found.architecture.budget == pytest.approx(part)


def test_a_free_cost_has_a_ceiling_that_is_searched_for():
    import optuna

    found = space("keep 90%", free="latency")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = [costs(one)["latency"] for _ in range(60) if (one := found.suggest(study.ask())) is not None]
    assert min(seen) < 0.2 * max(seen)


class Pretended:
    """Learning without models: errors fall with sizes and steps, and what is asked for is noted."""

    def __init__(self, die_at=None):
        self.calls, self.die_at = [], die_at
        self.record = {}
        self.texts = SimpleNamespace(loaded=SimpleNamespace(model=None))

    def _reach(self, architecture, steps):
        if self.die_at is not None and len(self.calls) == self.die_at:
            raise KeyboardInterrupt
        assert (architecture, steps) not in self.calls  # nothing is trained twice
        self.calls.append((architecture, steps))
        error = 1 / (architecture.hidden * architecture.layers) + 1 / (1 + steps)
        entry = {"metrics": {"kl": error, "agreement": 1 - error}, "seconds": 0.0}
        self.record[architecture, steps] = entry
        return SimpleNamespace(model=None, steps=steps, **entry)

    def trained(self, architecture, steps):
        return self._reach(architecture, steps)

    def known(self, architecture, steps):
        return self.record.get((architecture, steps))

    def steps_done(self, architecture, most):
        return max((n for one, n in self.record if one == architecture and n <= most), default=0)

    def pace(self, architecture):
        return 0.0


def searching(place, learning):
    options = {"figure": lambda metrics: metrics["agreement"], "rungs": (0, 10, 30), "floor": None, "seed": 0}
    return Search(space("40k params"), learning, place, **options)


def test_few_candidates_learn_long_and_the_best_is_among_them(tmp_path):
    learning = Pretended()
    search = searching(tmp_path, learning)
    search.run(Ticks(200, tmp_path / "clock"), 200)
    reached = [sum(1 for _, steps in learning.calls if steps == rung) for rung in (0, 10, 30)]
    assert reached[0] > 3 * reached[2] > 0
    assert reached[0] > reached[1] > reached[2]
    best = search.finalists(1)[0]
    errors = [
        1 / (one.candidate.architecture.hidden * one.candidate.architecture.layers)
        for one in search.tried.values()
    ]
    own = best.candidate.architecture
    assert 1 / (own.hidden * own.layers) <= sorted(errors)[len(errors) // FACTOR]
    assert all(one.stopped for one in search.tried.values() if len(one.rungs) < 3)


def test_the_live_table_fits_80_columns_and_its_counts_are_those_of_the_search(tmp_path):
    search = searching(tmp_path, Pretended())
    search.run(Ticks(200, tmp_path / "clock"), 200)
    clock = Clock(1800, tmp_path / "time")
    lines = plain_text(live_table(search.tried, search.rungs, clock)(), 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert "30 minutes left" in " ".join(lines)
    reached = [sum(len(one.rungs) > n for one in search.tried.values()) for n in range(3)]
    assert "0: {}, 10: {}, 30: {}".format(*reached) in " ".join(lines)
    best = search.finalists(1)[0]
    assert f"{best.kept:.1%}" in lines[1]
    assert lines[1].split()[-1] == "finalist"
    one = next(one for one in search.tried.values() if len(one.rungs) == 1)
    one.stopped = ""
    table = live_table(search.tried, search.rungs, clock)()
    assert plain_text(table, 80).splitlines()[1].split()[-1] == "running"


def test_a_killed_search_goes_on_and_repeats_nothing(tmp_path):
    learning = Pretended(die_at=9)
    with pytest.raises(KeyboardInterrupt):
        searching(tmp_path, learning).run(Ticks(60, tmp_path / "clock"), 60)
    before = list(learning.calls)
    learning.die_at = None
    again = searching(tmp_path, learning)
    again.run(Ticks(60, tmp_path / "clock"), 60)
    assert learning.calls[: len(before)] == before
    known = {one.candidate.architecture for one in again.tried.values()}
    assert {architecture for architecture, _ in before} <= known


def test_other_ways_are_another_search_in_the_same_place(tmp_path):
    options = {"figure": lambda metrics: metrics["agreement"], "rungs": (0, 10), "floor": None, "seed": 0}
    for ways in (("distil", "drop"), ("drop",)):
        search = Search(space("40k params", ways=ways, axes=()), Pretended(), tmp_path, **options)
        search.run(Ticks(40, tmp_path / "clock"), 40)
        assert {one.candidate.architecture.way for one in search.tried.values()} <= set(ways)
        assert search.tried


def test_time_that_a_killed_sitting_used_counts(tmp_path):
    first = Clock(100, tmp_path / "clock")
    first._began -= 40
    first.keep()
    second = Clock(100, tmp_path / "clock")
    assert 59 < second.left < 61
    second.stop()
    assert Clock(100, tmp_path / "clock").left > 99


def test_a_candidate_that_time_cut_short_is_held_against_others_where_both_were(tmp_path):
    search = searching(tmp_path, Pretended())
    rungs = {"slow": [9.0, 2.0, 1.0], "late": [8.0, 1.5], "weak": [9.5]}
    search.tried = {n: Tried(name, {}, errors) for n, (name, errors) in enumerate(rungs.items())}
    assert [one.candidate for one in search.finalists(3)] == ["late", "slow", "weak"]


def test_random_search_trains_every_candidate_to_the_end(tmp_path):
    learning = Pretended()
    options = {"figure": lambda metrics: metrics["agreement"], "rungs": (0, 10), "floor": None, "seed": 0}
    search = Search(space("40k params"), learning, tmp_path, **options, blind=True)
    search.run(Ticks(60, tmp_path / "clock"), 60)
    reached = [one.steps for one in search.tried.values() if one.stopped != "no time for the next rung"]
    assert len(reached) > 3
    assert set(reached) == {10}


def test_a_neighbour_of_a_candidate_whose_cost_is_free_costs_a_fifth_more():
    found = space("keep 90%", free="latency")
    whole = found.largest_student(Candidate(found._dropped(4)), layers=3, size=16, ratio=2.0, part=1.0)
    less = found.scaled(whole, 0.5)
    more = found.scaled(less, 1.9)
    assert costs(less)["latency"] <= 0.5 * costs(whole)["latency"]
    assert costs(less)["latency"] < costs(more)["latency"] <= 1.9 * costs(less)["latency"]
