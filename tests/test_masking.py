"""Laws of masked words: what is hidden is decided by seed, epoch and row; the head sees masked rows only."""

import itertools
import math

import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

import tiny
from attar.data.batches import Batches, encode
from attar.data.masking import IGNORED, MaskedBatches, MaskedLanguage, choose, gathered
from attar.data.streaming import StreamBatches
from attar.training.loop import _share_counts, fit

TOKENIZER = tiny.tokenizer()
MASK, SPECIAL = TOKENIZER.mask_token_id, np.array(TOKENIZER.all_special_ids)


def masked(rows=None, *, mask=0.15, whole_word=False, seed=0, family="bert", **options):
    """Masked batches of texts."""
    ours = tiny.tokenizer(family)
    table = Dataset.from_dict({"text": tiny.texts(40, longest=12) if rows is None else rows})
    encoded = encode(table, ours, max_length=64, words=whole_word)
    return MaskedBatches(Batches(encoded, ours, **options), ours, mask=mask, whole_word=whole_word, seed=seed)


def by_row(batches):
    """Row number -> its shown tokens and labels, without padding."""
    found = {}
    for batch in (batch for batch in batches if batch.whole is None):
        for row, index in enumerate(batch.index.tolist()):
            width = int(batch.mask[row].sum())
            assert index not in found
            found[index] = (
                batch.inputs["input_ids"][row, :width].tolist(),
                batch.labels[row, :width].tolist(),
            )
    return found


# What is hidden


def test_seed_epoch_and_row_decide_the_masks_and_nothing_else():
    expected = by_row(masked(batch_size=4).epoch(3))
    assert by_row(masked(batch_size=16, shuffle=True).epoch(3)) == expected
    source = masked(batch_size=7, shuffle=True)
    assert by_row(itertools.chain(list(source.epoch(3))[:2], source.epoch(3, start=2))) == expected
    shares = [by_row(masked(batch_size=3, shuffle=True, rank=r, world=2).epoch(3)) for r in range(2)]
    assert not set(shares[0]) & set(shares[1])
    assert shares[0] | shares[1] == expected
    others = [by_row(masked().epoch(2)), by_row(masked(seed=1).epoch(3))]
    for other in others:
        same = [other[row] == expected[row] for row in expected]
        assert sum(same) < 0.4 * len(same)


def test_every_place_is_hidden_in_some_epoch():
    source = masked([" ".join(tiny.PLAIN)])
    hidden = sum((next(source.epoch(n)).labels != IGNORED).int() for n in range(60))
    assert hidden[0, 0] == hidden[0, -1] == 0
    assert hidden[0, 1:-1].min() > 0
    assert hidden.sum() == 60 * round(0.15 * len(tiny.PLAIN))


def test_of_the_chosen_80_are_masked_10_random_and_10_as_they_were():
    batch = next(masked([" ".join(tiny.WORDS)] * 2000, batch_size=2000, mask=0.3).epoch(0))
    labels, shown = batch.labels.numpy(), batch.inputs["input_ids"].numpy()
    chosen = labels != IGNORED
    n = chosen.sum()
    assert n == 2000 * round(0.3 * len(tiny.WORDS)) == batch.counts.masked
    random = chosen & (shown != labels) & (shown != MASK)
    kinds = {"masked": (shown == MASK) & chosen, "random": random, "same": chosen & (shown == labels)}
    pieces = np.setdiff1d(list(TOKENIZER.get_vocab().values()), SPECIAL)
    ordinary = len(pieces)
    rates = {"masked": 0.8, "random": 0.1 * (1 - 1 / ordinary), "same": 0.1 * (1 + 1 / ordinary)}
    for kind, rate in rates.items():
        assert kinds[kind].sum() / n == pytest.approx(rate, abs=4 * math.sqrt(rate * (1 - rate) / n)), kind
    assert not np.isin(shown[random], SPECIAL).any()
    drawn = np.bincount(shown[random], minlength=tiny.VOCAB)[pieces]
    assert drawn.min() > drawn.mean() / 3
    assert drawn.max() < 2 * drawn.mean()


def test_special_unknown_and_padding_tokens_are_never_hidden_and_a_row_has_one_at_least():
    source = masked(["zzzz qqqq", "good", "zzzz film", " ".join(tiny.PLAIN)], mask=0.2)
    for epoch in range(20):
        batch = next(source.epoch(epoch))
        plain = next(source._whole.epoch(epoch)).inputs["input_ids"]
        chosen = batch.labels != IGNORED
        assert not np.isin(batch.labels[chosen].numpy(), SPECIAL).any()
        assert chosen.sum(1)[batch.index.argsort()].tolist() == [0, 1, 1, round(0.2 * len(tiny.PLAIN))]
        assert batch.counts.masked == chosen.sum()
        assert batch.labels[chosen].equal(plain[chosen])
        assert batch.inputs["input_ids"][~chosen].equal(plain[~chosen])


