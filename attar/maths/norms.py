"""LayerNorm in fewer dimensions: what stands before it and its own gain and bias, solved together."""

import torch
from torch import Tensor
from torch.nn import functional as F

from attar.maths.directions import Ridge

# Rounds of solving for the matrix and for the lengths of its outputs in turn; a third gained under 1% of the error.
ROUNDS = 2
# Factors on the length aimed at that are tried, see solve_normed.
SCALES = (0.5, 0.7, 0.85, 1.0, 1.2, 1.4, 1.7, 2.0, 3.0)
# Tokens that these factors are compared on.
SAMPLE = 4_000
# How strongly a gain is drawn to its prior, as a part of the mean variance.
GAIN_PENALTY = 1e-3


def solve_normed(
    features: Tensor,
    x: Tensor,
    goal: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    gain: Tensor,
    eps: float,
    penalty: float,
) -> tuple[Tensor, Tensor]:
    """W (p, d) and b (d,) so that `norm(x + features W + b)`, with the norm's best gain and bias, is the goal.

    A norm takes each token's length away, so the length that is aimed at is free: it decides how much the residual x,
    which is not free, counts beside the features. It is taken from what the teacher's own W gives, times the one
    factor for all tokens that is best. The error after the norm (on a sample of the tokens) is never larger than with
    the teacher's W.
    """
    prior = weight
    z = x + features @ weight + bias
    few = slice(None, None, 1 + len(x) // SAMPLE)
    best = _normed_error(z[few], goal[few], gain, eps)
    solver = None
    for _ in range(ROUNDS):
        mean = z.mean(1, keepdim=True)
        length = (z.var(1, unbiased=False, keepdim=True) + eps).sqrt()
        scale, offset = fit_gain((z - mean) / length, goal, gain)
        unit = (goal - offset) / scale
        if solver is None:
            solver = Ridge(features, penalty=penalty, weights=1 / length[:, 0] ** 2)
        else:
            # What was reached along the goal is the length that costs nothing.
            length = (
                ((z - mean) * unit).sum(1, keepdim=True) / unit.square().sum(1, keepdim=True)
            ).clamp_min(0.3 * length.median())
        w1, b1 = solver.fit(length * unit + mean - x, prior=prior)
        wa, ba = solver.fit(length * unit)
        base, more = x + features @ w1 + b1, features @ wa + ba
        errors = {s: _normed_error(base[few] + (s - 1) * more[few], goal[few], gain, eps) for s in SCALES}
        s = min(errors, key=errors.__getitem__)
        if errors[s] >= best:
            break
        best, weight, bias = errors[s], w1 + (s - 1) * wa, b1 + (s - 1) * ba
        z = base + (s - 1) * more
    return weight, bias


def _normed_error(z: Tensor, goal: Tensor, prior: Tensor, eps: float) -> float:
    """Mean squared distance of the normed z from the goal, with the best gain and bias."""
    plain = F.layer_norm(z, z.shape[1:], eps=eps)
    gain, bias = fit_gain(plain, goal, prior)
    return float((plain * gain + bias - goal).square().mean())


def fit_gain(x: Tensor, goal: Tensor, prior: Tensor, *, floor: bool = True) -> tuple[Tensor, Tensor]:
    """Per dimension the least squares line `gain · x + bias ≈ goal`, gain drawn slightly to its prior; (N, d), (d,).

    Args:
        floor: no gain is near 0, for a matrix before the norm that is still to be solved.
    """
    mean, to = x.mean(0), goal.mean(0)
    x, goal = x - mean, goal - to
    variance = x.square().mean(0)
    ground = GAIN_PENALTY * variance.mean()
    gain = ((x * goal).mean(0) + ground * prior) / (variance + ground)
    if floor:
        # A gain near 0 would ask the matrix before the norm for boundless outputs.
        least = 0.05 * gain.abs().median()
        gain = torch.where(gain.abs() < least, torch.where(prior < 0, -least, least), gain)
    return gain, to - mean * gain
