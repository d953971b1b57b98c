"""Packed blocks: every token told once, no document sees another, the same batches for any number of processes."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

import tiny
from attar.data.blocks import LETTERS, Blocks, CausalLanguage, Tokens, blocks_of, pieces, tokens_of
from attar.data.masking import IGNORED
from attar.errors import DataError, ModelError
from attar.model.lm_head import features, last_hidden, output

DOCUMENTS = st.lists(st.lists(st.integers(3, 90), min_size=1, max_size=9), min_size=1, max_size=9)


def packed(documents, **options):
    lengths = np.array([len(document) for document in documents])
    begins = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    return Blocks(Tokens(np.concatenate(documents).astype(np.int32), begins), **options)


@given(DOCUMENTS, st.integers(1, 12), st.integers(1, 4))
def test_every_token_but_a_documents_first_is_told_once_after_the_one_before_it(documents, size, batch_size):
    pairs = []
    for batch in packed(documents, size=size, batch_size=batch_size, shuffle=True):
        mask = batch.mask
        assert batch.counts.masked == mask.sum()
        pairs += zip(batch.inputs["input_ids"][mask].tolist(), batch.labels[mask].tolist(), strict=True)
    expected = [pair for document in documents for pair in pairwise(document)]
    assert sorted(pairs) == sorted(expected)


@pytest.mark.parametrize("family", tiny.DECODERS)
def test_a_document_in_a_block_is_told_as_if_it_were_alone(family):
    model = tiny.model(family, "causal-lm")
    documents = [[5, 9, 7, 3, 11], [8, 2], [4, 4, 6, 13], [9]]
    (batch,) = packed(documents, size=16, batch_size=1)
    with torch.no_grad():
        hidden = last_hidden(model, batch.inputs)[0]
        weight, bias = output(model)
        at = 0
        for document in documents:
            alone = model(torch.tensor([document])).logits[0]
            ours = torch.nn.functional.linear(features(model, hidden[at : at + len(document)]), weight, bias)
            torch.testing.assert_close(ours, alone, rtol=1e-4, atol=1e-5)
            at += len(document)
        # What begins a block is told without what was before it.
        cut = packed([list(range(3, 13))], size=4, batch_size=9)
        _, second, last = last_hidden(model, next(iter(cut)).inputs)
        torch.testing.assert_close(
            second, model.base_model(torch.tensor([[7, 8, 9, 10]])).last_hidden_state[0]
        )
        torch.testing.assert_close(last[:2], model.base_model(torch.tensor([[11, 12]])).last_hidden_state[0])


def test_the_loss_is_that_of_the_class():
    model = tiny.model("gpt2", "causal-lm")
    batches = packed([[5, 9, 7, 3, 11, 6, 8]], size=7, batch_size=1)
    (batch,) = batches
    ids = batch.inputs["input_ids"]
    expected = model(ids, labels=ids).loss
    found = CausalLanguage(model)(batch)["clm"]
    torch.testing.assert_close(found, expected)


@given(DOCUMENTS, st.integers(1, 5))
def test_processes_share_the_batches_of_one(documents, world):
    whole = packed(documents, size=4, batch_size=3, shuffle=True, seed=5)
    shares = [
        packed(documents, size=4, batch_size=3, shuffle=True, seed=5, rank=r, world=world)
        for r in range(world)
    ]
    for batch, *parts in zip(whole, *shares, strict=True):
        own = [part for part in parts if part.whole is None]
        assert sorted(batch.index.tolist()) == sorted(n for part in own for n in part.index.tolist())
        # A sum over processes of sums over their rows, each over its counts, averaged over processes.
        share = sum(part.mask.sum() / part.counts.masked for part in parts if part.counts.masked) / world
        assert not batch.counts.masked or share == pytest.approx(1.0)


def test_resuming_deals_the_batches_that_are_left():
    blocks = packed([list(range(3, 90))], size=4, batch_size=2, shuffle=True)
    again = [batch.index.tolist() for batch in blocks.epoch(3, start=4)]
    assert again == [batch.index.tolist() for batch in blocks.epoch(3)][4:]
    assert again != [batch.index.tolist() for batch in blocks.epoch(4)][4:]


def test_documents_stand_between_marks():
    tokenizer = tiny.decoder_tokenizer()
    end = tokenizer.eos_token_id
    found = tokens_of(["good film", "a story"], tokenizer)
    inner = [tokenizer(text)["input_ids"] for text in ("good film", "a story")]
    assert found.ids.tolist() == [end, *inner[0], end, end, *inner[1], end]
    assert found.begins.tolist() == [0, len(inner[0]) + 2]


def test_a_long_document_is_cut_where_tokens_end():
    text = "good film " * (LETTERS // 5)
    parts = list(pieces(text))
    assert "".join(parts) == text
    assert all(len(part) <= LETTERS for part in parts)
    tokenizer = tiny.decoder_tokenizer()
    whole = tokenizer(text)["input_ids"]
    assert tokens_of([text], tokenizer).ids[1:-1].tolist() == whole
    assert "".join(pieces("x" * (2 * LETTERS + 5))) == "x" * (2 * LETTERS + 5)


def test_a_stream_gives_the_tokens_of_the_table_again_and_again():
    texts = tiny.texts(30)
    tokenizer = tiny.decoder_tokenizer()
    table = blocks_of(texts, tokenizer, size=8, batch_size=4)
    stream = blocks_of(
        Dataset.from_dict({"text": texts}).to_iterable_dataset(),
        tokenizer,
        size=8,
        batch_size=4,
        steps=len(table),
    )

    def told(batches):
        return sorted(t for batch in batches for t in batch.labels[batch.labels != IGNORED].tolist())

    assert told(stream.epoch(0)) == told(table) == told(stream.epoch(1))
    resumed = [batch.index.tolist() for batch in stream.epoch(1, start=2)]
    assert resumed == [batch.index.tolist() for batch in stream.epoch(1)][2:]


def test_what_cannot_be_packed_is_named():
    with pytest.raises(ModelError, match="end-of-text"):
        tokens_of(["a film"], tiny.tokenizer())
    with pytest.raises(DataError, match="tokens in it"):
        tokens_of([], tiny.decoder_tokenizer())
