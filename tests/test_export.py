"""Laws of exported models: torch's logits at any shape, measured losses, nothing left behind after an error."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import attar
import tiny
from attar.errors import DataError, ExportError, MissingExtraError, ModelError, OutputError
from attar.exporting import export
from attar.model import onnx as onnx_room
from attar.model.checkpoint import save
from attar.model.onnx import OnnxModel, is_onnx

# Tracing takes seconds a layer. BERT is the last, since an int8 export after it goes on from the same graph.
DEPTH = {"electra": {"num_hidden_layers": 1}, "bert": {}}
FAMILIES = tuple(DEPTH)
SHAPES = [(1, 1), (1, 13), (5, 8), (2, 64), (33, 31)]


def model(family):
    return tiny.model(family, **DEPTH[family])


def batch(family, size, length, seed=0):
    """Random tokens, every row but the first padded to a length of its own."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, tiny.VOCAB, (size, length), generator=generator)
    lengths = torch.randint(1, length + 1, (size,), generator=generator)
    lengths[0] = length
    mask = (torch.arange(length) < lengths[:, None]).long()
    inputs = {"input_ids": ids * mask, "attention_mask": mask}
    if family in tiny.TYPED:
        inputs["token_type_ids"] = torch.randint(0, 2, (size, length), generator=generator) * mask
    return inputs


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An fp32 export of each family."""
    place = tmp_path_factory.mktemp("fp32")
    return {
        family: export(
            model(family), place / family, tokenizer=tiny.tokenizer(family), data=tiny.table(), max_length=64
        )
        for family in FAMILIES
    }, place


@pytest.fixture(scope="module")
def int8(tmp_path_factory, exported):
    """An int8 export of BERT, with its record."""
    place = tmp_path_factory.mktemp("int8") / "bert"
    options = {"precision": "int8", "data": tiny.table(64), "max_length": 64, "max_drop": 0.2}
    return export(tiny.model("bert"), place, tokenizer=tiny.tokenizer(), **options), place


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("size", "length"), SHAPES)
def test_logits_are_those_of_torch_at_every_shape(exported, family, size, length):
    onnx, inputs = OnnxModel(exported[1] / family, threads=1), batch(family, size, length)
    with torch.inference_mode():
        expected = model(family)(**inputs).logits.numpy()
    found = onnx(inputs)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_record_says_what_was_compared(exported, family):
    records, place = exported
    written = json.loads((place / family / "export.json").read_text())
    assert written["precision"] == "fp32"
    assert written["rows"] == 40
    assert written["difference"] == records[family].difference < 1e-4
    assert written["parameters"] == model(family).num_parameters()
    assert written["onnx"] == written["torch"]
    assert written["bytes"] == (place / family / "model.onnx").stat().st_size


def test_each_layer_is_one_fused_attention_and_no_slow_norm(exported):
    import onnx

    kinds = [node.op_type for node in onnx.load(exported[1] / "electra" / "model.onnx").graph.node]
    assert kinds.count("Attention") == 1
    assert "SkipLayerNormalization" not in kinds
    assert "Where" not in kinds  # the mask goes into the attention as it is
    assert b".py" not in (exported[1] / "electra" / "model.onnx").read_bytes()  # nor where it was traced


def test_weights_that_layers_share_are_in_the_file_once(tmp_path):
    """Of matrices of more than 8192 numbers: smaller ones are folded one by one when the graph is made."""
    model = tiny.model("albert", hidden_size=96, intermediate_size=104, num_hidden_layers=3)
    record = export(model, tmp_path / "albert", tokenizer=tiny.tokenizer("albert"))
    assert record.bytes < 4 * record.parameters + 40_000 < 8 * record.parameters


def test_a_stranger_needs_onnxruntime_and_tokenizers_only(exported):
    script = """
