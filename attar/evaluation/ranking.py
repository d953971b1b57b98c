"""Rerankers: how well a score orders the passages of each query."""

from dataclasses import dataclass

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from attar.data.tasks import Task
from attar.maths.statistics import Ratio

Array = NDArray[np.float64]
NDCG, MRR, BEST = "ndcg@10", "mrr@10", 10
# A figure that is a mean over queries, of numbers that each query has.
MEAN = Ratio(lambda each, _: (each, np.ones(len(each))), "queries")


@dataclass(frozen=True, eq=False)
class Queries:
    """Which rows of a table are passages of one query.

    Attributes:
        rows: row numbers of each query that can be ranked: two passages or more, one of them with a grade above 0 where
            there are grades.
        count: how many queries there are, those that cannot be ranked among them.
    """

    rows: tuple[NDArray[np.int64], ...]
    count: int

    @classmethod
    def of(cls, task: Task, table: Dataset) -> "Queries | None":
        """Those of a table of pairs, with grades of 0 and more or none, for a model of one score; else None.

        Pairs whose first texts hardly recur, as those of STS, are no ranking: more rows than not have to be of queries
        that can be ranked.
        """
        if task.kind != "regression" or not {"text", "text_pair"} <= set(table.column_names):
            return None
        grades = np.asarray(table["label"][:], dtype=float) if task.labelled(table) else np.ones(len(table))
        if grades.min() < 0:
            return None
        _, query = np.unique(np.asarray(table["text"][:], dtype=object), return_inverse=True)
        order = np.argsort(query, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(query[order])) + 1)
        rows = tuple(group for group in groups if len(group) > 1 and grades[group].max() > 0)
        return cls(rows, len(groups)) if 2 * sum(map(len, rows)) > len(table) else None

    def figures(self, scores: Array, grades: Array) -> dict[str, Array]:
        """Figures (Q,) of each query, of scores (S,) of all rows and their grades (S,).

        nDCG@10 is scikit-learn's, with the grades as gains; MRR@10 asks where the first passage stands whose grade is
        above 0. Both are those of sentence-transformers' `CrossEncoderRerankingEvaluator` where grades are 0 and 1.
        """
        from sklearn.metrics import ndcg_score

        ndcg, mrr = np.zeros(len(self.rows)), np.zeros(len(self.rows))
        for n, rows in enumerate(self.rows):
            ndcg[n] = ndcg_score([grades[rows]], [scores[rows]], k=BEST)
            found = np.flatnonzero(grades[rows][np.argsort(-scores[rows], kind="stable")][:BEST] > 0)
            mrr[n] = 1 / (1 + found[0]) if len(found) else 0.0
        return {NDCG: ndcg, MRR: mrr}

    def same_first(self, scores: Array, others: Array) -> float:
        """Share of queries of which two models' scores (S,) put the same passage first."""
        return float(np.mean([scores[rows].argmax() == others[rows].argmax() for rows in self.rows]))
