"""TinyBERT's data augmentation (1909.10351, Algorithm 1)."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, Value

from attar.augmentation.words import Candidates, Place, words
from attar.errors import DataError
from attar.progress import say, track

TEXTS = ("text", "text_pair")


class PaperCandidates:
    """The paper's division: `single` (a masked LM) for words of one piece, `rest` (word vectors) for the others."""

    def __init__(self, single: Candidates, rest: Candidates) -> None:
        self.single, self.rest = single, rest

    def find(self, places: Sequence[Place], k: int) -> list[list[str]]:
        """What `single` says, and where it says nothing what `rest` says."""
        found = self.single.find(places, k)
        missing = [n for n, candidates in enumerate(found) if not candidates]
        for n, candidates in zip(missing, self.rest.find([places[n] for n in missing], k), strict=True):
            found[n] = candidates
        return found


def augment(
    table: Dataset,
    candidates: Candidates,
    *,
    copies: int = 20,
    probability: float = 0.4,
    k: int = 15,
    seed: int = 0,
    batch_size: int = 128,
) -> Dataset:
    """Add to each row copies with words replaced (1909.10351, Algorithm 1: N_a copies, p_t probability, K candidates).

    In each copy every word is replaced with the given probability by one of its candidates, all equally likely; a word
    without candidates stays. The candidates of a word are those in the sentence as it was, for all its copies. What
    stands between words is kept byte for byte. A copy equal to its original or to another copy of it is dropped, so
    that short rows give fewer than `copies`.

    Args:
        table: with column text and, for pairs, text_pair (each side is augmented); other columns are carried over.
        candidates: where replacements come from.
        copies: N_a per row.
        probability: p_t of each word.
        k: K, candidates per word.
        seed: the same seed gives the same copies, whatever the `batch_size`.
        batch_size: rows whose words are looked up together. Candidates are kept only while their text comes again.

    Returns:
        The rows of `table` unchanged, then their copies in order, with a column `source`: the number of the row that a
        copy is of, -1 for the rows themselves.

    Raises:
        DataError: no column text, a column named source, a text that is missing, or an option out of range.
    """
    _check(table, copies, probability, k)
    columns = [name for name in TEXTS if name in table.column_names]
    features = Features({**table.features, "source": Value("int64")})
    arrow = table.with_format("arrow")
    parts = [
        arrow[:].append_column("source", pa.array([-1] * len(table), pa.int64())).cast(features.arrow_schema)
    ]
    many = "one copy" if copies == 1 else f"{copies} copies"
    say(
        f"augmenting {len(table)} rows: {many} each, every word replaced with probability {probability} "
        f"by one of {k} candidates"
    )
    found = _Found(candidates, k, Counter(text for name in columns for text in table[name]))
    for begin in track(range(0, len(table), batch_size), "augmenting", -(-len(table) // batch_size)):
        batch: pa.Table = arrow[begin : begin + batch_size]
        sides = [batch[name].to_pylist() for name in columns]
        draws = [
            [_Draw(text, copies, probability, (seed, begin + n, side)) for side, text in enumerate(row)]
            for n, row in enumerate(zip(*sides, strict=True))
        ]
        found.look_up([draw for row in draws for draw in row])
        made = [(n, texts) for n, row in enumerate(draws) for texts in _copies(row, found, copies)]
        found.forget([draw for row in draws for draw in row])
        parts.append(_part(batch, columns, made, begin).cast(features.arrow_schema))
    return Dataset(pa.concat_tables(parts))


class _Draw:
    """What chance decides about one text: which words of which copies are replaced, and which candidate they get."""

    def __init__(self, text: str, copies: int, probability: float, key: tuple[int, int, int]) -> None:
        self.text, self.words = text, words(text)
        random = np.random.default_rng(key)
        self.replaced = random.random((copies, len(self.words))) < probability
        self.pick = random.random((copies, len(self.words)))

    def wanted(self) -> list[Place]:
        """The words that some copy replaces."""
        return [place for n, place in enumerate(self.words) if self.replaced[:, n].any()]

    def copy(self, n: int, candidates: dict[int, list[str]]) -> str:
        """The text with the words of copy `n` replaced; `candidates` by the start of the word."""
        pieces, end = [], 0
        for w in np.flatnonzero(self.replaced[n]):
            place = self.words[w]
            if choices := candidates[place.start]:
                pieces += [self.text[end : place.start], choices[int(self.pick[n, w] * len(choices))]]
                end = place.end
        return "".join([*pieces, self.text[end:]])


class _Found:
    """Candidates by text and start of the word; kept until the last row with that text is done."""

    def __init__(self, source: Candidates, k: int, left: Counter[str]) -> None:
        self._source, self._k, self._left = source, k, left
        self._known: dict[str, dict[int, list[str]]] = {}

    def __getitem__(self, text: str) -> dict[int, list[str]]:
        return self._known.get(text, {})

    def look_up(self, draws: Sequence[_Draw]) -> None:
        wanted = dict.fromkeys(
            place for draw in draws for place in draw.wanted() if place.start not in self[draw.text]
        )
        for place, candidates in zip(wanted, self._source.find(list(wanted), self._k), strict=True):
            self._known.setdefault(place.text, {})[place.start] = candidates

    def forget(self, draws: Sequence[_Draw]) -> None:
        for draw in draws:
            self._left[draw.text] -= 1
            if not self._left[draw.text]:
                self._known.pop(draw.text, None)


def _copies(row: Sequence[_Draw], found: _Found, copies: int) -> Iterator[tuple[str, ...]]:
    seen = {tuple(draw.text for draw in row)}
    for n in range(copies):
        texts = tuple(draw.copy(n, found[draw.text]) for draw in row)
        if texts not in seen:
            seen.add(texts)
            yield texts


def _part(
    batch: pa.Table, columns: Sequence[str], made: list[tuple[int, tuple[str, ...]]], begin: int
) -> pa.Table:
    """The copies of one batch as a table: their texts, and all other columns of the rows they are of."""
    rows = pa.array([n for n, _ in made], pa.int64())
    part = batch.take(rows)
    for side, name in enumerate(columns):
        texts = pa.array([texts[side] for _, texts in made], batch.schema.field(name).type)
        part = part.set_column(part.schema.get_field_index(name), name, texts)
    return part.append_column("source", pa.array([begin + n for n, _ in made], pa.int64()))


def _check(table: Dataset, copies: int, probability: float, k: int) -> None:
    if "text" not in table.column_names or "source" in table.column_names:
        raise DataError(
            expected="a table with a column text, and none named source (augment adds it)",
            found=f"columns {', '.join(table.column_names)}",
            fix="rename the columns, or read the table with attar.read_table",
        )
    for name in TEXTS:
        if name in table.column_names and None in (texts := table[name][:]):
            raise DataError(
                expected=f"a text in every row of {name}",
                found=f"none in row {texts.index(None)}",
                fix="drop that row",
            )
    if copies < 0 or not 0 <= probability <= 1 or k < 1:
        raise DataError(
            expected="copies of 0 or more, a probability from 0 to 1, k of 1 or more",
            found=f"copies={copies}, probability={probability}, k={k}",
            fix="the paper has copies=20, probability=0.4, k=15",
        )
