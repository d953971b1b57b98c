"""The law of cutting: what was switched off in the whole model is what is gone from the small one."""

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import slims
import tiny
from attar.anatomy.families import ENCODERS
from attar.anatomy.form import form_of
from attar.errors import PlanError
from attar.evaluation.benchmark import bench
from attar.evaluation.counting import flops
from attar.model import modeling_slim
from attar.model.slim import is_slim
from attar.model.views import Need, call
from attar.pruning.apply import apply, masked
from attar.pruning.units import Kept, KeptLayer, everything

few = settings(max_examples=3, deadline=None)


@torch.no_grad()
def outputs(model, given):
    """All tensors that a model gives at real tokens, by name."""
    found, mask = model(**given), given["attention_mask"].bool()
    return {
        name: value[mask] if value.shape[:2] == mask.shape and name != "pooler_output" else value
        for name, value in found.items()
        if isinstance(value, torch.Tensor)
    }


def close(ours, theirs, kept):
    """Whether two models say the same; hidden vectors of the masked one have zeros where units are gone."""
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        whole = theirs[name]
        if name in {"last_hidden_state", "pooler_output"}:
            whole = whole[..., list(kept.hidden)]
        torch.testing.assert_close(value, whole, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("family", "head"), slims.ALL)
@few
@given(data=st.data())
def test_masked_is_cut_and_the_source_stays_as_it_was(family, head, data):
    model = slims.model(family, head)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    written, inputs = model.config.to_dict(), slims.inputs(model, family)
    kept = data.draw(slims.kepts(model.config))
    small = apply(model, kept)
    # In double precision: norms over two or three dimensions that nearly agree enlarge rounding a thousandfold.
    with masked(model.double(), kept):
        switched_off = outputs(model, inputs)
    close(outputs(small.double(), inputs), switched_off, kept)
    model.float()
    assert form_of(small.config) == kept.form
    stock = kept.form.stock(ENCODERS[family])
    assert type(small) is (type(model) if stock else getattr(modeling_slim, f"Slim{type(model).__name__}"))
    assert model.config.to_dict() == written
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("family", ENCODERS)
@few
@given(data=st.data())
def test_a_cut_of_a_cut_is_one_cut(family, data):
    model = slims.model(family, "ForMaskedLM")
    first = data.draw(slims.kepts(model.config))
    between = apply(model, first)
    second = data.draw(slims.kepts(between.config))
    twice, once = apply(between, second), apply(model, second.after(first))
    inputs = slims.inputs(model, family)
    close(outputs(twice, inputs), outputs(once, inputs), second)
    assert form_of(twice.config) == form_of(once.config)
    assert type(twice) is type(once)


@pytest.mark.parametrize("family", ENCODERS)
def test_all_that_stays_is_the_model_itself(family):
    model = slims.model(family)
    same = apply(model, everything(form_of(model.config)))
    assert type(same) is type(model)
    assert tiny.identical(model, same)


