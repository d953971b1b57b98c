"""Trim a vocabulary to the tokens that a corpus needs: its encodings stay the same, token for token."""

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from attar.errors import DataError, ModelError
from attar.model.pretrained import from_pretrained
from attar.pruning.needed_tokens import SPELLED, before_unknown

Spec = dict[str, Any]  # of a tokenizer, as in tokenizer.json
CHUNK = 1000
# Their position numbers begin after the padding id: another id would be other positions.
POSITIONS_AFTER_PADDING = {"roberta", "xlm-roberta", "camembert"}


@dataclass(frozen=True)
class Trimmed:
    """A tokenizer of V' tokens; its id i stands for the id `kept[i]` of the old one.

    Attributes:
        tokenizer: of the old one's class.
        kept: (V',) old ids, ascending: the rows of the embedding that stay. Rows that no token has are not in it.
    """

    tokenizer: Any
    kept: tuple[int, ...]


def trim(tokenizer: Any, texts: Iterable[str], *, min_count: int = 1) -> Trimmed:
    """Leave only those tokens that texts use, and those that any other text can be spelled with.

    Every text of the corpus is encoded into the same tokens as before, with special tokens, pairs and truncation;
    where rare tokens go (`min_count`), every text that has none of these. Kept
    besides what occurs are special and added tokens, single letters and bytes, and what the algorithm passes through
    on the way to a kept token: a text that needed no unknown token before needs none now, but more tokens.

    Args:
        tokenizer: a fast tokenizer of WordPiece, BPE or Unigram; it is not changed.
        texts: the corpus, read twice; what can be read only once is held in memory.
        min_count: how often a token occurs in the corpus at least, to stay.

    Raises:
        DataError: the corpus has no tokens, or something else than strings.
        ModelError: a tokenizer that cannot be trimmed, or would encode the corpus in another way.
    """
    if isinstance(texts, str):
        raise DataError(expected="texts", found="one string", fix="put it into a list: [text]")
    spec = _read(tokenizer)
    if iter(texts) is texts:
        texts = list(texts)
    old = _plain(tokenizer)
    used = _used(old, spec, texts, min_count) | _fixed(spec) | set(tokenizer.all_special_ids)
    kept = tuple(sorted(SPELLED[spec["model"]["type"]](spec["model"], used)))
    _renumber(spec, kept)
    new = _reloaded(tokenizer, spec)
    _verify(old, _plain(new), kept, texts)
    return Trimmed(new, kept)


def restrict(tokenizer: Any, kept: Sequence[int]) -> Any:
    """The tokenizer that `trim` gave when it kept these ids: what a plan on paper knows of it.

    Raises:
        ModelError: a tokenizer that cannot be trimmed, or not to these ids: it would be without a special token.
    """
    spec = _read(tokenizer)
    lost = sorted((_fixed(spec) | set(tokenizer.all_special_ids)) - set(kept))
    if lost:
        raise ModelError(
            expected="special tokens, and those that the tokenizer adds, to stay in the vocabulary",
            found=f"a plan without {', '.join(map(repr, tokenizer.convert_ids_to_tokens(lost[:4])))}",
            fix=f"put {', '.join(map(str, lost[:4]))} back into `vocab`, or make the plan again",
        )
    _renumber(spec, kept)
    return _reloaded(tokenizer, spec)


def config_ids(config: Any, kept: Sequence[int]) -> dict[str, Any]:
    """What a model's config has to say once its embedding (V, E) is cut to the rows `kept`: (V', E).

    Returns:
        `vocab_size`, and every `…_token_id` that is set; None for the id of a token that is gone.

    Raises:
        ModelError: the tokenizer has ids that the embedding has no row for, or the padding id would move in a family
            whose positions begin after it.
    """
    if kept[-1] >= config.vocab_size:
        raise ModelError(
            expected=f"token ids below {config.vocab_size}, the rows of the embedding",
            found=f"id {kept[-1]}",
            fix="check that tokenizer and model belong together, or resize the model's embedding",
        )
    new = {old: i for i, old in enumerate(kept)}
    ids: dict[str, Any] = {"vocab_size": len(kept)}
    for key, value in config.to_dict().items():
        if key.endswith("_token_id") and isinstance(value, int):
            ids[key] = new.get(value)
        elif key.endswith("_token_id") and isinstance(value, list):
            ids[key] = [new[i] for i in value if i in new]
    if config.model_type in POSITIONS_AFTER_PADDING and ids["pad_token_id"] != config.pad_token_id:
        raise ModelError(
            expected=f"the padding token of a {config.model_type} model to keep its id {config.pad_token_id}, "
            "after which positions are counted",
            found=f"{ids['pad_token_id']} after trimming",
            fix="use a tokenizer whose special tokens have the lowest ids, or leave the vocabulary as it is",
        )
    return ids


def _read(tokenizer: Any) -> Spec:
    if not getattr(tokenizer, "is_fast", False):
        raise _untrimmable(
            type(tokenizer).__name__, "load the fast one: AutoTokenizer gives it where there is"
        )
    spec: Spec = json.loads(tokenizer.backend_tokenizer.to_str())
    model = spec["model"]
    if model["type"] not in SPELLED:
        raise _untrimmable(
            f"{type(tokenizer).__name__} over {model['type']}, which cannot spell what it has no token for",
            "leave the vocabulary as it is",
        )
    if model.get("dropout"):
        raise _untrimmable(
            f"BPE that drops merges at random ({model['dropout']:g})",
            "switch it off: tokenizer.backend_tokenizer.model.dropout = None",
        )
    return spec


