"""Rerankers: a CrossEncoder directory goes in, and CrossEncoder gives the student's scores."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator
from sklearn.metrics import ndcg_score
from tokenizers.pre_tokenizers import CharDelimiterSplit

import onnx_backend
import tiny
from attar import bench, compare, distill, evaluate, export, plan, prune
from attar.data.tables import hold_out
from attar.errors import ModelError
from attar.model.checkpoint import load, save
from attar.model.onnx import OnnxModel

TEXTS = [f"the {a} film is {b}" for a in tiny.GOOD + tiny.BAD for b in tiny.GOOD + tiny.BAD]
PAIRS = Dataset.from_dict({"text": TEXTS[:70], "text_pair": TEXTS[70:140]})


@pytest.mark.parametrize("activation", [torch.nn.Identity(), torch.nn.Sigmoid()])
@pytest.mark.parametrize("sizes", [{"layers": 1}, {"hidden": 16, "heads": 4, "embedding": 8}])
def test_a_student_of_a_reranker_is_one(activation, sizes, tmp_path):
    """Also where its class is another, ELECTRA's."""
    teacher = CrossEncoder(
        str(tiny.saved(tmp_path / "base", num_labels=1)), device="cpu", activation_fn=activation
    )
    teacher.save_pretrained(str(tmp_path / "teacher"))
    phases = {"general": None, "intermediate": None, "prediction": {"epochs": 2, "lr": 1e-3}}
    distill(tmp_path / "teacher", data=PAIRS, student=sizes, out=tmp_path / "out", **phases)
    opened = CrossEncoder(str(tmp_path / "out"), device="cpu")
    assert type(opened.activation_fn) is type(activation)
    loaded = load(tmp_path / "out")
    batch = loaded.tokenizer(PAIRS["text"][:6], PAIRS["text_pair"][:6], padding=True, return_tensors="pt")
    with torch.no_grad():
        wanted = activation(loaded.model(**batch).logits)[:, 0].numpy()
    pairs = list(zip(PAIRS["text"][:6], PAIRS["text_pair"][:6], strict=True))
    np.testing.assert_allclose(opened.predict(pairs), wanted, atol=1e-5)
    assert np.std(wanted) > 0


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("axes", ["all", "heads"])
def test_a_cut_reranker_is_one(labels, axes, tmp_path):
    """Of sizes that a stock config says, and of sizes that none does; `plan` and `bench` take it, too."""
    base = str(tiny.saved(tmp_path / "base", num_labels=labels))
    CrossEncoder(base, device="cpu", activation_fn=torch.nn.Tanh()).save_pretrained(str(tmp_path / "teacher"))
    options = {"budget": 0.8, "method": "magnitude", "axes": axes, "data": PAIRS}
    found = plan(tmp_path / "teacher", **options)
    prune(tmp_path / "teacher", out=tmp_path / "out", recover_steps=0, plan=found, data=PAIRS)
    rows = bench([tmp_path / "teacher", tmp_path / "out"], lengths=[8], repeats=1).rows
    assert rows[1].parameters < rows[0].parameters
    loaded = load(tmp_path / "out")
    opened = CrossEncoder(str(tmp_path / "out"), device="cpu")
    batch = loaded.tokenizer(PAIRS["text"][:6], PAIRS["text_pair"][:6], padding=True, return_tensors="pt")
    with torch.no_grad():
        wanted = loaded.model(**batch).logits.tanh().numpy()
    pairs = list(zip(PAIRS["text"][:6], PAIRS["text_pair"][:6], strict=True))
    np.testing.assert_allclose(opened.predict(pairs), wanted[:, 0] if labels == 1 else wanted, atol=1e-5)


def test_what_scores_go_through_is_kept_under_its_older_name(tmp_path):
    """As sentence-transformers wrote it before its version 4; ELECTRA's student has it, too."""
    place = tiny.saved(tmp_path / "teacher", num_labels=1)
    said = json.loads((place / "config.json").read_text())
    older = {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}
    (place / "config.json").write_text(json.dumps(said | older))
    phases = {"general": None, "intermediate": None, "prediction": None}
    sizes = {"hidden": 16, "heads": 4, "embedding": 8}
    distill(place, data=PAIRS, student=sizes, out=tmp_path / "out", **phases)
    assert load(tmp_path / "out").model.config.model_type == "electra"
    assert type(CrossEncoder(str(tmp_path / "out"), device="cpu").activation_fn) is torch.nn.Identity


