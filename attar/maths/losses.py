"""The formulas of distillation: one function each, tensors in, a scalar out.

Shapes: B sentences, T positions, N real (not padding) tokens of the batch, C outputs, H heads, D and d widths of
teacher and student. Hidden vectors come as (N, D), packed, so padding cannot count. `count` is the denominator of the
mean; where None it is the batch's own, and under gradient accumulation or data parallelism that of the whole step.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Of distances beside a loss of the outputs themselves, which are that much larger.
RKD_WEIGHT = 25.0


def soft_cross_entropy(
    student: Tensor, teacher: Tensor, *, temperature: float = 1.0, count: float | None = None
) -> Tensor:
    """Cross-entropy of the student against the teacher's distribution: CE(z_T / t, z_S / t).

    TinyBERT (1909.10351) eq. 10. It differs from `divergence` at t = 1 by the teacher's entropy, a constant.

    Args:
        student, teacher: logits, (B, C).
        temperature: t, flattens both distributions.
        count: sentences to average over; B where None.
    """
    target = (teacher.float() / temperature).softmax(-1)
    total = -(target * (student.float() / temperature).log_softmax(-1)).sum()
    return total / (count or student.shape[0])


def divergence(
    student: Tensor,
    teacher: Tensor,
    *,
    beta: float = 0.0,
    temperature: float = 1.0,
    count: float | None = None,
) -> Tensor:
    """Divergence of softmax(z_S / t) from softmax(z_T / t), times t²: forward KL, reverse KL, and all between.

    With P the teacher's and Q the student's distribution and M = βP + (1-β)Q: β = 0 is the forward KL(P || Q) of Hinton
    et al. (1503.02531) section 2, β = 1 the reverse KL(Q || P), and between them the generalised Jensen-Shannon
    divergence β·KL(P || M) + (1-β)·KL(Q || M) (2306.13649, eq. 1; β = 0.5 is the symmetric one). The ends are not the
    limits of what is between them, which are 0: near its ends the Jensen-Shannon divergence is β or 1-β times a KL.

    The factor t² keeps the gradient's size when t changes. Zero, with zero gradient, where both agree.

    Args:
        student, teacher: logits, (..., C); each leading position is one distribution.
        beta: β in [0, 1].
        count: distributions to average over; all of them where None.
    """
    target = (teacher.float() / temperature).log_softmax(-1)
    ours = (student.float() / temperature).log_softmax(-1)
    total = _apart(ours, target, beta).sum()
    return total * (temperature**2 / (count or student[..., 0].numel()))


def sampled_divergence(
    student: Tensor, teacher: Tensor, weight: Tensor, *, beta: float = 0.0, count: float | None = None
) -> Tensor:
    """The divergence of `divergence`, without its t², from the likeliest classes and a sample of the others.

    Right on average over samples where a sampled class weighs 1 over how often it is expected to be drawn
    (importance sampling, 2503.16870 section 3), and so is its gradient, if student log-probabilities are of a softmax
    over all classes.

    Args:
        student, teacher: log-probabilities, (N, k), of the classes that are there.
        weight: (N, k) how many classes each stands for: 1 for one that is always there.
        count: distributions to average over; N where None.
    """
    return (weight * _apart(student, teacher, beta)).sum() / (count or student.shape[0])


def embedding_error(student: Tensor, teacher: Tensor, *, count: float | None = None) -> Tensor:
    """What embeddings differ by: 1 - cos(s, t), and |s - t|² as a part of the teacher's mean |t|²; twice 0 where equal.

    Of unit vectors the second is 2 - 2 cos; of others it keeps lengths, which dot products read.

    Args:
        student, teacher: (B, E).
        count: texts to average over; B where None.
    """
    ours, theirs = student.float(), teacher.float()
    apart = 1 - F.cosine_similarity(ours, theirs, dim=-1)
    size = theirs.pow(2).sum(-1).mean().clamp(min=1e-12)
    return (apart.sum() + (ours - theirs).pow(2).sum() / size) / (count or student.shape[0])


def similarity_divergence(
    student: Tensor, teacher: Tensor, *, temperature: float = 0.05, count: float | None = None
) -> Tensor:
    """KL of which other texts of the batch a text is like: softmax over cosines / t, teacher's against student's.

    Relational: it does not ask for the teacher's space, nor for its number of dimensions (compare RKD, 1904.05068, and
    the contrastive distillation of 2002.10957's relations). A batch of one text has no others: 0.

    Args:
        student, teacher: (B, d) and (B, E).
        count: texts to average over; B where None.
    """
    if len(student) < 2:
        return 0.0 * student.float().sum()
    own = torch.eye(len(student), dtype=torch.bool, device=student.device)
    units = (F.normalize(x.float(), dim=-1) for x in (student, teacher))
    ours, theirs = ((x @ x.T / temperature).masked_fill(own, -1e9).log_softmax(-1) for x in units)
    apart = F.kl_div(ours, theirs, reduction="none", log_target=True).masked_fill(own, 0.0)
    return apart.sum() / (count or len(student))


def neighbour_divergence(
    student: Tensor,
    teacher: Tensor,
    own: Tensor,
    others: Tensor,
    *,
    temperature: float = 0.05,
    count: float | None = None,
) -> Tensor:
    """KL of which of given texts a text is like: `similarity_divergence` with texts beyond the batch.

    Of those the teacher's embeddings are known and the student's are not, so it is the teacher's that both sides are
    compared with: how a student's queries rank an index of its teacher. The text itself may be one of them. Zero where
    student and teacher are equal. In fp32 under autocast, too: what is to be told apart is near.

    Args:
        student, teacher: (B, d) and (B, E).
        own: (N, d) the teacher's embeddings of the given texts in the student's space.
        others: (N, E) the same in the teacher's.
        count: texts to average over; B where None.
    """
    sides = ((student, own), (teacher, others))
    with torch.autocast(student.device.type, enabled=False):
        ours, theirs = (
            (F.normalize(x.float(), dim=-1) @ F.normalize(y.float(), dim=-1).T / temperature).log_softmax(-1)
            for x, y in sides
        )
        return F.kl_div(ours, theirs, reduction="sum", log_target=True) / (count or len(student))


def distance_error(student: Tensor, teacher: Tensor, *, count: float | None = None) -> Tensor:
    """Huber loss of the distances between the texts of a batch, each side's as parts of their mean.

    RKD's distance-wise loss (1904.05068 eq. 5 and 6) as a mean over pairs, times the weight of section 4.2. Relational
    as `similarity_divergence` is: neither the teacher's space nor its number of dimensions matter, nor lengths in all.

    Args:
        student, teacher: (B, d) and (B, E).
        count: texts to average over; B where None.
    """
    if len(student) < 2:
        return 0.0 * student.float().sum()
    pairs = torch.triu_indices(len(student), len(student), 1, device=student.device)
    ours, theirs = (F.pairwise_distance(x.float()[pairs[0]], x.float()[pairs[1]]) for x in (student, teacher))
    ours, theirs = (x / x.mean().clamp(min=1e-12) for x in (ours, theirs))
    return RKD_WEIGHT * F.huber_loss(ours, theirs) * len(student) / (count or len(student))


def log_probabilities(logits: Tensor, index: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Log softmax(z / t) of some classes: logits (N, V) and the classes' numbers (N, k) to (N, k)."""
    found: Tensor = _LogProbabilities.apply(logits.float(), index, temperature)
    return found


