"""Which units go, given a score for each and what forms cost: the cheapest to lose first, until the budget holds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from torch import Tensor

from attar.anatomy.form import Form, LayerForm
from attar.errors import PlanError
from attar.pruning.units import Kept, KeptLayer, everything

Axis = Literal["hidden", "embedding", "heads", "key", "value", "ffn"]
INSIDE: tuple[Axis, ...] = ("heads", "key", "value", "ffn")
SHARED: tuple[Axis, ...] = ("hidden", "embedding")
Cost = Callable[[Form], float]


@dataclass(frozen=True)
class Scores:
    """What each unit is worth; the smallest go first.

    Attributes:
        shared: axis -> (n,) for "hidden" and "embedding", where these are cut.
        layers: for each layer axis -> (n,) for "heads", "key", "value" and "ffn", where these are cut. ALBERT's one
            layer has one entry.
    """

    shared: Mapping[str, Tensor] = field(default_factory=dict)
    layers: tuple[Mapping[str, Tensor], ...] = ()

    def groups(self) -> list[tuple[str, int | None, np.ndarray]]:
        """(axis, layer, scores) of every group of units, of which one must stay."""
        found: list[tuple[str, int | None, np.ndarray]] = [
            (axis, None, _array(values)) for axis, values in self.shared.items()
        ]
        for number, layer in enumerate(self.layers):
            found += [(axis, number, _array(values)) for axis, values in layer.items()]
        return found


def _array(values: Tensor) -> np.ndarray:
    return values.detach().double().cpu().numpy()


def in_order(
    form: Form, scores: Scores, cost: Cost, budget: float, *, steps: Mapping[str, int] | None = None
) -> Kept:
    """Take the units with the smallest scores of all, whatever axis they are on, until the cost is at most the budget.

    Scores of different axes are compared with each other, as schuBERT compares its alphas.

    Args:
        cost: of a form; must not rise when a size falls.
        steps: axis -> the sizes are rounded to a multiple of this.

    Raises:
        PlanError: the budget is below the smallest form there is, or above the model.
    """
    groups = scores.groups()
    spare, owner = [], []
    for number, (_, _, values) in enumerate(groups):
        ascending = np.sort(values)[:-1]  # the best unit of a group stays
        spare.append(ascending)
        owner.append(np.full(len(ascending), number))
    owners = np.concatenate(owner)
    order = owners[np.argsort(np.concatenate(spare), kind="stable")]

    def sizes(gone: int) -> list[int]:
        taken = np.bincount(order[:gone], minlength=len(groups))
        return [
            _rounded(len(values) - int(n), len(values), (steps or {}).get(axis, 1))
            for (axis, _, values), n in zip(groups, taken, strict=True)
        ]

    def of(gone: int) -> Form:
        return _resized(form, groups, sizes(gone))

    _check_budget(cost, form, of(len(order)), budget)
    gone = _smallest(lambda n: cost(of(n)) <= budget, len(order))
    return best(form, scores, sizes(gone))


def uniform(
    form: Form, scores: Scores, cost: Cost, budget: float, *, steps: Mapping[str, int] | None = None
) -> Kept:
    """Shrink every group by the same factor until the cost is at most the budget; the best units of each group stay.

    Raises:
        PlanError: as `in_order`.
    """
    groups = scores.groups()
    grain = max(len(values) for _, _, values in groups)

    def sizes(gone: int) -> list[int]:
        return [
            _rounded(max(1, round(len(values) * (1 - gone / grain))), len(values), (steps or {}).get(axis, 1))
            for axis, _, values in groups
        ]

    def of(gone: int) -> Form:
        return _resized(form, groups, sizes(gone))

    _check_budget(cost, form, of(grain), budget)
    return best(form, scores, sizes(_smallest(lambda n: cost(of(n)) <= budget, grain)))


def check_budget(
    form: Form, scores: Scores, cost: Cost, budget: float, *, steps: Mapping[str, int] | None = None
) -> None:
    """Refuse a budget that cannot be met, before anything is learned; the scores say what may be cut.

    Raises:
        PlanError: as `in_order`.
    """
    _check_budget(cost, form, smallest(form, scores, steps=steps), budget)


def smallest(form: Form, scores: Scores, *, steps: Mapping[str, int] | None = None) -> Form:
    """The form with one unit of everything that may be cut, or as many as sizes are rounded to."""
    groups = scores.groups()
    sizes = [_rounded(1, len(values), (steps or {}).get(axis, 1)) for axis, _, values in groups]
    return _resized(form, groups, sizes)


def best(form: Form, scores: Scores, sizes: list[int]) -> Kept:
    """The best `sizes[i]` units of each group i of `scores.groups()`."""
    kept = everything(form)
    shared: dict[str, tuple[int, ...]] = {}
    inside: list[dict[str, tuple[int, ...]]] = [{} for _ in scores.layers]
    for (axis, layer, values), size in zip(scores.groups(), sizes, strict=True):
        chosen = np.sort(np.argsort(-values, kind="stable")[:size])
        (shared if layer is None else inside[layer])[axis] = tuple(int(i) for i in chosen)
    if "hidden" in shared and form.embedding == form.hidden and "embedding" not in scores.shared:
        shared["embedding"] = shared["hidden"]
    layers: tuple[KeptLayer, ...] = kept.layers
    if inside:
        layers = tuple(replace(x, **inside[n % len(inside)]) for n, x in enumerate(kept.layers))  # type: ignore[arg-type]
    return replace(kept, layers=layers, **shared)


def _resized(form: Form, groups: list[tuple[str, int | None, np.ndarray]], sizes: list[int]) -> Form:
    shared: dict[str, int] = {}
    count = 1 + max((layer for _, layer, _ in groups if layer is not None), default=-1)
    inside: list[dict[str, int]] = [{} for _ in range(count)]
    for (axis, layer, _), size in zip(groups, sizes, strict=True):
        (shared if layer is None else inside[layer])[axis] = size
    if "hidden" in shared and form.embedding == form.hidden and "embedding" not in shared:
        shared["embedding"] = shared["hidden"]
    layers: tuple[LayerForm, ...] = form.layers
    if count:  # ALBERT: one group for the one layer that runs as often as there are entries
        layers = tuple(replace(x, **inside[n % count]) for n, x in enumerate(form.layers))
    return replace(form, layers=layers, **shared)


def _rounded(size: int, whole: int, step: int) -> int:
    """The multiple of `step` that is nearest to a size; the whole of an axis is always allowed."""
    if step == 1 or size == whole:
        return size
    return min(whole, max(step, round(size / step) * step))


def _smallest(holds: Callable[[int], bool], most: int) -> int:
    """The smallest number up to `most` for which something that stays true once true is true."""
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    # Measured costs rise a little here and there where a size falls: the next number may not hold again.
    while low < most and not holds(low):
        low = min(most, low + max(1, most // 1000))
    return low


def _check_budget(cost: Cost, whole: Form, smallest: Form, budget: float) -> None:
    least, most = cost(smallest), cost(whole)
    if budget < least:
        raise PlanError(
            expected=f"a budget of at least {least:.4g} ({least / most:.1%} of the model): one unit of everything "
            "that may be cut",
            found=f"{budget:.4g} ({budget / most:.1%})",
            fix="raise the budget, or allow more axes to be cut",
        )
    if budget > most:
        raise above(most, budget)


def above(most: float, budget: float) -> PlanError:
    """The error of a budget that is more than what the model costs."""
    return PlanError(
        expected=f"a budget of at most what the model costs, {most:.4g}",
        found=f"{budget:.4g}",
        fix="give a fraction between 0 and 1, or a smaller number",
    )
