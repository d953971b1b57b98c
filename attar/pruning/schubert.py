"""Learn the alphas: freeze the weights and let the loss and the cost of each unit pull at its alpha (2005.06628)."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from attar.data.batches import Batch
from attar.errors import TrainingError
from attar.progress import say, track
from attar.pruning.alphas import Alphas, alphas_for, betas, gated
from attar.pruning.scores import frozen
from attar.pruning.selection import Cost
from attar.training.loop import Precision, Source, Step, averaged, fit

# The axes of each variant of the paper, and (auto) those whose units cost least to lose here, as far as they reach:
# docs/guide-pruning.md.
VARIANTS: dict[str, tuple[str, ...]] = {
    "auto": ("heads", "ffn"),
    "all": ("hidden", "embedding", "heads", "key", "value", "ffn"),
    "h": ("hidden",),
    "f": ("ffn",),
    "a": ("heads", "key", "value"),
}
# How far from 1 gamma pulls a unit of middling worth, where none is given; and on how many batches that is measured.
PULL, PROBES = 0.1, 8
# An alpha this far out was not learned but thrown.
WILD = 10.0


class Limited:
    """A number of steps over batches, epoch after epoch of them, as one epoch: for phases that are counted in steps.

    Args:
        first: step to begin at, for a phase that goes on from another.
    """

    def __init__(self, batches: Source, steps: int, first: int = 0) -> None:
        self.batches, self.steps, self.first = batches, steps, first

    @property
    def content(self) -> tuple[Any, ...]:
        """What names the batches."""
        return (*self.batches.content, self.steps, *([self.first] if self.first else []))

    @property
    def token_ids(self) -> Any:
        """All tokens of the batches, where these know them."""
        return self.batches.token_ids  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return self.steps

    def epoch(self, number: int = 0, *, start: int = 0) -> Iterator[Batch]:
        """The steps from the `start`-th on."""
        first = self.first + number * self.steps + start
        left = self.steps - start
        each = len(self.batches)
        while left > 0:
            found = islice(self.batches.epoch(first // each, start=first % each), left)
            for batch in found:
                yield batch
                left, first = left - 1, first + 1


class Penalised(nn.Module):
    """Alphas with the loss of the model that they gate, and gamma * sum_j beta_j |alpha_j|."""

    def __init__(
        self, alphas: Alphas, loss: Callable[[Batch], dict[str, Tensor]], betas: Sequence[float], gamma: float
    ) -> None:
        super().__init__()
        self.alphas, self.betas, self.gamma = alphas, list(betas), gamma
        self.__dict__["loss"] = loss  # the frozen model is no part of what is trained and saved

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The model's loss parts, and "cost"."""
        parts: dict[str, Tensor] = dict(self.__dict__["loss"](batch))
        return {**parts, "cost": self.gamma * self.alphas.penalty(self.betas)}


def learn_alphas(
    model: PreTrainedModel,
    axes: Sequence[str],
    loss: nn.Module,
    batches: Source,
    cost: Cost,
    *,
    steps: int = 100,
    lr: float = 0.02,
    gamma: float | None = None,
    seed: int = 0,
    precision: Precision = "auto",
    checkpoint: Path | None = None,
) -> Alphas:
    """Learn one alpha a unit with the weights frozen.

    Args:
        axes: that may be cut; `VARIANTS` names the paper's.
        loss: named loss parts of a batch, through `model`; evaluation mode, so no dropout.
        cost: of a form; beta of each unit is what it costs, see `betas`.
        gamma: weight of the cost; where None it is measured, so that a unit of middling worth is pulled as strongly by
            its cost as by its loss when it stands at 0.9.

    Raises:
        TrainingError: the loss or an alpha diverges.
    """
    alphas = alphas_for(model, axes)
    weights = betas(alphas, cost)
    model.eval()
    with frozen(model), gated(model, alphas):
        if gamma is None:
            gamma = balanced(alphas, loss, batches, weights)
            say(f"gamma {gamma:.3g}: units of middling worth are pulled evenly by loss and cost")
        learner = Penalised(alphas, loss, weights, gamma)
        source = Limited(batches, steps)
        running = fit(
            learner,
            source,
            epochs=1,
            lr=lr,
            warmup=0.0,
            weight_decay=0.0,
            clip=0.0,
            precision=precision,
            seed=seed,
            checkpoint=checkpoint,
        )
        for _ in track(running, "learn alphas", steps, done=Step.done):
            pass
    largest = max(a.abs().max().item() for a in alphas.parameters())
    if not largest < WILD:
        raise TrainingError(
            expected=f"alphas between 0 and about 1, at most {WILD:g}",
            found=f"{largest:.3g} after {steps} steps",
            fix="lower the learning rate of the alphas (lr), or gamma",
        )
    return alphas


def balanced(
    alphas: Alphas, loss: Callable[[Batch], dict[str, Tensor]], batches: Source, weights: Sequence[float]
) -> float:
    """Gamma at which, with all alphas at 1 - PULL, half of the units are pulled more strongly by their loss."""
    groups = list(alphas.parameters())
    sums = [torch.zeros_like(a) for a in groups]
    with torch.no_grad():
        for a in groups:
            a.fill_(1 - PULL)
    for batch in Limited(batches, PROBES).epoch():
        total = torch.stack([part.float() for part in loss(batch).values()]).sum()
        gradients = torch.autograd.grad(total, groups, allow_unused=True)
        sums = [s if g is None else s + g / PROBES for s, g in zip(sums, gradients, strict=True)]
    with torch.no_grad():
        for a in groups:
            a.fill_(1.0)
    pulls = [g.abs() / b for g, b in zip(averaged(sums), weights, strict=True) if b > 0]
    return float(torch.cat(pulls).median()) if pulls else 0.0
