"""`attar.tokenizer`: a tokenizer for a language or a field that has no model yet."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from attar.options.base import Count, OutputPath, Overwrite, TextSource
from attar.options.registry import verb
from attar.options.signature import options_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@verb()
def tokenizer(
    texts: TextSource,
    *,
    out: OutputPath,
    kind: Literal["bpe", "wordpiece", "unigram"] = "bpe",
    style: Literal["encoder", "decoder"] | None = None,
    vocab: Count = 32000,
    lowercase: bool = False,
    coverage: Annotated[float, Field(gt=0, le=1)] = 1.0,
    overwrite: Overwrite = False,
) -> "PreTrainedTokenizerFast":
    """Train a tokenizer on plain text, for a language that has no model yet.

    All three kinds compose what Unicode can write in several ways (NFC), so that Hangul stays in syllables and accents
    stay on their letters. "bpe" (GPT-2, 1508.07909) encodes every text; "wordpiece" (BERT) and "unigram"
    (SentencePiece, 1804.10959) have an unknown token. The same texts give the same tokenizer.

    Args:
        texts: Plain text, one text a line; files are read line by line and never held whole.
        out: Directory to write; it appears whole or not at all.
        kind: bpe (of bytes), wordpiece or unigram.
        style: Special tokens of an encoder (BERT's) or a decoder (GPT-2's); a decoder's for bpe where left out.
        vocab: Tokens, special tokens included; fewer come out where the texts have no more.
        lowercase: Read capitals as small letters.
        coverage: Share of the letters that get a token, the most frequent first; less than 1 for noisy web text.
        overwrite: Replace what attar wrote there before.

    Returns:
        The tokenizer, as loaded from `out`.

    Raises:
        DataError: no text, text that is binary or in another encoding, a vocabulary without room for the letters.
        OutputError: `out` is taken, or the disk is full.

    Examples:
        attar tokenizer texts.txt --out ko --kind wordpiece
    """
    from attar.training.tokenizer import tokenizer as work

    return work(texts, out=out, options=options_of(tokenizer, locals()), overwrite=overwrite)