def reference(words, order, share):
    """`choose` of one row in plain Python; a word of None is not eligible."""
    groups = [list(g) for _, g in itertools.groupby(range(len(words)), key=lambda i: words[i])]
    groups = [g for g in groups if words[g[0]] is not None]
    budget = round(share * sum(map(len, groups)))
    taken, chosen = 0, set()
    for group in sorted(groups, key=lambda g: order[g[0]]):
        if chosen and taken + len(group) / 2 > budget:
            break
        chosen |= set(group)
        taken += len(group)
    return chosen


@given(st.data(), st.sampled_from([0.1, 0.15, 0.5]))
def test_choosing_is_the_rule_in_plain_words(data, share):
    width = data.draw(st.integers(1, 12))
    rows = data.draw(
        st.lists(
            st.lists(st.sampled_from([None, 0, 1, 2]), min_size=width, max_size=width), min_size=1, max_size=3
        )
    )
    order = np.random.default_rng(width).random((len(rows), width))
    eligible = np.array([[word is not None for word in row] for row in rows])
    words = np.array([[-1 if word is None else word for word in row] for row in rows])
    found = choose(eligible, words, order, share)
    for row, numbers, chosen in zip(rows, order, found, strict=True):
        assert set(np.flatnonzero(chosen)) == reference(row, numbers, share)
    single = choose(eligible, None, order, share)
    expected = np.maximum(np.rint(share * eligible.sum(1)), eligible.any(1))
    assert single.sum(1).tolist() == expected.tolist()


def test_whole_words_are_hidden_whole_and_others_are_not():
    rows = [" ".join(f"{word}{end}" for word in tiny.GOOD for end in ("s", "ly", ""))] * 40

    def torn(whole_word):
        batch = next(masked(rows, whole_word=whole_word, batch_size=40).epoch(0))
        ids = torch.where(batch.labels == IGNORED, batch.inputs["input_ids"], batch.labels)
        chosen = (batch.labels != IGNORED).numpy()
        continues = np.isin(
            ids.numpy(), [i for piece, i in TOKENIZER.get_vocab().items() if piece[:2] == "##"]
        )
        assert continues.any()
        assert chosen.sum() / batch.mask.sum() == pytest.approx(0.15, abs=0.04)
        return (chosen[:, 1:] != chosen[:, :-1])[continues[:, 1:]].sum()

    assert torn(whole_word=True) == 0
    assert torn(whole_word=False) > 20


def test_a_sentence_without_spaces_is_no_word():
    rng = np.random.default_rng(0)
    eligible = np.ones((2, 40), dtype=bool)
    words = np.stack([np.zeros(40), np.repeat([0, 1, 2], [17, 16, 7])])
    found = choose(eligible, words, rng.random((2, 40)), 0.15)
    assert found[0].sum() == 6
    assert found[1, 17:33].all() or not found[1, 17:33].any()
    assert not found[1, :17].all()


def test_words_of_both_sentences_of_a_pair_are_told_apart():
    table = Dataset.from_dict({"text": ["goods"], "text_pair": ["goods film"]})
    encoded = encode(table, TOKENIZER, words=True)
    assert encoded["words"][0] == [-1, 0, 0, -1, 0, 0, 1, -1]
    batches = MaskedBatches(Batches(encoded, TOKENIZER), TOKENIZER, whole_word=True)
    found = {tuple((next(batches.epoch(n)).labels != IGNORED)[0].tolist()) for n in range(30)}
    assert {tuple(np.flatnonzero(row)) for row in found} == {(1, 2), (4, 5), (6,)}


# The loss


def full(model, batch):
    """The textbook's loss: every logit, mean over the labels that are there."""
    logits = model(**batch.inputs).logits
    return F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED)


def gradients(module, loss):
    module.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


@pytest.mark.parametrize("family", tiny.CONFIGS)
def test_the_loss_of_masked_rows_is_that_of_all_logits(family):
    model = tiny.model(family, head="masked-lm")
    batch = next(masked(family=family, batch_size=12).epoch(0))
    ours, theirs = MaskedLanguage(model)(batch)["mlm"], full(model, batch)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    found, expected = gradients(model, ours), gradients(model, theirs)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert expected.abs().max() > 1e-3


