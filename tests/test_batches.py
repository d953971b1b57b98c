"""Laws of batches: every row once, in an order that only seed and epoch decide, however many processes."""

import itertools

import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from attar.data.batches import Batches, Counts, encode
from attar.data.streaming import StreamBatches
from attar.errors import DataError

ROWS = 37
ENCODED = encode(tiny.table(ROWS, longest=14), tiny.tokenizer(), max_length=12)
TOKENIZER = tiny.tokenizer()
laws = settings(max_examples=25, deadline=None)
sizes, seeds, worlds = st.integers(1, 50), st.integers(0, 5), st.integers(1, 4)


def batches(**options):
    return Batches(ENCODED, TOKENIZER, **options)


def rows_of(found):
    return [batch.index.tolist() for batch in found]


@laws
@given(sizes, seeds, st.integers(0, 3), st.booleans(), st.booleans(), st.sampled_from([None, 1, 5, 12]))
def test_an_epoch_has_every_row_once(size, seed, epoch, shuffle, bucket, topic):
    source = batches(batch_size=size, seed=seed, shuffle=shuffle, bucket=bucket)
    if topic:
        source.TOPIC, source.near = topic, np.random.default_rng(seed).normal(size=(ROWS, 3))
    found = rows_of(source.epoch(epoch))
    assert sorted(itertools.chain(*found)) == list(range(ROWS))
    assert len(found) == len(source) == -(-ROWS // size)
    assert all(len(rows) <= size for rows in found)


def test_order_depends_on_seed_and_epoch_only():
    one = batches(batch_size=4, shuffle=True, seed=1)
    first, second = rows_of(one.epoch(0)), rows_of(one.epoch(1))
    torch.manual_seed(5)
    np.random.seed(5)
    assert rows_of(one.epoch(0)) == rows_of(batches(batch_size=4, shuffle=True, seed=1).epoch(0)) == first
    assert first != second
    assert first != rows_of(batches(batch_size=4, shuffle=True, seed=2).epoch(0))


@laws
@given(sizes, seeds, worlds)
def test_shares_of_processes_are_the_whole(size, seed, world):
    whole = batches(batch_size=size, seed=seed, shuffle=True)
    shares = [batches(batch_size=size, seed=seed, shuffle=True, rank=r, world=world) for r in range(world)]
    for expected, *parts in zip(whole.epoch(1), *(share.epoch(1) for share in shares), strict=True):
        working = [part for part in parts if part.whole is None]
        assert sorted(itertools.chain(*(part.index.tolist() for part in working))) == sorted(
            expected.index.tolist()
        )
        for rank, part in enumerate(parts):
            assert set((part.index % world).tolist()) == {rank}  # a row is always the same process's
            assert (part.whole or part.counts) == expected.counts / world
            if part.whole is not None:
                assert part.counts == Counts(float("inf"), float("inf"), float("inf"))
    assert sorted(itertools.chain(*(share.own().tolist() for share in shares))) == list(range(ROWS))


@laws
@given(sizes, st.integers(0, 40))
def test_to_start_later_is_to_skip(size, start):
    source = batches(batch_size=size, shuffle=True)
    assert rows_of(source.epoch(2, start=start)) == rows_of(source.epoch(2))[start:]


def test_bucketing_saves_padding():
    table = tiny.table(400, longest=30)
    encoded = encode(table, TOKENIZER, max_length=64)

    def padding(bucket):
        source = Batches(encoded, TOKENIZER, batch_size=16, shuffle=True, bucket=bucket)
        return sum(int((~batch.mask).sum()) for batch in source)

    assert padding(True) < padding(False) / 5


def test_padding_and_token_types_are_the_tokenizers():
    table = tiny.table(9, longest=12, pair=True)
    source = tiny.batches(table, batch_size=4)
    for batch in source:
        texts, pairs = ([table[name][i] for i in batch.index.tolist()] for name in ("text", "text_pair"))
        expected = TOKENIZER(texts, pairs, padding=True, return_tensors="pt", max_length=32, truncation=True)
        assert set(batch.inputs) == {"input_ids", "token_type_ids", "attention_mask"}
        for name, tensor in batch.inputs.items():
            assert tensor.equal(expected[name]), name
            assert tensor.dtype == torch.int64
        assert batch.mask.equal(expected["attention_mask"].bool())
        assert int(batch.inputs["token_type_ids"].max()) == 1
        assert batch.labels.tolist() == [table["label"][i] for i in batch.index.tolist()]


def test_another_padding_token_is_used():
    other = tiny.tokenizer("roberta")
    other.pad_token = "[MASK]"
    source = Batches(encode(tiny.table(9), other), other, batch_size=9)
    batch = next(iter(source))
    assert set(batch.inputs) == {"input_ids", "attention_mask"}
    assert set(batch.inputs["input_ids"][~batch.mask].tolist()) == {other.pad_token_id} == {4}


def test_texts_are_cut_to_the_length_asked_for():
    encoded = encode(Dataset.from_dict({"text": ["good " * 50, "bad"]}), TOKENIZER, max_length=8)
    assert encoded["length"][:] == [8, 3]
    assert encoded["input_ids"][0][-1] == TOKENIZER.sep_token_id


def test_counts_are_those_of_the_real_tokens():
    for batch in batches(batch_size=7):
        lengths = batch.mask.sum(1)
        assert batch.counts == Counts(len(lengths), float(lengths.sum()), float((lengths**2).sum()))


def test_content_names_texts_labels_and_length():
    from attar.model.checkpoint import digest

    def key(rows=9, seed=0, **options):
        return digest(*Batches(encode(tiny.table(rows, seed), TOKENIZER, **options), TOKENIZER).content)

    assert key() == key()
    assert len({key(), key(rows=8), key(seed=1), key(max_length=4)}) == 4


def stream(texts, **options):
    def generate():
        for text in texts:
            yield {"text": text}

    return StreamBatches(IterableDataset.from_generator(generate), TOKENIZER, **options)


def test_a_stream_gives_the_batches_of_a_table(monkeypatch):
    monkeypatch.setattr(Batches, "POOL", 8)
    monkeypatch.setattr(StreamBatches, "POOL", 8)
    texts = tiny.texts(32)  # 8 batches of 4: one pool
    table = Batches(
        encode(Dataset.from_dict({"text": texts}), TOKENIZER), TOKENIZER, batch_size=4, shuffle=True, seed=2
    )
    found = list(stream(texts, steps=8, batch_size=4, seed=2).epoch(0))
    for ours, theirs in zip(found, table.epoch(0), strict=True):
        assert ours.inputs["input_ids"].equal(theirs.inputs["input_ids"])
        assert ours.counts == theirs.counts


def test_a_stream_goes_on_where_it_was_and_begins_anew_at_its_end(monkeypatch):
    monkeypatch.setattr(StreamBatches, "POOL", 4)
    source = stream(tiny.texts(25), steps=6, batch_size=3)
    assert len(source) == 6

    def tokens(found):
        return [batch.inputs["input_ids"].tolist() for batch in found]

    epochs = [tokens(source.epoch(n)) for n in range(4)]
    assert [len(epoch) for epoch in epochs] == [6] * 4
    straight = tokens(stream(tiny.texts(25), steps=24, batch_size=3).epoch(0))
    assert straight == list(itertools.chain(*epochs))
    assert tokens(source.epoch(2, start=4)) == epochs[2][4:]


def test_shares_of_a_stream_are_the_whole(monkeypatch):
    monkeypatch.setattr(StreamBatches, "POOL", 4)
    whole = stream(tiny.texts(24), steps=4, batch_size=6)
    shares = [stream(tiny.texts(24), steps=4, batch_size=6, rank=r, world=2) for r in range(2)]
    for expected, *parts in zip(whole.epoch(0), *(s.epoch(0) for s in shares), strict=True):
        rows = [p.index.tolist() for p in parts if p.whole is None]
        assert sorted(itertools.chain(*rows)) == sorted(expected.index.tolist())


def test_a_stream_is_named_by_what_it_is_not_where():
    from attar.model.checkpoint import digest

    def key(texts, **options):
        return digest(*stream(texts, **{"steps": 4, "batch_size": 3, **options}).content)

    assert key(tiny.texts(9)) == key(tiny.texts(9))
    assert key(tiny.texts(9)) == key(tiny.texts(9), rank=1, world=2)
    assert (
        len(
            {
                key(tiny.texts(9)),
                key(tiny.texts(9, seed=1)),
                key(tiny.texts(9), steps=5),
                key(tiny.texts(9), seed=1),
            }
        )
        == 4
    )


def test_fewer_rows_than_processes_are_refused():
    few = encode(tiny.table(2), TOKENIZER)
    with pytest.raises(DataError, match="at least 3 rows"):
        Batches(few, TOKENIZER, rank=2, world=3)


def test_another_encoding_deep_in_a_stream_is_an_error_of_the_data():
    def lines():
        yield {"text": "a plain line"}
        yield {"text": b"caf\xe9".decode("utf-8")}  # as the reader does, megabytes into a file

    stream = StreamBatches(IterableDataset.from_generator(lines), TOKENIZER, steps=1, batch_size=1)
    with pytest.raises(DataError, match="UTF-8"):
        list(stream.epoch())


def test_batches_of_like_topics_have_rows_that_are_near(monkeypatch):
    monkeypatch.setattr(Batches, "TOPIC", 8)
    encoded = encode(tiny.table(96), TOKENIZER)
    near = np.random.default_rng(0).normal(size=(96, 4))
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    lengths = np.random.default_rng(1).uniform(0.5, 2, size=(96, 1))  # which say nothing of topics
    alike, orders = {}, {}
    for name, vectors in (("near", near), ("any", None)):
        source = Batches(encoded, TOKENIZER, batch_size=4, shuffle=True, seed=1)
        source.near = None if vectors is None else vectors * lengths
        orders[name] = [source.order(epoch) for epoch in range(6)]
        pairs = [near[rows] @ near[rows].T for order in orders[name] for rows in order]
        alike[name] = np.mean([(found.sum() - 4) / 12 for found in pairs])
    assert alike["near"] > 0.35
    assert abs(alike["any"]) < 0.1
    assert len({str(order) for order in orders["near"]}) == 6
