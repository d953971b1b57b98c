"""Embedding models in search: nDCG, recall and MRR of a collection as sentence-transformers has them, and triplets."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray

from attar.data.batches import Batches, encode
from attar.data.embedding_task import Embedding
from attar.data.retrieval import Collection
from attar.errors import DataError, MissingExtraError, ModelError
from attar.evaluation.opening import Opened
from attar.evaluation.prediction import predict
from attar.evaluation.ranking import MEAN
from attar.evaluation.ranking import NDCG as MAIN
from attar.maths import statistics
from attar.maths.statistics import Interval, Metric
from attar.model.checkpoint import versions
from attar.model.embedding import KEY
from attar.model.sentence_modules import Head
from attar.progress import say
from attar.report.report import Report, Role, Row

Array = NDArray[Any]
FOLDS, NEAR = 5, 10
# What a student's queries find among its teacher's embeddings of the documents; and the cosine of both sides' documents
# from which on they are in one space.
INDEX, ALIKE = "ndcg@10_in_teachers_index", 0.25
# Documents up to which all embeddings are kept at once; the library searches more of them part by part.
HELD = 200_000
# Columns of a table of triplets.
TRIPLET = ("anchor", "positive", "negative")


class Embedder:
    """An opened embedding model with the methods that sentence-transformers' evaluators call.

    Args:
        opened: in whatever runtime.
        max_length: tokens that a text is cut to; what the model was saved with where None.

    Raises:
        ModelError: it is no embedding model.
    """

    def __init__(self, opened: Opened, max_length: int | None = None) -> None:
        if not isinstance(opened.task, Embedding):
            raise ModelError(
                expected="embedding models, to search with",
                found=f"{opened.name}, whose task is {opened.task.kind}",
                fix="name a sentence-transformers directory, or its export; a reranker is measured on pairs of queries "
                "and passages, which attar mine makes of a collection",
            )
        self.opened, self.task = opened, opened.task
        self.head = Head.of(getattr(opened.config, KEY))
        self.length = min(max_length or self.head.max_length or opened.positions, opened.positions)

    def encode(self, sentences: Sequence[str], **_: Any) -> torch.Tensor:
        """(N, E), with the model's default prompt."""
        return self._encoded(sentences, self.head.default_prompt)

    def encode_query(self, sentences: Sequence[str], **_: Any) -> torch.Tensor:
        """(N, E), with the prompt for queries where the model has one."""
        return self._encoded(sentences, "query" if "query" in self.head.prompts else self.head.default_prompt)

    def encode_document(self, sentences: Sequence[str], **_: Any) -> torch.Tensor:
        """(N, E), with the prompt for documents where the model has one."""
        return self._encoded(
            sentences, "document" if "document" in self.head.prompts else self.head.default_prompt
        )

    def _encoded(self, sentences: Sequence[str], prompt: str | None) -> torch.Tensor:
        before = self.head.prompts.get(prompt, "") if prompt else ""
        table = Dataset.from_dict({"text": [before + text for text in sentences]})
        whole = encode(table, self.opened.tokenizer, max_length=self.length + 1)
        if cut := int(np.sum(np.asarray(whole["length"][:]) > self.length)):
            say(f"{cut} of {len(table)} texts are cut to the window of {self.length} tokens")
        encoded = encode(table, self.opened.tokenizer, max_length=self.length) if cut else whole
        found = predict(self.opened.model, Batches(encoded, self.opened.tokenizer, batch_size=64))
        return torch.from_numpy(found).float()


