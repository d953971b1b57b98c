"""Laws of search: figures are sentence-transformers', a perfect order is worth 1, what is wrong is named."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import (
    InformationRetrievalEvaluator,
    TripletEvaluator,
)
from sklearn.metrics import ndcg_score

import tiny
from attar import compare, dimensions, evaluate
from attar.data.retrieval import read_collection
from attar.errors import DataError, ModelError
from attar.evaluation import retrieval
from attar.model.checkpoint import load, save
from attar.model.sentence_modules import Head, write_head

DOCUMENTS = [f"the {a} {b} film of the {c}" for a in tiny.GOOD for b in tiny.BAD for c in ("story", "cast")]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two models, and a collection whose queries are parts of their documents."""
    place = tmp_path_factory.mktemp("search")
    for name, seed in (("one", 0), ("two", 1)):
        tiny.saved(place / name, head="base", seed=seed)
        write_head(Head(normalize=True, max_length=20, prompts={"query": "it "}), {}, 24, place / name)
    write(place / "beir", DOCUMENTS, [d.removeprefix("the ") for d in DOCUMENTS[:40]])
    return place


def write(place, documents, queries, relevant=None):
    """A collection in BEIR's layout; query n is answered by document n."""
    (place / "qrels").mkdir(parents=True)
    rows = [{"_id": f"d{n}", "title": "", "text": text} for n, text in enumerate(documents)]
    (place / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    rows = [{"_id": f"q{n}", "text": text} for n, text in enumerate(queries)]
    (place / "queries.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    pairs = relevant or [(f"q{n}", f"d{n}") for n in range(len(queries))]
    lines = ["query-id\tcorpus-id\tscore", *(f"{q}\t{d}\t1" for q, d in pairs)]
    (place / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")


def test_figures_are_those_of_sentence_transformers_prompts_included(place):
    report = evaluate(place / "two", place / "beir", teacher=place / "one")
    found = read_collection(place / "beir")
    library = InformationRetrievalEvaluator(
        dict(found.queries), dict(found.corpus), {q: set(d) for q, d in found.relevant.items()}
    )
    for row, name in zip(report.rows, ("one", "two"), strict=True):
        wanted = library(SentenceTransformer(str(place / name), device="cpu"))
        for ours, theirs in (("ndcg@10", "ndcg@10"), ("recall@10", "recall@10"), ("mrr@10", "mrr@10")):
            assert row.metrics[ours] == pytest.approx(wanted[f"cosine_{theirs}"], abs=1e-6)
    kept = report.rows[1].retained
    assert kept.low < kept.value < kept.high
    assert kept.value == pytest.approx(report.rows[1].metrics["ndcg@10"] / report.rows[0].metrics["ndcg@10"])


def test_queries_of_a_model_in_its_teachers_space_search_the_teachers_index(place, tmp_path, monkeypatch):
    near = load(place / "one")
    with torch.no_grad():
        for weight in near.model.parameters():
            weight.add_(
                0.3
                * weight.std(unbiased=False)
                * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
            )
    save(near.model, near.tokenizer, tmp_path / "near", lineage={})
    dimensions(place / "one", to=6, texts=DOCUMENTS, out=tmp_path / "cut")
    report = compare([place / "one", tmp_path / "near", tmp_path / "cut"], place / "beir")
    teacher, student = (
        SentenceTransformer(str(path), device="cpu") for path in (place / "one", tmp_path / "near")
    )
    found = read_collection(place / "beir")
    alike = (
        student.encode_query(list(found.queries.values()))
        @ teacher.encode_document(list(found.corpus.values())).T
    )
    relevant = [[document in found.relevant[query] for document in found.corpus] for query in found.queries]
    wanted = ndcg_score(relevant, alike, k=10)
    name = "ndcg@10_in_teachers_index"
    assert report.rows[1].metrics[name] == pytest.approx(wanted, abs=1e-3)
    assert report.rows[1].metrics[name] != pytest.approx(report.rows[1].metrics["ndcg@10"], abs=1e-4)
    assert [name in row.metrics for row in report.rows] == [False, True, False]
    monkeypatch.setattr(retrieval, "HELD", 0)  # a collection whose embeddings are not kept all at once
    parts = compare([place / "one", tmp_path / "near"], place / "beir")
    assert [row.metrics["ndcg@10"] for row in parts.rows] == pytest.approx(
        [row.metrics["ndcg@10"] for row in report.rows[:2]]
    )
    assert name not in parts.rows[1].metrics


def test_fewer_dimensions_are_measured_on_a_collection(place, tmp_path):
    report = dimensions(
        place / "one", to=6, texts=DOCUMENTS, data=place / "beir", compare=(), out=tmp_path / "cut"
    )
    rows = {row.runtime: row.metrics for row in report.rows}
    for source, row in ((place / "one", "24 dimensions"), (tmp_path / "cut", "6 dimensions, fp32")):
        assert rows[row] == pytest.approx(evaluate(source, place / "beir").rows[0].metrics, abs=1e-6)
    apart = {kind: rows[f"24 dimensions{kind}"]["ndcg@10"] for kind in ("", ", int8", ", binary")}
    assert abs(apart[", int8"] - apart[""]) < abs(apart[", binary"] - apart[""])
    assert report.student.retained.low < report.student.retained.value


def test_a_document_that_is_its_query_is_found_first(place, tmp_path):
    write(tmp_path / "same", ["it " + text for text in DOCUMENTS], DOCUMENTS)
    assert evaluate(place / "one", tmp_path / "same").rows[0].metrics["ndcg@10"] == 1


def test_triplets_are_counted_as_sentence_transformers_does(place):
    draws = [np.random.default_rng(n).permutation(DOCUMENTS)[:3] for n in range(40)]
    rows = dict(zip(("anchor", "positive", "negative"), map(list, zip(*draws, strict=True)), strict=True))
    report = compare([place / "one", place / "two"], Dataset.from_dict(rows), latency_length=8)
    library = TripletEvaluator(rows["anchor"], rows["positive"], rows["negative"])
    for row, name in zip(report.rows, ("one", "two"), strict=True):
        wanted = library(SentenceTransformer(str(place / name), device="cpu"))
        assert row.metrics["triplet_accuracy"] == pytest.approx(wanted["cosine_accuracy"])


def test_unknown_ids_empty_documents_and_other_models_are_named(place, tmp_path, capsys):
    write(tmp_path / "odd", DOCUMENTS[:4], ["film"], [("q0", "d99")])
    with pytest.raises(DataError, match="d99"):
        evaluate(place / "one", tmp_path / "odd")
    write(tmp_path / "empty", ["", *DOCUMENTS[:4]], ["film", "cast"], [("q0", "d0"), ("q1", "d1")])
    found = read_collection(tmp_path / "empty")
    assert set(found.queries) == {"q1"}
    assert len(found.corpus) == 4
    tiny.saved(tmp_path / "classifier")
    with pytest.raises(ModelError, match="single_label"):
        evaluate(tmp_path / "classifier", place / "beir")


def test_grades_count_as_scikit_learn_has_them(place, tmp_path):
    from sklearn.metrics import ndcg_score

    rng = np.random.default_rng(0)
    write(tmp_path / "graded", DOCUMENTS[:12], DOCUMENTS[20:25])
    lines = [f"q{q}\td{d}\t{rng.integers(0, 4)}" for q in range(5) for d in range(12)]
    (tmp_path / "graded" / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "\n".join(lines) + "\n"
    )
    found = read_collection(tmp_path / "graded")
    model = SentenceTransformer(str(place / "one"), device="cpu")
    scores = (
        model.encode_query(list(found.queries.values()))
        @ model.encode_document(list(found.corpus.values())).T
    )
    grades = [[found.relevant[q].get(d, 0) for d in found.corpus] for q in found.queries]
    report = evaluate(place / "one", tmp_path / "graded")
    assert report.rows[0].metrics["ndcg@10"] == pytest.approx(ndcg_score(grades, scores, k=10), abs=1e-6)


def test_labels_are_read_from_embeddings_where_these_tell_them(place):
    texts = [f"the film is {word}" for word in tiny.GOOD * 8 + tiny.BAD * 8]
    labels = ["good"] * 48 + ["bad"] * 48
    report = evaluate(place / "one", Dataset.from_dict({"text": texts, "label": labels}))
    assert report.rows[0].metrics["probe_accuracy"] > 0.8
    mixed = np.random.default_rng(0).permutation(labels).tolist()
    report = evaluate(place / "one", Dataset.from_dict({"text": texts, "label": mixed}))
    assert report.rows[0].metrics["probe_accuracy"] < 0.7
