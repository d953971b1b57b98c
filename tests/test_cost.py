"""Laws of the costs of a form: what is counted without a model is what the cut model has."""

import random
from dataclasses import replace
from itertools import product

import pytest
import torch
import transformers
from transformers import BertConfig, BertModel

import tiny
from attar.anatomy.families import ENCODERS
from attar.anatomy.form import Form, LayerForm, form_of
from attar.errors import PlanError
from attar.evaluation.counting import flops, flops_by_module, parameters
from attar.pruning import latency, layer_timing
from attar.pruning.apply import apply
from attar.pruning.cost import Operations, Parameters, cost_model
from attar.pruning.latency import Grid, Latency
from attar.pruning.units import Kept, KeptLayer, everything

HEADS = [
    "Model",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMaskedLM",
    "ForPreTraining",
]

KINDS = ["full_attention", "sliding_attention", "sliding_attention"]


def of_head(family, head, **changes):
    kind = getattr(transformers, type(tiny.config(family)).__name__.removesuffix("Config") + head, None)
    return kind and kind(tiny.config(family, **changes)).eval()


def some(count, rng):
    return tuple(sorted(rng.sample(range(count), rng.randint(1, count))))


def some_kept(model, seed):
    """Units of all axes at random, those that the family can be without."""
    rng, form, anatomy = random.Random(seed), form_of(model.config), ENCODERS[model.config.model_type]
    full = everything(form)
    hidden = some(form.hidden, rng)
    embedding = some(form.embedding, rng) if anatomy.sizes.embedding else hidden
    if len(hidden) == len(embedding) and anatomy.name == "electra":
        hidden = hidden[1:] or (0, 1)
    stay = some(len(form.layers), rng)
    if anatomy.shared:
        stay = range(len(form.layers))
    elif anatomy.pre_norm:
        stay = sorted({0, *stay})
    layers: list[KeptLayer] = []
    for i in stay:
        old = full.layers[i]
        key = old.key if any(axis == "key" for axis, _ in anatomy.uncut) else some(len(old.key), rng)
        own = KeptLayer(i, some(len(old.heads), rng), key, some(len(old.value), rng), some(len(old.ffn), rng))
        if anatomy.shared and layers:
            own = KeptLayer(i, layers[0].heads, layers[0].key, layers[0].value, layers[0].ffn)
        layers.append(own)
    return Kept(hidden, embedding, some(form.vocab, rng), tuple(layers))


@pytest.mark.parametrize("family", ["bert", "electra", "albert", "modernbert"])
def test_parameters_and_operations_are_those_of_the_cut_model(family):
    for seed, head in enumerate(HEADS):
        model = of_head(family, head)
        if model is None:
            continue
        count, operations = Parameters(model), Operations(model, length=9)
        whole = form_of(model.config)
        assert count(whole) == parameters(model)
        assert count.weight_bytes(whole) == 4 * parameters(model)
        assert operations(whole) == flops(model, 1, 9)
        kept = some_kept(model, seed)
        small = apply(model, kept)
        assert count(kept.form) == parameters(small), head
        assert operations(kept.form) == flops(small, 1, 9), head


def test_layers_go_in_every_family():
    """And of ModernBERT's the kind of those that stay goes with them."""
    for family in tiny.CONFIGS:
        model = tiny.model(
            family, **({"layer_types": KINDS, "num_hidden_layers": 3} if family == "modernbert" else {})
        )
        whole = everything(form_of(model.config))
        stay = whole.layers if family == "albert" else (whole.layers[0], whole.layers[-1])
        small = apply(model, replace(whole, layers=stay))
        form = form_of(small.config)
        assert len(form.layers) == 2
        assert Parameters(model)(form) == parameters(small)
        if family == "modernbert":
            assert small.config.layer_types == [KINDS[0], KINDS[2]]


def test_a_cut_model_counts_as_any_other():
    small = apply(model := tiny.model("bert"), some_kept(model, 1))
    form = form_of(small.config)
    assert Parameters(small)(form) == parameters(small)
    assert Operations(small, 7)(form) == flops(small, 1, 7)


def test_weights_that_are_not_tied_count_twice():
    tied, apart = (of_head("bert", "ForMaskedLM", tie_word_embeddings=tie) for tie in (True, False))
    form = form_of(tied.config)
    assert Parameters(apart)(form) - Parameters(tied)(form) == parameters(apart) - parameters(tied) > 0


def test_parameters_of_bert_base_are_those_that_the_paper_counts():
    """schuBERT: 108M without the pooler, 99M with the feed-forward layers, heads and values that it found."""
    with torch.device("meta"):
        count = Parameters(BertModel(BertConfig(), add_pooling_layer=False))
    whole = Form(768, 768, 30522, (LayerForm(12, 64, 64, 3072),) * 12)
    assert count(whole) == 108_891_648
    ffn = (2022, 2222, 2344, 2478, 2576, 2530, 2638, 2660, 2748, 2792, 2852, 2974)
    value = (54, 54, 46, 58, 52, 60, 64, 64, 64, 64, 64, 62)
    layers = [LayerForm(12 - (i == 4), 64, v, f) for i, (v, f) in enumerate(zip(value, ffn, strict=True))]
    assert count(Form(768, 768, 30522, tuple(layers))) == pytest.approx(99e6, rel=0.01)


def test_modules_add_up():
    found = flops_by_module(model := tiny.model("bert"), 2, 5)
    assert found[""] == flops(model, 2, 5)
    assert found["bert"] + found["classifier"] == found[""]


