"""Several models side by side: each with its own tokenizer and runtime, the first the measure of the others."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from datasets import Dataset
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

import attar
import tiny
from attar.errors import DataError, ModelError
from attar.evaluation.comparison import compare, measure
from attar.evaluation.machine import machine
from attar.evaluation.opening import Opened, open_model

WORDS = [f"w{i}" for i in range(30)]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    vocab = {word: i for i, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    inner = Tokenizer(WordLevel(vocab, unk_token="[UNK]"))
    inner.pre_tokenizer = Whitespace()
    names = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", model_input_names=names
    )


def _model(
    seed: int, layers: int, labels: tuple[str, ...] = ("bad", "good")
) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "intermediate_size": 24,
    }
    config = BertConfig(
        vocab_size=40,
        id2label=dict(enumerate(labels)),
        label2id={n: i for i, n in enumerate(labels)},
        **sizes,
    )
    return BertForSequenceClassification(config).eval()


@pytest.fixture(scope="module")
def table() -> Dataset:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(1, 12))) for _ in range(40)]
    return Dataset.from_dict({"text": texts, "label": [0, 1] * 20})


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> dict[str, Path]:
    """A teacher, a student, and an export whose logits are a table entry of the first token."""
    root = tmp_path_factory.mktemp("models")
    for name, layers in (("teacher", 3), ("student", 1)):
        _model(layers, layers).save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    weights = np.random.default_rng(1).normal(size=(40, 2)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["input_ids", "zero"], ["first"], axis=1),
            helper.make_node("Gather", ["weights", "first"], ["logits"], axis=0),
        ],
        "first token",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["B", "T"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", 2])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(np.array(0), "zero")],
    )
    export = root / "export"
    _model(0, 1).config.save_pretrained(export)
    tokenizer.save_pretrained(export)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, str(export / "model.onnx"))
    (export / "export.json").write_text(json.dumps({"precision": "int8", "parameters": 80}), encoding="utf-8")
    return {path.name: path for path in root.iterdir()}


def test_compare_measures_and_times_every_runtime(places: dict[str, Path], table: Dataset) -> None:
    opened = [open_model(places[name]) for name in ("teacher", "student", "export")]
    assert [model.runtime for model in opened] == ["torch fp32", "torch fp32", "ONNX Runtime int8"]
    roles = ("teacher", "student", "student")
    report = compare(
        list(zip(roles, opened, strict=True)), table, latency_length=8, repeats=3, threads=1, resamples=50
    )
    assert report.main == "accuracy"
    teacher, student, export = report.rows
    assert teacher.retained is None
    assert teacher.metrics["agreement"] == 1
    assert student.retained is not None
    assert student.retained.value == pytest.approx(student.metrics["accuracy"] / teacher.metrics["accuracy"])
    assert export.parameters == 80
    assert export.bytes == (places["export"] / "model.onnx").stat().st_size
    assert student.bytes == (places["student"] / "model.safetensors").stat().st_size
    for row in report.rows:
        assert row.p50 is not None
        assert row.p90 is not None
        assert row.p90 >= row.p50 > 0
    assert report.speedup(teacher) == 1
    assert report.settings["latency"] == "batch 1, 8 tokens"
    assert len(report.examples) == 6
    assert {said.name for said in report.examples[0].says} == {"teacher", "student", "export"}


def test_export_answers_with_its_own_logits(places: dict[str, Path], table: Dataset) -> None:
    opened = open_model(places["export"])
    _, said = measure([("teacher", opened)], table, resamples=10)
    weights = np.random.default_rng(1).normal(size=(40, 2)).astype(np.float32)
    firsts = [opened.tokenizer.convert_tokens_to_ids(text.split()[0]) for text in table["text"]]
    np.testing.assert_allclose(said["export"][1].logits, weights[firsts], rtol=1e-6)


def test_a_model_beside_itself_retains_all(places: dict[str, Path], table: Dataset) -> None:
    one, two = open_model(places["teacher"]), open_model(places["teacher"], name="again")
    for rows in (table, table.remove_columns("label")):
        (_, again), said = measure([("teacher", one), ("student", two)], rows, resamples=20)
        assert again.retained is not None
        assert again.retained.value == 1
        assert again.retained.low < 1 <= again.retained.high
        assert list(said) == ["teacher", "again"]


def test_models_of_other_labels_are_refused(
    places: dict[str, Path], table: Dataset, tokenizer: PreTrainedTokenizerFast
) -> None:
    one = open_model(places["teacher"])
    other = open_model(_model(0, 1, ("good", "bad")), name="turned", tokenizer=tokenizer)
    assert isinstance(other, Opened)
    assert other.directory is None
    with pytest.raises(DataError, match="good, bad"):
        measure([("teacher", one), ("student", other)], table)


def test_export_without_its_config_says_so(places: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes((places["export"] / "model.onnx").read_bytes())
    with pytest.raises(ModelError, match="beside"):
        open_model(tmp_path)


def test_machine_tells_what_but_not_whose() -> None:
    assert set(machine()) == {"processor", "cores", "system", "python"}


def test_a_language_model_is_not_compared_with_a_classifier(tmp_path):
    places = [tiny.saved(tmp_path / "one"), tiny.saved(tmp_path / "two", head="masked-lm")]
    with pytest.raises(ModelError, match=r"(?s)found language models and others: one, two.*apart"):
        attar.compare(places, tiny.table(8))
