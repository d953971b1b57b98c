"""Laws of budgets: what is said is what is meant, and what means nothing is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.compression.budget import CEILINGS, Budget, budget_of, seconds_of
from attar.errors import RecipeError

LIMITS = (*CEILINGS, "keep", "smaller", "faster")


@given(st.dictionaries(st.sampled_from(LIMITS), st.integers(1, 99), min_size=1))
def test_what_a_budget_says_is_read_as_that_budget(given_limits):
    found = Budget(**{name: n / 100 if name == "keep" else n + 1.0 for name, n in given_limits.items()})
    again = budget_of(str(found))
    assert again.given == pytest.approx(found.given)
    assert budget_of(**found.given).given == pytest.approx(found.given)


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("10 MB, 5 ms, keep 98%", {"size": 10, "latency": 5, "keep": 0.98}),
        ("10mb,5MS", {"size": 10, "latency": 5}),
        ("2 MiB, 300 us", {"size": 2.097152, "latency": 0.3}),
        ("3M params, 2 GFLOPs", {"parameters": 3e6, "flops": 2e9}),
        ("300 MB memory, keep 0.9", {"memory": 300, "keep": 0.9}),
        ("7.5x fewer parameters, 9.4x faster", {"smaller": 7.5, "faster": 9.4}),
        ("Keep 98%, .5 MB,", {"keep": 0.98, "size": 0.5}),
        ("keep .98, 2e9 FLOPs", {"keep": 0.98, "flops": 2e9}),
        ("2 G FLOPs", {"flops": 2e9}),
    ],
)
def test_units_are_those_that_people_write(text, limits):
    assert budget_of(text).given == pytest.approx(limits)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("10 MB, 5 parsecs", "  10 MB, 5 parsecs\n         ^^^^^^^^^"),
        ("fast", "no number in 'fast'"),
        ("10", "no unit in '10'"),
        ("keep 120%", "1.2 (keep 120%)"),
        ("9 ms, keep 120%", "  9 ms, keep 120%\n        ^^^^^^^^^"),
        ("9 ms, 10 MB, 8 ms", "  9 ms, 10 MB, 8 ms\n               ^^^^"),
        ("0 ms", "0 (0 ms)"),
        ("0.5x smaller", "0.5 (0.5x smaller)"),
        ("5 ms, 6 ms", "5 ms and 6 ms"),
        ("", "none"),
    ],
)
def test_a_budget_that_means_nothing_is_refused_where_it_stands(text, found):
    with pytest.raises(RecipeError) as caught:
        budget_of(text)
    assert found in caught.value.found


def test_a_limit_is_said_once():
    with pytest.raises(RecipeError, match="leave one of them out"):
        budget_of("5 ms", latency=6.0)


@pytest.mark.parametrize(
    ("options", "limits"),
    [
        ({"keep": "98%", "size": "10MB"}, {"keep": 0.98, "size": 10}),
        ({"keep": "0.98", "latency": "300 us"}, {"keep": 0.98, "latency": 0.3}),
        ({"parameters": "3M", "flops": "2G"}, {"parameters": 3e6, "flops": 2e9}),
        ({"memory": "1 GB", "size": 7}, {"memory": 1000, "size": 7}),
    ],
)
def test_an_option_says_what_the_text_says(options, limits):
    assert budget_of(**options).given == pytest.approx(limits)


@pytest.mark.parametrize("options", [{"size": "5 ms"}, {"keep": "much"}, {"memory": "10 MB, 5 ms"}])
def test_an_option_is_its_own_limit_alone(options):
    with pytest.raises(RecipeError, match="a number, or one with its unit"):
        budget_of(**options)


def test_factors_are_of_the_teacher():
    found = budget_of("2x smaller, 4x faster, 3 ms").against({"parameters": 1000.0, "latency": 8.0})
    assert found.given == {"parameters": 500.0, "latency": 2.0}


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1800), ("1h30m", 5400), ("90s", 90), ("0", 0), (12.5, 12.5)]
)
def test_times_are_seconds(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["soon", "", "5 parsecs", "-3"])
def test_other_times_are_refused(text):
    with pytest.raises(RecipeError, match="30m"):
        seconds_of(text)