def _untrimmable(found: str, fix: str) -> ModelError:
    return ModelError(
        expected=f"a fast tokenizer of {', '.join(SPELLED)} that can be trimmed", found=found, fix=fix
    )


def _plain(tokenizer: Any) -> Tokenizer:
    """A copy of the backend that neither cuts nor pads."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    return backend


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(texts)
    while chunk := list(islice(rest, CHUNK)):
        for text in chunk:
            if not isinstance(text, str):
                raise DataError(
                    expected="texts to be strings",
                    found=f"{type(text).__name__} {str(text)[:60]}",
                    fix='pass the column of texts: table["text"]',
                )
        yield chunk


def _used(backend: Tokenizer, spec: Spec, texts: Iterable[str], min_count: int) -> set[int]:
    found, used = Counter[int](), set[int]()
    for chunk in _chunks(texts):
        encodings = backend.encode_batch(chunk, add_special_tokens=False)
        found.update(i for encoding in encodings for i in encoding.ids)
        if spec["model"]["type"] == "WordPiece":
            for text, encoding in zip(chunk, encodings, strict=True):
                used |= before_unknown(backend, spec["model"], text, encoding)
    used |= {i for i, count in found.items() if count >= min_count}
    if not found:
        raise DataError(
            expected="a corpus with at least one token",
            found="texts without any" if any(True for _ in texts) else "no text",
            fix="check the file that the texts are read from",
        )
    return used


def _fixed(spec: Spec) -> set[int]:
    """Ids that the parts around the model name."""
    fixed = {token["id"] for token in spec["added_tokens"]}
    fixed |= {holder[at] for holder, at in _places(spec["post_processor"])}
    if spec["padding"]:
        fixed.add(spec["padding"]["pad_id"])
    model, unknown = spec["model"], spec["model"].get("unk_token")
    if model["type"] == "Unigram":
        fixed |= set() if model["unk_id"] is None else {model["unk_id"]}
    elif unknown in model["vocab"]:
        fixed.add(model["vocab"][unknown])
    return fixed


def _places(processor: Spec | None) -> Iterator[tuple[list[Any], int]]:
    """Where a post-processor holds ids: lists, and the places in them."""
    if processor is None:
        return
    if processor["type"] == "Sequence":
        for part in processor["processors"]:
            yield from _places(part)
    elif processor["type"] == "TemplateProcessing":
        for token in processor["special_tokens"].values():
            yield from ((token["ids"], at) for at in range(len(token["ids"])))
    elif processor["type"] in {"BertProcessing", "RobertaProcessing"}:
        yield from ((processor[name], 1) for name in ("sep", "cls"))


def _renumber(spec: Spec, kept: Sequence[int]) -> None:
    """Write the new ids wherever a specification holds ids, in place."""
    new = {old: i for i, old in enumerate(kept)}
    model = spec["model"]
    if model["type"] == "Unigram":
        model["vocab"] = [entry for i, entry in enumerate(model["vocab"]) if i in new]
        model["unk_id"] = new.get(model["unk_id"])
    else:
        model["vocab"] = {token: new[i] for token, i in model["vocab"].items() if i in new}
    if model["type"] == "BPE":
        vocab, skip = model["vocab"], len(model["continuing_subword_prefix"] or "")
        model["merges"] = [
            (left, right)
            for left, right in model["merges"]
            if left in vocab and right in vocab and left + right[skip:] in vocab
        ]
    for token in spec["added_tokens"]:
        token["id"] = new[token["id"]]
    for holder, at in _places(spec["post_processor"]):
        holder[at] = new[holder[at]]
    if spec["padding"]:
        spec["padding"]["pad_id"] = new[spec["padding"]["pad_id"]]


def _reloaded(tokenizer: Any, spec: Spec) -> Any:
    """The tokenizer of a rewritten specification, loaded as it will be by those who get it.

    Classes rebuild parts of the backend when they load, so a backend that is only exchanged might not survive saving.
    """
    with tempfile.TemporaryDirectory() as directory:
        tokenizer.save_pretrained(directory)
        Path(directory, "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
        new = from_pretrained(type(tokenizer), directory)
    new.name_or_path = new.init_kwargs["name_or_path"] = tokenizer.name_or_path
    return new


def _verify(old: Tokenizer, new: Tokenizer, kept: Sequence[int], texts: Iterable[str]) -> None:
    tokens = [old.id_to_token(i) for i in kept]
    if [new.id_to_token(i) for i in range(new.get_vocab_size())] != tokens:
        raise _changed("other ids", f"{new.get_vocab_size()} tokens, not the {len(kept)} kept")
    there = set(kept)
    for chunk in _chunks(texts):
        pairs = list(zip(chunk[0::2], chunk[1::2], strict=False))[:10]
        inputs = [*chunk, *pairs]
        for text, was, now in zip(inputs, old.encode_batch(inputs), new.encode_batch(inputs), strict=True):
            if not there.issuperset(was.ids):  # of a token that was too rare to stay
                continue
            if [kept[i] for i in now.ids] != was.ids or now.type_ids != was.type_ids:
                raise _changed("another encoding", f"{str(text)[:60]!r}: {' '.join(now.tokens)[:80]}")


def _changed(what: str, found: str) -> ModelError:
    return ModelError(
        expected="the trimmed tokenizer to encode as the old one does",
        found=f"{what} ({found})",
        fix="save and load the old tokenizer and look whether it still encodes as before: a backend changed by hand "
        "must be wrapped in TokenizersBackend, which loads it as it is; otherwise report this as a bug of attar",
    )