@pytest.mark.parametrize("family", ENCODERS)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_kept_tokens_have_the_logits_they_had(family, tied):
    model = slims.model(family, "ForMaskedLM", tie_word_embeddings=tied)
    whole = everything(form_of(model.config))
    # Special tokens keep their numbers, of which the config knows some.
    vocab = (*range(len(tiny.SPECIAL)), *range(len(tiny.SPECIAL), tiny.VOCAB, 3))
    small = apply(model, Kept(whole.hidden, whole.embedding, vocab, whole.layers))
    assert type(small) is type(model)
    tables = [m.get_input_embeddings().weight is m.get_output_embeddings().weight for m in (small, model)]
    assert tables == [tied, tied]
    new = torch.randint(5, len(vocab), (3, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = small(input_ids=new).logits, model(input_ids=torch.tensor(vocab)[new]).logits
    torch.testing.assert_close(ours, theirs[..., list(vocab)], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ENCODERS)
def test_a_view_of_a_slim_model_is_the_masked_models(family):
    model = slims.model(family)
    kept = slims.uneven(form_of(model.config), ENCODERS[family])
    small = apply(model, kept)
    layers = frozenset({1, 2})
    need = Need(hidden=frozenset({0, 1, 2}), scores=layers, relations=layers)
    inputs = slims.texts(family)
    with torch.no_grad(), masked(model, kept):
        theirs = call(model, inputs, need)
    with torch.no_grad():
        ours = call(small, inputs, need)
    close({"logits": ours.logits}, {"logits": theirs.logits}, kept)
    for layer, hidden in ours.hidden.items():
        torch.testing.assert_close(hidden, theirs.hidden[layer][:, list(kept.hidden)], atol=1e-5, rtol=1e-4)
    for layer in layers:
        own = kept.layers[layer - 1]
        heads, sizes = list(own.heads), (len(own.heads), inputs["input_ids"].shape[1])
        torch.testing.assert_close(ours.scores[layer], theirs.scores[layer][:, heads], atol=1e-5, rtol=1e-4)
        values = theirs.values[layer][:, heads][..., list(own.value)]
        torch.testing.assert_close(ours.values[layer], values, atol=1e-5, rtol=1e-4)
        assert ours.queries[layer].shape[1:] == ours.keys[layer].shape[1:] == (*sizes, len(own.key))


@pytest.mark.parametrize("family", ENCODERS)
def test_a_slim_model_shows_its_states_and_weights_and_learns(family):
    small = slims.slim(family)
    assert is_slim(small.config)
    small.set_attn_implementation("eager")
    inputs = slims.inputs(small, family)
    found = small(**inputs, output_attentions=True, output_hidden_states=True)
    form, tokens = form_of(small.config), inputs["input_ids"].shape
    assert [tuple(x.shape) for x in found.attentions] == [
        (tokens[0], layer.heads, tokens[1], tokens[1]) for layer in form.layers
    ]
    assert {tuple(x.shape) for x in found.hidden_states} == {(*tokens, form.hidden)}
    for weights in found.attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    found.logits.square().sum().backward()
    silent = [name for name, p in small.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # Softmax takes no notice of biases of keys.
    assert not [name for name in silent if not name.endswith(("key.bias", "k_lin.bias"))]


def test_what_a_slim_model_costs_is_counted():
    small, length = slims.slim("bert", "Model"), 7
    form = form_of(small.config)
    expected = 2 * form.hidden**2  # the pooler, of one token
    for x in form.layers:
        inner = 2 * x.heads * (x.key + x.value) + 2 * x.ffn
        expected += 2 * length * form.hidden * inner + 2 * length**2 * x.heads * (x.key + x.value)
    assert flops(small, 1, length) == expected
    rows = bench({"whole": slims.model("bert"), "small": slims.slim("bert")}, lengths=(7,), repeats=2)
    assert rows[1].flops < rows[0].flops
    assert rows[1].parameters < rows[0].parameters
    assert rows[1].bytes == 4 * rows[1].parameters


def test_a_form_that_no_class_has_is_told():
    electra = slims.model("electra")
    whole = everything(form_of(electra.config))
    with pytest.raises(PlanError, match="embedding size"):
        apply(electra, Kept(whole.embedding, whole.embedding, whole.vocab, whole.layers))
    modern = slims.model("modernbert")
    whole = everything(form_of(modern.config))
    with pytest.raises(PlanError, match="keep layer 0"):
        apply(modern, Kept(whole.hidden, whole.embedding, whole.vocab, whole.layers[1:]))


def test_heads_that_make_up_the_hidden_size_are_the_stock_class():
    for family in ENCODERS:
        model = slims.model(family)
        form = form_of(model.config)
        hidden = tuple(range(12))
        layers = tuple(
            KeptLayer(n, (1, 3), tuple(range(6)), tuple(range(6)), tuple(range(9)))
            for n in range(len(form.layers))
        )
        embedding = tuple(range(form.embedding)) if ENCODERS[family].sizes.embedding else hidden
        small = apply(model, Kept(hidden, embedding, tuple(range(form.vocab)), layers))
        assert type(small) is type(model)


def test_the_slim_file_has_every_family_of_the_anatomy():
    names = {transformers.AutoConfig.for_model(name).__class__.__name__ for name in ENCODERS}
    assert names == {f"{name}Config" for name in modeling_slim.FAMILIES}
