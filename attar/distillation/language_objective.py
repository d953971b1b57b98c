"""Knowledge distillation of a language model: a student that learns the teacher's distribution over every token."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from attar.data.batches import Batch
from attar.data.masking import IGNORED
from attar.distillation.top_k_cache import Folded, TopK
from attar.maths.chunks import chunked
from attar.maths.losses import cosine_error, divergence, fold, log_probabilities, sampled_divergence
from attar.model.lm_head import features, last_hidden, output
from attar.training.loop import Precision, autocast

# (n, V) logits of the student at the positions of a slice -> their divergence from the teacher, a sum over count.
Apart = Callable[[Tensor, slice], Tensor]


class LanguageTeacher(Protocol):
    """Says how far a student's logits are from its own, for the tokens that a batch's mask names."""

    def of(self, batch: Batch) -> tuple[Apart, Tensor | None]:
        """The divergence as a function of the student's logits, and the last hidden states (N, D) where it has them."""
        ...


class Live:
    """Runs the teacher for every batch.

    Args:
        vocab: logits that count, the first ones: what is beyond them are padding rows of one of the two models.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        vocab: int,
        beta: float,
        temperature: float,
        precision: Precision = "auto",
    ) -> None:
        self.model, self.vocab, self.precision = model.eval(), vocab, precision
        self.beta, self.temperature = beta, temperature

    @torch.no_grad()
    def of(self, batch: Batch) -> tuple[Apart, Tensor | None]:
        """Run the teacher."""
        with autocast(self.precision):
            hidden = last_hidden(self.model, batch.inputs)[batch.mask]
            read = features(self.model, hidden)
        weight, bias = output(self.model)

        def apart(logits: Tensor, part: slice) -> Tensor:
            with torch.no_grad():
                theirs = F.linear(read[part].to(weight.dtype), weight, bias)
            return divergence(
                logits[:, : self.vocab],
                theirs[:, : self.vocab],
                beta=self.beta,
                temperature=self.temperature,
                count=batch.counts.tokens,
            )

        return apart, hidden


class FromCache:
    """Reads what is kept of the teacher's distributions from disk. It has no hidden states."""

    def __init__(self, cache: TopK, *, beta: float) -> None:
        self.cache, self.beta = cache, beta

    def of(self, batch: Batch) -> tuple[Apart, Tensor | None]:
        """Read the teacher's word on a batch of blocks."""
        key = self.cache.key
        said: Folded = self.cache.of(batch.index)
        device = next(iter(batch.inputs.values())).device
        said = Folded(said.index.to(device), said.log_p.to(device))

        def apart(logits: Tensor, part: slice) -> Tensor:
            theirs = said[part]
            if key.drawn:
                ours = log_probabilities(logits[:, : key.vocab], theirs.index, temperature=key.temperature)
                apart = sampled_divergence(
                    ours, theirs.log_p[:, :-1], weights[part], beta=self.beta, count=batch.counts.tokens
                )
            else:
                ours = fold(logits[:, : key.vocab], theirs.index, temperature=key.temperature)
                apart = divergence(ours, theirs.log_p, beta=self.beta, count=batch.counts.tokens)
            return apart * key.temperature**2

        weights = said.weights(key.k)
        return apart, None


class LanguageDistiller(nn.Module):
    """A student with the three losses of DistilBERT (1910.01108, section 3); the teacher is no part of it.

    - kl: divergence of the next (or hidden) token's distribution from the teacher's, Hinton et al. (1503.02531);
    - ce: cross-entropy with the text itself: of the masked tokens of a masked model, of the next tokens of a causal;
    - cosine: 1 - cos of the last hidden states.

    The first and the last are means over all tokens of the batch that are no padding (masked), or that have a next
    token in their document (causal); ce is a mean over the tokens that are predicted.

    Args:
        kl, ce, cosine: weights of the losses; what is 0 is not computed.
        dropout: whether the student's dropout is on in training.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: LanguageTeacher,
        *,
        kl: float = 5.0,
        ce: float = 2.0,
        cosine: float = 1.0,
        dropout: bool = True,
    ) -> None:
        super().__init__()
        self.student, self.dropout = student, dropout
        self.kl, self.ce, self.cosine = kl, ce, cosine
        self.__dict__["teacher"] = teacher

    def train(self, mode: bool = True) -> "LanguageDistiller":
        """Training mode; the student stays in evaluation mode where dropout is off, which is all that mode changes."""
        super().train(mode)
        if not self.dropout:
            self.student.eval()
        return self

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Named loss parts of a batch. Only their sum may be differentiated."""
        assert batch.labels is not None
        mask = batch.mask
        wanted = batch.labels[mask]
        apart, theirs = self._teacher_of(batch)
        hidden = last_hidden(self.student, batch.inputs)[mask]
        weight, bias = output(self.student)
        names = [name for name in ("kl", "ce") if getattr(self, name)]

        def losses(logits: Tensor, part: slice) -> Tensor:
            parts = []
            if self.kl:
                parts.append(self.kl * apart(logits, part))
            if self.ce:
                total = F.cross_entropy(logits.float(), wanted[part], reduction="sum", ignore_index=IGNORED)
                parts.append(self.ce * total / (batch.counts.masked or 1.0))
            return torch.stack(parts)

        parts: dict[str, Tensor] = {}
        if names:
            values = chunked(features(self.student, hidden), weight, bias, losses)
            parts |= dict(zip(names, values.unbind(), strict=True))
        if self.cosine and theirs is not None:
            parts["cosine"] = self.cosine * cosine_error(hidden, theirs, count=batch.counts.tokens)
        return parts

    def _teacher_of(self, batch: Batch) -> tuple[Apart, Tensor | None]:
        if not (self.kl or self.cosine):
            return lambda logits, part: logits.sum(), None
        teacher: LanguageTeacher = self.__dict__["teacher"]
        return teacher.of(batch)
