"""Every kind of task is compressed by the same command, without labels."""

import pytest
import torch
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

import tiny
from attar import compress
from attar.compression import finalists
from attar.model.checkpoint import HEADS, save
from attar.model.onnx import OnnxModel

TEXTS = [row["text"] for row in tiny.sentiment(60)]
PAIRS = [{"text": a, "text_pair": b} for a, b in zip(TEXTS, TEXTS[::-1], strict=True)]
QUESTIONS = [
    {"question": " ".join(a.split()[:3]), "context": b} for a, b in zip(TEXTS, TEXTS[::-1], strict=True)
]
# Kind -> the head, what its config says, the texts, and the class that a stranger opens the result with.
KINDS = {
    "several labels": (
        "sequence-classification",
        {"num_labels": 3, "problem_type": "multi_label_classification"},
        {"texts": TEXTS},
        AutoModelForSequenceClassification,
    ),
    "scores of pairs": (
        "sequence-classification",
        {"num_labels": 1, "problem_type": "regression"},
        {"data": PAIRS},
        AutoModelForSequenceClassification,
    ),
    "tags": ("token-classification", {"num_labels": 3}, {"texts": TEXTS}, AutoModelForTokenClassification),
    "answers": ("question-answering", {}, {"data": QUESTIONS}, AutoModelForQuestionAnswering),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_any_task_is_compressed_and_opens_as_that_task(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(finalists, "FINALISTS", 1)
    head, said, given, opened = KINDS[kind]
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "initializer_range": 0.05}
    torch.manual_seed(0)
    model = HEADS[head].from_config(tiny.config(**sizes, **said)).eval()
    teacher = save(model, tiny.tokenizer(), tmp_path / "teacher", lineage={})
    options = {"to": "1.5x smaller", "time": 0, "precision": "fp32", "formats": ["fp32"], "max_length": 24}
    report = compress(teacher, out=tmp_path / "small", length="auto", **given, **options)
    whole, small = (opened.from_pretrained(place).eval() for place in (teacher, tmp_path / "small"))
    assert small.num_parameters() <= whole.num_parameters() / 1.5
    assert report.settings["fits"]
    assert {point.name.split(" (")[0].split()[0] for point in report.frontier.points} >= {"pruned", "1"}
    assert 0 < report.student.metrics["agreement"] <= 1
    inputs = AutoTokenizer.from_pretrained(tmp_path / "small")(TEXTS[:2], padding=True, return_tensors="pt")
    with torch.no_grad():
        out = small(**inputs)
    ours = torch.stack(out[:2], -1) if kind == "answers" else out.logits
    graph = torch.as_tensor(OnnxModel(tmp_path / "small" / "onnx")(inputs))
    real = inputs["attention_mask"].bool() if graph.ndim == 3 else slice(None)
    assert (graph - ours)[real].abs().max() < 1e-3
