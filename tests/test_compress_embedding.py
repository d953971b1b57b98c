"""Embedding models, from texts alone, and rerankers, from pairs, are compressed by the same search."""

import numpy as np
from datasets import Dataset
from sentence_transformers import CrossEncoder, SentenceTransformer

import tiny
from attar import compress
from attar.compression import finalists
from attar.model.checkpoint import save
from attar.model.onnx import OnnxModel

WORDS = tiny.GOOD + tiny.BAD
TEXTS = [f"the {a} film is a {b} story" for a in WORDS for b in WORDS]


def test_an_embedding_model_is_compressed_from_texts_alone(tmp_path, monkeypatch):
    """An encoder alone, and how it is pooled; a directory's own pooling is read by the same function."""
    monkeypatch.setattr(finalists, "FINALISTS", 1)
    monkeypatch.setattr(finalists.Finalists, "baselines", lambda *_: {})
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128}
    encoder = tiny.model(head="base", initializer_range=0.05, **sizes)
    teacher = save(encoder, tiny.tokenizer(), tmp_path / "teacher", lineage={})
    options = {"to": "1.5x smaller", "time": 0, "precision": "fp32", "formats": ["fp32"]}
    options["pooling"] = "max"
    report = compress(teacher, texts=TEXTS, out=tmp_path / "small", **options)
    assert report.settings["fits"]
    small = SentenceTransformer(str(tmp_path / "small"), device="cpu")
    assert small[1].pooling_mode == "max"
    assert sum(p.numel() for p in small.parameters()) <= encoder.num_parameters() / 1.5
    given = small.tokenizer(["the good film"], return_tensors="np")
    graph = OnnxModel(tmp_path / "small" / "onnx")(dict(given))
    assert abs(graph - small.encode(["the good film"])).max() < 1e-3
    assert 0 < report.student.metrics["agreement"] <= 1


def test_a_reranker_is_compressed_from_pairs_without_grades(tmp_path, monkeypatch):
    monkeypatch.setattr(finalists, "FINALISTS", 1)
    monkeypatch.setattr(finalists.Finalists, "baselines", lambda *_: {})
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128}
    teacher = CrossEncoder(str(tiny.saved(tmp_path / "base", num_labels=1, **sizes)), device="cpu")
    teacher.save_pretrained(str(tmp_path / "teacher"))
    rows = [{"text": f"is the film {word}", "text_pair": text} for word in WORDS for text in TEXTS[::12]]
    options = {"to": "1.5x smaller", "time": 0, "precision": "fp32", "formats": ["fp32"]}
    report = compress(tmp_path / "teacher", data=Dataset.from_list(rows), out=tmp_path / "small", **options)
    assert report.settings["fits"]
    assert report.student.metrics["top_1_agreement"] > 0
    small = CrossEncoder(str(tmp_path / "small"), device="cpu")
    assert type(small.activation_fn) is type(teacher.activation_fn)
    pairs = [(row["text"], row["text_pair"]) for row in rows[:4]]
    given = small.tokenizer(*map(list, zip(*pairs, strict=True)), return_tensors="np", padding=True)
    scores = OnnxModel(tmp_path / "small" / "onnx")(dict(given))[:, 0]
    np.testing.assert_allclose(1 / (1 + np.exp(-scores)), small.predict(pairs), atol=1e-4)
