"""How `attar compress` shares out the time that it was given."""

import logging
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.compression.candidate import Candidate
from attar.compression.finalists import FEWEST_TRAINED, SEARCHING, Finalists, searching
from attar.compression.pipeline import Compression
from attar.compression.search import Tried
from compressing import space

SECONDS = st.floats(1, 1e5)


@given(left=SECONDS, end=SECONDS)
def test_a_search_takes_its_part_and_leaves_no_time_that_is_too_short_to_train_in(left, end):
    found = searching(left, end)
    assert found >= SEARCHING * left
    training = left - found - 2 * end
    assert training <= 1e-9 * left or training > FEWEST_TRAINED * left
    if found > SEARCHING * left:  # what it takes more leaves the end what it needs
        assert left - found >= 2 * end * (1 - 1e-9)


@given(end=SECONDS)
def test_a_long_run_keeps_most_of_its_time_for_the_winner(end):
    assert searching(100 * end, end) == SEARCHING * 100 * end


@pytest.mark.parametrize(("left", "few"), [(19.0, True), (-3.0, True), (21.0, False)])
def test_too_little_time_is_said_before_the_search(left, few, caplog):
    caplog.set_level(logging.INFO, logger="attar")
    exports = SimpleNamespace(ending=lambda given, rate: 10.0)
    run = SimpleNamespace(exports=exports, clock=SimpleNamespace(given=60.0, left=left, used=60.0 - left))
    assert Compression._searching(run, 1.0) >= 0
    assert ("seconds are few" in caplog.text) is few


def test_dropped_layers_as_a_baseline_are_fewer_than_the_models():
    """The model itself, in int8, is no such baseline, though it keeps most."""
    found = space("60k params")
    whole, half = (Candidate(found._dropped(n), "all", "int8") for n in (4, 2))
    tried = {n: Tried(one, {}, [0.1], kept=kept) for n, (one, kept) in enumerate([(whole, 1.0), (half, 0.8)])}
    exports = SimpleNamespace(training=True, made=lambda model, candidate, steps: candidate)
    learning = SimpleNamespace(at=lambda architecture, steps: None)
    texts = SimpleNamespace(tables=SimpleNamespace(labelled=None))
    exports.texts = texts
    search = SimpleNamespace(space=found, tried=tried)
    student = found.largest_student(half, layers=2, size=16, ratio=2.0, part=1.0)
    final = SimpleNamespace(tried=Tried(student, {}))
    made = Finalists(learning, search, exports, None, 1.0).baselines(final)
    assert list(made.values()) == [half]
