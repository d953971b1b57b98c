"""A language model taken apart gives what it gives whole; losses in chunks are losses in one piece."""

import pytest
import torch
from torch.nn import functional as F

import tiny
from attar.maths.chunks import chunked
from attar.maths.losses import divergence, fold
from attar.model.lm_head import features, last_hidden, output


def readout(model, inputs):
    hidden = last_hidden(model, inputs)
    return F.linear(features(model, hidden), *output(model))


@pytest.mark.parametrize("family", list(tiny.CONFIGS))
def test_the_parts_of_a_masked_model_give_its_logits(family):
    model = tiny.model(family, "masked-lm")
    batch = next(iter(tiny.batches(tiny.texts(4), family)))
    with torch.no_grad():
        torch.testing.assert_close(readout(model, batch.inputs), model(**batch.inputs).logits)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rows", [1, 3, 7, 100])
def test_chunks_give_the_loss_and_the_gradients_of_the_whole(rows):
    given = [random(7, 5, seed=1), random(11, 5, seed=2), random(11, seed=3)]
    goal = torch.arange(7)

    def parts(logits, part):
        ce = F.cross_entropy(logits, goal[part], reduction="sum")
        return torch.stack([ce, 0.5 * logits.square().sum()])

    ours = [x.clone().requires_grad_() for x in given]
    found = chunked(*ours, parts, logits=rows * 11)
    (3 * found.sum()).backward()
    theirs = [x.clone().requires_grad_() for x in given]
    whole = parts(F.linear(theirs[0], theirs[1], theirs[2]), slice(0, 7))
    (3 * whole.sum()).backward()
    torch.testing.assert_close(found, whole)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_only_the_sum_of_the_parts_may_be_differentiated():
    x = random(3, 4).requires_grad_()
    found = chunked(x, random(5, 4), None, lambda z, _: torch.stack([z.sum(), z.square().sum()]))
    with pytest.raises(RuntimeError, match="only the sum"):
        (found[0] + 2 * found[1]).backward()


def test_chunks_of_nothing_are_nothing():
    assert chunked(torch.zeros(0, 4), random(5, 4), None, lambda z, _: z.sum()[None]).sum() == 0


def probabilities(logits):
    return torch.from_numpy(logits.double().softmax(-1).numpy())


def kl(p, q):
    return (p * (p / q).log()).sum(-1).mean().item()


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_divergence_by_its_definition(beta):
    ours, theirs = random(6, 9, seed=1), random(6, 9, seed=2)
    p, q = probabilities(theirs / 2), probabilities(ours / 2)
    m = beta * p + (1 - beta) * q
    expected = {0.0: kl(p, q), 1.0: kl(q, p)}.get(beta, beta * kl(p, m) + (1 - beta) * kl(q, m))
    found = divergence(ours, theirs, beta=beta, temperature=2.0).item() / 4
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_a_divergence_from_oneself_is_nothing_and_pulls_nowhere(beta):
    ours = random(6, 9).requires_grad_()
    found = divergence(ours, ours.detach(), beta=beta)
    found.backward()
    assert abs(found.item()) < 1e-6
    assert ours.grad.abs().max() < 1e-6


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_folding_loses_divergence_the_less_the_more_is_kept_and_none_where_all_is(beta):
    ours, theirs = random(8, 12, seed=1), random(8, 12, seed=2)
    whole = divergence(ours, theirs, beta=beta, temperature=2.0).item()
    found = []
    for k in (1, 4, 11, 12):
        index = theirs.topk(k).indices
        left, right = (fold(z, index, temperature=2.0) for z in (ours, theirs))
        torch.testing.assert_close(left.exp().sum(-1), torch.ones(8))
        found.append(4 * divergence(left, right, beta=beta).item())
    assert found == sorted(found)
    assert found[0] < found[-1] == pytest.approx(whole, rel=1e-5)
    assert found[-2] == pytest.approx(whole, rel=1e-5)  # one class left over is that class
