"""The loss that needs neither labels nor a language model head: stay close to the model before."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from attar.data.batches import Batch
from attar.data.tasks import Task
from attar.maths import losses
from attar.model.views import Need, call


class SelfDistillation(nn.Module):
    """A model with its distance from the one that it is a cut of: last hidden states, and logits where there is a task.

    The hidden loss is the squared distance of each real token, relative to the variance of the teacher's vector there,
    so that it is of the size of the divergence of the logits; over the dimensions that the cut model still has.

    Args:
        model: learns. teacher: the model before it was cut; no part of this module, so neither trained nor saved.
        hidden: which of the teacher's dimensions the model still has; all where None.
        task: of both models' heads; None compares hidden states alone, through the base models.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        teacher: PreTrainedModel,
        *,
        hidden: tuple[int, ...] | None = None,
        task: Task | None = None,
    ) -> None:
        super().__init__()
        self.model, self.task = model, task
        self.kept = None if hidden is None else torch.tensor(hidden)
        self.__dict__["teacher"] = teacher.eval()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`{"hidden": …}`, and `"prediction"` where there is a task."""
        teacher: PreTrainedModel = self.__dict__["teacher"]
        last = [m.config.num_hidden_layers for m in (self.model, teacher)]
        needs = [Need(hidden=frozenset({n})) for n in last]
        # Without a task no head is run: a language model's costs more than all its layers.
        pair = (self.model, teacher) if self.task else (self.model.base_model, teacher.base_model)
        with torch.no_grad():
            theirs = call(pair[1], batch.inputs, needs[1])
        ours = call(pair[0], batch.inputs, needs[0])
        goal = theirs.hidden[last[1]].float()
        if self.kept is not None:
            goal = goal.index_select(1, self.kept.to(goal.device))
        # Each token by its own variance: that of a batch would be another in each process.
        error = (ours.hidden[last[0]].float() - goal).square().mean(1) / goal.var(1).clamp_min(1e-6)
        parts = {"hidden": error.sum() / batch.counts.tokens}
        if self.task is not None:
            parts["prediction"] = self._prediction(ours.logits, theirs.logits, batch.counts.examples)
        return parts

    def _prediction(self, ours: Tensor, theirs: Tensor, count: float) -> Tensor:
        assert self.task is not None
        if self.task.kind == "single_label":
            return losses.divergence(ours, theirs, count=count)
        if self.task.kind == "multi_label":
            return losses.binary_kl(ours, theirs, count=count)
        return F.mse_loss(ours.float(), theirs.float(), reduction="sum") / count
