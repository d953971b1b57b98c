"""What each part of a model is worth: heads, attention, FFNs and layers are switched off in turn, nothing is trained.

That many parts are worth nothing to a task, and some less than nothing, is what Michel et al. (1905.10650) and
Kovaleva et al. (1908.08593) found of BERT.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from transformers import PreTrainedModel

from attar.anatomy.form import slots
from attar.anatomy.resolve import Bound, resolve
from attar.data.batches import Batches
from attar.data.tasks import Task
from attar.errors import DataError, ModelError
from attar.evaluation.quality import Evaluation, difference, judge, luck, quality
from attar.maths.statistics import Interval
from attar.progress import track
from attar.pruning.switching import TOKENS, Part, logits_without, parts_of

# One side of a 95% interval: as many parts of no worth would look better by chance.
ONE_SIDE = 0.025


@dataclass(frozen=True)
class Importance:
    """What the model is without a part.

    Attributes:
        part: that is off.
        value: the main metric without it.
        change: of the main metric, without less whole, paired on the same rows; NaN where it is undefined.
        kl: mean KL(whole || without) in nats; NaN for a score.
        better: whether the rows show that the model is better without: the interval lies above 0, and swapping rows
            between the two models seldom (2.5%) does as much.
    """

    part: Part
    value: float
    change: Interval
    kl: float
    better: bool

    @property
    def worse(self) -> bool:
        """Whether the interval lies below 0."""
        return self.change.high < 0


@dataclass(frozen=True)
class Probe:
    """What every part of a model is worth to a task, each switched off alone.

    Attributes:
        task: what the model is asked.
        main: the metric; "agreement" with the whole model where there are no labels, which no part can raise.
        rows: texts.
        baseline: the metric of the whole model, over resampled rows; NaN where it is undefined.
        parts: in the order of `attar.pruning.switching.parts_of`.
    """

    task: Task
    main: str
    rows: int
    baseline: Interval
    parts: tuple[Importance, ...]

    @property
    def better(self) -> tuple[Importance, ...]:
        """Parts that the model is better without, most so first."""
        return tuple(sorted((w for w in self.parts if w.better), key=lambda w: -w.change.value))

    @property
    def worse(self) -> tuple[Importance, ...]:
        """Parts that the model is worse without, most so first."""
        return tuple(sorted((w for w in self.parts if w.worse), key=lambda w: w.change.value))

    @property
    def by_chance(self) -> float:
        """How many parts `better` would name if the model were as good without any of them; at most."""
        return ONE_SIDE * len(self.parts)


def probe(
    model: PreTrainedModel,
    batches: Batches,
    task: Task,
    *,
    tokens: int = TOKENS,
    resamples: int = 2000,
    seed: int = 0,
) -> Probe:
    """Switch each part of a model off in turn and measure what is left. The model stays as it is.

    The layers below a part run once for all its variants, and variants of one layer run stacked along the batch. For L
    layers of H heads that is the work of (H + 3)(L + 1) / 2 passes over the texts; (H + 3) passes for an ALBERT, whose
    parts are in every layer. Logits of all variants are held: parts x rows x labels numbers.

    Args:
        model: a classifier or regressor of a known family, stock or slim.
        batches: of all rows, with labels or without.
        task: what the model is asked.
        tokens: how many run at once, padding included; at least one variant of a batch does.
        resamples, seed: of the bootstrap.

    Raises:
        ModelError: an unknown family; a model that is not for a task.
        DataError: fewer than two rows.
    """
    bound, parts = checked(model), parts_of(model)
    if len(batches.lengths) < 2:
        raise DataError(
            expected="two texts or more", found=str(len(batches.lengths)), fix="probe on more texts"
        )
    training = model.training
    model.eval()
    try:
        logits = logits_without(bound, batches, parts, tokens)
    finally:
        model.train(training)
    labels = None if batches.labels is None else batches.labels.numpy()
    whole = judge(task, logits[0], labels, teacher_logits=logits[0])
    found = []
    for part, said in zip(parts, track(logits[1:], "compare", len(parts)), strict=True):
        without = judge(task, said, labels, teacher_logits=logits[0])
        found.append(_worth(part, without, whole, resamples, seed))
    return Probe(
        task, whole.main, len(logits[0]), _or_nan(quality, whole, whole, resamples, seed), tuple(found)
    )


def checked(model: PreTrainedModel) -> Bound:
    """The anatomy bound to a model that can be probed.

    Raises:
        ModelError: an unknown family, or no head for a task.
    """
    bound = resolve(model)
    slots(model)  # ALBERT with several groups of layers, of which a hook would see one, is refused there
    if not type(model).__name__.endswith("ForSequenceClassification"):
        raise ModelError(
            expected="a fine-tuned classifier or regressor, to measure what its parts are worth to the task",
            found=type(model).__name__,
            fix="fine-tune it first (attar finetune)",
        )
    return bound


def _worth(part: Part, without: Evaluation, whole: Evaluation, resamples: int, seed: int) -> Importance:
    change = _or_nan(difference, without, whole, resamples, seed)
    better = change.low > 0 and luck(without, whole, rounds=resamples, seed=seed) <= ONE_SIDE
    return Importance(part, without.value, change, without.metrics.get("kl", float("nan")), better)


def _or_nan(
    figure: Callable[..., Interval], ours: Evaluation, theirs: Evaluation, resamples: int, seed: int
) -> Interval:
    """An interval; NaN where the metric is undefined (a model without a part may give all texts one score)."""
    try:
        return figure(ours, theirs, resamples=resamples, seed=seed)
    except DataError:
        return Interval.without(math.nan, "no interval: the metric is undefined on some resamples")
