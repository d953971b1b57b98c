"""Tiny embedding models, and texts for them."""

import torch

import tiny
from attar.model.checkpoint import save
from attar.model.embedding import KEY, SentenceEncoder
from attar.model.sentence_modules import Head, Linear

TEXTS = [f"the {a} film is a {b} story" for a in tiny.GOOD + tiny.BAD for b in tiny.GOOD + tiny.BAD]


def embedder(family="bert", head=None, **sizes):
    """A tiny embedding model, the same for the same sizes."""
    encoder = tiny.model(family, head="base", **sizes)
    setattr(encoder.config, KEY, (head or Head(normalize=True, max_length=40)).written)
    with torch.random.fork_rng(devices=[]):  # Dense layers are new, and the same in every test
        torch.manual_seed(0)
        return SentenceEncoder(encoder.config, encoder).eval()


def saved(place, head=None):
    """The directory of one, as sentence-transformers would write it."""
    return save(embedder(head=head), tiny.tokenizer(), place, lineage={})


def with_dense(place):
    """The directory of one with Dense layers."""
    dense = (Linear(24, 16, True, "Tanh"), Linear(16, 12, False))
    return saved(place, Head(dense=dense, normalize=True, max_length=40))


def embed(model, texts):
    """(N, E) of some texts."""
    batch = tiny.tokenizer()(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model(**batch).logits.numpy()
