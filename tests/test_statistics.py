"""Laws of the intervals: exact where nothing varies, scipy's where it has them, and they cover the truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from attar.errors import DataError
from attar.maths import statistics
from attar.maths.statistics import Interval, bootstrap, paired_bootstrap, seed_interval, swap_test


def _classes(rows: int, seed: int, accuracy: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=rows)
    return labels, np.where(rng.random(rows) < accuracy, labels, (labels + 1) % 3)


def plain(predictions: np.ndarray, true: np.ndarray) -> float:
    """Accuracy as any function of predictions and labels, of which nothing else is known."""
    return float(np.mean(predictions == true))


@pytest.mark.parametrize("seeds", [1, 3])
def test_rows_that_all_agree_leave_room_for_the_rows_that_were_not_seen(seeds: int) -> None:
    labels, predictions = _classes(60, seed=1)
    student = predictions if seeds == 1 else [predictions] * seeds
    apart = stats.binomtest(0, 60).proportion_ci(method="exact").high  # rows that may be otherwise
    level = statistics.accuracy(predictions, labels)

    def ends(*said: np.ndarray | list[np.ndarray], **options: str) -> tuple[float, ...]:
        found = paired_bootstrap(statistics.accuracy, *said, resamples=20, **options)  # type: ignore[arg-type]
        return found.value, found.low, found.high

    expected = (1, 1 - apart / level, 1 + apart / level)
    assert ends(student, predictions, labels) == pytest.approx(expected)
    assert ends(student, predictions, labels, statistic="difference") == pytest.approx((0, -apart, apart))
    assert ends(student, predictions, predictions) == pytest.approx(
        (1, 1 - apart, 1)
    )  # agreement ends at 100%
    alone = bootstrap(statistics.accuracy, labels, labels, resamples=20)
    assert (alone.value, alone.low, alone.high) == pytest.approx((1, 1 - apart, 1))
    wrong = bootstrap(statistics.accuracy, labels + 1, labels, resamples=20)
    assert (wrong.value, wrong.low, wrong.high) == pytest.approx((0, 0, apart))


def test_other_metrics_of_rows_that_all_agree_have_no_interval() -> None:
    labels, predictions = _classes(60, seed=1)
    for metric in (
        matthews_corrcoef,
        statistics.Ratio(lambda said, true: (2.0 * (said == true), 2.0 + 0 * true)),
    ):
        found = paired_bootstrap(metric, predictions, predictions, labels, resamples=20)
        assert found.value == 1
        assert found.missing == "no interval: every resample of the 60 texts gives the same"
        assert np.isnan([found.low, found.high]).all()


@pytest.mark.parametrize("rows", [statistics.ENOUGH, 100])
def test_interval_of_a_share_covers_it(rows: int) -> None:
    """Exactly, over all samples of a share; at the shares where agreement of all rows is likely, too."""
    labels = np.zeros(rows, dtype=np.int64)
    found = [
        bootstrap(statistics.accuracy, (np.arange(rows) >= right).astype(np.int64), labels, resamples=400)
        for right in range(rows + 1)
    ]
    for share in (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99):
        chances = stats.binom.pmf(np.arange(rows + 1), rows, share)
        inside = [interval.low <= share <= interval.high for interval in found]
        assert chances[inside].sum() >= 0.85


def test_too_few_rows_have_a_figure_and_no_interval() -> None:
    labels, student = _classes(statistics.ENOUGH, seed=1)
    enough = bootstrap(statistics.accuracy, student, labels, resamples=50)
    assert enough.low < enough.value < enough.high
    assert not enough.missing
    for rows in (2, statistics.ENOUGH - 1):
        few = (student[:rows], labels[:rows])
        kept = paired_bootstrap(statistics.accuracy, few[0], few[1], few[1], resamples=50)
        for found in (bootstrap(statistics.accuracy, *few, resamples=50), kept):
            assert found.value == statistics.accuracy(*few)
            assert np.isnan([found.low, found.high]).all()
            assert (
                found.missing == f"too few texts for an interval: {rows}; about 460 give ±2 points around 95%"
            )


def test_as_many_rows_as_a_margin_takes() -> None:
    rows = statistics.rows_for(0.02, 0.95)
    labels, student = np.zeros(rows), (np.arange(rows) < rows // 20).astype(float)
    assert bootstrap(statistics.accuracy, student, labels, resamples=4000).margin == pytest.approx(
        0.02, rel=0.05
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(2, 5))
def test_row_wise_metrics_are_those_of_scikit_learn(seed: int, rows: int, labels: int) -> None:
    rng = np.random.default_rng(seed)
    classes, guesses = rng.integers(labels, size=(2, rows))
    assert statistics.accuracy(guesses, classes) == pytest.approx(accuracy_score(classes, guesses))
    true, chosen = rng.integers(2, size=(2, rows, labels))
    assert statistics.accuracy(chosen, true) == pytest.approx(accuracy_score(true, chosen))
    expected = f1_score(true, chosen, average="micro", zero_division=0)
    assert statistics.micro_f1(chosen, true) == pytest.approx(expected)


def test_the_fast_way_equals_the_general_way() -> None:
    labels, student = _classes(80, seed=2)
    teacher = _classes(80, seed=2, accuracy=0.9)[1]

    fast = paired_bootstrap(statistics.accuracy, student, teacher, labels, resamples=200, seed=5)
    slow = paired_bootstrap(plain, student, teacher, labels, resamples=200, seed=5)
    assert (fast.value, fast.low, fast.high) == pytest.approx((slow.value, slow.low, slow.high))


def test_one_student_is_scipys_paired_percentile_bootstrap() -> None:
    labels, student = _classes(400, seed=3, accuracy=0.85)
    teacher = _classes(400, seed=4, accuracy=0.9)[1]
    teacher = np.where(teacher == _classes(400, seed=4)[0], labels, (labels + 1) % 3)

    def retained(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return a.mean(axis=axis) / b.mean(axis=axis)

    reference = stats.bootstrap(
        ((student == labels) * 1.0, (teacher == labels) * 1.0), retained, paired=True, vectorized=True,
        method="percentile", n_resamples=20_000, rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    ours = paired_bootstrap(statistics.accuracy, student, teacher, labels, resamples=20_000)
    assert (ours.low, ours.high) == pytest.approx((reference.low, reference.high), abs=2e-3)


def test_interval_of_accuracy_is_the_binomial_one() -> None:
    labels, predictions = _classes(2000, seed=6)
    ours = bootstrap(statistics.accuracy, predictions, labels, resamples=10_000)
    error = np.sqrt(ours.value * (1 - ours.value) / 2000)
    assert ours.margin == pytest.approx(1.96 * error, rel=0.05)


def test_seed_interval_is_the_t_interval() -> None:
    values = [0.91, 0.93, 0.90]
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    ours = seed_interval(values)
    assert (ours.value, ours.low, ours.high) == pytest.approx((np.mean(values), low, high))
    assert seed_interval([0.5]) == Interval(0.5, 0.5, 0.5)


@pytest.mark.parametrize(("seeds", "spread"), [(1, 0.0), (3, 0.0), (3, 0.3), (5, 0.3)])
def test_interval_covers_the_truth(seeds: int, spread: float) -> None:
    """Simulated students: rows of uneven difficulty, seeds of uneven skill; the truth is the mean over both."""
    rng = np.random.default_rng(7)

    def right(skill: np.ndarray, ease: np.ndarray) -> np.ndarray:
        return stats.logistic.cdf(skill + ease) > rng.random(ease.shape)

    population = rng.normal(0, 1.5, size=200_000)
    truth = np.mean(right(1.5 + rng.normal(0, spread, 200_000), population)) / np.mean(
        right(np.array(2.0), population)
    )
    hits, trials, rows = 0, 200, 300
    for trial in range(trials):
        ease = rng.normal(0, 1.5, size=rows)
        teacher = right(np.array(2.0), ease)
        students = [right(1.5 + rng.normal(0, spread), ease) for _ in range(seeds)]
        found = paired_bootstrap(
            statistics.accuracy, students if seeds > 1 else students[0], teacher, np.ones(rows, bool),
            resamples=200, seed=trial,
        )  # fmt: skip
        hits += found.low <= truth <= found.high
    assert hits / trials >= 0.9


@pytest.mark.parametrize(
    ("ours", "theirs", "metric"),
    [
        *((*pair, statistics.accuracy) for pair in [(4, 0), (7, 2), (3, 3), (0, 5)]),
        (7, 2, plain),
    ],
)
def test_swapping_rows_is_the_sign_test(ours: int, theirs: int, metric: statistics.Metric) -> None:
    labels = np.zeros(60, dtype=np.int64)
    right = np.arange(60) < 40
    first, second = np.where(right, 0, 1), np.where(right, 0, 1)
    second[:ours] = 1
    first[ours : ours + theirs] = 1
    expected = stats.binomtest(ours, ours + theirs, alternative="greater").pvalue
    rounds = 2000
    found = swap_test(metric, first, second, labels, rounds=rounds)
    assert found == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / rounds) + 1 / rounds)


def test_models_of_one_quality_seldom_look_better() -> None:
    rng = np.random.default_rng(0)
    labels, chances = np.zeros(80), []
    for trial in range(200):
        ours, theirs = (rng.random((2, 80)) < 0.05).astype(float)
        chances.append(
            swap_test(statistics.micro_f1, 1 - ours, 1 - theirs, 1 - labels, rounds=100, seed=trial)
        )
    assert np.mean(np.array(chances) <= 0.05) <= 0.09  # 0.05, and three standard errors


def test_seed_of_the_generator_decides() -> None:
    labels, student = _classes(50, seed=8)
    teacher = _classes(50, seed=8, accuracy=0.95)[1]
    first, again, other = (
        paired_bootstrap(statistics.accuracy, student, teacher, labels, resamples=100, seed=s)
        for s in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_user_mistakes_say_what_to_do() -> None:
    labels, predictions = _classes(20, seed=9)
    with pytest.raises(DataError, match="same rows"):
        paired_bootstrap(statistics.accuracy, predictions[:-1], predictions, labels)
    with pytest.raises(DataError, match="over 0"):
        paired_bootstrap(statistics.accuracy, predictions, (labels + 1) % 3, labels)
    constant = np.zeros(20)
    with pytest.raises(DataError, match="undefined"):
        bootstrap(lambda a, b: float("nan") if np.ptp(a) == 0 else 1.0, constant, labels, resamples=10)
    with pytest.raises(DataError, match="at least one value"):
        seed_interval([])
