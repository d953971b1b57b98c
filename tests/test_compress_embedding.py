"""An embedding model is compressed by the same search, from texts alone."""

from sentence_transformers import SentenceTransformer

import tiny
from attar import compress
from attar.compression import finalists
from attar.model.checkpoint import save
from attar.model.embedding import KEY, SentenceEncoder
from attar.model.onnx import OnnxModel
from attar.model.sentence_modules import Head

WORDS = tiny.GOOD + tiny.BAD
TEXTS = [f"the {a} film is a {b} story" for a in WORDS for b in WORDS]


def test_an_embedding_model_is_compressed_from_texts_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(finalists, "FINALISTS", 1)
    monkeypatch.setattr(finalists.Finalists, "baselines", lambda *_: {})
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128}
    encoder = tiny.model(head="base", initializer_range=0.05, **sizes)
    setattr(encoder.config, KEY, Head(normalize=True, max_length=40).written)
    whole = SentenceEncoder(encoder.config, encoder).eval()
    teacher = save(whole, tiny.tokenizer(), tmp_path / "teacher", lineage={})
    options = {"to": "1.5x smaller", "time": 0, "precision": "fp32", "formats": ["fp32"]}
    report = compress(teacher, texts=TEXTS, out=tmp_path / "small", **options)
    assert report.settings["fits"]
    small = SentenceTransformer(str(tmp_path / "small"), device="cpu")
    assert sum(p.numel() for p in small.parameters()) <= whole.num_parameters() / 1.5
    given = small.tokenizer(["the good film"], return_tensors="np")
    graph = OnnxModel(tmp_path / "small" / "onnx")(dict(given))
    assert abs(graph - small.encode(["the good film"])).max() < 1e-3
    assert 0 < report.student.metrics["agreement"] <= 1