import sys, numpy, onnxruntime, tokenizers
place = sys.argv[1]
tokenizer = tokenizers.Tokenizer.from_file(place + "/tokenizer.json")
session = onnxruntime.InferenceSession(place + "/model.onnx")
said = tokenizer.encode("the film was good")
feed = {"input_ids": said.ids, "attention_mask": said.attention_mask, "token_type_ids": said.type_ids}
print(*session.run(None, {name: numpy.array([values]) for name, values in feed.items()})[0][0])
assert not {"torch", "transformers", "attar"} & set(sys.modules)
"""
    command = [sys.executable, "-c", script, str(exported[1] / "bert")]
    done = subprocess.run(command, capture_output=True, text=True, env=tiny.surroundings(), check=True)
    with torch.inference_mode():
        expected = tiny.model("bert")(**tiny.tokenizer()("the film was good", return_tensors="pt")).logits[0]
    np.testing.assert_allclose([float(word) for word in done.stdout.split()], expected, atol=1e-4)


def test_int8_is_smaller_and_near_and_says_how_near(int8, exported):
    record, place = int8
    assert record.bytes < exported[0]["bert"].bytes
    assert 0 < record.difference < 0.5
    assert record.metric == "accuracy"
    assert record.drop == pytest.approx(record.torch - record.onnx)
    inputs = batch("bert", 4, 9)
    with torch.inference_mode():
        expected = tiny.model("bert")(**inputs).logits.numpy()
    assert np.abs(OnnxModel(place)(inputs) - expected).max() < 0.5


def test_int8_multiplies_in_int8(int8):
    import onnx

    kinds = [node.op_type for node in onnx.load(int8[1] / "model.onnx").graph.node]
    assert kinds.count("QAttention") == 2
    assert (
        kinds.count("MatMulInteger") == 6
    )  # of two layers: attention output, the two of the feed-forward part


def test_too_large_a_drop_names_the_layers_to_keep_and_leaves_nothing(tmp_path, exported):
    data = [{"text": text} for text in tiny.texts(24)]  # no labels: agreement with torch is what may not drop
    with pytest.raises(ExportError) as caught:
        export(
            model("bert"),
            tmp_path / "out",
            tokenizer=tiny.tokenizer(),
            precision="int8-static",
            data=data,
            max_length=64,
            max_drop=-0.5,  # not even no drop at all is good enough
        )
    assert "keep_fp32=(" in caught.value.fix
    assert "--keep-fp32" in caught.value.fix
    assert "bert.encoder.layer." in caught.value.fix
    assert "agreement" in caught.value.expected
    assert list(tmp_path.iterdir()) == []


def test_scales_are_fixed_beforehand_of_a_family_whose_attention_is_not_fused(tmp_path):
    import onnx

    options = {"tokenizer": tiny.tokenizer("modernbert"), "data": tiny.table(24), "max_length": 32}
    record = export(
        tiny.model("modernbert"), tmp_path / "out", precision="int8-static", max_drop=1.0, **options
    )
    assert 0 < record.difference < 0.5
    graph = onnx.load(tmp_path / "out" / "model.onnx").graph
    dtypes = {value.data_type for value in graph.initializer if len(value.dims) == 2}
    assert onnx.TensorProto.INT8 in dtypes


def test_int8_without_data_is_an_error(tmp_path):
    with pytest.raises(DataError, match="measure"):
        export(tiny.model("bert"), tmp_path / "out", tokenizer=tiny.tokenizer(), precision="int8")
    assert list(tmp_path.iterdir()) == []


def test_a_taken_directory_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError):
        export(tiny.model("bert"), tmp_path, tokenizer=tiny.tokenizer())
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_a_missing_package_prints_its_pip_line():
    with pytest.raises(MissingExtraError, match=r'pip install "attar\[onnx\]"'):
        onnx_room.require("numpy", "no_such_package")


def test_a_damaged_or_missing_file_is_an_error(tmp_path):
    with pytest.raises(ModelError, match="attar export"):
        OnnxModel(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07cut short")
    assert is_onnx(tmp_path)
    with pytest.raises(ModelError, match="export it again"):
        OnnxModel(tmp_path)


def test_an_input_that_is_not_given_is_an_error_and_token_types_default_to_zero(exported):
    model = OnnxModel(exported[1] / "bert")
    inputs = batch("bert", 2, 6)
    inputs["token_type_ids"] *= 0
    np.testing.assert_array_equal(
        model(inputs), model({name: inputs[name] for name in ("input_ids", "attention_mask")})
    )
    with pytest.raises(ModelError, match="attention_mask"):
        model({"input_ids": inputs["input_ids"]})


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_a_language_model_says_in_onnx_what_it_says_in_torch(tmp_path, family):
    causal = family == "gpt2"
    model = tiny.model(family, "causal-lm" if causal else "masked-lm", num_hidden_layers=1)
    ours = tiny.decoder_tokenizer() if causal else tiny.tokenizer()
    texts = tiny.texts(12)
    found = export(model, tmp_path / "fp32", tokenizer=ours, data=texts, max_length=16)
    assert found.difference < 1e-4
    assert found.onnx == found.torch
    assert found.metric == ("token_accuracy" if causal else "masked_accuracy")
    encoded = ours(texts[:3], padding=True, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        expected = model(**encoded).logits
    seen = encoded["attention_mask"].bool()
    opened = OnnxModel(tmp_path / "fp32")
    assert opened.outputs == ("logits",)
    said = torch.from_numpy(opened(encoded))
    torch.testing.assert_close(said[seen], expected[seen], rtol=1e-4, atol=1e-4)
    save(model, ours, tmp_path / "torch", lineage={})
    # Windows of 6 tokens: documents are of several, and rows of a batch of unequal length.
    pair = attar.compare([tmp_path / "torch", tmp_path / "fp32" / "model.onnx"], texts, max_length=6)
    theirs, there = (row.metrics for row in pair.rows)
    assert there == pytest.approx(theirs, rel=1e-4)
    assert pair.rows[1].runtime == "ONNX Runtime fp32"
    assert all(row.p50 and row.bytes for row in pair.rows)
    assert len(pair.notes) == causal
    alone = attar.evaluate(tmp_path / "fp32", texts, teacher=tmp_path / "torch", max_length=6)
    assert alone.rows[1].metrics == there
    if causal:  # tracing takes seconds, and int8 of encoders is tested above
        small = {"precision": "int8", "max_drop": 1.0, "tokenizer": ours, "data": texts, "max_length": 16}
        assert export(model, tmp_path / "int8", **small).bytes < found.bytes
