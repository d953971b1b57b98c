"""The texts that `benchmarks/embeddings.py` learns from, and what it measures on; no text is in both.

Learned from, without labels: sentences and whole paragraphs of the demo's wheel, SST-2, CoLA and RTE (training parts),
WikiText-2, SQuAD's first part without its dev articles, and English books; of WikiText-2 and SQuAD also copies with
words replaced by any others, since what is searched for are names that no text here has. Measured on: pairs of STS-B
(none of whose texts is learned from), SQuAD as retrieval (articles of the second part), and SST-2's dev sentences for a
probe.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from transformers import AutoTokenizer

from attar.augmentation import Place, VocabularyCandidates, augment
from attar.demo.data import model_directory, reviews, split_sentences, unlabelled_texts
from attar.model.pretrained import from_pretrained
from texts import SHARED, books

# Texts to learn from, and how many of them at most are of each source; books fill up what is left.
TEXTS = 300_000
SHARES = {
    "reviews": 30_000,
    "phrases": 20_000,
    "grammar": 8_000,
    "news": 6_000,
    "wiki": 40_000,
    "squad": 20_000,
    "copies": 90_000,
    "paragraphs": 25_000,
}
# Words of a text that is as long as a document; copies of such a one and of a shorter text, and how much they replace.
LONG, COPIES, REPLACED = 60, {True: 6, False: 1}, 0.25
# Of the books' paragraphs this share stays whole: a user's documents are longer than a sentence.
WHOLE = 0.15
WORDS = (3, 200)
DEV_ARTICLES = 4
# Texts that the probe learns from, and questions that are asked.
PROBE, ASKED = 2000, 2000
# Rows of what --quick reads, which is all in the demo's wheel.
QUICK = 60


class Pairs(NamedTuple):
    """Two texts each, and how alike people found them, from 0 to 5 (N,)."""

    first: list[str]
    second: list[str]
    scores: NDArray[np.float64]


class Search(NamedTuple):
    """Questions (Q), paragraphs (P), and which paragraph answers each question (Q,)."""

    queries: list[str]
    corpus: list[str]
    relevant: NDArray[np.int64]


class Labelled(NamedTuple):
    """Texts and their classes (N,)."""

    texts: list[str]
    labels: NDArray[np.int64]


def learned(quick: bool) -> list[str]:
    """The texts to learn from, in a random order that is always the same."""
    if quick:
        return unlabelled_texts()[: 3 * QUICK]
    never = {_key(text) for text in _measured()}
    sources = {
        "reviews": [*reviews()["train"]["text"], *unlabelled_texts()],
        "phrases": [row["sentence"] for row in _table("glue_sst2/train.tsv")],
        "grammar": [row[3] for row in _rows("glue_cola/train.tsv")],
        "news": [row[name] for row in _table("glue_rte/train.tsv") for name in ("sentence1", "sentence2")],
        "wiki": list(_wiki()),
        "squad": list(_squad_texts()),
        "paragraphs": [text for each in books().values() for text in each if len(text.split()) >= LONG],
        "books": list(_book_texts()),
    }
    sources["copies"] = _copies([*sources["wiki"], *sources["squad"]])
    rng = np.random.default_rng(0)
    found: list[str] = []
    for name in (*SHARES, "books"):
        texts = sources[name]
        fitting = list(_once((text.strip() for text in texts), never))
        count = SHARES.get(name, TEXTS - len(found))
        found += [fitting[i] for i in rng.permutation(len(fitting))[:count]]
    return [found[i] for i in rng.permutation(len(found))]


def similar(split: str, quick: bool = False) -> Pairs:
    """STS-B's dev or test pairs."""
    if quick:
        first, second = _quick("train"), _quick("dev")
        return Pairs(first, second, np.arange(len(first), dtype=np.float64) % 6)
    if split == "dev":
        rows = [(r["sentence1"], r["sentence2"], r["score"]) for r in _table("glue_stsb/dev.tsv")]
    else:
        rows = [(row[5], row[6], row[4]) for row in _rows("glue_stsb/sts-test.tsv")]
    return Pairs([a for a, _, _ in rows], [b for _, b, _ in rows], np.array([float(s) for _, _, s in rows]))