class Known:
    """A collection's queries and documents, embedded once, and what any form of these embeddings finds.

    Args:
        embedder: the model.
        collection: what is searched.

    Attributes:
        embeddings: (Q + D, E), of the queries and then of the documents.
    """

    def __init__(self, embedder: Embedder, collection: Collection) -> None:
        require_library("measures search")
        self.task, self.collection = embedder.task, collection
        queries, documents = (list(texts.values()) for texts in (collection.queries, collection.corpus))
        sides = embedder.encode_query(queries), embedder.encode_document(documents)
        self.embeddings: Array = torch.cat(sides).numpy()
        self._query, self._document = (
            {text: n for n, text in enumerate(texts, start=start)}
            for texts, start in ((queries, 0), (documents, len(queries)))
        )

    def searched(self, embeddings: Array) -> dict[str, Array]:
        """Figures (Q,) of each query where these (Q + D, n) are the embeddings.

        They are ndcg@10, recall@10, recall@100 and mrr@10, as `InformationRetrievalEvaluator` has them. Where
        documents are graded, nDCG heeds the grades (`graded_ndcg`); recall and MRR know relevant or not.

        Raises:
            MissingExtraError: sentence-transformers is not installed.
        """
        self._given = torch.from_numpy(embeddings)
        return _figures(self, self.collection)

    def in_index_of(self, other: "Known") -> Array | None:
        """(Q,) nDCG@10 of these queries over another model's embeddings of the documents; None in another space."""
        first = len(self.collection.queries)
        own, theirs = self.embeddings[first:], other.embeddings[first:]
        if own.shape != theirs.shape or self.task.similarity != other.task.similarity:
            return None
        lengths = np.linalg.norm(own, axis=1) * np.linalg.norm(theirs, axis=1)
        if np.mean((own * theirs).sum(1) / np.maximum(lengths, 1e-12)) < ALIKE:
            return None
        return self.searched(np.concatenate([self.embeddings[:first], theirs]))[MAIN]

    def encode_query(self, sentences: Sequence[str], **_: Any) -> torch.Tensor:
        """(N, n), of queries."""
        return self._given[[self._query[text] for text in sentences]]

    def encode_document(self, sentences: Sequence[str], **_: Any) -> torch.Tensor:
        """(N, n), of documents."""
        return self._given[[self._document[text] for text in sentences]]


def require_library(why: str) -> None:
    """Raise MissingExtraError where sentence-transformers is not installed."""
    if find_spec("sentence_transformers") is None:
        raise MissingExtraError(
            expected=f"sentence-transformers, which {why}",
            found="it is not installed",
            fix='pip install "attar[embeddings]"',
        )


def _figures(embedder: Any, collection: Collection) -> dict[str, Array]:
    """Figures of each query, by the embeddings that an embedder has of queries and documents."""
    require_library("measures search")
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
    from sentence_transformers.util import SimilarityFunction

    each: dict[str, list[float]] = {}

    class ByQuery(InformationRetrievalEvaluator):  # type: ignore[misc,unused-ignore]  # untyped without the extra
        """The library's own formulas, a query at a time."""

        def compute_metrics(self, queries_result_list: list[Any]) -> dict[str, Any]:
            ids, queries = self.queries_ids, self.queries
            for n, one in enumerate(queries_result_list):
                self.queries_ids, self.queries = [ids[n]], [queries[n]]
                alone = super().compute_metrics([one])
                for name in ("ndcg", "mrr", "recall"):
                    for k, value in alone[f"{name}@k"].items():
                        each.setdefault(f"{name}@{k}", []).append(float(value))
                if collection.graded:  # which the library does not heed
                    ranked = sorted(one, key=lambda hit: (-hit["score"], hit["corpus_id"]))
                    found = [hit["corpus_id"] for hit in ranked]
                    each[MAIN][-1] = graded_ndcg(found, collection.relevant[ids[n]])
            self.queries_ids, self.queries = ids, queries
            whole: dict[str, Any] = super().compute_metrics(queries_result_list)
            return whole

    said = embedder.task.similarity
    evaluator = ByQuery(
        dict(collection.queries),
        dict(collection.corpus),
        {query: set(found) for query, found in collection.relevant.items()},
        mrr_at_k=[10],
        ndcg_at_k=[10],
        accuracy_at_k=[1],
        precision_recall_at_k=[10, 100],
        map_at_k=[10],
        show_progress_bar=False,
        score_functions={said: SimilarityFunction.to_similarity_fn(said)},
        write_csv=False,
    )
    evaluator.compute_all_metrics(embedder)
    return {name: np.array(each[name]) for name in (MAIN, "recall@10", "recall@100", "mrr@10")}


def graded_ndcg(ranked: Sequence[str], grades: Mapping[str, int], k: int = 10) -> float:
    """nDCG@k of one query's ranking, by scikit-learn.

    Args:
        ranked: ids, the best first; documents beyond it count as not found.
        grades: of the relevant documents by id.
    """
    from sklearn.metrics import ndcg_score

    missed = [key for key in grades if key not in set(ranked)]
    # What is not found stands behind k others, so that it gains nothing at k.
    behind = max(0, k - len(ranked))
    gains = [grades.get(key, 0) for key in ranked] + [0] * behind + [grades[key] for key in missed]
    if len(gains) == 1:  # which scikit-learn refuses
        gains.append(0)
    return float(ndcg_score([gains], [np.arange(len(gains), 0, -1)], k=k, ignore_ties=True))


