"""Intervals for measured figures: bootstrap over test rows, paired between two models, over several seeds.

numpy and scipy only; no model, no torch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from attar.errors import DataError

Array = NDArray[Any]
Metric = Callable[[Array, Array], float]
Statistic = Literal["retained", "difference"]

# Row numbers drawn at once: bounds the index array at 64 MB whatever the size of the test set.
_DRAWN_AT_ONCE = 8_000_000
# Resamples on which the metric is undefined (one class only, constant scores) that are still left out quietly.
_UNDEFINED_ALLOWED = 0.05
# Rows from which an interval says something (36): of fewer, even where all of them agree, the exact 95% interval
# (Clopper and Pearson 1934) begins under 90%, 0.025^(1/n) < 0.9, and tells no good student from a poor one. The
# bootstrap of fewer rows is too sure besides: from 10 rows its 95% interval of a share of 90% holds it in 65% of cases.
ENOUGH = math.ceil(math.log(0.025) / math.log(0.9))


@dataclass(frozen=True)
class Interval:
    """A figure and the ends of its confidence interval, all in the unit of the figure.

    Where there is no interval, both ends are NaN and `missing` says why.
    """

    value: float
    low: float
    high: float
    missing: str = ""

    @classmethod
    def without(cls, value: float, missing: str) -> "Interval":
        """A figure that has no interval, and why."""
        return cls(value, math.nan, math.nan, missing)

    @property
    def margin(self) -> float:
        """Half the width."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Ratio:
    """A metric that is a ratio of two sums over rows, so that thousands of resamples are one indexed sum.

    `parts(predictions (N, ...), labels (N, ...))` gives the numerator and denominator of each row, (N,) each.
    Called like any metric it gives the ratio over all rows; 0 where the denominator is 0. `rows` is what people call
    the rows.
    """

    parts: Callable[[Array, Array], tuple[Array, Array]]
    rows: str = "texts"

    def __call__(self, predictions: Array, labels: Array) -> float:
        """Ratio of the sums over all rows, 0 where there is nothing to divide."""
        top, bottom = self.parts(predictions, labels)
        return float(_divide(top.sum(), bottom.sum()))


def _same_row(predictions: Array, labels: Array) -> tuple[Array, Array]:
    same = (predictions == labels).reshape(len(labels), -1).all(axis=1)
    return same.astype(np.float64), np.ones(len(labels))


def _label_overlap(predictions: Array, labels: Array) -> tuple[Array, Array]:
    chosen, true = (np.asarray(x, dtype=np.float64).reshape(len(labels), -1) for x in (predictions, labels))
    return 2 * (chosen * true).sum(axis=1), (chosen + true).sum(axis=1)


# sklearn.metrics.accuracy_score (on a table of labels: subset accuracy) and f1_score(average="micro"), row by row.
accuracy = Ratio(_same_row)
micro_f1 = Ratio(_label_overlap)


