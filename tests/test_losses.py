"""Laws of the formulas: each against a reference, zero for a copy of the teacher, blind to padding, summable."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from torch.nn import functional as F

from attar.maths import losses

B, C, T, H, E = 5, 3, 6, 4, 8
LENGTHS = torch.tensor([6, 3, 1, 5, 2])
MASK = torch.arange(T)[None] < LENGTHS[:, None]
seeds = settings(max_examples=25, deadline=None)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gradient(loss, *at):
    return torch.autograd.grad(loss, at)


@pytest.mark.parametrize("t", [0.5, 1.0, 3.0])
def test_soft_cross_entropy_is_scipys(t):
    ours, theirs = draw(B, C), draw(B, C, seed=1)
    target = special.softmax(theirs.numpy() / t, -1)
    expected = -(target * special.log_softmax(ours.numpy() / t, -1)).sum(-1).mean()
    assert losses.soft_cross_entropy(ours, theirs, temperature=t).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("t", [0.5, 1.0, 3.0])
def test_divergence_is_scipys(t):
    ours, theirs = draw(B, C), draw(B, C, seed=1)
    p, q = special.softmax(theirs.numpy() / t, -1), special.softmax(ours.numpy() / t, -1)
    expected = np.mean([stats.entropy(a, b) for a, b in zip(p, q, strict=True)]) * t**2
    assert losses.divergence(ours, theirs, temperature=t).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("t", [1.0, 2.0])
def test_binary_kl_is_that_of_each_yes_and_no(t):
    ours, theirs = draw(B, C), draw(B, C, seed=1)
    p, q = special.expit(theirs.numpy() / t), special.expit(ours.numpy() / t)
    each = [stats.entropy([a, 1 - a], [b, 1 - b]) for a, b in zip(p.flat, q.flat, strict=True)]
    assert losses.binary_kl(ours, theirs, temperature=t).item() == pytest.approx(
        sum(each) / B * t**2, rel=1e-4
    )


@seeds
@given(st.integers(0, 10**6), st.floats(0.3, 8.0))
def test_soft_cross_entropy_is_kl_and_the_teachers_entropy(seed, t):
    ours, theirs = draw(B, C, seed=seed).double(), draw(B, C, seed=seed + 1)
    entropy = torch.distributions.Categorical(logits=theirs / t).entropy().mean()
    cross = losses.soft_cross_entropy(ours, theirs, temperature=t)
    kl = losses.divergence(ours, theirs, temperature=t) / t**2
    assert (cross - entropy).item() == pytest.approx(kl.item(), abs=1e-5)
    assert kl.item() >= -1e-6


def test_hidden_error_is_the_naive_loops():
    ours, theirs, w = draw(7, 4), draw(7, 6, seed=1), draw(4, 6, seed=2)
    expected = sum(
        (sum(ours[n, i] * w[i, j] for i in range(4)) - theirs[n, j]) ** 2 for n in range(7) for j in range(6)
    )
    assert losses.hidden_error(ours, theirs, w).item() == pytest.approx(float(expected) / 42, rel=1e-5)
    same = losses.hidden_error(theirs, theirs * 2, None).item()
    assert same == pytest.approx(F.mse_loss(theirs, theirs * 2).item(), rel=1e-6)


def test_attention_error_is_the_naive_loops():
    ours, theirs = draw(B, H, T, T), draw(B, H, T, T, seed=1)
    total, pairs = 0.0, 0
    for b, length in enumerate(LENGTHS.tolist()):
        for i in range(length):
            for j in range(length):
                pairs += 1
                total += sum((ours[b, h, i, j] - theirs[b, h, i, j]).item() ** 2 for h in range(H)) / H
    assert losses.attention_error(ours, theirs, MASK).item() == pytest.approx(total / pairs, rel=1e-5)
    assert losses.attention_error(ours, theirs).item() == pytest.approx(
        F.mse_loss(ours, theirs).item(), rel=1e-6
    )


def test_tinyberts_own_code_agrees_where_nothing_is_padded():
    # task_distill.py of the authors: scores of masked pairs are set to 0, then MSELoss over everything; one layer.
    ours, theirs = draw(B, H, T, T), draw(B, H, T, T, seed=1)
    reference = torch.nn.MSELoss()(
        torch.where(ours <= -1e2, torch.zeros_like(ours), ours),
        torch.where(theirs <= -1e2, torch.zeros_like(theirs), theirs),
    )
    assert losses.attention_error(ours, theirs, torch.ones(B, T, dtype=torch.bool)).item() == pytest.approx(
        reference.item(), rel=1e-6
    )
    logits, targets = draw(B, C), draw(B, C, seed=1)
    soft = (
        (-F.softmax(targets, -1) * F.log_softmax(logits, -1)).sum(-1).mean()
    )  # soft_cross_entropy, without its bug
    assert losses.soft_cross_entropy(logits, targets).item() == pytest.approx(soft.item(), rel=1e-6)


def relation_kl(ours, theirs, heads=2, mask=MASK, **options):
    """Of vectors (B, H, T, e)."""
    return losses.relation_kl(
        *(losses.relation(x, heads=heads) for x in (ours, theirs)), mask=mask, **options
    )


def test_relation_kl_is_the_naive_loops():
    ours, theirs, heads = draw(B, 2, T, 6), draw(B, 4, T, 6, seed=1), 3
    total = 0.0
    for b, length in enumerate(LENGTHS.tolist()):

        def relation(x, b=b, length=length):
            joined = x[b, :, :length].permute(1, 0, 2).reshape(length, -1)  # (t, H·e): heads side by side
            out = []
            for part in joined.double().numpy().reshape(length, heads, -1).transpose(1, 0, 2):
                out.append(special.softmax(part @ part.T / part.shape[1] ** 0.5, -1))
            return out

        for p, q in zip(relation(theirs), relation(ours), strict=True):
            total += sum(stats.entropy(p[i], q[i]) for i in range(length)) / heads
    found = relation_kl(ours, theirs, heads).item()
    assert found == pytest.approx(total / int(LENGTHS.sum()), rel=1e-4)


LIKE = {
    "divergence": losses.divergence,
    "binary_kl": losses.binary_kl,
    "score_error": losses.score_error,
    "hidden_error": lambda s, t, **o: losses.hidden_error(s, t, torch.eye(C), **o),
}


@pytest.mark.parametrize("name", LIKE)
@seeds
@given(st.integers(0, 10**6))
def test_a_copy_of_the_teacher_has_no_loss_and_no_gradient(name, seed):
    theirs = draw(B, C, seed=seed) * 5
    ours = theirs.clone().requires_grad_()
    loss = LIKE[name](ours, theirs)
    assert abs(loss.item()) < 1e-6
    assert gradient(loss, ours)[0].abs().max() < 1e-6


def test_a_copy_has_no_gradient_of_soft_cross_entropy_and_its_least_value():
    theirs = draw(B, C) * 3
    ours = theirs.clone().requires_grad_()
    loss = losses.soft_cross_entropy(ours, theirs, temperature=2.0)
    entropy = torch.distributions.Categorical(logits=theirs / 2.0).entropy().mean()
    assert loss.item() == pytest.approx(entropy.item(), abs=1e-6)
    assert gradient(loss, ours)[0].abs().max() < 1e-6


def test_a_copy_has_no_loss_over_attention():
    scores, vectors = draw(B, H, T, T).requires_grad_(), draw(B, H, T, E).requires_grad_()
    for loss, at in (
        (losses.attention_error(scores, scores.detach(), MASK), scores),
        (relation_kl(vectors, vectors.detach()), vectors),
    ):
        assert abs(loss.item()) < 1e-6
        assert gradient(loss, at)[0].abs().max() < 1e-6


def test_the_square_of_temperature_keeps_the_gradients_size():
    # For large t the gradient of t² KL tends to (z_S - z_T) / C, both centred: Hinton et al. eq. 4.
    ours, theirs = draw(B, C).double().requires_grad_(), draw(B, C, seed=1).double()
    found = gradient(losses.divergence(ours, theirs, temperature=1e3), ours)[0]
    limit = (ours - ours.mean(-1, keepdim=True)) - (theirs - theirs.mean(-1, keepdim=True))
    torch.testing.assert_close(found.double(), limit.detach() / C / B, rtol=0.02, atol=1e-4)
    plain = gradient(losses.divergence(ours / 7, theirs / 7), ours)[0]
    scaled = gradient(losses.divergence(ours, theirs, temperature=7.0), ours)[0]
    torch.testing.assert_close(scaled, plain * 49, rtol=1e-4, atol=1e-6)


@seeds
@given(st.integers(0, 10**6), st.floats(-1e4, 1e4, width=32))
def test_values_at_padding_never_count(seed, junk):
    def filled(x, pair):
        out = x.clone()
        out[
            ~(MASK[:, None, :, None] & MASK[:, None, None, :]).expand_as(out)
            if pair
            else ~MASK[:, None].expand(x.shape[:3])
        ] = junk
        return out

    cases = (
        (lambda s, t: losses.attention_error(s, t, MASK), (B, H, T, T), True),
        (relation_kl, (B, H, T, E), False),
    )
    for formula, shape, pair in cases:
        clean_s, clean_t = draw(*shape, seed=seed), draw(*shape, seed=seed + 1)
        results = []
        for s, t in ((clean_s, clean_t), (filled(clean_s, pair), filled(clean_t, pair))):
            leaf = s.requires_grad_()
            loss = formula(leaf, t)
            results.append((loss.detach(), gradient(loss, leaf)[0]))
        torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-7)
        real = (
            (MASK[:, None, :, None] & MASK[:, None, None, :]).expand(shape)
            if pair
            else MASK[:, None, :, None].expand(shape)
        )
        assert results[1][1][~real].abs().max() == 0


def test_padding_that_is_not_a_number_does_not_count_in_attention():
    ours, theirs = draw(B, H, T, T), draw(B, H, T, T, seed=1)
    clean = losses.attention_error(ours, theirs, MASK)
    theirs[~(MASK[:, None, :, None] & MASK[:, None, None, :]).expand_as(theirs)] = float("nan")
    assert losses.attention_error(ours, theirs, MASK) == clean


@pytest.mark.parametrize("name", ["soft_cross_entropy", *LIKE])
def test_parts_over_the_whole_count_sum_to_the_whole(name):
    formula = LIKE.get(name, losses.soft_cross_entropy)
    ours, theirs = draw(B, C), draw(B, C, seed=1)
    parts = sum(formula(ours[i:j], theirs[i:j], count=float(B)) for i, j in ((0, 1), (1, 3), (3, B)))
    torch.testing.assert_close(parts, formula(ours, theirs), rtol=1e-6, atol=1e-7)


def test_parts_over_the_whole_count_sum_to_the_whole_in_attention():
    scores, vectors = (
        (draw(B, H, T, T), draw(B, H, T, T, seed=1)),
        (draw(B, H, T, E), draw(B, H, T, E, seed=1)),
    )
    pairs, tokens = float((LENGTHS**2).sum()), float(LENGTHS.sum())
    cuts = (slice(0, 2), slice(2, B))
    split = sum(losses.attention_error(*(x[c] for x in scores), MASK[c], count=pairs) for c in cuts)
    torch.testing.assert_close(split, losses.attention_error(*scores, MASK), rtol=1e-6, atol=1e-7)
    split = sum(relation_kl(*(x[c] for x in vectors), mask=MASK[c], count=tokens) for c in cuts)
    torch.testing.assert_close(split, relation_kl(*vectors), rtol=1e-5, atol=1e-7)


def test_an_infinite_count_adds_nothing():
    ours, theirs = draw(B, C).requires_grad_(), draw(B, C, seed=1)
    for formula in (losses.soft_cross_entropy, *LIKE.values()):
        loss = formula(ours, theirs, count=float("inf"))
        assert loss.item() == 0
        assert gradient(loss, ours)[0].abs().max() == 0


def test_extreme_logits_stay_finite():
    ours, theirs = torch.tensor([[1e4, -1e4, 0.0]]).requires_grad_(), torch.tensor([[-1e4, 1e4, 0.0]])
    for formula in (losses.soft_cross_entropy, losses.divergence, losses.binary_kl):
        loss = formula(ours, theirs)
        assert loss.isfinite()
        assert gradient(loss, ours)[0].isfinite().all()


def test_half_precision_of_teacher_or_student_gives_full_precision_losses():
    ours, theirs = draw(B, C), draw(B, C, seed=1)
    for formula in (losses.soft_cross_entropy, *LIKE.values()):
        assert formula(ours, theirs.bfloat16()).dtype == torch.float32
    scores = draw(B, H, T, T).bfloat16()
    assert losses.attention_error(scores, draw(B, H, T, T, seed=1), MASK).dtype == torch.float32


def test_log_probabilities_of_some_classes_and_their_gradient_are_torchs():
    generator = torch.Generator().manual_seed(0)
    logits = (5 * torch.randn(7, 11, generator=generator)).requires_grad_()
    index = torch.randint(11, (7, 4), generator=generator)  # a class may come twice
    wanted = torch.randn(7, 4, generator=generator)
    for t in (1.0, 2.0):
        expected = (logits / t).log_softmax(-1).gather(-1, index)
        found = losses.log_probabilities(logits, index, temperature=t)
        torch.testing.assert_close(found, expected)
        slopes = [torch.autograd.grad((said * wanted).sum(), logits)[0] for said in (found, expected)]
        torch.testing.assert_close(*slopes)
