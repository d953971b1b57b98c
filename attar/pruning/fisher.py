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
        logits = call(self.model, batch.inputs, Need()).logits
        choices = self.task.decisions(logits, batch).float()
        count = self.task.count(batch.counts)
        if self.task.kind == "regression":
            return {"likelihood": (choices * self._noise(choices)).sum() / count}
        if self.task.kind == "multi_label":
            drawn = torch.bernoulli(choices.detach().sigmoid().cpu(), generator=self.generator).to(
                choices.device
            )
            loss = F.binary_cross_entropy_with_logits(choices, drawn, reduction="sum")
            return {"likelihood": loss / count}
        said = torch.multinomial(choices.detach().softmax(-1).cpu(), 1, generator=self.generator).squeeze(1)
        return {"likelihood": F.cross_entropy(choices, said.to(choices.device), reduction="sum") / count}

    def _noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator).to(like.device)
