"""The kept logits: the loss from all of them is the online loss, a damaged shard alone is made again."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import tiny
from attar.data.blocks import Blocks, tokens_of
from attar.distillation import top_k_cache
from attar.distillation.language_objective import FromCache, LanguageDistiller, Live
from attar.distillation.top_k_cache import Key, top_k
from attar.errors import DataError, OutputError
from attar.maths.losses import divergence, log_probabilities, sampled_divergence

VOCAB = tiny.VOCAB


@pytest.fixture(scope="module")
def pair():
    return tiny.model("gpt2", "causal-lm", seed=1), tiny.model("gpt2", "causal-lm", seed=2, n_layer=1)


@pytest.fixture
def blocks():
    return Blocks(tokens_of(tiny.texts(60), tiny.decoder_tokenizer()), size=16, batch_size=4, shuffle=True)


def key(k=8, **changes):
    return replace(Key("teacher", "data", VOCAB, k, 2.0), **changes)


def never():
    raise AssertionError("the teacher was loaded")


def parts(student, teacher, blocks, **weights):
    learner = LanguageDistiller(student, teacher, cosine=0.0, dropout=False, **weights)
    found = []
    for batch in blocks:
        student.zero_grad()
        values = learner(batch)
        sum(values.values()).backward()
        found.append(({n: v.item() for n, v in values.items()}, student.transformer.wte.weight.grad.clone()))
    return found


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_the_loss_from_all_kept_logits_is_the_online_loss(pair, blocks, tmp_path, beta):
    teacher, student = pair
    cache = top_k(lambda: teacher, blocks, tmp_path / "c", key(VOCAB, exact=True), precision="fp32")
    live = Live(teacher, vocab=VOCAB, beta=beta, temperature=2.0, precision="fp32")
    ours, theirs = (parts(student, source, blocks) for source in (FromCache(cache, beta=beta), live))
    for (left, slope), (right, other) in zip(ours, theirs, strict=True):
        assert left == pytest.approx(right, rel=1e-5)
        torch.testing.assert_close(slope, other, rtol=1e-4, atol=1e-6)


def test_half_precision_and_fewer_logits_cost_little(pair, blocks, tmp_path):
    teacher, student = pair
    live = parts(student, Live(teacher, vocab=VOCAB, beta=0.0, temperature=2.0), blocks)
    whole = top_k(lambda: teacher, blocks, tmp_path / "whole", key(VOCAB))
    few = top_k(lambda: teacher, blocks, tmp_path / "few", key(16))
    assert few.bytes < whole.bytes / 2
    for kept, tolerance in ((whole, 2e-3), (few, 0.5)):
        found = parts(student, FromCache(kept, beta=0.0), blocks)
        for (ours, _), (theirs, _) in zip(found, live, strict=True):
            assert ours["kl"] == pytest.approx(theirs["kl"], rel=tolerance)
            # Logits that are not kept cannot add to what is found.
            assert ours["kl"] <= theirs["kl"] * 1.002


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])  # the more reverse, the more a rare token's draw weighs
def test_with_a_drawn_tail_loss_and_gradient_are_right_on_average(beta):
    torch.manual_seed(0)
    draws = 60_000
    theirs, ours = 2 * torch.randn(2, VOCAB), torch.randn(2, VOCAB, requires_grad=True)
    kept = key(6, tail=8, exact=True)
    whole = divergence(ours, theirs, beta=beta, temperature=2.0)
    (slope,) = torch.autograd.grad(whole, ours)
    rows = theirs.repeat(draws, 1)
    said = top_k_cache.read_top_k(rows, kept, torch.Generator().manual_seed(3))
    log_q = log_probabilities(ours.repeat(draws, 1), said.index, temperature=2.0)
    sampled = 4 * sampled_divergence(log_q, said.log_p[:, :-1], said.weights(6), beta=beta)
    assert sampled.item() == pytest.approx(whole.item(), rel=5e-3)
    (found,) = torch.autograd.grad(sampled, ours)
    assert (found - slope).norm() < 0.1 * slope.norm()
    # A row's weights add up to its mass: k of the likeliest for themselves, the drawn ones for all others.
    mass = (said.log_p[:, :-1].exp() * said.weights(6)).sum(-1)
    torch.testing.assert_close(mass, torch.ones_like(mass))


def test_a_drawn_tail_is_kept_read_and_learnt_from_without_bias(pair, blocks, tmp_path):
    teacher, student = pair
    (live, few, tailed) = (
        parts(student, source, blocks)
        for source in (
            Live(teacher, vocab=VOCAB, beta=0.0, temperature=2.0),
            *(
                FromCache(top_k(lambda: teacher, blocks, tmp_path / str(tail), key(8, tail=tail)), beta=0.0)
                for tail in (0, 24)
            ),
        )
    )
    off = [
        abs(sum(ours["kl"] for ours, _ in found) / sum(theirs["kl"] for theirs, _ in live) - 1)
        for found in (few, tailed)
    ]
    assert off[1] < 0.05 < off[0]


def test_a_whole_cache_is_read_without_the_teacher(pair, blocks, tmp_path):
    first = top_k(lambda: pair[0], blocks, tmp_path / "c", key())
    again = top_k(never, blocks, tmp_path / "c", key())
    numbers = torch.tensor([3, 0, 7])
    torch.testing.assert_close(first.of(numbers).log_p, again.of(numbers).log_p)
    sizes = sum(path.stat().st_size for path in (tmp_path / "c").glob("*.safetensors"))
    assert first.bytes <= sizes < first.bytes + 1000 * len(first)


@pytest.mark.parametrize("damage", ["truncated", "corrupt", "gone"])
def test_only_a_damaged_shard_is_made_again(pair, blocks, tmp_path, monkeypatch, damage):
    monkeypatch.setattr(top_k_cache, "SHARD", 40)
    cache = top_k(lambda: pair[0], blocks, tmp_path / "c", key())
    assert len(cache) > 3
    before = {path: path.read_bytes() for path in (tmp_path / "c").glob("*.safetensors")}
    dates = {path: path.stat().st_mtime_ns for path in before}
    victim = cache.file(1)
    if damage == "gone":
        victim.unlink()
    else:
        content = before[victim]
        victim.write_bytes(content[:-5] if damage == "truncated" else content[:-1] + bytes([content[-1] ^ 1]))
    changed = victim.stat().st_mtime_ns if victim.exists() else 0
    top_k(lambda: pair[0], blocks, tmp_path / "c", key())
    assert {path: path.read_bytes() for path in before} == before
    assert [path for path in before if path.stat().st_mtime_ns not in {dates[path], changed}] == [victim]


def test_what_is_left_of_a_killed_run_is_gone_on_from(pair, blocks, tmp_path, monkeypatch):
    monkeypatch.setattr(top_k_cache, "SHARD", 40)
    calls = []

    def dies(cache, shard, *rest):
        if shard == 2:
            raise KeyboardInterrupt
        calls.append(shard)
        return fill(cache, shard, *rest)

    fill = top_k_cache._fill
    monkeypatch.setattr(top_k_cache, "_fill", dies)
    with pytest.raises(KeyboardInterrupt):
        top_k(lambda: pair[0], blocks, tmp_path / "c", key())
    monkeypatch.setattr(top_k_cache, "_fill", lambda *rest: calls.append(rest[1]) or fill(*rest))
    cache = top_k(lambda: pair[0], blocks, tmp_path / "c", key())
    assert calls == list(range(len(cache)))  # none twice


@pytest.mark.parametrize(
    ("change", "word"),
    [({"teacher": "other"}, "teacher"), ({"data": "other"}, "data"), ({"k": 4}, "k"), ({"tail": 4}, "tail")],
)
def test_the_cache_of_another_is_refused_and_left_alone(pair, blocks, tmp_path, change, word):
    top_k(lambda: pair[0], blocks, tmp_path / "c", key())
    before = sorted(path.name for path in (tmp_path / "c").iterdir())
    with pytest.raises(DataError, match=f"another {word} "):
        top_k(never, blocks, tmp_path / "c", key(**change))
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == before


def test_bad_places_and_numbers_are_named(blocks, tmp_path):
    with pytest.raises(DataError, match=f"1 to the vocabulary's {VOCAB}"):
        top_k(never, blocks, tmp_path / "c", key(VOCAB + 1))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="other files"):
        top_k(never, blocks, tmp_path / "full", key())
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]


def test_a_record_takes_the_bytes_that_are_said(pair, blocks, tmp_path):
    cache = top_k(lambda: pair[0], blocks, tmp_path / "c", key(tail=3))
    about = json.loads((tmp_path / "c" / top_k_cache.ABOUT).read_text())
    assert about["k"] == 8
    assert cache.bytes == int(np.diff(cache.starts).sum()) * (11 * 2 + 12 * 2)
