"""Pairs of queries and passages for a reranker: what an embedding model finds for each query."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from datasets import Dataset

from attar.data.files import check_table, write_table
from attar.data.passages import draw_queries, read_passages
from attar.data.retrieval import Collection, is_collection, read_collection
from attar.data.tables import read_texts
from attar.errors import DataError
from attar.evaluation.opening import Source, open_model
from attar.evaluation.retrieval import Embedder, require_library
from attar.options.base import Options
from attar.progress import say

T = TypeVar("T")


@dataclass(frozen=True)
class Query:
    """What is searched for.

    Attributes:
        text: of the query.
        given: a passage of it that needs no search; empty where there is none.
        hidden: a passage that is not to be found, beside one that is the query itself.
        grades: of passages that answer it, by their text; None where nothing is judged.
    """

    text: str
    given: str = ""
    hidden: str = ""
    grades: Mapping[str, int] | None = field(default=None)


def mine(
    model: Source,
    data: Any,
    *,
    queries: Any,
    out: str | Path,
    tokenizer: Any,
    options: Options,
    seed: int,
) -> Dataset:
    """The best passages of each query, in a table; see `attar.mine`."""
    o = options
    check_table(out)
    require_library("finds the best passages")
    embedder = Embedder(open_model(model, tokenizer=tokenizer, pooling=o.pooling), o.max_length)
    if is_collection(data):
        collection = read_collection(data, judged=False)
        passages = list(dict.fromkeys(collection.corpus.values()))
        asked = _some(_asked(collection), o.max_queries, seed) if queries is None else []
    else:
        passages = read_passages(data, sample_by=o.sample_by)
        asked = _drawn(passages, o.max_queries, seed) if queries is None else []
    if queries is not None:
        texts = dict.fromkeys(" ".join(text.split()) for text in read_texts(queries)["text"])
        asked = _some([Query(text) for text in texts], o.max_queries, seed)
    if len(passages) < 2:
        raise DataError(
            expected="at least two passages to choose from",
            found=str(len(passages)),
            fix="give more documents, or say what a passage is: sample_by=… (--sample-by line)",
        )
    say(f"{len(asked)} queries, and of {len(passages)} passages the {o.k} best of each")
    found = _searched(
        embedder, [query.text for query in asked], passages, o.k + 3
    )  # of which three may be left out
    rows: list[dict[str, Any]] = []
    for query, numbers in zip(asked, found, strict=True):
        best = [query.given] if query.given else []
        best += [passages[n] for n in numbers if passages[n] not in (query.text, query.hidden, query.given)]
        for passage in best[: o.k]:
            grade = {} if query.grades is None else {"label": query.grades.get(passage, 0)}
            rows.append({"text": query.text, "text_pair": passage, **grade})
    table = Dataset.from_list(rows)
    write_table(table, out)
    return table


def _searched(
    embedder: Embedder, queries: Sequence[str], passages: Sequence[str], count: int
) -> list[list[int]]:
    """Numbers of the passages that are most like each query, the best first."""
    from sentence_transformers.util import SimilarityFunction, semantic_search

    similarity = SimilarityFunction.to_similarity_fn(embedder.task.similarity)
    sides = embedder.encode_query(queries), embedder.encode_document(passages)
    hits = semantic_search(*sides, top_k=min(count, len(passages)), score_function=similarity)
    return [[int(hit["corpus_id"]) for hit in one] for one in hits]


def _asked(collection: Collection) -> list[Query]:
    """A collection's queries: those that are judged, where any are, with the grades of their passages."""
    if not collection.relevant:
        return [Query(text) for text in collection.queries.values()]
    if lost := len(collection.queries) - len(collection.relevant):
        say(f"{lost} of {len(collection.queries)} queries are left out: no judgement says what answers them")
    asked = []
    for name, judged in collection.relevant.items():
        grades: dict[str, int] = {}
        for document, grade in judged.items():
            text = collection.corpus[document]
            grades[text] = max(grade, grades.get(text, 0))
        asked.append(Query(collection.queries[name], grades=grades))
    return asked


def _drawn(passages: Sequence[str], most: int, seed: int) -> list[Query]:
    drawn = draw_queries(passages, count=most, seed=seed)
    say("no queries: a sentence of each passage is one, and the passage goes without that sentence")
    return [Query(one.text, given=one.rest, hidden=passages[one.passage]) for one in drawn]


def _some(items: list[T], most: int, seed: int) -> list[T]:
    """At most so many, drawn at random, in their order."""
    if len(items) <= most:
        return items
    say(f"{most} of {len(items)} queries are drawn")
    chosen = np.random.default_rng(seed).choice(len(items), most, replace=False)
    return [items[n] for n in sorted(chosen.tolist())]
