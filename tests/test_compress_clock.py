"""How `attar compress` shares out the time that it was given."""

from hypothesis import given
from hypothesis import strategies as st

from attar.compression.finalists import FEWEST_TRAINED, SEARCHING, searching

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
