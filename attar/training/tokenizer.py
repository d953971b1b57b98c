"""Train a tokenizer on plain text, for a language or a field that has no model yet."""

import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from attar.data.corpus import Texts
from attar.data.lines import lines_of
from attar.errors import DataError, ModelError
from attar.model.checkpoint import versions
from attar.model.pretrained import from_pretrained
from attar.options.base import Options
from attar.progress import say
from attar.storage.writing import LINEAGE, check_free, new_directory

Kind = Literal["bpe", "wordpiece", "unigram"]
Style = Literal["encoder", "decoder"]

ENCODER = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
# One token ends a text and begins the next, as GPT-2 has it. Padding has a token of its own: where it is the end's,
# collators that leave padding out of the loss never teach a model to end.
END, PAD = "<|endoftext|>", "<|pad|>"
# A pair of pieces that occurs once is no word of the language.
TWICE = 2
# Texts that a saved tokenizer is tried on, and Unigram's step between the scores of characters that it dropped.
TRIED, STEP = 200, 1e-4


def tokenizer(texts: Texts, *, out: str | Path, options: Options, overwrite: bool) -> PreTrainedTokenizerFast:
    """Train a tokenizer and write it as `AutoTokenizer` loads it; see `attar.tokenizer`."""
    check_free(out, overwrite=overwrite)
    kind, vocab, lowercase, coverage = options.kind, options.vocab, options.lowercase, options.coverage
    style: Style = options.style or ("decoder" if kind == "bpe" else "encoder")
    special = (
        [*ENCODER.values()] if style == "encoder" else [END, PAD, *(["<unk>"] if kind == "unigram" else [])]
    )
    shell = _shell(kind, special, lowercase=lowercase)
    if kind == "bpe":
        _learn_bytes(shell, texts, special, vocab)
    else:
        letters, other = _letters(texts, shell, coverage)
        learn = _learn_wordpiece if kind == "wordpiece" else _learn_unigram
        learn(shell, _feed(texts, shell, other), letters, special, vocab)
    made = _wrapped(shell, kind, style)
    with new_directory(out, overwrite=overwrite) as temporary:
        made.save_pretrained(temporary)
        lineage = {
            "stage": "tokenizer",
            "options": options.settings() | {"style": style},
            "size": len(made),
            "versions": versions(),
        }
        text = json.dumps(lineage, indent=2, ensure_ascii=False)
        (temporary / LINEAGE).write_text(text + "\n", encoding="utf-8")
        _verify(made, temporary, list(islice(lines_of(texts), TRIED)))
    if len(made) < vocab:
        say(f"{len(made)} pieces, fewer than the {vocab} asked for: the texts repeat no more than these")
    loaded: PreTrainedTokenizerFast = from_pretrained(AutoTokenizer, out)
    return loaded


def letters_per_token(tokenizer: Any, texts: Texts) -> float:
    """Letters of text that a token stands for, on the first texts: what one tokenizer has over another."""
    sample = list(islice(lines_of(texts), TRIED))
    tokens = sum(len(ids) for ids in tokenizer(sample, add_special_tokens=False, verbose=False)["input_ids"])
    return sum(map(len, sample)) / max(1, tokens)


def _shell(kind: Kind, special: list[str], *, lowercase: bool) -> Tokenizer:
    """A tokenizer that normalises and parts words as its kind does, and knows no pieces yet."""
    # Small letters before composition: what has no composed capital may have a composed small letter.
    small = [normalizers.Lowercase()] if lowercase else []
    if kind == "bpe":
        shell = Tokenizer(models.BPE())
        shell.normalizer = normalizers.Sequence([*small, normalizers.NFC()])
        shell.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        shell.decoder = decoders.ByteLevel()
    elif kind == "wordpiece":
        shell = Tokenizer(models.WordPiece(unk_token=special[1]))
        # BERT takes accents off by way of NFD, which leaves Hangul in parts of syllables. It drops invisible signs
        # too, and letters between which one stood are composed only afterwards.
        cleaned = normalizers.BertNormalizer(strip_accents=False, lowercase=lowercase)
        shell.normalizer = normalizers.Sequence([cleaned, normalizers.NFC()])
        shell.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        shell.decoder = decoders.WordPiece(cleanup=False)
    else:
        shell = Tokenizer(models.Unigram())
        spaces = [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip(left=False)]
        shell.normalizer = normalizers.Sequence([*small, *spaces, normalizers.NFC()])
        # What follows a mask token begins a word only where a space says so: Korean puts particles there. Signs are
        # parted from letters, as SentencePiece does; the library's way to do so (UnicodeScripts) parts spaces too.
        spaced = pre_tokenizers.Metaspace(prepend_scheme="first")
        signs = pre_tokenizers.Split(Regex(r"▁?[^\p{L}\p{M}\p{N}▁]+"), "isolated")
        shell.pre_tokenizer = pre_tokenizers.Sequence([spaced, signs])
        shell.decoder = decoders.Metaspace(prepend_scheme="first")
    return shell


def _letters(texts: Texts, shell: Tokenizer, coverage: float) -> tuple[list[str], list[str]]:
    """The letters of the texts that make up the share `coverage` of them, in order, and the others."""
    counts: Counter[str] = Counter()
    for line in lines_of(texts):
        counts.update(shell.normalizer.normalize_str(line))
    ranked = sorted((letter for letter in counts if not letter.isspace()), key=lambda c: (-counts[c], c))
    room, kept = coverage * sum(counts[c] for c in ranked), 0
    for letter in ranked:
        if room <= 0:
            break
        room -= counts[letter]
        kept += 1
    return sorted(ranked[:kept]), sorted(ranked[kept:])


