"""The MiniLM of the demo as the studies use it: with fewer tokens, and with a masked-language-model head."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from attar import pretrain
from attar.anatomy.form import form_of
from attar.demo.data import model_directory, reviews, unlabelled_texts
from attar.model.checkpoint import Loaded, load, save
from attar.pruning.apply import apply
from attar.pruning.units import everything
from attar.pruning.vocabulary import config_ids, trim
from common import once
from texts import books, by_book, paragraphs

# Words of books that the teacher reads (ten million tokens and more), and of other books that are held out.
WORDS, HELD_WORDS = 8_000_000, 40_000
HELD_BOOKS = {"test": 12, "dev": 6}
READ: dict[str, Any] = {"epochs": 1, "lr": 1e-4, "batch_size": 32, "max_length": 128}
# Words of the books, and of the tasks, whose pieces stay in the vocabulary: all others are spelled in more of them.
# Over the whole vocabulary the logits of every token would be most of the work of learning from the teacher.
FREQUENT = 8000


def trimmed(loaded: Loaded, texts: Iterable[str], out: Path) -> None:
    """Write a model with the tokens alone that some texts use, which it reads as before."""
    found = trim(loaded.tokenizer, texts)
    model = apply(loaded.model, replace(everything(form_of(loaded.model.config)), vocab=found.kept))
    for name, value in config_ids(loaded.model.config, found.kept).items():
        setattr(model.config, name, value)
    save(model, found.tokenizer, out, lineage={"stage": "trim"})


def book_texts(quick: bool) -> dict[str, list[str]]:
    """Paragraphs to learn from, and of other books to choose by (dev) and to be read once (test)."""
    if quick:
        plain = [*reviews()["train"]["text"], *unlabelled_texts()]
        return {"train": plain[:60], "dev": plain[60:80], "test": plain[80:100]}
    found = books()
    splits = by_book(found, HELD_BOOKS)
    words = {"train": WORDS, "dev": HELD_WORDS, "test": HELD_WORDS}
    return {split: paragraphs(found, splits[split], count) for split, count in words.items()}


def small_vocabulary(work: Path, texts: dict[str, list[str]], tasks: Iterable[str]) -> Path:
    """MiniLM with the tokens of frequent words, made once."""
    words = [*_frequent(texts["train"]), *_frequent(tasks)]
    return once(work / "trimmed", lambda out: trimmed(load(model_directory(), head="base"), words, out))


def book_teacher(work: Path, texts: dict[str, list[str]], tasks: Iterable[str]) -> Path:
    """MiniLM with few tokens and a masked-language-model head that has read books, made once.

    A larger rate costs the encoder what it knows: at 5e-4 a fine-tuned STS-B fell from 0.55 to 0.27.
    """
    small = small_vocabulary(work, texts, tasks)
    return once(
        work / "teacher", lambda out: pretrain(small, texts["train"], dev=texts["dev"], out=out, **READ)
    )


def _frequent(texts: Iterable[str]) -> list[str]:
    counts = Counter(word for text in texts for word in text.split())
    return [word for word, _ in counts.most_common(FREQUENT)]
