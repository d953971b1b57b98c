"""KorSTS for `benchmarks/compress.py`: its pairs, and a teacher of their scores that a core makes in ten minutes.

There is no Korean encoder here, and that of korean.py takes longer to make than what is measured. So MiniLM learns to
compare sentences from STS-B, whose translation KorSTS is; then its word embeddings are dealt out to the tokens of a
Korean vocabulary, and all of it learns KorSTS's scores.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer

from attar import finetune, tokenizer
from attar.data.tables import read_table
from attar.demo.data import model_directory
from attar.model.checkpoint import load
from attar.model.pretrained import from_pretrained
from common import once
from korean_study import tables as korean_tables
from texts import SHARED

Tables = dict[str, Dataset]
KOREAN_WORDS = 8000
ENGLISH_PAIRS: dict[str, Any] = {"epochs": 2, "lr": 1e-4, "max_length": 64}
KOREAN_PAIRS: dict[str, Any] = {"epochs": 3, "lr": 1e-4, "max_length": 96}


def korsts(work: Path, *, quick: bool) -> tuple[Path, Tables]:
    """The teacher, made where it is absent, and the tables; a quick run has a few made-up pairs for either language."""
    read = korean_tables(quick)["KorSTS"]
    split = {"train": read["train"], "dev": read["choose"], "test": read["test"]}

    def english(out: Path) -> None:
        _tuned(model_directory(), split if quick else _stsb(), ENGLISH_PAIRS, quick, out)

    def make(out: Path) -> None:
        words = once(work / "words", partial(_words, split["train"], 200 if quick else KOREAN_WORDS))
        reader = from_pretrained(AutoTokenizer, words)
        model = _reading(once(work / "english", english), reader)
        _tuned(model, split, KOREAN_PAIRS, quick, out, tokenizer=reader)

    return once(work / "teacher", make), split


def _stsb() -> Tables:
    columns = {"text": "sentence1", "text_pair": "sentence2", "label": "score"}
    train, task = read_table(SHARED / "glue_stsb" / "train.tsv", columns=columns, require_label=True)
    dev, _ = read_table(SHARED / "glue_stsb" / "dev.tsv", columns=columns, task=task, require_label=True)
    return {"train": train, "dev": dev}


def _tuned(model: Any, split: Tables, options: dict[str, Any], quick: bool, out: Path, **more: Any) -> None:
    # MiniLM is an embedding model, which would learn a cosine from scores of pairs: the type asks for a head.
    given = options | {"problem_type": "regression"} | ({"epochs": 1} if quick else {})
    finetune(model, split["train"], dev=split["dev"], out=out, **given, **more)


def _words(table: Dataset, size: int, out: Path) -> None:
    texts = [text for side in ("text", "text_pair") for text in table[side][:]]
    tokenizer(texts, out=out, kind="wordpiece", vocab=size)


def _reading(place: Path, reader: Any) -> Any:
    """A model with the vocabulary of another tokenizer: a token that it does not have starts as an English word.

    Which one matters little: two ways of dealing them out gave a Spearman of 0.63 and 0.60 on 500 dev pairs before a
    step on Korean. From the means of the vectors of a token's letters it was 0.17 after a pass over the pairs: the
    layers no longer see that two sentences share a token.
    """
    whole = load(place)
    model, known = whole.model, whole.tokenizer.get_vocab()
    ranked = sorted(known, key=lambda name: known[name])
    words = (known[name] for name in ranked if name.isascii() and name.isalpha() and len(name) > 2)
    tokens = reader.convert_ids_to_tokens(range(len(reader)))
    rows = [known[token] if token in known else next(words) for token in tokens]
    weight = model.get_input_embeddings().weight.detach()[rows]
    model.resize_token_embeddings(len(reader))
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(weight)
    model.config.pad_token_id = reader.pad_token_id
    return model
