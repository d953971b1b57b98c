"""Collections for retrieval in BEIR's layout: documents, queries, and which documents answer which query."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_from_disk

from attar.data.files import open_table
from attar.data.tables import titled_texts
from attar.errors import DataError
from attar.progress import say

CORPUS, QUERIES = "corpus.jsonl", "queries.jsonl"
# Where BEIR writes the judgements of the test part, and where people do who have but one part.
QRELS = ("qrels/test.tsv", "qrels.tsv")
# What a dataset of the hub calls its parts, and how a directory of `DatasetDict.save_to_disk` is known.
PARTS, SAVED = ("corpus", "queries", "qrels"), "dataset_dict.json"


@dataclass(frozen=True)
class Collection:
    """Documents, queries and judgements.

    Attributes:
        corpus: text of each document by id, title first.
        queries: text of each query by id; only those that a document answers, where there are judgements.
        relevant: by query, the grade (1 or more) of each document that answers it; empty without judgements.
        name: for the report.
    """

    corpus: Mapping[str, str]
    queries: Mapping[str, str]
    relevant: Mapping[str, Mapping[str, int]]
    name: str = "the collection"

    @property
    def graded(self) -> bool:
        """Whether some documents answer better than others."""
        return any(grade > 1 for grades in self.relevant.values() for grade in grades.values())


def is_collection(source: Any) -> bool:
    """Whether a source of data has BEIR's layout: a directory, or a mapping of its three tables."""
    if isinstance(source, Mapping):
        return set(PARTS[:2]) <= set(source)
    if not isinstance(source, str | Path):
        return isinstance(source, Collection)
    return (Path(source) / CORPUS).is_file() or (Path(source) / SAVED).is_file()


def read_collection(
    source: str | Path | Mapping[str, Dataset] | Collection, *, judged: bool = True
) -> Collection:
    """Read a corpus, queries and judgements.

    Empty documents are left out, and queries that no document answers, with a line that says how many.

    Args:
        source: a directory with `corpus.jsonl` (`_id`, `title`, `text`), `queries.jsonl` (`_id`, `text`) and
            `qrels/test.tsv` or `qrels.tsv` (a header, then query, document and grade); or a dataset dict of
            `corpus`, `queries` and `qrels` with the same columns, in memory or saved to disk.
        judged: whether judgements are needed; without them all queries are kept.

    Raises:
        DataError: a part or a column is missing; an id comes twice; judgements of ids that there are not; a grade
            that is no whole number; empty queries; no query that a document answers.
    """
    if isinstance(source, Collection):
        return source
    parts, name = _parts(source, judged)
    corpus = _texts(parts["corpus"], f"the corpus of {name}")
    queries = _texts(parts["queries"], f"the queries of {name}")
    _reject_empty_queries(queries, name)
    empty = {key for key, text in corpus.items() if not text}
    if len(empty) == len(corpus):
        raise DataError(
            expected=f"documents in {name}", found=f"{len(empty)}, all of them empty", fix="check the file"
        )
    relevant = _judgements(parts.get("qrels"), queries, corpus, name)
    if empty:
        lost = sum(key in empty for grades in relevant.values() for key in grades)
        judged_too = f"; {lost} judgements name them, and are left out too" if lost else ""
        say(
            f"{len(empty)} of {len(corpus)} documents are empty and left out ({_some(sorted(empty))}){judged_too}"
        )
        corpus = {key: text for key, text in corpus.items() if text}
        relevant = {
            q: {key: grade for key, grade in grades.items() if key not in empty}
            for q, grades in relevant.items()
        }
    relevant = {q: grades for q, grades in relevant.items() if grades}
    if judged:
        if not relevant:
            raise DataError(
                expected=f"a query that some document of {name} answers",
                found="no grade of 1 or more",
                fix="check qrels: query, document, grade in each row",
            )
        if without := len(queries) - len(relevant):
            say(
                f"{without} of {len(queries)} queries are left out: no judgement says which document answers them"
            )
        queries = {key: text for key, text in queries.items() if key in relevant}
    return Collection(corpus, queries, relevant, name)