class _LogProbabilities(torch.autograd.Function):
    """`log_probabilities`, with half the passes over the (N, V) logits that torch's own gradients take."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, index: Tensor, temperature: float) -> Tensor:
        scaled = logits / temperature
        largest = scaled.amax(-1, keepdim=True)
        shares = scaled.sub_(largest)
        kept = shares.gather(-1, index)
        total = shares.exp_().sum(-1, keepdim=True)
        ctx.save_for_backward(shares, total, index)
        ctx.temperature = temperature
        return kept - total.log()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        shares, total, index = ctx.saved_tensors
        grad = grads[0] / ctx.temperature
        slope = shares * (-grad.sum(-1, keepdim=True) / total)
        return slope.scatter_add_(-1, index, grad), None, None


def _apart(ours: Tensor, target: Tensor, beta: float) -> Tensor:
    """What each class adds to the divergence of two distributions, given as log-probabilities."""
    if beta == 0:
        return F.kl_div(ours, target, reduction="none", log_target=True)
    if beta == 1:
        return F.kl_div(target, ours, reduction="none", log_target=True)
    middle = torch.logaddexp(target + math.log(beta), ours + math.log1p(-beta))
    each = beta * F.kl_div(middle, target, reduction="none", log_target=True)
    return each + (1 - beta) * F.kl_div(middle, ours, reduction="none", log_target=True)


def fold(logits: Tensor, index: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Log-probabilities at a temperature of some classes and of all others together, as one class more.

    A divergence of what two models' logits fold to is at most that of the logits themselves (the data-processing
    inequality), and equal where the folded classes are all there are.

    Args:
        logits: (N, V).
        index: (N, k) the classes that stay, distinct in a row.

    Returns:
        (N, k + 1), or (N, V) where k = V and nothing is left over.
    """
    scaled = logits.float() / temperature
    kept = scaled.gather(-1, index) - scaled.logsumexp(-1, keepdim=True)
    if index.shape[-1] == logits.shape[-1]:
        return kept
    others = scaled.scatter(-1, index, float("-inf")).logsumexp(-1, keepdim=True)
    return torch.cat([kept, others - scaled.logsumexp(-1, keepdim=True)], dim=-1)