@pytest.mark.parametrize("family", tiny.CONFIGS)
def test_the_head_runs_at_masked_positions_only(family):
    model, seen = tiny.model(family, head="masked-lm"), []
    handle = model.get_output_embeddings().register_forward_hook(
        lambda _m, _i, out: seen.append(out.shape[:-1].numel())
    )
    batch = next(masked(family=family, batch_size=12).epoch(0))
    MaskedLanguage(model)(batch)
    assert seen == [batch.counts.masked]
    handle.remove()
    assert model(**batch.inputs).logits.shape[:2] == batch.labels.shape  # the hook is gone


def test_a_head_that_sees_everything_is_read_at_the_same_positions():
    model = tiny.model(head="masked-lm")
    batch = next(masked().epoch(0))
    rows, columns = (batch.labels != IGNORED).nonzero(as_tuple=True)
    with gathered(model, rows, columns) as head:
        expected = head.of(model(**batch.inputs).logits)

    class Alone(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.base_model = None

    alone = Alone()
    object.__setattr__(alone, "base_model", alone)
    with gathered(alone, rows, columns) as head:
        found = head.of(model(**batch.inputs).logits)
    torch.testing.assert_close(found, expected)


class Cut:
    """The batches of 8 rows of a masked source, each cut into micro-batches of `size` rows."""

    def __init__(self, size):
        self.size, self.masked = size, masked(tiny.texts(24, longest=12), batch_size=8, shuffle=True)

    def __len__(self):
        return len(self.masked) * 8 // self.size

    def epoch(self, number=0, *, start=0):
        inner = self.masked._whole
        cuts = [rows[i : i + self.size] for rows in inner.order(number) for i in range(0, 8, self.size)]
        for rows in cuts[start:]:
            yield self.masked.hide(inner.rows(rows), number)


@pytest.mark.parametrize("size", [1, 4])
def test_accumulation_is_a_large_batch(size):
    plain = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    whole, split = (MaskedLanguage(tiny.model(head="masked-lm", **plain)) for _ in range(2))
    options = {"epochs": 2, "lr": 3e-3, "precision": "fp32"}
    first = list(fit(whole, Cut(8), **options))
    second = list(fit(split, Cut(size), accumulate=8 // size, **options))
    assert [s.loss for s in second] == pytest.approx([s.loss for s in first], rel=1e-4)
    assert tiny.difference(whole, split) < 2e-5


@pytest.mark.parametrize("batch_size", [1, 3])
def test_processes_share_a_step_whatever_their_rows(batch_size):
    texts = [*tiny.texts(7, longest=12), "zzzz"]  # and one that has nothing to hide
    one = masked(texts, batch_size=batch_size)
    shares = [masked(texts, batch_size=batch_size, rank=r, world=2) for r in range(2)]
    module = MaskedLanguage(tiny.model(head="masked-lm"))

    def total(source):
        micro = _share_counts(list(source.epoch(0)))
        return gradients(module, sum(module(batch)["mlm"] for batch in micro))

    whole = total(one)
    torch.testing.assert_close(sum(map(total, shares)) / 2, whole, rtol=1e-4, atol=1e-6)
    assert whole.abs().max() > 1e-3


def test_a_batch_with_nothing_to_hide_has_no_loss():
    module = MaskedLanguage(tiny.model(head="masked-lm"))
    loss = module(next(masked(["zzzz", "qqqq"]).epoch(0)))["mlm"]
    assert loss.item() == 0
    assert gradients(module, loss).abs().max() == 0


# Streams


def stream(texts, **options):
    lines = IterableDataset.from_generator(lambda: ({"text": text} for text in texts))
    options = {"batch_size": 3, "steps": 6, **options}
    return MaskedBatches(StreamBatches(lines, TOKENIZER, **options), TOKENIZER)


def test_a_stream_is_masked_anew_as_it_comes_again_and_goes_on_where_it_was(monkeypatch):
    monkeypatch.setattr(StreamBatches, "POOL", 4)
    source = stream(["good film " * 5] * 12)
    batches = [batch for n in range(4) for batch in source.epoch(n)]
    again = list(source.epoch(2, start=4))
    assert [b.labels.tolist() for b in again] == [b.labels.tolist() for b in batches[16:18]]
    rows = torch.cat([b.index for b in batches]).tolist()
    assert len(set(rows)) == len(rows) == 72
    patterns = {tuple(row) for batch in batches for row in (batch.labels != IGNORED).tolist()}
    assert len(patterns) > 20  # of the 45 that there are
