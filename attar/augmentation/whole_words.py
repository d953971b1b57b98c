"""Which entries of a tokenizer's vocabulary are whole words."""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from attar.augmentation.words import is_word, normal

# WordPiece marks what continues a word; byte-level BPE and SentencePiece mark what begins one.
CONTINUES = "##"
BEGINS = ("Ġ", "▁")


@dataclass(frozen=True)
class Vocabulary:
    """The whole words of a tokenizer.

    Attributes:
        words: id -> the word as text, for pieces that are whole words wherever a word begins.
        inner: the same for pieces without the mark of a beginning, at the start of a text or after a bracket, whose
            marked twin is a whole word. The same mapping as `words` where beginnings are not marked.
        marker: what a beginning is marked with; "" where it is not.
    """

    words: dict[int, str]
    inner: dict[int, str]
    marker: str

    def of(self, piece: str) -> dict[int, str]:
        """The mapping that holds what may stand in the place of `piece`."""
        return self.words if piece.startswith(self.marker) else self.inner


def read(tokenizer: PreTrainedTokenizerBase, size: int) -> Vocabulary:
    """Find the whole words among the first `size` ids.

    Left out: continuations, special and added tokens, numbers, punctuation, and anything that Unicode would cut in two.
    Where beginnings are marked, a piece that begins words without being one ("Ġimpro") looks like a word.
    """
    left_out = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())
    pieces = {piece: i for piece, i in tokenizer.get_vocab().items() if i < size and i not in left_out}
    counts = {mark: sum(piece.startswith(mark) for piece in pieces) for mark in (CONTINUES, *BEGINS)}
    mark = max(counts, key=lambda m: counts[m])
    marker = mark if mark in BEGINS and counts[mark] else ""
    texts = {
        piece: normal(tokenizer.convert_tokens_to_string([piece]).strip())
        for piece in pieces
        if piece.startswith(marker) and not (marker == "" and piece.startswith(CONTINUES))
    }
    whole = {piece: text for piece, text in texts.items() if is_word(text)}
    begins = {pieces[piece]: text for piece, text in sorted(whole.items(), key=lambda item: pieces[item[0]])}
    if not marker:
        return Vocabulary(begins, begins, marker)
    bare = {piece.removeprefix(marker): text for piece, text in whole.items()}
    inner = {i: bare[piece] for piece, i in sorted(pieces.items(), key=lambda item: item[1]) if piece in bare}
    return Vocabulary(begins, inner, marker)


def is_uncased(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer reads capitals as small letters."""
    return bool(tokenizer.tokenize("Word") == tokenizer.tokenize("word"))