def _parts(source: str | Path | Mapping[str, Dataset], judged: bool) -> tuple[Mapping[str, Dataset], str]:
    """The tables by `PARTS`, and what they are called in an error."""
    name = "the dataset"
    parts: Mapping[str, Dataset]
    if isinstance(source, Mapping):
        parts = source
    elif (Path(source) / SAVED).is_file():
        loaded, name = load_from_disk(str(source)), str(source)
        parts = loaded if isinstance(loaded, DatasetDict) else {}
    else:
        place, name = Path(source), str(source)
        paths = {"corpus": place / CORPUS, "queries": place / QUERIES}
        qrels = next((place / file for file in QRELS if (place / file).is_file()), None)
        if qrels is not None or judged:
            paths["qrels"] = qrels or place / QRELS[0]
        for path in paths.values():
            if not path.is_file():
                raise DataError(
                    expected=f"{CORPUS}, {QUERIES} and {' or '.join(QRELS)} in {place}",
                    found=f"no {path.relative_to(place)}",
                    fix="write that file, in the layout of BEIR",
                )
        parts = {part: open_table(path, "utf-8-sig") for part, path in paths.items()}
    if missing := [part for part in PARTS[: 3 if judged else 2] if part not in parts]:
        raise DataError(
            expected=f"the parts {', '.join(PARTS)} in {name}",
            found=f"{', '.join(parts) or 'none'}",
            fix=f"add {', '.join(missing)}",
        )
    return parts, name


def _texts(table: Dataset, name: str) -> dict[str, str]:
    """Text by id, after the title where there is one."""
    key = "_id" if "_id" in table.column_names else "id"
    _need(table, {key, "text"}, name)
    found: dict[str, str] = {}
    for identity, text in zip(table[key], titled_texts(table), strict=True):
        if str(identity) in found:
            raise DataError(
                expected=f"one row of each id in {name}", found=f"{identity!r} twice", fix="drop one of them"
            )
        found[str(identity)] = text
    return found


def _judgements(
    table: Dataset | None, queries: Mapping[str, str], corpus: Mapping[str, str], name: str
) -> dict[str, dict[str, int]]:
    """Grades of 1 and more by query and document."""
    if table is None:
        return {}
    columns = ["query-id", "corpus-id", "score"]
    _need(table, set(columns), f"the judgements (qrels) of {name}")
    found: dict[str, dict[str, int]] = {}
    unknown: dict[str, list[str]] = {"queries": [], "documents": []}
    named = (map(str, table[column]) for column in columns[:2])
    for query, document, grade in zip(*named, table["score"], strict=True):
        if query not in queries:
            unknown["queries"].append(query)
        if document not in corpus:
            unknown["documents"].append(document)
        if _grade(grade, query, name) > 0:
            found.setdefault(query, {})[document] = _grade(grade, query, name)
    if wrong := {kind: sorted(set(ids)) for kind, ids in unknown.items() if ids}:
        raise DataError(
            expected=f"judgements (qrels) of {name} of ids that its queries and documents have",
            found="; ".join(f"{len(ids)} unknown {kind}: {_some(ids)}" for kind, ids in wrong.items()),
            fix="take qrels, queries and corpus of one version; drop the rows of these ids",
        )
    return found


def _grade(value: Any, query: str, name: str) -> int:
    try:
        number = float(value)
        if number.is_integer():
            return int(number)
    except (TypeError, ValueError):
        pass
    raise DataError(
        expected=f"a whole number as grade in the judgements (qrels) of {name}",
        found=f"{value!r} for query {query}",
        fix="write 1 where a document answers a query (2 and more: better), 0 where it does not",
    )


def _need(table: Dataset, columns: set[str], name: str) -> None:
    if missing := columns - set(table.column_names):
        raise DataError(
            expected=f"the columns {', '.join(sorted(columns))} in {name}",
            found=", ".join(table.column_names),
            fix=f"rename or add {', '.join(sorted(missing))}; a .tsv begins with a line of these names",
        )


def _reject_empty_queries(queries: Mapping[str, str], name: str) -> None:
    if empty := [key for key, text in queries.items() if not text]:
        raise DataError(
            expected=f"a text of every query of {name}",
            found=f"{len(empty)} empty: {_some(empty)}",
            fix="drop those queries and their judgements",
        )


def _some(ids: list[str]) -> str:
    """The first three, and whether there are more."""
    return ", ".join(ids[:3]) + (", …" if len(ids) > 3 else "")