@pytest.fixture(scope="module", params=["bert", "electra", "albert", "modernbert"])
def measured(request):
    # As few sizes as there can be several of each: every one is a model that is made and timed.
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    factorised = {"embedding_size": 4} if request.param in {"electra", "albert"} else {}
    model = tiny.model(request.param, **sizes, **factorised)
    return model, Latency.measure(model, length=9, threads=1, seconds=0)


def points(grid):
    return dict(zip(product(*grid.sizes), grid.seconds, strict=True))


def test_a_form_at_measured_sizes_takes_the_sum_of_what_was_measured(measured):
    model, table = measured
    attention, ffn, outside = points(table.attention), points(table.ffn), points(table.outside)
    form = form_of(model.config)
    width = len(table.outside.sizes[1])
    for h, heads, size in attention:
        small, large = (LayerForm(heads, size, size, f) for f in (table.ffn.sizes[1][0], form.layers[0].ffn))
        made = Form(h, form.embedding, form.vocab, (small, large, large))
        around = outside[h, form.embedding if width > 1 else table.outside.sizes[1][0], form.vocab]
        layers = 3 * attention[h, heads, size] + ffn[h, small.ffn] + 2 * ffn[h, large.ffn]
        assert table(made) == pytest.approx(table.scale * layers + table.each * len(made.layers) + around)
    assert all(seconds > 0 for seconds in attention.values())


def test_the_whole_model_takes_what_it_took(measured):
    model, table = measured
    assert table.scale > 0
    assert table(form_of(model.config)) > 0


def test_no_times_however_disturbed_make_a_negative_scale():
    """Larger layers may seem to take less time than smaller ones, and the whole model less than one layer."""
    own = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8, "embedding_size": 4}
    sizes = layer_timing._sizes(tiny.model("electra", **own))
    asked = [
        ("whole",),
        ("half",),
        *(("attention", *point) for point in sizes.attention()),
        *(("ffn", *point) for point in product(sizes.hidden, sizes.ffn)),
        *(("uneven", heads) for heads in sizes.heads),
        *(("outside", *point) for point in sizes.outside()),
    ]
    for seed in range(200):
        drawn = random.Random(seed)
        table = latency._table(sizes, {name: 10 ** drawn.uniform(-5, -3) for name in asked}, {})
        assert table.scale > 0
        assert table(sizes.form) > 0
        assert table(sizes.half()) > 0


def test_a_table_comes_back_from_its_file(measured, tmp_path):
    model, table = measured
    path = table.write(tmp_path / "somewhere" / "table.json")
    again = Latency.read(path, model, length=9, threads=1)
    form = some_kept(model, 3).form
    assert again(form) == table(form)
    assert again == table
    assert again.digest == table.digest
    assert cost_model("latency", model, length=9, threads=1, table=path)(form) == table(form)
    assert cost_model("latency", model, length=9, threads=1, table=table) is table


def test_a_table_of_another_call_model_or_machine_is_refused(measured, tmp_path):
    model, table = measured
    path = table.write(tmp_path / "table.json")
    with pytest.raises(PlanError, match="length 10"):
        Latency.read(path, model, length=10, threads=1)
    with pytest.raises(PlanError, match="threads 2"):
        cost_model("latency", model, length=9, threads=2, table=table)
    with pytest.raises(PlanError, match="sizes"):
        Latency.read(path, apply(model, some_kept(model, 1)), length=9, threads=1)
    with pytest.raises(PlanError, match="model"):
        Latency.read(path, model.base_model, length=9, threads=1)
    replace(table, about={**table.about, "processor": "another"}).write(path)
    with pytest.raises(PlanError, match="processor"):
        Latency.read(path, model, length=9, threads=1)
    path.write_text("{}")
    with pytest.raises(PlanError, match=r"table\.json"):
        Latency.read(path, model, length=9, threads=1)
    with pytest.raises(PlanError, match="no such file"):
        Latency.read(tmp_path / "none.json", model, length=9, threads=1)


def by_hand(**changes):
    grids = {
        "attention": Grid(((8, 16), (1, 2), (4, 8)), tuple(map(float, range(1, 9)))),
        "ffn": Grid(((8, 16), (10, 20)), (0.0, 1.0, 0.0, 3.0)),
        "uneven": Grid(((1, 2),), (0.5, 1.5)),
        "outside": Grid(((8, 16), (8,), (5, 10)), (1.0, 1.0, 2.0, 2.0)),
    }
    return Latency(about={}, scale=2.0, probes={}, **{**grids, **changes})


def test_between_measured_sizes_a_table_is_linear():
    table = by_hand()
    even = LayerForm(1, 4, 4, 10)
    assert table(Form(8, 8, 5, (even,))) == 2 * 1 + 1
    assert table(Form(12, 12, 7, (even,))) == 2 * 3 + 1.5
    assert table(Form(8, 8, 5, (LayerForm(1, 4, 4, 15),))) == 2 * 1.5 + 1
    assert table(Form(8, 8, 5, (LayerForm(2, 4, 8, 10),))) == 2 * (3.5 + 1.5) + 1  # uneven


@pytest.mark.parametrize(
    ("slow", "step"),
    [(lambda n: False, 1), (lambda n: n % 8, 8), (lambda n: n % 16, 16), (lambda n: n % 32, 32)],
)
def test_the_step_is_where_sizes_are_no_slower_than_larger_ones(slow, step):
    seconds = {n: n * (1.5 if slow(n) else 1.0) for n in (512, 513, 517, 520, 523, 528, 536, 543, 544)}
    table = by_hand()
    assert replace(table, probes={"ffn": seconds}).step("ffn") == step
    assert table.step("heads") == 1


def test_costs_by_name():
    model = tiny.model("bert")
    form = form_of(model.config)
    assert cost_model("params", model)(form) == parameters(model)
    assert cost_model("flops", model, length=6)(form) == flops(model, 1, 6)
