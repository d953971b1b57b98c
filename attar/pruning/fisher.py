"""The loss behind first-order scores without labels: log-likelihood of answers drawn from the model itself."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from attar.data.batches import Batch
from attar.data.tasks import Task
from attar.model.views import Need, call


class SampledLikelihood(nn.Module):
    """Negative log-likelihood of answers that are drawn from the model's own distribution.

    The distance of a model from itself has no gradient where the two are equal, so first-order scores of it are
    rounding errors. The squared gradient of this loss is, on average, the Fisher information: how far the answers move
    where a unit goes (1801.05787).

    Args:
        model: that is scored.
        task: of its head; without one the answers are the last hidden states with a Gaussian around each.
        seed: of what is drawn.
    """

    def __init__(self, model: PreTrainedModel, *, task: Task | None, seed: int = 0) -> None:
        super().__init__()
        self.model, self.task = model, task
        self.generator = torch.Generator().manual_seed(seed)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`{"likelihood": …}`."""
        if self.task is None:
            last = self.model.config.num_hidden_layers
            hidden = (
                call(self.model.base_model, batch.inputs, Need(hidden=frozenset({last}))).hidden[last].float()
            )
            scale = hidden.detach().std() * hidden.shape[1] ** 0.5
            return {"likelihood": (hidden * self._noise(hidden)).sum() / (scale * batch.counts.tokens)}
        choices = self.task.decisions(call(self.model, batch.inputs, Need()).logits, batch)
        return {"likelihood": self.of_choices(choices.float()) / self.task.count(batch.counts)}

    def of_choices(self, choices: Tensor) -> Tensor:
        """The sum over K choices of logits (K, C)."""
        assert self.task is not None
        if self.task.kind == "regression":
            return (choices * self._noise(choices)).sum()
        chances = choices.detach().cpu()
        if self.task.kind == "multi_label":
            drawn = torch.bernoulli(chances.sigmoid(), generator=self.generator).to(choices.device)
            return F.binary_cross_entropy_with_logits(choices, drawn, reduction="sum")
        said = torch.multinomial(chances.softmax(-1), 1, generator=self.generator).squeeze(1)
        return F.cross_entropy(choices, said.to(choices.device), reduction="sum")

    def _noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator).to(like.device)