def binary_kl(
    student: Tensor, teacher: Tensor, *, temperature: float = 1.0, count: float | None = None
) -> Tensor:
    """KL of C independent yes/no decisions, summed over C, times t²: the multi-label form of `divergence`.

    Args:
        student, teacher: logits, (B, C).
        count: sentences to average over; B where None.
    """
    return sum(
        (
            _binary_kl_side(sign * student.float() / temperature, sign * teacher.float() / temperature)
            for sign in (1.0, -1.0)
        ),
        start=student.new_zeros(()),
    ) * (temperature**2 / (count or student.shape[0]))


def _binary_kl_side(student: Tensor, teacher: Tensor) -> Tensor:
    return (teacher.sigmoid() * (F.logsigmoid(teacher) - F.logsigmoid(student))).sum()


def score_error(student: Tensor, teacher: Tensor, *, count: float | None = None) -> Tensor:
    """Squared distance of the student's score from the teacher's: the prediction loss of a regression, (B, 1) each."""
    return F.mse_loss(student.float(), teacher.float(), reduction="sum") / (count or student.shape[0])


def cosine_error(student: Tensor, teacher: Tensor, *, count: float | None = None) -> Tensor:
    """1 - cos(H_S, H_T), DistilBERT (1910.01108) section 3: it aligns the directions of the hidden vectors.

    Args:
        student, teacher: (N, D).
        count: tokens to average over; N where None.
    """
    apart = 1 - F.cosine_similarity(student.float(), teacher.float(), dim=-1)
    return apart.sum() / (count or student.shape[0])


def hidden_error(
    student: Tensor, teacher: Tensor, projection: Tensor | None = None, *, count: float | None = None
) -> Tensor:
    """MSE(H_S W, H_T), TinyBERT eq. 8 for hidden states and eq. 9 for embeddings.

    Args:
        student: (N, d).
        teacher: (N, D).
        projection: W, (d, D); the identity where None.
        count: tokens to average over; N where None.

    Returns:
        The mean over tokens and the D entries.
    """
    ours = student if projection is None else student @ projection.to(student.dtype)
    total = F.mse_loss(ours, teacher.to(ours.dtype), reduction="sum").float()
    return total / ((count or teacher.shape[0]) * teacher.shape[-1])


def attention_error(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, *, count: float | None = None
) -> Tensor:
    """Mean over heads of MSE(A_S, A_T), A the scores before softmax, TinyBERT eq. 7.

    Args:
        student, teacher: scores, (B, H, T, T).
        mask: (B, T), True at real tokens; None where no sentence is padded.
        count: query-key pairs to average over; the real ones where None.

    Returns:
        The mean over heads and over pairs of real tokens.
    """
    difference = (student - teacher.to(student.dtype)).float()
    pairs = float(difference.shape[0] * difference.shape[2] * difference.shape[3])
    if mask is not None:
        real = mask[:, None, :, None] & mask[:, None, None, :]
        difference = difference.masked_fill(~real, 0.0)
        pairs = float(real.sum())
    flat = difference.flatten()  # a dot product is one pass over the largest tensors of the step
    return flat.dot(flat) / ((count or pairs) * student.shape[1])


def relation(vectors: Tensor, *, heads: int) -> Tensor:
    """Self-relations X Xᵀ / sqrt(d_r) before softmax, MiniLMv2 (2012.15828) eq. 6.

    Vectors of all heads are joined and split anew into `heads` relation heads, the same number for teacher and student,
    so that their head counts and widths need not agree.

    Args:
        vectors: X, (B, H, T, e) queries, keys or values; H · e = heads · d_r.
        heads: number of relation heads.

    Returns:
        (B, heads, T, T).
    """
    batch, count, length, width = vectors.shape
    joined = (
        vectors.float().transpose(1, 2).reshape(batch, length, heads, count * width // heads).transpose(1, 2)
    )
    found: Tensor = joined @ joined.transpose(-1, -2) / float(joined.shape[-1]) ** 0.5
    return found


def relation_kl(
    student: Tensor, teacher: Tensor, *, mask: Tensor | None = None, count: float | None = None
) -> Tensor:
    """KL between the self-relations of teacher and student, MiniLMv2 (2012.15828) eq. 5.

    Args:
        student, teacher: `relation` of queries, keys or values, (B, R, T, T).
        mask: (B, T), True at real tokens.
        count: query positions to average over; the real ones where None.

    Returns:
        The mean over relation heads and real query positions, in nats.
    """
    if mask is not None:
        # A finite floor: a padded query row with every key at -inf would give NaN, and NaN survives a product with 0.
        student, teacher = (x.masked_fill(~mask[:, None, None, :], -1e4) for x in (student, teacher))
    ours, target = student.log_softmax(-1), teacher.log_softmax(-1)
    each = (target.exp() * (target - ours)).sum(-1)  # (B, R, T)
    if mask is not None:
        each = each * mask[:, None, :]
    rows = float(mask.sum()) if mask is not None else float(each.shape[0] * each.shape[2])
    return each.sum() / ((count or rows) * student.shape[1])
