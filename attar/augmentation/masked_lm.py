"""Candidates from a masked language model, many masked words of many texts in each forward pass."""

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from attar.augmentation import whole_words
from attar.augmentation.words import Place, choose, words
from attar.data.masking import gathered
from attar.errors import DataError, ModelError

# Ranks looked at beyond k: forms of the word itself in other cases are passed over.
SPARE = 5
# BERT was trained with this share of the pieces masked.
SHARE = 0.15

Masks = Literal["one", "several", "none"]


@dataclass(frozen=True)
class _Row:
    """One text to run: its ids, where masks go, the ids that stand there, and whose candidates they give."""

    ids: list[int]
    masked: list[int]
    originals: list[int]
    places: list[Place]


@dataclass(frozen=True)
class _Encoded:
    """One text as pieces between the special tokens, and the places whose word is a single piece, by piece."""

    before: list[int]
    ids: list[int]
    after: list[int]
    single: dict[int, Place]


class MaskedLMCandidates:
    """The `k` most probable whole words where a masked LM sees a mask (1909.10351, Algorithm 1; single-piece words).

    As in the paper, the model sees the sentence with the word masked. (The authors' code shows it the unmasked sentence
    as well, as a second segment, which doubles the work; and skips stop words.) The word itself and pieces that are
    not whole words give way to the next most probable words. Words of several pieces have no candidates: see
    `PaperCandidates`. Of a text longer than `max_length` pieces the model sees a window around the mask.

    Args:
        model: any masked LM; its head runs at the masked positions only.
        tokenizer: with offsets (a fast tokenizer) and a mask token.
        masks: "one" is the paper's: a row for every word, in which it alone is masked. "several" masks up to 15% of the
            pieces of a row at once, spread evenly, as in BERT's training: 7 to 14 rows for a text of any length, and a
            model that sees a little less. "none" masks nothing and reads all words of a text off one row: by far the
            fastest, and another thing than the paper's, since the model sees the word that it is to replace (as it
            does in the authors' code, in the second segment).
        max_length: longest row, in pieces.
        tokens: pieces per forward pass, with padding; rows are sorted by length.

    Raises:
        ModelError: no mask token, or a tokenizer without offsets.
        DataError: another value of `masks`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        masks: Masks = "one",
        max_length: int = 128,
        tokens: int = 4096,
    ) -> None:
        if tokenizer.mask_token_id is None or not tokenizer.is_fast:
            raise ModelError(
                expected="a masked LM with a fast tokenizer that has a mask token",
                found=f"{type(tokenizer).__name__} without {'offsets' if tokenizer.mask_token_id else 'a mask token'}",
                fix="give a model trained with a mask, or use EmbeddingCandidates(model, tokenizer)",
            )
        if masks not in get_args(Masks):
            raise DataError(
                expected=f"masks as one of {get_args(Masks)}",
                found=repr(masks),
                fix="take 'one', the paper's",
            )
        self.model, self.tokenizer = model.eval(), tokenizer
        self.masks, self.tokens = masks, tokens
        self.max_length = min(max_length, tokenizer.model_max_length)
        output = model.get_output_embeddings()
        self._vocabulary = whole_words.read(
            tokenizer, len(output.weight) if output else model.config.vocab_size
        )
        self._uncased = whole_words.is_uncased(tokenizer)

    def find(self, places: Sequence[Place], k: int) -> list[list[str]]:
        """The most probable words at each place; equal places are computed once."""
        wanted = set(places)
        texts = list(dict.fromkeys(place.text for place in places))
        if not texts:
            return []
        rows = [
            row
            for encoded in self._encode(texts)
            for row in self._rows(encoded, wanted)
            if wanted & set(row.places)
        ]
        found: dict[Place, list[str]] = {}
        for batch in _batches(sorted(rows, key=lambda row: len(row.ids)), self.tokens):
            found.update(self._candidates(batch, k))
        return [found.get(place, []) for place in places]

    def _encode(self, texts: list[str]) -> Iterator[_Encoded]:
        encoded = self.tokenizer(
            texts, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False
        )
        for i, text in enumerate(texts):
            ids, offsets = encoded["input_ids"][i], encoded["offset_mapping"][i]
            content = [j for j, special in enumerate(encoded["special_tokens_mask"][i]) if not special]
            begin, end = (content[0], content[-1] + 1) if content else (0, 0)
            pieces: dict[tuple[int, int], int] = {}
            starts = sorted({offsets[j][0] for j in content})
            for j in content:
                start, stop = offsets[j]
                # Of a letter that it composed (a syllable of Hangul) a tokenizer names the first part only.
                after = bisect_right(starts, start)
                following = starts[after] if after < len(starts) else len(text)
                stop = max(stop, len(text[:following].rstrip()))
                # SentencePiece counts the space before a word to its first piece.
                start += len(text[start:stop]) - len(text[start:stop].lstrip())
                # An unknown word comes as one piece too, but the model does not know it as one.
                known = ids[j] != self.tokenizer.unk_token_id and (start, stop) not in pieces
                pieces[start, stop] = j - begin if known else -1
            single = {
                pieces[place.start, place.end]: place
                for place in words(text)
                if pieces.get((place.start, place.end), -1) >= 0
            }
            yield _Encoded(ids[:begin], ids[begin:end], ids[end:], single)

    def _rows(self, text: _Encoded, wanted: set[Place]) -> Iterator[_Row]:
        room = self.max_length - len(text.before) - len(text.after)
        positions = sorted(text.single)
        # With one mask per row, rows that nobody asked for are never made; with several, which words share a row must
        # not depend on which were asked for.
        if self.masks == "one":
            positions = [j for j in positions if text.single[j] in wanted]
        whole = len(text.ids) <= room
        span = len(text.ids) if whole else 1 if self.masks == "one" else max(1, room // 2)
        for begin in range(0, len(text.ids), max(1, span)):
            inside = [j for j in positions if begin <= j < begin + span]
            left = 0 if whole else min(max(0, begin - (room - span) // 2), len(text.ids) - room)
            ids = [*text.before, *text.ids[left : left + room], *text.after]
            at_once = {"one": 1, "several": max(1, int(SHARE * len(ids))), "none": max(1, len(inside))}[
                self.masks
            ]
            groups = math.ceil(len(inside) / at_once)
            for group in (inside[g::groups] for g in range(groups)):
                yield _Row(
                    ids,
                    [j - left + len(text.before) for j in group],
                    [text.ids[j] for j in group],
                    [text.single[j] for j in group],
                )

    def _candidates(self, rows: list[_Row], k: int) -> Iterator[tuple[Place, list[str]]]:
        originals = [i for row in rows for i in row.originals]
        places = [place for row in rows for place in row.places]
        logits = self._logits(rows)  # (N, V)
        pieces = self.tokenizer.convert_ids_to_tokens(originals)
        for marked in (True, False):
            chosen = [
                n for n, piece in enumerate(pieces) if piece.startswith(self._vocabulary.marker) is marked
            ]
            allowed = self._vocabulary.words if marked else self._vocabulary.inner
            if not chosen or not allowed:
                continue
            ids = torch.tensor(list(allowed), device=logits.device)
            best = logits[chosen][:, ids].topk(min(k + SPARE, len(allowed))).indices
            for n, ranked in zip(chosen, ids[best].tolist(), strict=True):
                texts = [allowed[i] for i in ranked if i != originals[n]]
                yield places[n], choose(texts, word=places[n].word, k=k, recase=self._uncased)

    @torch.inference_mode()
    def _logits(self, rows: list[_Row]) -> Tensor:
        """The head's output at the masked positions, (N, V), of rows in one forward pass."""
        device = self.model.device
        length = max(len(row.ids) for row in rows)
        pad = self.tokenizer.pad_token_id or 0
        ids = torch.tensor([row.ids + [pad] * (length - len(row.ids)) for row in rows])
        lengths = torch.tensor([len(row.ids) for row in rows])
        mask = (torch.arange(length) < lengths[:, None]).long()
        at = torch.tensor([i for i, row in enumerate(rows) for _ in row.masked])
        column = torch.tensor([j for row in rows for j in row.masked])
        if self.masks != "none":
            ids[at, column] = int(self.tokenizer.mask_token_id)
        at, column = at.to(device), column.to(device)
        with gathered(self.model, at, column) as head:
            output = self.model(input_ids=ids.to(device), attention_mask=mask.to(device))
        return head.of(output.logits)


def _batches(rows: list[_Row], tokens: int) -> Iterator[list[_Row]]:
    """Cut rows, sorted by length, into runs of at most `tokens` pieces with padding (at least one row)."""
    batch: list[_Row] = []
    for row in rows:
        if batch and (len(batch) + 1) * len(row.ids) > tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
