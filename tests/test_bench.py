"""Laws of the costs: counted as on paper, whatever the machine; no figure here depends on how fast it is."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import tiny
from attar.errors import ModelError
from attar.evaluation.benchmark import bench
from attar.evaluation.counting import flops, parameters
from attar.evaluation.memory import peak
from attar.evaluation.timing import interleaved, median_interval


def on_paper(config, size, length):
    h, f, layers, labels = (
        config.hidden_size,
        config.intermediate_size,
        config.num_hidden_layers,
        config.num_labels,
    )
    layer = length * (8 * h * h + 4 * h * f) + 4 * length**2 * h
    return size * (layers * layer + 2 * h * h + 2 * h * labels)  # the pooler and the head see one token


@pytest.mark.parametrize(("size", "length"), [(1, 1), (1, 64), (3, 17)])
def test_operations_are_those_on_paper(size, length):
    model = tiny.model("bert")
    assert flops(model, size, length) == on_paper(model.config, size, length)


def test_operations_of_a_decoder_are_those_on_paper():
    model = tiny.model("gpt2", "causal-lm")
    c, length = model.config, 9
    layer = length * (8 * c.n_embd**2 + 4 * c.n_embd * c.n_inner) + 4 * length**2 * c.n_embd
    assert flops(model, 2, length) == 2 * (c.n_layer * layer + 2 * length * c.n_embd * c.vocab_size)
    assert flops(model.base_model, 2, length) == 2 * c.n_layer * layer


def test_a_language_model_is_timed_from_its_directory(tmp_path):
    place = tiny.saved(tmp_path / "model", head="masked-lm")
    (row,) = bench({"m": place}, lengths=(8,), repeats=1, threads=1)
    assert row.flops == flops(tiny.model(head="masked-lm"), 1, 8)
    assert row.flops > flops(tiny.model(), 1, 8)


def test_operations_do_not_depend_on_the_attention_in_use():
    model = tiny.model("bert")
    model.set_attn_implementation("eager")
    eager = flops(model, 2, 9)
    model.set_attn_implementation("sdpa")
    assert flops(model, 2, 9) == eager
    assert model.config._attn_implementation == "sdpa"


def test_tied_weights_count_once():
    model = tiny.model("bert", head="masked-lm")
    table = model.get_input_embeddings().weight
    assert model.get_output_embeddings().weight is table
    apart = {name: w.numel() for name, w in model.named_parameters(remove_duplicate=False)}
    tied = apart["cls.predictions.decoder.weight"] + apart["cls.predictions.decoder.bias"]
    assert parameters(model) == sum(apart.values()) - tied


def test_linear_layers_have_weights_and_biases():
    assert parameters(nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2, bias=False))) == 3 * 5 + 5 + 5 * 2


def test_models_take_turns_and_the_first_changes_each_round():
    said = []
    seconds = interleaved({name: lambda name=name: said.append(name) for name in "abc"}, repeats=3)
    rounds = said[9:]  # after three warm-up calls each
    assert "".join(rounds) == "aabbcc" + "bbccaa" + "ccaabb"  # each call is made twice, the second is timed
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_rows_hold_every_shape_and_model():
    models = {"wide": tiny.model("bert"), "narrow": tiny.model("bert", hidden_size=12)}
    rows = bench(models, batch_sizes=(1, 2), lengths=(8, 16), repeats=5, threads=1)
    assert [(row.name, row.batch_size, row.length) for row in rows] == [
        (name, size, length) for size in (1, 2) for length in (8, 16) for name in models
    ]
    for row in rows:
        assert row.parameters == parameters(models[row.name])
        assert row.bytes == 4 * row.parameters
        assert row.flops == flops(models[row.name], row.batch_size, row.length)
        assert 0 < row.p50 <= row.p90
        assert row.throughput == pytest.approx(row.batch_size / row.p50)
        assert row.speedup.low <= row.speedup.value <= row.speedup.high
        assert row.memory is None
        if row.name == "wide":
            assert (row.speedup.value, row.speedup.low, row.speedup.high) == (1, 1, 1)


def test_threads_are_put_back():
    before = torch.get_num_threads()
    bench({"m": tiny.model("bert")}, lengths=(4,), repeats=1, threads=before + 1)
    assert torch.get_num_threads() == before


def test_peak_memory_is_that_of_a_process_of_its_own(tmp_path):
    place = tiny.saved(tmp_path / "model")
    (row,) = bench({"m": place}, lengths=(8,), repeats=2, threads=1, clock="cpu", memory=True)
    assert row.memory is not None
    assert row.memory > 0
    assert row.bytes == (place / "model.safetensors").stat().st_size


def test_peak_memory_of_an_encoder_alone_is_that_of_an_embedding_model(tmp_path):
    place = tiny.saved(tmp_path / "model", head="base")
    shape = {"batch_size": 1, "length": 8, "threads": 1}
    assert peak(place, **shape, pooling="mean") > 0
    with pytest.raises(ModelError):  # of the process that opens it, which is told of the pooling
        peak(place, **shape, pooling="sum")


def test_what_cannot_be_timed_is_an_error(tmp_path):
    model = tiny.model("bert")
    with pytest.raises(ModelError, match="reference"):
        bench({"m": model}, reference="n")
    with pytest.raises(ModelError, match="threads=1"):
        bench({"m": model}, threads=2, clock="cpu")
    (tmp_path / "config.json").write_text(json.dumps({}))
    with pytest.raises(ModelError):
        bench({"m": tmp_path}, threads=1)


@pytest.mark.parametrize("count", [1, 2, 5, 50, 401])
def test_the_interval_holds_the_median(count):
    found = median_interval(np.random.default_rng(count).normal(size=count))
    assert found.low <= found.value <= found.high


def test_the_interval_covers_the_true_median_as_often_as_it_says():
    rng = np.random.default_rng(0)
    intervals = [median_interval(rng.exponential(size=50)) for _ in range(2000)]
    held = np.mean([found.low <= np.log(2) <= found.high for found in intervals])
    assert 0.94 <= held <= 0.985
