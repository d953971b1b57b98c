"""Rerankers: a CrossEncoder directory goes in, and CrossEncoder gives the student's scores."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder

import onnx_backend
import tiny
from attar import distill, export
from attar.model.checkpoint import load
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