def bootstrap(
    metric: Metric,
    predictions: Array | Sequence[Array],
    labels: Array,
    *,
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Interval of `metric(predictions, labels)` over resampled rows; see `paired_bootstrap` for the arguments."""
    runs = _runs(predictions, labels)
    options: dict[str, Any] = {"resamples": resamples, "seed": seed, "confidence": confidence}
    return _estimate(metric, runs, labels, lambda figures: figures, **options)


def paired_bootstrap(
    metric: Metric,
    student_predictions: Array | Sequence[Array],
    teacher_predictions: Array,
    labels: Array,
    *,
    statistic: Statistic = "retained",
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Interval of metric(student) / metric(teacher) ("retained") or metric(student) - metric(teacher) ("difference").

    Both models are scored on the same resampled rows (Efron and Tibshirani 1993, chapter 8; Berg-Kirkpatrick et al.
    2012), so what a hard or an easy sample does to both cancels out. For one student the ends are percentiles of the
    resamples.

    Under `ENOUGH` rows there is no interval. Where both are right on the same rows, every resample is alike and the
    bootstrap has no width; the ends are then what the rows still allow: of rows that are right or wrong, up to
    1 - 0.025^(1/N) of all may be otherwise (Clopper and Pearson 1934, no case in N; one-sided that is the "rule of
    three", 3/N). Other metrics have no interval then.

    A list of S predictions is the same student from S seeds. The value is then the mean over seeds, and the interval
    covers both new rows and new seeds: value +- t * sqrt(v_rows + v_seeds), where v_rows is the covariance between
    seeds on shared resamples, v_seeds the variance between seeds over S (never under what independent rows alone
    would give), and t has the degrees of freedom of Welch and Satterthwaite. Resampling the seeds themselves would be
    too narrow: of 3 seeds it sees two thirds of the variance.

    Args:
        metric: (predictions (N, ...), labels (N, ...)) -> float; a `Ratio` is resampled in one indexed sum.
        student_predictions: (N, ...) or a list of S such arrays, one a seed.
        teacher_predictions: (N, ...).
        labels: (N, ...), in the same row order.
        statistic: "retained" or "difference".
        resamples: how many.
        seed: of the generator; the same seed gives the same interval.
        confidence: of the interval, between 0 and 1.

    Raises:
        DataError: rows do not match, the teacher's metric is not over 0, or it is undefined on too many resamples.
    """
    students = _runs(student_predictions, labels)
    runs = [*students, *_runs(teacher_predictions, labels)]
    compare = _divide if statistic == "retained" else np.subtract
    point = np.array([metric(run, labels) for run in runs])
    if statistic == "retained" and not point[-1] > 0:
        raise DataError(
            expected="a teacher whose metric is over 0",
            found=f"{point[-1]:.4g} on {len(labels)} rows",
            fix='check the labels and their order, or ask for statistic="difference"',
        )
    options: dict[str, Any] = {"resamples": resamples, "seed": seed, "confidence": confidence}
    return _estimate(
        metric, runs, labels, lambda figures: compare(figures[..., :-1], figures[..., -1:]), **options
    )


def swap_test(
    metric: Metric, ours: Array, theirs: Array, labels: Array, *, rounds: int = 2000, seed: int = 0
) -> float:
    """Chance that metric(ours) - metric(theirs) is what it is or more where both are from models of one quality.

    A coin for each row says which of the two predictions counts as ours (approximate randomisation: Noreen 1989, Yeh
    2000). Exact up to the number of rounds however few rows the two differ on, where a bootstrap is too sure: of four
    rows that differ, all in our favour, it says 1.8%, and four coins fall alike in 6.3%.

    Args:
        metric: as in `paired_bootstrap`.
        ours, theirs: (N, ...) predictions.
        labels: (N, ...), in the same row order.
        rounds: how many times all coins are thrown.
        seed: of the generator.
    """
    runs, rng = _runs([ours, theirs], labels), np.random.default_rng(seed)
    found, more = metric(runs[0], labels) - metric(runs[1], labels), 0
    for _ in range(rounds):
        coins = rng.integers(2, size=len(labels)).astype(bool)
        sides = coins.reshape(-1, *[1] * (runs[0].ndim - 1))
        drawn = metric(np.where(sides, *runs), labels) - metric(np.where(sides, *runs[::-1]), labels)
        more += bool(drawn >= found - 1e-12)
    return (1 + more) / (1 + rounds)


def seed_interval(values: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Mean of a figure over S seeds with its t interval (S - 1 degrees of freedom); no width for one seed.

    Raises:
        DataError: there is no value.
    """
    if not values:
        raise DataError(expected="at least one value", found="none", fix="pass the figure of each seed")
    from scipy.stats import t

    mean, count = float(np.mean(values)), len(values)
    if count == 1:
        return Interval(mean, mean, mean)
    half = float(t.ppf((1 + confidence) / 2, count - 1) * np.std(values, ddof=1) / np.sqrt(count))
    return Interval(mean, mean - half, mean + half)


def rows_for(margin: float, share: float, *, confidence: float = 0.95) -> int:
    """Rows from which a share is known to +- `margin`: z^2 share (1 - share) / margin^2, its normal interval."""
    from scipy.stats import norm

    return math.ceil(float(norm.ppf((1 + confidence) / 2)) ** 2 * share * (1 - share) / margin**2)


def too_few(rows: int, what: str = "texts") -> str:
    """Why so few rows have no interval; empty where they are enough."""
    return f"too few {what} for an interval: {rows}" if rows < ENOUGH else ""


def _runs(predictions: Array | Sequence[Array], labels: Array) -> list[Array]:
    runs = list(predictions) if isinstance(predictions, list | tuple) else [np.asarray(predictions)]
    sizes = {len(run) for run in runs}
    if sizes != {len(labels)} or not len(labels):
        raise DataError(
            expected=f"predictions for the same rows as the labels ({len(labels)}, at least 1)",
            found=f"{sorted(sizes)} rows",
            fix="predict on the table that the labels are from; several seeds are a list of arrays",
        )
    return [np.asarray(run) for run in runs]


def _divide(top: Any, bottom: Any) -> Any:
    """`top / bottom`, 0 where both are 0 (a metric without a single positive), inf where only `bottom` is."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((np.asarray(top) == 0) & (np.asarray(bottom) == 0), 0.0, np.divide(top, bottom))


def _resample(metric: Metric, runs: list[Array], labels: Array, *, resamples: int, seed: int) -> Array:
    """(resamples, len(runs)): the metric of every run on the same resampled rows."""
    rng, rows = np.random.default_rng(seed), len(labels)
    parts = [metric.parts(run, labels) for run in runs] if isinstance(metric, Ratio) else []
    drawn, at_once = [], max(1, _DRAWN_AT_ONCE // rows)
    for start in range(0, resamples, at_once):
        index = rng.integers(rows, size=(min(at_once, resamples - start), rows))
        if parts:
            columns = [_divide(top[index].sum(axis=1), bottom[index].sum(axis=1)) for top, bottom in parts]
            drawn.append(np.stack(columns, axis=1))
        else:
            drawn.append(np.array([[metric(run[pick], labels[pick]) for run in runs] for pick in index]))
    return np.concatenate(drawn)


def _estimate(
    metric: Metric,
    runs: list[Array],
    labels: Array,
    compare: Callable[[Array], Array],
    *,
    resamples: int,
    seed: int,
    confidence: float,
) -> Interval:
    """The interval of `compare` (figures of all runs (..., R) to those of S seeds (..., S)), over resampled rows."""
    rows, figures = len(labels), np.array([metric(run, labels) for run in runs])
    what = metric.rows if isinstance(metric, Ratio) else "texts"
    point = compare(figures)
    value = float(point.mean())
    if rows < ENOUGH and math.isfinite(value):
        needed = float(f"{rows_for(0.02, 0.95):.2g}")
        return Interval.without(value, f"{too_few(rows, what)}; about {needed:.0f} give ±2 points around 95%")
    drawn = compare(_resample(metric, runs, labels, resamples=resamples, seed=seed))
    defined = np.isfinite(drawn).all(axis=1)
    if not math.isfinite(value) or (~defined).mean() > _UNDEFINED_ALLOWED:
        raise DataError(
            expected="a metric that is defined on the rows and nearly all resamples of them",
            found=f"undefined on {(~defined).mean():.0%} of the resamples of {rows} rows",
            fix="measure on more rows, with every class or more than one score among them",
        )
    drawn = drawn[defined]
    if np.ptp(drawn) > np.finfo(np.float64).eps * abs(value):
        return _interval(point, drawn, rows=rows, confidence=confidence)
    if not _right_on_the_same_rows(metric, runs, labels):
        return Interval.without(value, f"no interval: every resample of the {rows} {what} gives the same")
    most = 1 - ((1 - confidence) / 2) ** (1 / rows)
    # The last run, of two models the teacher, stays as it was measured.
    others = (
        np.append(np.full(len(point), end), figures[len(point) :]) for end in figures[0] + (-most, most)
    )
    low, high = (float(compare(np.clip(other, 0, 1)).mean()) for other in others)
    return Interval(value, low, high)


def _right_on_the_same_rows(metric: Metric, runs: list[Array], labels: Array) -> bool:
    """Whether a metric says of each row that it is right or wrong, and says the same of all runs."""
    if not isinstance(metric, Ratio):
        return False
    parts = [metric.parts(run, labels) for run in runs]
    first = parts[0][0]
    binary = bool(np.isin(first, (0, 1)).all()) and all((bottom == 1).all() for _, bottom in parts)
    return binary and all((top == first).all() for top, _ in parts)


def _interval(point: Array, drawn: Array, *, rows: int, confidence: float) -> Interval:
    """From `point` (S,) and its resamples (R, S) to one interval; see `paired_bootstrap`."""
    value, seeds = float(point.mean()), len(point)
    if seeds == 1:
        tail = (1 - confidence) / 2
        low, high = np.quantile(drawn[:, 0], [tail, 1 - tail])
        return Interval(value, float(low), float(high))
    covariance = np.cov(drawn, rowvar=False)
    own = float(np.trace(covariance)) / seeds
    shared = max(0.0, float(covariance.sum() - np.trace(covariance)) / (seeds * (seeds - 1)))
    between = max(float(np.var(point, ddof=1)), own - shared) / seeds
    total = shared + between
    from scipy.stats import t

    freedom = total**2 / (shared**2 / max(1, rows - 1) + between**2 / (seeds - 1))
    half = float(t.ppf((1 + confidence) / 2, freedom) * np.sqrt(total))
    return Interval(value, value - half, value + half)