def test_a_reranker_that_the_library_scores_otherwise_is_not_written(tmp_path):
    """Here because the tokenizer beside it is another than the one that was written."""
    base = str(tiny.saved(tmp_path / "base", num_labels=1))
    CrossEncoder(base, device="cpu").save_pretrained(str(tmp_path / "teacher"))
    loaded = load(tmp_path / "teacher")
    loaded.tokenizer.backend_tokenizer.pre_tokenizer = CharDelimiterSplit(" ")  # which is not written
    with pytest.raises(ModelError, match="the scores that attar gives"):
        save(loaded.model, loaded.tokenizer, tmp_path / "out", lineage={})
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def rerankers(tmp_path_factory):
    """A teacher and a student, and 60 queries of 12 graded passages each."""
    place = tmp_path_factory.mktemp("rerankers")
    for name, seed in (("teacher", 0), ("student", 1)):
        base = str(tiny.saved(place / "base" / name, num_labels=1, seed=seed))
        CrossEncoder(base, device="cpu").save_pretrained(str(place / name))
    rng = np.random.default_rng(0)
    rows = [
        {
            "text": f"query {q}: {TEXTS[q]}",
            "text_pair": TEXTS[p],
            "label": int(rng.choice(4, p=(0.7, 0.1, 0.1, 0.1))),
        }
        for q in range(60)
        for p in rng.permutation(len(TEXTS))[:12]
    ]
    return place, [rows[n] for n in rng.permutation(len(rows))]


def test_a_reranker_is_measured_by_how_it_ranks(rerankers):
    """As sentence-transformers does it; grades count as scikit-learn has them; intervals are of queries."""
    place, rows = rerankers
    binary = [row | {"label": int(row["label"] > 0)} for row in rows]
    asked = {}
    for row in binary:
        sample = asked.setdefault(row["text"], {"query": row["text"], "positive": [], "negative": []})
        sample["positive" if row["label"] else "negative"].append(row["text_pair"])
    samples = [sample for sample in asked.values() if sample["positive"]]
    library = CrossEncoderRerankingEvaluator(samples, write_csv=False)
    report = compare([place / "teacher", place / "student"], Dataset.from_list(binary), latency_length=8)
    assert report.main == "ndcg@10"
    assert f"{len(samples)} queries" in report.title
    for row, name in zip(report.rows, ("teacher", "student"), strict=True):
        wanted = library(CrossEncoder(str(place / name), device="cpu"))
        assert {name: row.metrics[name] for name in ("ndcg@10", "mrr@10")} == pytest.approx(
            {name: wanted[name] for name in ("ndcg@10", "mrr@10")}, abs=1e-6
        )
    assert {"spearman", "agreement"} <= set(report.student.metrics)
    kept = report.student.retained
    assert kept.low < kept.value < kept.high
    assert kept.value == pytest.approx(report.student.metrics["ndcg@10"] / report.rows[0].metrics["ndcg@10"])


def test_grades_count_and_intervals_are_over_queries(rerankers):
    from scipy.stats import bootstrap

    place, rows = rerankers
    row = evaluate(place / "teacher", Dataset.from_list(rows)).rows[0]
    model = CrossEncoder(str(place / "teacher"), device="cpu")
    scores = model.predict([(row["text"], row["text_pair"]) for row in rows])
    each = []
    for query in dict.fromkeys(row["text"] for row in rows):
        at = [n for n, row in enumerate(rows) if row["text"] == query]
        grades = [rows[n]["label"] for n in at]
        each += [ndcg_score([grades], [scores[at]], k=10)] if max(grades) else []
    assert row.metrics["ndcg@10"] == pytest.approx(np.mean(each), abs=1e-6)
    theirs = bootstrap((each,), np.mean, method="percentile", rng=0).confidence_interval
    assert (row.quality.low, row.quality.high) == pytest.approx(tuple(theirs), abs=0.01)