def search(split: str, quick: bool = False) -> Search:
    """Questions of SQuAD over the paragraphs of their part: all of the second, or for dev the first's last articles."""
    if quick:
        texts = _quick("test")
        return Search([text[len(text) // 2 :] for text in texts], texts, np.arange(len(texts)))
    articles = _articles(2 if split == "test" else 1)
    corpus: list[str] = []
    queries: list[str] = []
    relevant: list[int] = []
    for number, article in enumerate(articles):
        for paragraph in article["paragraphs"]:
            if split == "test" or number >= len(articles) - DEV_ARTICLES:
                asked = [one["question"].strip() for one in paragraph["qas"]]
                queries += asked
                relevant += [len(corpus)] * len(asked)
            corpus.append(paragraph["context"])
    drawn = np.sort(np.random.default_rng(0).permutation(len(queries))[:ASKED])
    return Search([queries[i] for i in drawn], corpus, np.array(relevant)[drawn])


def labelled(split: str, quick: bool = False) -> Labelled:
    """SST-2: whole sentences and phrases that a probe learns from, and the dev sentences it is measured on."""
    if quick:
        table = reviews()[split].select(range(QUICK))
        return Labelled(table["text"][:], np.array(table["label"][:]))
    rows = _table(f"glue_sst2/{'train' if split == 'train' else 'dev'}.tsv")
    order = np.random.default_rng(0).permutation(len(rows))[:PROBE]
    rows = [rows[i] for i in order]
    return Labelled([row["sentence"].strip() for row in rows], np.array([int(row["label"]) for row in rows]))


def _quick(split: str) -> list[str]:
    return list(reviews()[split]["text"][:QUICK])


def _measured() -> Iterator[str]:
    """Everything that is measured on, and STS-B's training texts besides: they repeat captions of its test."""
    for row in _table("glue_stsb/train.tsv"):
        yield from (row["sentence1"], row["sentence2"])
    for split in ("dev", "test"):
        pairs = similar(split)
        yield from (*pairs.first, *pairs.second)
    for article in (*_articles(1)[-DEV_ARTICLES:], *_articles(2)):
        for paragraph in article["paragraphs"]:
            yield from (paragraph["context"], *split_sentences(paragraph["context"]))
            yield from (asked["question"] for asked in paragraph["qas"])
    yield from (row["sentence"] for row in _table("glue_sst2/dev.tsv"))


def _wiki() -> Iterator[str]:
    """WikiText-2's valid and test articles, their spacing undone: paragraphs, and the sentences of them.

    Each of its `<unk>`, about eight a paragraph, is a word drawn from the teacher's vocabulary.
    """
    words = VocabularyCandidates(from_pretrained(AutoTokenizer, model_directory()))
    for name in ("valid", "test"):
        file = SHARED / "lm_wikitext2_validtest" / f"wiki.{name}.tokens"
        for line in file.read_text(encoding="utf-8").split("\n"):
            text = _untokenised(line.strip())
            if not text or text.startswith("="):
                continue
            text = re.sub("<unk>", lambda gap: words.find([Place(gap.string, *gap.span())], 1)[0][0], text)
            yield text
            yield from split_sentences(text)


def _copies(texts: list[str]) -> list[str]:
    """Copies of texts with words replaced by any of the vocabulary."""
    words, found = VocabularyCandidates(from_pretrained(AutoTokenizer, model_directory())), []
    for long, copies in COPIES.items():
        some = Dataset.from_dict({"text": [text for text in texts if (len(text.split()) >= LONG) is long]})
        more = augment(some, words, copies=copies, probability=REPLACED, k=2 * copies)
        found += [row["text"] for row in more.filter(lambda row: row["source"] >= 0)]
    return found


def _untokenised(text: str) -> str:
    text = re.sub(r" @(.)@ ", r"\1", text)
    text = re.sub(r" ([,.;:!?)\]]|'s|n't)", r"\1", text)
    return re.sub(r"([(\[]) ", r"\1", text)


def _squad_texts() -> Iterator[str]:
    for article in _articles(1)[:-DEV_ARTICLES]:
        for paragraph in article["paragraphs"]:
            yield paragraph["context"]
            yield from split_sentences(paragraph["context"])
            yield from (asked["question"] for asked in paragraph["qas"])


def _book_texts() -> Iterator[str]:
    rng = np.random.default_rng(0)
    for _, paragraphs in sorted(books().items()):
        # Every book gives the same share, twice what is needed: some of it repeats, or is too long or short.
        drawn = rng.permutation(len(paragraphs))[: TEXTS // 200]
        for i in drawn:
            yield from [paragraphs[i]] if rng.random() < WHOLE else split_sentences(paragraphs[i])[:3]


def _articles(part: int) -> list[dict]:  # type: ignore[type-arg]
    file = SHARED / "squad_v1.1_dev" / f"dev-v1.1.part{part}.json"
    return list(json.loads(file.read_text(encoding="utf-8"))["data"])


def _table(name: str) -> list[dict[str, str]]:
    with (SHARED / name).open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def _rows(name: str) -> list[list[str]]:
    lines = (SHARED / name).read_text(encoding="utf-8-sig").split("\n")
    return [line.split("\t") for line in lines if line.strip()]


def _once(texts: Iterable[str], never: set[str]) -> Iterator[str]:
    """Texts of a fitting length that were not seen before, and are none of `never`; these become seen."""
    for text in texts:
        key = _key(text)
        if WORDS[0] <= len(text.split()) <= WORDS[1] and key not in never:
            never.add(key)
            yield text


def _key(text: str) -> str:
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()
