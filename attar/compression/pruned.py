"""Pruned forms of the teacher: units are scored once for each set of axes, then any budget is a matter of counting."""

import copy
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from attar.anatomy.form import Form, form_of
from attar.compression.candidate import Architecture
from attar.compression.data import Texts
from attar.errors import AttarError, PlanError
from attar.pruning.alphas import alphas_for, betas
from attar.pruning.apply import apply
from attar.pruning.cost import Parameters
from attar.pruning.fisher import SampledLikelihood
from attar.pruning.reconstruction import TOKENS, reconstruct
from attar.pruning.round import MEASURED, axes_of
from attar.pruning.schubert import Limited, learn_alphas
from attar.pruning.scores import per_cost, taylor
from attar.pruning.selection import Scores, in_order
from attar.pruning.self_distillation import SelfDistillation
from attar.pruning.units import Kept
from attar.storage.writing import save_tensors
from attar.training.loop import Precision

# Sets of axes that are tried: all that can go, and those that leave the hidden size.
AXES = {"all": "all", "heads, FFN": ("heads", "ffn")}
# Steps of learning alphas (schuBERT); with no time to train, units are ranked by one pass of Taylor scores instead.
STEPS, RATE = 100, 0.02


class PrunedForms:
    """What stays of the teacher at any budget, and the models that it leaves.

    Args:
        learned: whether units are ranked by learned alphas (2005.06628), else by first-order Taylor scores
            (1906.10771).
        place: a directory to keep the scores in.
    """

    def __init__(self, texts: Texts, place: Path, *, learned: bool, precision: Precision, seed: int) -> None:
        self.texts, self.place = texts, place
        self.learned, self.precision, self.seed = learned, precision, seed
        self.model = texts.loaded.model
        self.kept = lru_cache(maxsize=512)(self._kept)
        self.scores = lru_cache(maxsize=8)(self._scores)

    def axes(self) -> tuple[str, ...]:
        """Names of the sets of axes that the family can be cut along; none for a family that cannot be pruned."""
        found = []
        for name, axes in AXES.items():
            try:
                form_of(self.model.config)
                axes_of(self.model, axes)
                alphas_for(self.model, axes_of(self.model, axes))
            except AttarError:
                continue
            found.append(name)
        return tuple(found)

    def cost(self) -> Parameters:
        """Parameters of a form."""
        return Parameters(self.model)

    def form(self, architecture: Architecture) -> Form:
        """The form that a budget leaves."""
        return self.kept(architecture).form

    def _kept(self, architecture: Architecture) -> Kept:
        form, cost = form_of(self.model.config), self.cost()
        return in_order(form, self.scores(architecture.axes), cost, architecture.budget * cost(form))

    def possible(self, architecture: Architecture) -> bool:
        """Whether the family has a class for what the budget leaves."""
        try:
            self.kept(architecture)
        except PlanError:
            return False
        return True

    def cut(self, architecture: Architecture, *, fit: bool) -> tuple[PreTrainedModel, dict[int, Tensor]]:
        """The model that a budget leaves, and for each layer the matrix (d, D) that puts its units where they were.

        Args:
            fit: whether what stays is fitted by least squares to what went.
        """
        kept = self.kept(architecture)
        small = apply(self.model, kept)
        if fit:
            reconstruct(small, self.model, kept, self.texts.sample(TOKENS // 8).epoch())
        back = torch.zeros(len(kept.hidden), form_of(self.model.config).hidden)
        back[torch.arange(len(kept.hidden)), torch.tensor(kept.hidden)] = 1.0
        return small, {m: back for m in range(1, len(kept.layers) + 1)}

    def _scores(self, name: str) -> Scores:
        axes = axes_of(self.model, AXES[name])
        if not self.learned and name != "all":  # a unit's gradient is the same whatever else has an alpha
            every = self.scores("all")
            parts = (
                {axis: x for axis, x in part.items() if axis in axes}
                for part in (every.shared, *every.layers)
            )
            return Scores(next(parts), tuple(parts))
        file = self.place / f"scores-{'alphas' if self.learned else 'taylor'}-{'-'.join(name.split(', '))}.pt"
        if not file.is_file():
            found = self._measured(axes)
            self.place.mkdir(parents=True, exist_ok=True)
            save_tensors({"shared": dict(found.shared), "layers": [dict(x) for x in found.layers]}, file)
        read = torch.load(file, weights_only=True)
        return Scores(read["shared"], tuple(read["layers"]))

    def _measured(self, axes: tuple[str, ...]) -> Scores:
        batches, cost, task = self.texts.batches(self.texts.tables.train), self.cost(), self.texts.task
        assert task is not None  # decoders have no axes
        if self.learned:
            model = copy.deepcopy(self.model)  # the alphas gate every call of it
            close = SelfDistillation(model, self.model, task=None if task.per_token else task).eval()
            return learn_alphas(
                model,
                axes,
                close,
                batches,
                cost,
                steps=STEPS,
                lr=RATE,
                seed=self.seed,
                precision=self.precision,
            ).scores()
        loss = SampledLikelihood(self.model, task=task, seed=self.seed).eval()
        scores = taylor(
            self.model,
            axes,
            Limited(batches, MEASURED // 2).epoch(),
            lambda batch: torch.stack(list(loss(batch).values())).sum(),
        )
        return per_cost(scores, betas(alphas_for(self.model, axes), cost))
