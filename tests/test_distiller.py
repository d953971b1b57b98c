"""Laws of a student beside its teacher: a copy has nothing to learn, parts are the paper's sums."""

import numpy as np
import pytest
import torch

import tiny
from attar.anatomy.resolve import shape_of
from attar.data.batches import Counts
from attar.data.tasks import Task
from attar.distillation.cache import LiveTeacher
from attar.distillation.objective import Intermediate, match, prediction
from attar.distillation.phases import Distiller, learn
from attar.errors import RecipeError
from attar.maths import losses
from attar.maths.mapping import layer_map
from attar.model.views import call

BINARY = Task("single_label", ("bad", "good"))


def learner(student, teacher, *, identity=False, task=None, **compared):
    ours, theirs = shape_of(student.config), shape_of(teacher.config)
    layers = layer_map(ours.layers, theirs.layers)
    found = match(ours, theirs, layers, **compared)
    start = {m: torch.eye(ours.hidden, theirs.hidden) for m in range(ours.layers + 1)} if identity else None
    return Distiller(
        student,
        LiveTeacher(teacher, found.teacher, precision="fp32"),
        intermediate=Intermediate(found, ours, theirs, start=start),
        task=task,
    ).train()


@pytest.mark.parametrize("attention", ["scores", "relations"])
@pytest.mark.parametrize("family", ["bert", "electra", "distilbert", "modernbert", "albert"])
def test_a_copy_of_the_teacher_starts_at_no_loss(family, attention):
    module = learner(tiny.model(family), tiny.model(family), identity=True, attention=attention)
    batch = next(iter(tiny.batches(tiny.texts(9), family)))
    parts = module(batch)
    assert set(parts) == {"embedding", "hidden", "attention"}
    assert all(part.abs().item() < 1e-5 for part in parts.values())
    sum(parts.values()).backward()
    gradients = [p.grad.abs().max().item() for p in module.parameters() if p.grad is not None]
    assert gradients
    assert max(gradients) < 1e-4


@pytest.mark.parametrize("kind", ["single_label", "multi_label", "regression"])
def test_a_copy_has_nothing_to_learn_of_predictions(kind):
    teacher = torch.randn(6, 1 if kind == "regression" else 3)
    student = teacher.clone().requires_grad_()
    loss = prediction(student, teacher, kind, temperature=2.0, count=6.0)
    entropy = 0.0
    if kind == "single_label":
        entropy = torch.distributions.Categorical(logits=teacher / 2).entropy().mean().item()
    assert loss.item() == pytest.approx(entropy, abs=1e-5)
    assert torch.autograd.grad(loss, student)[0].abs().max() < 1e-6


def test_parts_are_the_papers_sums():
    student, teacher = tiny.model(num_hidden_layers=2), tiny.model(seed=1, num_hidden_layers=4)
    module = learner(student, teacher, task=BINARY)
    batch = next(iter(tiny.batches(tiny.texts(9))))
    parts = module(batch)
    need = module.intermediate.match
    ours, theirs = call(student, batch.inputs, need.student), call(teacher, batch.inputs, need.teacher)
    weight = module.intermediate.projections
    assert need.layers == (2, 4)
    hidden = sum(
        ((ours.hidden[m] @ weight[str(m)] - theirs.hidden[n]) ** 2).mean() for m, n in ((1, 2), (2, 4))
    )
    embedding = ((ours.hidden[0] @ weight["0"] - theirs.hidden[0]) ** 2).mean()
    attention = sum(
        losses.attention_error(ours.scores[m], theirs.scores[n], batch.mask) for m, n in ((1, 2), (2, 4))
    )
    soft = -(theirs.logits.softmax(-1) * ours.logits.log_softmax(-1)).sum(-1).mean()
    for name, expected in (
        ("hidden", hidden),
        ("embedding", embedding),
        ("attention", attention),
        ("prediction", soft),
    ):
        torch.testing.assert_close(parts[name], expected, rtol=1e-4, atol=1e-6)


def test_padding_changes_no_part():
    texts = tiny.texts(6)
    long = [*texts, " ".join(tiny.WORDS[:20])]
    module = learner(tiny.model(), tiny.model(seed=1), task=BINARY)
    short, padded = (tiny.batches(rows, batch_size=9) for rows in (texts, long))
    one = short.rows(np.arange(6))
    other = padded.rows(np.arange(7))  # then without its long row, but with the padding that it brought
    from dataclasses import replace

    other = replace(
        other, inputs={k: v[:6] for k, v in other.inputs.items()}, counts=Counts.of(padded.lengths[:6])
    )
    assert other.inputs["input_ids"].shape[1] > one.inputs["input_ids"].shape[1]
    expected, found = module(one), module(other)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)


def test_a_batch_in_halves_gives_the_same_parts():
    source = tiny.batches(tiny.texts(8), batch_size=8)
    module = learner(tiny.model(), tiny.model(seed=1), task=BINARY)
    whole = source.rows(np.arange(8))
    halves = [source.rows(rows, whole.counts) for rows in (np.arange(3), np.arange(3, 8))]
    expected, split = module(whole), [module(half) for half in halves]
    for name, value in expected.items():
        torch.testing.assert_close(split[0][name] + split[1][name], value, rtol=1e-4, atol=1e-6)


def test_the_teacher_is_neither_trained_nor_saved():
    teacher = tiny.model(seed=1)
    module = learner(tiny.model(), teacher)
    assert not any(name.startswith("teacher") for name in module.state_dict())
    sum(module(next(iter(tiny.batches()))).values()).backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert not teacher.training


def test_dropout_is_off_unless_asked_for():
    for dropout in (False, True):
        module = Distiller(tiny.model(), None, task=BINARY, dropout=dropout).train()
        assert module.student.training == dropout
        assert not module.eval().student.training


def test_unequal_heads_are_compared_by_relations():
    ours, theirs = shape_of(tiny.config(num_attention_heads=2)), shape_of(tiny.config())
    found = match(ours, theirs, (1, 2))
    assert found.attention == "relations"
    assert found.student.relations == found.teacher.relations == {2}
    assert not found.student.scores
    assert match(theirs, theirs, (1, 2)).attention == "scores"
    with pytest.raises(RecipeError, match="4 heads in the student"):
        match(ours, theirs, (1, 2), attention="scores")
    with pytest.raises(RecipeError, match="relation heads"):
        match(ours, theirs, (1, 2), attention="relations", relation_heads=5)


def test_a_shared_projection_is_one_matrix():
    ours, theirs = shape_of(tiny.config(hidden_size=16)), shape_of(tiny.config())
    found = match(ours, theirs, (1, 2))
    shared = Intermediate(found, ours, theirs, projection="shared")
    each = Intermediate(found, ours, theirs)
    assert [tuple(p.shape) for p in shared.parameters()] == [(16, 24)]
    assert sorted(each.projections) == ["0", "1", "2"]
    weights = shared.weights()
    assert sorted(weights) == [0, 1, 2]
    assert weights[0].equal(weights[2])


def test_a_phase_that_is_done_is_read_from_disk(tmp_path):
    source = tiny.batches(tiny.texts(16), batch_size=8)
    options = {"place": tmp_path / "phase", "epochs": 2, "lr": 1e-3, "precision": "fp32"}
    first = learner(tiny.model(), tiny.model(seed=1))
    curve = learn("test", first, source, **options)
    again = learner(tiny.model(), tiny.model(seed=1))
    again.__dict__["teacher"] = None  # would be asked by a step
    assert learn("test", again, source, **options) == curve
    assert tiny.identical(first, again)
