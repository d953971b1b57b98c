"""How `attar compress` shares out the time that it was given."""

from hypothesis import given
from hypothesis import strategies as st

from attar.compression.finalists import SEARCHING, searching

SECONDS = st.floats(1, 1e5)


@given(left=SECONDS, end=SECONDS)
def test_a_search_takes_its_part_where_the_winner_can_be_trained_and_else_all_but_the_end(left, end):
    found = searching(left, end)
    assert found >= SEARCHING * left
    trainable = left - found - 2 * end > 0
    assert found == SEARCHING * left if trainable else found >= min(left - end, left)


@given(end=SECONDS)
def test_a_long_run_keeps_most_of_its_time_for_the_winner(end):
    assert searching(100 * end, end) == SEARCHING * 100 * end