def test_without_grades_it_is_said_how_often_the_same_passage_is_first(rerankers):
    place, rows = rerankers
    table = Dataset.from_list(rows).remove_columns("label")
    report = compare([place / "teacher", place / "student"], table, latency_length=8)
    pairs = [(row["text"], row["text_pair"]) for row in rows]
    best = []
    for name in ("teacher", "student"):
        scores = CrossEncoder(str(place / name), device="cpu").predict(pairs)
        best.append({query: passage for _, (query, passage) in sorted(zip(scores, pairs, strict=True))})
    same = np.mean([best[0][query] == best[1][query] for query in best[0]])
    assert 0 < same < 1
    assert report.main == "agreement"
    assert report.student.metrics["top_1_agreement"] == pytest.approx(same)
    assert report.rows[0].metrics["top_1_agreement"] == 1
    assert "ndcg@10" not in report.student.metrics


@given(st.integers(0, 9), st.sampled_from([(60, 12), (3, 2), (2, 40)]))
@settings(deadline=None, max_examples=12)
def test_queries_are_held_out_whole(seed, sizes):
    """A tenth of the rows, or one query; pairs whose first texts do not recur are parted by rows."""
    queries, passages = sizes
    rows = [{"text": f"query {q}", "text_pair": f"{p}"} for p in range(passages) for q in range(queries)]
    table = Dataset.from_list(rows)
    learned, held = hold_out(table, seed=seed)
    assert not set(learned["text"]) & set(held["text"])
    assert sorted(map(str, [*learned, *held])) == sorted(map(str, rows))
    assert len(held) == passages * max(1, queries // 10)
    assert held.to_list() == hold_out(table, seed=seed)[1].to_list()
    other = table.select(range(queries))
    assert len(hold_out(other, seed=seed)[1]) == max(1, queries // 10)


@pytest.mark.parametrize("case", ["pairs", "scores below 0", "no labels"])
def test_other_tables_are_judged_as_before(case, rerankers):
    """Pairs whose first texts hardly recur, as those of STS, and labels that are no grades."""
    place, rows = rerankers
    if case == "pairs":
        rows = [row | {"text": f"{n // 2 if n < 40 else n} film"} for n, row in enumerate(rows)]
    rows = [row | {"label": row["label"] - float(case == "scores below 0")} for row in rows]
    table = Dataset.from_list(rows)
    table = table.remove_columns("label") if case == "no labels" else table
    report = evaluate(place / "student", table, teacher=place / "teacher")
    assert report.main == ("agreement" if case == "no labels" else "spearman")
    assert "ndcg@10" not in report.rows[0].metrics


def test_a_reranker_is_exported(tmp_path, monkeypatch):
    """ONNX Runtime gives its logits, and CrossEncoder opens the directory, with what its scores go through."""
    teacher = CrossEncoder(
        str(tiny.saved(tmp_path / "base", num_labels=1)), device="cpu", activation_fn=torch.nn.Sigmoid()
    )
    teacher.save_pretrained(str(tmp_path / "teacher"))
    export(tmp_path / "teacher", out=tmp_path / "onnx", formats=["fp32"])
    loaded = load(tmp_path / "teacher")
    batch = loaded.tokenizer(TEXTS[:4], TEXTS[4:8], padding=True, return_tensors="np")
    with torch.no_grad():
        wanted = loaded.model(**{name: torch.from_numpy(x) for name, x in batch.items()}).logits.numpy()
    np.testing.assert_allclose(OnnxModel(tmp_path / "onnx" / "fp32")(batch), wanted, atol=1e-4)
    onnx_backend.provide(monkeypatch)
    opened = CrossEncoder(str(tmp_path / "onnx" / "fp32"), backend="onnx", device="cpu")
    pairs = list(zip(TEXTS[:9], TEXTS[4:13], strict=True))
    np.testing.assert_allclose(opened.predict(pairs), teacher.predict(pairs), atol=1e-5)
