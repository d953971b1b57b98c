"""Which tokens of a vocabulary must stay: what corpus words pass through, and what any other word is spelled with.

A word is spelled out in single letters (or bytes) where its own tokens are gone. That holds for every word where each
letter of the vocabulary has a token of its own, as trainers give it; tokens with a letter that has none are all kept.
"""

import re
from collections.abc import Callable
from typing import Any

from tokenizers import Encoding, Tokenizer

Model = dict[str, Any]  # the section `model` of tokenizer.json
BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def before_unknown(backend: Tokenizer, model: Model, text: str, encoding: Encoding) -> set[int]:
    """Pieces that WordPiece takes from a word before it finds that it cannot go on.

    Without them it would take shorter ones, and might then come to the end of a word that was unknown.
    """
    pieces: set[int] = set()
    if model["unk_token"] not in encoding.tokens:
        return pieces
    vocab, prefix = model["vocab"], model["continuing_subword_prefix"]
    for token, (start, end) in zip(encoding.tokens, encoding.offsets, strict=True):
        if token != model["unk_token"]:
            continue
        part = backend.normalizer.normalize_str(text[start:end]) if backend.normalizer else text[start:end]
        words = backend.pre_tokenizer.pre_tokenize_str(part) if backend.pre_tokenizer else [(part, (0, 0))]
        for word, _ in words:
            if len(word) <= model["max_input_chars_per_word"]:  # else it is unknown, whatever the pieces
                pieces |= _longest_first(word, vocab, prefix)
    return pieces


def _longest_first(word: str, vocab: dict[str, int], prefix: str) -> set[int]:
    """Pieces of a word from its beginning to its end, or to where none fits."""
    pieces, at = set(), 0
    while at < len(word):
        lead = prefix if at else ""
        fitting = (stop for stop in range(len(word), at, -1) if lead + word[at:stop] in vocab)
        stop = next(fitting, at)
        if stop == at:
            break
        pieces.add(vocab[lead + word[at:stop]])
        at = stop
    return pieces


def _spelled_wordpiece(model: Model, used: set[int]) -> set[int]:
    vocab, prefix = model["vocab"], model["continuing_subword_prefix"]

    def letters(piece: str) -> list[str]:
        inner = piece.startswith(prefix) and piece != prefix
        text = piece.removeprefix(prefix) if inner else piece
        return [prefix + letter if inner or at else letter for at, letter in enumerate(text)]

    spelled = ((i, letters(piece)) for piece, i in vocab.items())
    return used | {i for i, parts in spelled if len(parts) == 1 or any(part not in vocab for part in parts)}


def _spelled_bpe(model: Model, used: set[int]) -> set[int]:
    vocab, skip = model["vocab"], len(model["continuing_subword_prefix"] or "")
    parts: dict[str, set[str]] = {}
    for left, right in model["merges"]:
        parts.setdefault(left + right[skip:], set()).update((left, right))
    # What no merge makes is a letter, a byte or a special token.
    kept = {token for token, i in vocab.items() if i in used or token not in parts}
    pending = list(kept)
    # Were a step on the way to a token gone, the merges after it would not happen.
    while pending:
        new = parts.get(pending.pop(), set()) - kept
        kept |= new
        pending += new
    return used | {vocab[token] for token in kept}


def _spelled_unigram(model: Model, used: set[int]) -> set[int]:
    pieces = [piece for piece, _ in model["vocab"]]
    letters = {piece for piece in pieces if len(piece) == 1}
    # The score of an unknown letter is counted from the lowest of all.
    lowest = min(range(len(pieces)), key=lambda i: model["vocab"][i][1])
    spelling = {
        i
        for i, piece in enumerate(pieces)
        if len(piece) == 1 or BYTE.fullmatch(piece) or not letters.issuperset(piece)
    }
    return used | spelling | {lowest}


# By the model's type: (the model, ids that must stay) -> these and all that must stay for their sake or for spelling.
SPELLED: dict[str, Callable[[Model, set[int]], set[int]]] = {
    "WordPiece": _spelled_wordpiece,
    "BPE": _spelled_bpe,
    "Unigram": _spelled_unigram,
}
