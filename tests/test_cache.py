"""Laws of the teacher's cache: read is run, up to 8 bits; small; filled once; half filled is filled again."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

import tiny
from attar.anatomy.families import ENCODERS
from attar.anatomy.resolve import shape_of
from attar.distillation import cache
from attar.distillation.cache import CachedTeacher, LiveTeacher, cached
from attar.distillation.objective import Intermediate, match
from attar.distillation.phases import Distiller, logits_of, teacher_of
from attar.errors import OutputError
from attar.maths.losses import relation
from attar.model.checkpoint import digest
from attar.model.views import Need

NEED = Need(hidden=frozenset({0, 2}), scores=frozenset({1, 2}), relations=frozenset({2}))
PARTS = ("hidden", "scores", "queries", "keys", "values")


class Silent(torch.nn.Module):
    """Stands where a teacher that must not run again would."""


def fill(model, batches, place, need=NEED):
    teacher = cached(model, need, batches, place, precision="fp32")
    assert isinstance(teacher, CachedTeacher)
    return teacher


def half(values):
    """Half a step of the 8-bit numbers of each vector, (..., 1), and what fp32 may add to it."""
    return values.abs().amax(-1, keepdim=True) / 127 / 2 * 1.001 + 1e-5


def compare(found, live, mask):
    """What is read is at most half a step from what the teacher says, and its embeddings and logits are exact."""
    torch.testing.assert_close(found.logits, live.logits, rtol=1e-5, atol=1e-5)
    assert (found.mask is None) == (live.mask is None)
    assert live.mask is None or live.mask.equal(found.mask)
    for name in PARTS:
        ours, theirs = getattr(found, name), getattr(live, name)
        assert sorted(ours) == sorted(theirs)
        for layer, expected in theirs.items():
            assert ours[layer].shape == expected.shape
            assert ours[layer].dtype == torch.float32
            if name == "hidden":
                apart, step = ours[layer] - expected, half(expected) * (layer > 0) + 1e-6
            else:
                real = mask[:, None, :, None] & (mask[:, None, None, :] if name == "scores" else True)
                apart, step = (ours[layer] - expected) * real, half(expected * real)
            assert (apart.abs() <= step).all()


@pytest.mark.parametrize("family", ENCODERS)
def test_what_is_read_is_what_the_teacher_says(tmp_path, family):
    model = tiny.model(family)
    batches = tiny.batches(tiny.texts(21), family, batch_size=4, shuffle=True)
    teacher, live = fill(model, batches, tmp_path / "cache"), LiveTeacher(model, NEED, precision="fp32")
    for epoch in range(2):
        for batch in batches.epoch(epoch):
            compare(teacher.view(batch), live.view(batch), batch.mask)


def test_batches_without_padding(tmp_path):
    batches = tiny.batches(["good film", "bad plot", "the cast"], batch_size=2)
    model = tiny.model()
    teacher = fill(model, batches, tmp_path / "cache")
    for batch in batches:
        view = teacher.view(batch)
        assert view.mask is None
        compare(view, LiveTeacher(model, NEED, precision="fp32").view(batch), batch.mask)


@pytest.mark.parametrize(
    "need",
    [
        Need(),
        Need(hidden=frozenset({1})),
        Need(scores=frozenset({2})),
        Need(relations=frozenset({1, 2})),
        Need(hidden=frozenset({0}), relations=frozenset({2})),
    ],
)
def test_each_need_by_itself(tmp_path, need):
    model, batches = tiny.model(), tiny.batches(tiny.texts(9), batch_size=4)
    teacher, live = fill(model, batches, tmp_path / "cache", need), LiveTeacher(model, need, precision="fp32")
    for batch in batches:
        compare(teacher.view(batch), live.view(batch), batch.mask)


def test_a_cache_is_read_the_same_under_autocast(tmp_path):
    model, batches = tiny.model(), tiny.batches(tiny.texts(9), batch_size=4)
    teacher = fill(model, batches, tmp_path / "cache")
    batch = next(iter(batches))
    plain = teacher.view(batch)
    with torch.autocast("cpu", torch.bfloat16):
        found = teacher.view(batch)
    for layer in plain.hidden.keys() - {0}:  # the embeddings are run again, in the arithmetic of the training
        assert torch.equal(found.hidden[layer], plain.hidden[layer])


@pytest.mark.parametrize("head", ["base", "masked-lm"])
def test_a_teacher_without_logits_of_a_text_has_its_layers_kept(tmp_path, head):
    model, batches = tiny.model(head=head), tiny.batches(tiny.texts(9), batch_size=4)
    teacher, live = fill(model, batches, tmp_path / "cache"), LiveTeacher(model, NEED, precision="fp32")
    for batch in batches:
        found, expected = teacher.view(batch), live.view(batch)
        for layer in (0, 2):
            assert (
                (found.hidden[layer] - expected.hidden[layer]).abs() <= half(expected.hidden[layer])
            ).all()


def test_a_filled_cache_never_runs_the_teacher_again(tmp_path):
    model, batches = tiny.model(), tiny.batches(tiny.texts(9), batch_size=4)
    expected = [fill(model, batches, tmp_path / "cache").view(batch) for batch in batches]
    calls = []
    model.base_model.encoder.layer[0].register_forward_hook(lambda _m, _a, output: calls.append(len(output)))
    again = cached(model, NEED, batches, tmp_path / "cache", precision="fp32")
    for batch, one in zip(batches, expected, strict=True):
        compare(again.view(batch), one, batch.mask)
    assert calls == [1]  # one short row, to learn the shapes: of a batch only the embeddings run


def test_half_filled_is_filled_again(tmp_path):
    model, batches, place = tiny.model(), tiny.batches(tiny.texts(9), batch_size=4), tmp_path / "cache"
    expected = [fill(model, batches, place).view(batch) for batch in batches]
    (done,) = place.glob("done-*")
    done.unlink()
    (states,) = place.glob("states-*")
    states.write_bytes(states.read_bytes()[: states.stat().st_size // 2])
    for batch, one in zip(batches, expected, strict=True):
        compare(fill(model, batches, place).view(batch), one, batch.mask)


def test_a_killed_filling_leaves_no_mark(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "FILL_TOKENS", 64)
    model, batches, place = tiny.model(), tiny.batches(tiny.texts(40), batch_size=4), tmp_path / "cache"
    calls = []

    def dies(*_arguments):
        calls.append(1)
        if len(calls) == 3:  # after the row that tells the shapes, and the first group
            raise KeyboardInterrupt

    hook = model.register_forward_pre_hook(dies)
    with pytest.raises(KeyboardInterrupt):
        fill(model, batches, place)
    assert not list(place.glob("done-*"))
    hook.remove()
    teacher, batch = fill(model, batches, place), next(iter(batches))
    compare(teacher.view(batch), LiveTeacher(model, NEED, precision="fp32").view(batch), batch.mask)


def test_where_the_disk_would_overflow_the_teacher_runs_and_a_line_says_so(tmp_path, monkeypatch, caplog):
    model, batches = tiny.model(), tiny.batches(tiny.texts(9), batch_size=4)
    monkeypatch.setattr(cache, "SPARE_BYTES", 2**62)
    with caplog.at_level(logging.INFO, logger="attar"):
        teacher = cached(model, NEED, batches, tmp_path / "cache", precision="fp32")
    assert isinstance(teacher, LiveTeacher)
    assert "teacher runs for every batch instead" in caplog.text
    assert not list((tmp_path / "cache").iterdir())


def test_a_disk_that_fills_up_meanwhile_is_no_crash(tmp_path, monkeypatch, caplog):
    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.os, "posix_fallocate", full)
    with caplog.at_level(logging.INFO, logger="attar"):
        teacher = cached(
            tiny.model(), NEED, tiny.batches(tiny.texts(9)), tmp_path / "cache", precision="fp32"
        )
    assert isinstance(teacher, LiveTeacher)
    assert "No space left on device" in caplog.text
    assert not list((tmp_path / "cache").iterdir())


def test_each_process_keeps_its_own_rows(tmp_path):
    model, rows = tiny.model(), tiny.texts(11)
    whole = tiny.batches(rows, batch_size=4, shuffle=True)
    live = LiveTeacher(model, NEED, precision="fp32")
    sizes = []
    for rank in range(3):
        share = tiny.batches(rows, batch_size=4, shuffle=True, rank=rank, world=3)
        teacher = fill(model, share, tmp_path / "cache")
        sizes.append(teacher.bytes)
        for batch in share.epoch(1):
            compare(teacher.view(batch), live.view(batch), batch.mask)
    assert sorted(p.name for p in (tmp_path / "cache").glob("states-*")) == [
        f"states-{r}-of-3.int8" for r in range(3)
    ]
    assert sum(sizes) == fill(model, whole, tmp_path / "whole").bytes
    assert [p.stat().st_size for p in sorted((tmp_path / "cache").glob("states-*"))] == sizes


def test_a_prediction_phase_reads_the_logits_of_the_same_cache(tmp_path):
    model, batches = tiny.model(), tiny.batches(tiny.texts(9), batch_size=4)
    teacher = fill(model, batches, tmp_path / "cache")
    only = logits_of(teacher, Silent(), batches)
    for batch in batches:
        view = only.view(batch)
        assert view.logits.equal(teacher.view(batch).logits)
        assert [view.hidden, view.scores, view.queries] == [{}, {}, {}]


def test_a_file_where_the_cache_has_to_be_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="a file where a directory has to be"):
        cached(tiny.model(), NEED, tiny.batches(tiny.texts(9)), tmp_path / "file" / "cache", precision="fp32")


def test_what_decides_the_outputs_names_the_cache(tmp_path):
    batches = tiny.batches(tiny.texts(9), batch_size=4)
    names = set()
    for model, need, precision, name in (
        (tiny.model(), NEED, "fp32", "a"),
        (tiny.model(seed=1), NEED, "fp32", "a"),
        (tiny.model(num_attention_heads=2), NEED, "fp32", "a"),
        (tiny.model(), Need(hidden=frozenset({1})), "fp32", "a"),
        (tiny.model(), replace(NEED, relation_heads=4), "fp32", "a"),
        (tiny.model(), NEED, "bf16", "a"),
        (tiny.model(), NEED, "fp32", "b"),
        (tiny.model(), NEED, "fp32", "a"),
    ):
        teacher_of(model, need, batches, cache=tmp_path, precision=precision, name=name)
        names = {p.name for p in tmp_path.iterdir()}
    assert len(names) == 7


def test_digests_tell_contents_apart():
    one, other = tiny.model(), tiny.model(seed=1)
    assert digest(one) == digest(tiny.model()) != digest(other)
    assert digest(torch.tensor(3.0)) != digest(torch.tensor(4.0))
    assert digest("a", "b") != digest("ab")
    assert digest({"x": 1, "y": 2}) == digest({"y": 2, "x": 1})
    assert digest(np.arange(3)) != digest(np.arange(4))


def test_the_mark_says_what_was_kept(tmp_path):
    teacher = fill(tiny.model(), tiny.batches(tiny.texts(9)), tmp_path / "cache")
    mark = json.loads((tmp_path / "cache" / "done-0-of-1.json").read_text())
    assert (mark["bytes"], mark["rows"]) == (teacher.bytes, 9)


@pytest.mark.parametrize("longest", [9, 30])
@pytest.mark.parametrize("heads", [0, 3])
def test_the_size_on_disk_is_that_of_real_tokens_in_the_smallest_form(tmp_path, longest, heads):
    """4 heads of 6, 24 in all: one byte a number and two a scale, and of what there are two ways to keep, the less."""
    model, need = tiny.model(), replace(NEED, relation_heads=heads)
    sizes = []
    for batch_size in (1, 7):  # with padding and without
        batches = tiny.batches(tiny.texts(12, longest=longest), batch_size=batch_size)
        teacher = fill(model, batches, tmp_path / str(batch_size), need)
        t = batches.lengths
        hidden = t * (24 + 2)  # of layer 2: the embedding is not kept
        scores = min((2 * 4 * (t * t + 2 * t)).sum(), (2 * 8 * (6 * t + 2 * t)).sum())
        relations = (3 * 4 * (6 * t + 2 * t)).sum()
        if heads:
            relations = min(relations, (3 * heads * (t * (t - 1) // 2 + 2 * t)).sum())
        odd = teacher.bytes - (hidden.sum() + scores + relations)
        assert 0 <= odd <= len(t)  # a record begins at an even byte
        assert teacher.file.stat().st_size == teacher.bytes
        sizes.append(teacher.bytes)
    assert sizes[0] == sizes[1]


def test_scores_of_long_texts_are_made_of_queries_and_keys(tmp_path):
    model, batches = tiny.model("opt"), tiny.batches(tiny.texts(9, longest=30), "opt", batch_size=4)
    need = Need(scores=frozenset({1, 2}))
    teacher = fill(model, batches, tmp_path / "cache", need)
    assert [part.kept for part in teacher.layout.parts] == ["queries and keys"]
    live = LiveTeacher(model, replace(need, relations=need.scores), precision="fp32")
    for batch in batches:
        found, expected, mask = teacher.view(batch), live.view(batch), batch.mask
        for layer in (1, 2):
            q, k = expected.queries[layer] * expected.scaling[layer], expected.keys[layer]
            near = half(q) * k.abs().sum(-1)[:, :, None] + q.abs().sum(-1, keepdim=True) * half(k).mT
            apart = (found.scores[layer] - expected.scores[layer]).abs()
            real = mask[:, None, :, None] & mask[:, None, None, :]
            assert (apart * real <= near + q.shape[-1] * half(q) * half(k).mT).all()


def test_relations_are_kept_in_place_of_their_vectors(tmp_path):
    model, batches = tiny.model(), tiny.batches(tiny.texts(9), batch_size=4)
    need = Need(relations=frozenset({2}), relation_heads=3)
    teacher, live = fill(model, batches, tmp_path / "cache", need), LiveTeacher(model, need, precision="fp32")
    for batch in batches:
        found, expected = teacher.view(batch), live.view(batch)
        assert found.queries == {}
        real = batch.mask[:, None, :, None] & batch.mask[:, None, None, :]
        for ours, part in zip(found.relations[2], ("queries", "keys", "values"), strict=True):
            theirs = relation(getattr(expected, part)[2], heads=3)
            norms = theirs.diagonal(dim1=-2, dim2=-1).sqrt()
            near = norms[..., None] * norms[..., None, :] * (1 / 254 + 2**-9) + 1e-5
            assert ((ours - theirs).abs() * real <= near).all()


@pytest.mark.parametrize("longest", [9, 30])
@pytest.mark.parametrize("attention", ["scores", "relations"])
def test_a_student_gets_the_gradient_that_the_teacher_itself_would_give(tmp_path, attention, longest):
    model, batches = tiny.model(), tiny.batches(tiny.texts(24, longest=longest), batch_size=8)
    student = tiny.model(seed=1, num_hidden_layers=1, hidden_size=16)
    shapes = shape_of(student.config), shape_of(model.config)
    losses = Intermediate(match(*shapes, (2,), attention=attention), *shapes)
    need = losses.match.teacher
    gradients = []
    for teacher in (
        LiveTeacher(model, need, precision="fp32"),
        fill(model, batches, tmp_path / "cache", need),
    ):
        learner = Distiller(student, teacher, intermediate=losses)
        for batch in batches:
            learner.zero_grad()
            torch.stack(list(learner(batch).values())).sum().backward()
            own = [p.grad.flatten() for p in learner.parameters() if p.grad is not None]
            gradients.append(torch.cat(own))
    half = len(gradients) // 2
    for online, kept in zip(gradients[:half], gradients[half:], strict=True):
        assert (online - kept).norm() < 0.01 * online.norm()


def test_a_cache_of_another_layout_is_made_anew(tmp_path):
    model, batches, place = tiny.model(), tiny.batches(tiny.texts(9), batch_size=4), tmp_path / "cache"
    fill(model, batches, place, Need(hidden=frozenset({1})))
    size = sum(path.stat().st_size for path in place.iterdir())
    (place / "states-0-of-1.bf16").write_bytes(b"of an earlier version")
    (place / "done-0-of-1.json").write_text(json.dumps({"bytes": size, "rows": 9}))
    live = LiveTeacher(model, NEED, precision="fp32")
    for _ in range(2):
        teacher = fill(model, batches, place)
        for batch in batches:
            compare(teacher.view(batch), live.view(batch), batch.mask)
