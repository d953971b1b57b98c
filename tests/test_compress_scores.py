"""Laws of the scores by which a compression prunes: found without labels, in one pass for every set of axes."""

from types import SimpleNamespace

import pytest
import torch

import tiny
from attar import plan
from attar.compression.pruned import PrunedForms
from attar.data.model_task import task_of
from attar.pruning.fisher import SampledLikelihood
from attar.pruning.scores import taylor


def test_first_order_scores_without_labels_are_more_than_rounding_errors():
    model = tiny.model()
    dead = model.bert.encoder.layer[1]
    with torch.no_grad():
        dead.output.dense.weight[:, 7] = 0
    loss = SampledLikelihood(model, task=task_of(model)).eval()
    texts = tiny.batches(tiny.table(64), batch_size=16)
    scores = taylor(
        model, ("ffn",), texts.epoch(), lambda batch: torch.stack(list(loss(batch).values())).sum()
    )
    values = scores.layers[1]["ffn"]
    assert values[7] == 0
    others = torch.cat([values[:7], values[8:]])
    assert others.median() > 1e-5
    found = plan(
        model, budget=model.num_parameters() - 49, axes="f", method="taylor", loss="distill", texts=tiny.texts(64),
        tokenizer=tiny.tokenizer(),
    )  # fmt: skip
    assert 7 not in found.layers[1].ffn


def test_sampled_gradients_are_the_fisher_information():
    """Of a logistic model with one alpha: E[g^2] = p (1 - p) z^2, where z is the logit that alpha multiplies."""
    from attar.data.tasks import Task

    alpha, z = torch.ones(1, requires_grad=True), torch.tensor(1.3)
    model = torch.nn.Module()
    loss = SampledLikelihood(model, task=Task("single_label", ("a", "b")), seed=1)
    logits = torch.stack([torch.zeros(1), alpha * z], dim=1)
    draws = []
    for _ in range(4000):
        value = loss.of_choices(logits)
        draws.append(float(torch.autograd.grad(value, alpha, retain_graph=True)[0] ** 2))
    p = float(torch.sigmoid(z))
    expected = p * (1 - p) * float(z) ** 2
    assert sum(draws) / len(draws) == pytest.approx(expected, rel=0.1)


def test_scores_of_some_axes_are_those_of_all_that_are_there(tmp_path):
    """One pass of gradients ranks the units of every set of axes."""
    model = tiny.model()
    texts = SimpleNamespace(
        loaded=SimpleNamespace(model=model),
        task=task_of(model),
        batches=lambda table: tiny.batches(tiny.table(64), batch_size=16),
        tables=SimpleNamespace(train=None),
    )
    forms = PrunedForms(texts, tmp_path, learned=False, precision="fp32", seed=0)
    found, alone = forms.scores("heads, FFN"), forms._measured(("heads", "ffn"))
    assert found.shared == {}
    for ours, theirs in zip(found.layers, alone.layers, strict=True):
        assert ours.keys() == theirs.keys() == {"heads", "ffn"}
        assert all(torch.allclose(ours[axis], theirs[axis], rtol=1e-4) for axis in ours)
