"""Laws of the costs of a form: what is counted without a model is what the cut model has."""

import random

import pytest
import torch
import transformers
from transformers import BertConfig, BertModel

import tiny
from attar.anatomy.families import FAMILIES
from attar.anatomy.form import Form, LayerForm, form_of
from attar.measure.bench import flops, flops_by_module, parameters
from attar.prune.apply import apply
from attar.prune.cost import Operations, Parameters
from attar.prune.units import Kept, KeptLayer, everything

HEADS = [
    "Model",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMaskedLM",
    "ForPreTraining",
]


def of_head(family, head, **changes):
    kind = getattr(transformers, type(tiny.config(family)).__name__.removesuffix("Config") + head, None)
    return kind and kind(tiny.config(family, **changes)).eval()


def some(count, rng):
    return tuple(sorted(rng.sample(range(count), rng.randint(1, count))))


def some_kept(model, seed):
    """Units of all axes at random, those that the family can be without."""
    rng, form, anatomy = random.Random(seed), form_of(model.config), FAMILIES[model.config.model_type]
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


@pytest.mark.parametrize("family", tiny.CONFIGS)
def test_parameters_and_operations_are_those_of_the_cut_model(family):
    for head in HEADS:
        model = of_head(family, head)
        if model is None:
            continue
        count, operations = Parameters(model), Operations(model, length=9)
        whole = form_of(model.config)
        assert count(whole) == parameters(model)
        assert count.weight_bytes(whole) == 4 * parameters(model)
        assert operations(whole) == flops(model, 1, 9)
        for seed in range(4):
            kept = some_kept(model, seed)
            small = apply(model, kept)
            assert count(kept.form) == parameters(small), (head, seed)
            assert operations(kept.form) == flops(small, 1, 9), (head, seed)


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
