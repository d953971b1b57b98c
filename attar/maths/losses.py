"""The formulas of distillation: one function each, tensors in, a scalar out.

Shapes: B sentences, T positions, N real (not padding) tokens of the batch, C outputs, H heads, D and d widths of
teacher and student. Hidden vectors come as (N, D), packed, so padding cannot count. `count` is the denominator of the
mean; where None it is the batch's own, and under gradient accumulation or data parallelism that of the whole step.
"""

from torch import Tensor
from torch.nn import functional as F


def soft_cross_entropy(
    student: Tensor, teacher: Tensor, *, temperature: float = 1.0, count: float | None = None
) -> Tensor:
    """Cross-entropy of the student against the teacher's distribution: CE(z_T / t, z_S / t).

    TinyBERT (1909.10351) eq. 10. It differs from `kl_divergence` at t = 1 by the teacher's entropy, a constant.

    Args:
        student, teacher: logits, (B, C).
        temperature: t, flattens both distributions.
        count: sentences to average over; B where None.
    """
    target = (teacher.float() / temperature).softmax(-1)
    total = -(target * (student.float() / temperature).log_softmax(-1)).sum()
    return total / (count or student.shape[0])


def kl_divergence(
    student: Tensor, teacher: Tensor, *, temperature: float = 1.0, count: float | None = None
) -> Tensor:
    """KL(softmax(z_T / t) || softmax(z_S / t)) · t², Hinton et al. (1503.02531) section 2.

    The factor t² keeps the gradient's size when t changes. Zero, with zero gradient, where both agree.

    Args:
        student, teacher: logits, (..., C); each leading position is one distribution.
        count: distributions to average over; all of them where None.
    """
    target = (teacher.float() / temperature).log_softmax(-1)
    ours = (student.float() / temperature).log_softmax(-1)
    total = F.kl_div(ours, target, reduction="sum", log_target=True) * temperature**2
    return total / (count or student[..., 0].numel())


def binary_kl(
    student: Tensor, teacher: Tensor, *, temperature: float = 1.0, count: float | None = None
) -> Tensor:
    """KL of C independent yes/no decisions, summed over C, times t²: the multi-label form of `kl_divergence`.

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


def relation_kl(
    student: Tensor, teacher: Tensor, *, heads: int, mask: Tensor | None = None, count: float | None = None
) -> Tensor:
    """KL between the self-relations of teacher and student, MiniLMv2 (2012.15828) eq. 5 and 6.

    Vectors of all heads are joined and split anew into `heads` relation heads, the same number for both, so that head
    counts and widths of teacher and student need not agree. Relation R = softmax(X Xᵀ / sqrt(d_r)), for X the
    queries, keys or values.

    Args:
        student: (B, H_s, T, e_s) queries, keys or values; H_s · e_s divisible by `heads`.
        teacher: (B, H_t, T, e_t), likewise.
        heads: number of relation heads.
        mask: (B, T), True at real tokens.
        count: query positions to average over; the real ones where None.

    Returns:
        The mean over relation heads and real query positions, in nats.
    """
    ours = _relation(student, heads, mask).log_softmax(-1)
    target = _relation(teacher, heads, mask).log_softmax(-1)
    each = (target.exp() * (target - ours)).sum(-1)  # (B, heads, T)
    if mask is not None:
        each = each * mask[:, None, :]
    rows = float(mask.sum()) if mask is not None else float(each.shape[0] * each.shape[2])
    return each.sum() / ((count or rows) * heads)


def _relation(vectors: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    batch, count, length, width = vectors.shape
    joined = (
        vectors.float().transpose(1, 2).reshape(batch, length, heads, count * width // heads).transpose(1, 2)
    )
    scores: Tensor = joined @ joined.transpose(-1, -2) / float(joined.shape[-1]) ** 0.5
    # A finite floor, since a padded query row with every key at -inf would give NaN, and NaN survives a product with 0.
    return scores if mask is None else scores.masked_fill(~mask[:, None, None, :], -1e4)