def probed(opened: Opened, table: Dataset, *, max_length: int | None = None) -> dict[str, Array]:
    """Accuracy (S,) of labels that a logistic regression reads from embeddings, and that the ten nearest texts say.

    Each text is predicted by what was fitted on the other folds (five, stratified); the model itself learns nothing.

    Raises:
        DataError: fewer than two classes, or a class of fewer than five texts.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier

    classes, truth, sizes = np.unique(
        np.array([str(label) for label in table["label"]]), return_inverse=True, return_counts=True
    )
    if len(classes) < 2 or sizes.min() < FOLDS:
        raise DataError(
            expected=f"two classes or more of at least {FOLDS} texts each, to read labels from embeddings",
            found=f"{len(classes)} classes, the rarest of {sizes.min()} texts",
            fix="drop rare classes, or give more texts",
        )
    x = Embedder(opened, max_length).encode(table["text"][:]).numpy()
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    readers = {
        "probe": LogisticRegression(max_iter=1000),
        "neighbour": KNeighborsClassifier(NEAR, metric="cosine"),
    }
    return {
        f"{name}_accuracy": (cross_val_predict(reader, x, truth, cv=folds) == truth).astype(float)
        for name, reader in readers.items()
    }


def chosen(opened: Opened, table: Dataset, *, max_length: int | None = None) -> dict[str, Array]:
    """Accuracy (S,) of triplets: whether the positive is nearer to the anchor, a query, than the negative."""
    embedder = Embedder(opened, max_length)
    anchor = embedder.encode_query(table["anchor"][:])
    positive, negative = (embedder.encode_document(table[name][:]) for name in TRIPLET[1:])
    rows = zip(anchor.numpy(), positive.numpy(), negative.numpy(), strict=True)
    alike = [embedder.task.alike(a[None], np.stack([p, n]))[0] for a, p, n in rows]
    right = np.array([near > far for near, far in alike], dtype=float)
    return {"triplet_accuracy": right}


def question_of(table: Dataset) -> str | None:
    """The figure that a table asks embeddings for: triplets, or labels of single texts; None of another table."""
    columns = set(table.column_names)
    if set(TRIPLET) <= columns:
        return "triplet_accuracy"
    return "probe_accuracy" if {"text", "label"} <= columns and "text_pair" not in columns else None


def intervals(
    name: str, found: Array, teacher: Array | None, mean: Metric = MEAN
) -> tuple[Interval | None, Interval | None]:
    """Intervals of a model's mean figure, and of its part of a teacher's, from those (Q,) of each query."""
    nothing = np.zeros(len(found))
    try:
        around = statistics.bootstrap(mean, found, nothing)
        kept = None if teacher is None else statistics.paired_bootstrap(mean, found, teacher, nothing)
    except DataError as error:
        say(f"no interval for {name}: {error.found}")
        return None, None
    return around, kept


def search_report(
    models: Sequence[tuple[Role, Opened]], source: Collection | Dataset, *, max_length: int | None = None
) -> Report:
    """Models on a collection, triplets or labelled texts; the first is the teacher that the others are held against."""
    rows: list[Row] = []
    teacher: Array | None = None
    main = MAIN if isinstance(source, Collection) else str(question_of(source))
    if isinstance(source, Collection):
        what = f"{len(source.queries):,} queries, {len(source.corpus):,} documents"
    else:
        what = f"{len(source):,} {'triplets' if main == 'triplet_accuracy' else 'labelled texts'}"
    measure: Any = {"triplet_accuracy": chosen, "probe_accuracy": probed}.get(main)
    index: Known | None = None
    mean = MEAN if main == MAIN else replace(MEAN, rows="texts")
    for role, opened in models:
        say(f"{opened.name} in {opened.runtime} on {what}")
        if isinstance(source, Collection):
            embedder = Embedder(opened, max_length)
            known = Known(embedder, source) if len(source.corpus) <= HELD else None
            each = _figures(embedder, source) if known is None else known.searched(known.embeddings)
            if known is not None and index is not None and (beside := known.in_index_of(index)) is not None:
                each[INDEX] = beside
            index = index or known
        else:
            each = measure(opened, source, max_length=max_length)
        found = each[main]
        teacher = found if teacher is None else teacher
        around, kept = intervals(opened.name, found, None if role == "teacher" else teacher, mean)
        metrics = {name: float(values.mean()) for name, values in each.items()}
        sizes = {"parameters": opened.parameters, "bytes": opened.bytes, "directory": opened.directory}
        rows.append(Row(opened.name, role, opened.runtime, metrics, around, kept, **sizes))  # type: ignore[arg-type]
    return Report(f"{len(models)} models on {what}", main, tuple(rows), versions=versions())
