"""Laws of g(m): any pair of depths, never decreasing, the last student layer learns from the last teacher layer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.errors import RecipeError
from attar.maths.mapping import KINDS, layer_map

depths = st.integers(1, 48)


def test_the_papers_maps():
    assert layer_map(4, 12) == (3, 6, 9, 12)
    assert layer_map(6, 12) == (2, 4, 6, 8, 10, 12)
    assert layer_map(4, 12, "top") == (9, 10, 11, 12)
    assert layer_map(4, 12, "bottom") == (1, 2, 3, 4)


def test_depths_that_do_not_divide():
    assert layer_map(4, 6) == (2, 3, 5, 6)
    assert layer_map(5, 12) == (2, 5, 7, 10, 12)
    assert layer_map(6, 4) == (1, 1, 2, 3, 3, 4)


@given(depths, depths, st.sampled_from(KINDS))
def test_any_pair_of_depths(student, teacher, kind):
    found = layer_map(student, teacher, kind)
    assert len(found) == student
    assert all(1 <= n <= teacher for n in found)
    assert list(found) == sorted(found)
    if kind != "bottom":
        assert found[-1] == teacher
    if student <= teacher:
        assert len(set(found)) == student


@given(depths)
def test_equal_depths_are_the_identity(depth):
    assert {layer_map(depth, depth, kind) for kind in KINDS} == {tuple(range(1, depth + 1))}


@given(depths, st.integers(1, 6))
def test_uniform_is_exact_for_multiples(student, factor):
    assert layer_map(student, student * factor) == tuple(factor * m for m in range(1, student + 1))


def test_explicit_numbers_are_kept():
    assert layer_map(3, 12, [1, 1, 12]) == (1, 1, 12)


@pytest.mark.parametrize("numbers", [[1, 2], [1, 2, 3, 4], [0, 1, 2], [1, 2, 13], [3, 2, 5], []])
def test_explicit_numbers_are_checked(numbers):
    with pytest.raises(RecipeError, match="3 teacher layers from 1 to 12"):
        layer_map(3, 12, numbers)


def test_an_unknown_name_is_told_with_those_that_are_known():
    with pytest.raises(RecipeError, match="uniform, top, bottom"):
        layer_map(3, 12, "unifrom")