def _feed(texts: Texts, shell: Tokenizer, other: list[str]) -> Iterator[str]:
    """The texts to learn from; a letter that gets no piece parts words."""
    if not other:
        yield from lines_of(texts)
        return
    blank = str.maketrans(dict.fromkeys(other, " "))
    for line in lines_of(texts):
        yield shell.normalizer.normalize_str(line).translate(blank)


def _learn_bytes(shell: Tokenizer, texts: Texts, special: list[str], vocab: int) -> None:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    _check_room(vocab, special, alphabet, "bytes")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        min_frequency=TWICE,
        special_tokens=special,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    shell.train_from_iterator(lines_of(texts), trainer)


def _learn_wordpiece(
    shell: Tokenizer, lines: Iterator[str], letters: list[str], special: list[str], vocab: int
) -> None:
    """Merge pieces; every letter gets one for the beginning of a word and, where it may stand inside, another.

    The library makes the second only where it saw one, so that a syllable which only began words would be unknown
    inside; and in an order by chance, which then decides between equal merges. Given as special tokens they are all
    there, in this order; the tokenizer that comes out does not have them as such.
    """
    inside = [f"##{letter}" for letter in letters if _joins(shell, letter)]
    _check_room(vocab, special, [*letters, *inside], "letters, at the beginning of words and inside")
    learner = Tokenizer.from_str(shell.to_str())
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab, min_frequency=TWICE, special_tokens=[*special, *inside], show_progress=False
    )
    learner.train_from_iterator(lines, trainer)
    shell.model = models.WordPiece(vocab=learner.get_vocab(), unk_token=special[1])


def _joins(shell: Tokenizer, letter: str) -> bool:
    """Whether a letter may stand inside a word."""
    return len(shell.pre_tokenizer.pre_tokenize_str(shell.normalizer.normalize_str(f"a{letter}a"))) == 1


def _learn_unigram(
    shell: Tokenizer, lines: Iterator[str], letters: list[str], special: list[str], vocab: int
) -> None:
    """Find the likeliest pieces; those of equal score in the order of their letters.

    The library gives letters that it would rather have dropped the least score plus a ten-thousandth each, in an order
    by chance: they get the least. The other scores differ in their last bits by the order of the sums.
    """
    _check_room(vocab, special, ["▁", *letters], "letters")
    unknown = special[1] if special[1] in ENCODER.values() else special[-1]
    learner = Tokenizer.from_str(shell.to_str())
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab, special_tokens=special, unk_token=unknown, show_progress=False
    )
    learner.train_from_iterator(lines, trainer)
    scores = dict(json.loads(learner.to_str())["model"]["vocab"][len(special) :])
    least = min(scores.values())
    ramp = {round((score - least) / STEP, 3): piece for piece, score in scores.items() if len(piece) == 1}
    dropped, step = set(), 0
    while step in ramp:
        dropped.add(ramp[step])
        step += 1
    settled = [(piece, round(least if piece in dropped else score, 6)) for piece, score in scores.items()]
    settled.sort(key=lambda entry: (-entry[1], entry[0]))
    pieces = [(piece, 0.0) for piece in special] + settled
    shell.model = models.Unigram(pieces, special.index(unknown), False)


def _check_room(vocab: int, special: list[str], alphabet: list[str], what: str) -> None:
    least = len(special) + len(alphabet)
    if vocab < least:
        raise DataError(
            expected=f"vocab of more than {least}: {len(special)} special tokens and {len(alphabet)} {what}",
            found=f"vocab={vocab}",
            fix=f"set vocab to {2 * least} or so"
            + ("" if what == "bytes" else ", or coverage=0.9995 to leave rare letters out"),
        )


def _wrapped(shell: Tokenizer, kind: Kind, style: Style) -> PreTrainedTokenizerFast:
    """The tokenizer with its special tokens, and where an encoder has them in a text or a pair of texts."""
    options: dict[str, Any] = {"bos_token": END, "eos_token": END, "pad_token": PAD}
    options |= {"unk_token": "<unk>"} if kind == "unigram" else {}
    inputs = ["input_ids", "attention_mask"]
    steps: list[Any] = [processors.ByteLevel(trim_offsets=True)] if kind == "bpe" else []
    if style == "encoder":
        # The space before a mask belongs to what it hides, where pieces hold their spaces.
        mask = AddedToken("[MASK]", lstrip=kind != "wordpiece", special=True, normalized=False)
        options = {**ENCODER, "mask_token": mask}
        inputs[1:1] = [] if kind == "bpe" else ["token_type_ids"]  # which no encoder of bytes takes
        ends = [(token, shell.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
        frame = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
        )
        steps.append(frame)
    if steps:
        shell.post_processor = processors.Sequence(steps)
    return PreTrainedTokenizerFast(
        tokenizer_object=shell, model_input_names=inputs, clean_up_tokenization_spaces=False, **options
    )


def _verify(made: PreTrainedTokenizerFast, directory: Path, sample: list[str]) -> None:
    again = from_pretrained(AutoTokenizer, directory)
    if made(sample, verbose=False)["input_ids"] != again(sample, verbose=False)["input_ids"]:
        raise ModelError(
            expected="the saved tokenizer to load and give the same tokens",
            found="others",
            fix="report this as a bug of attar, with the options that were used; nothing was written",
        )
