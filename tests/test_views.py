"""Laws of reading a model's inside: it is what transformers says, costs nothing unasked, outlives no batch."""

import gc
import weakref

import pytest
import torch
from torch.nn import functional as F

import tiny
from attar.anatomy.families import DECODERS, ENCODERS
from attar.errors import ModelError
from attar.model import views
from attar.model.views import Need, call, embedding

TEXTS = [
    "the film is good",
    "dull",
    "a lovely warm film and a very bright cast of the story",
    "bad , bad plot .",
]
ALL = Need(hidden=frozenset({0, 1, 2}), scores=frozenset({1, 2}), relations=frozenset({1, 2}))


def batch(family="bert", texts=TEXTS):
    return next(iter(tiny.batches(list(texts), family)))


@pytest.fixture(params=ENCODERS)
def family(request):
    return request.param


def test_logits_are_those_of_a_plain_call(family):
    model, one = tiny.model(family), batch(family)
    expected = model(**one.inputs).logits
    torch.testing.assert_close(call(model, one.inputs).logits, expected, rtol=0, atol=0)
    torch.testing.assert_close(call(model, one.inputs, ALL).logits, expected, rtol=1e-4, atol=1e-5)


def test_hidden_states_are_those_of_transformers_without_padding(family):
    model, one = tiny.model(family), batch(family)
    states = model(**one.inputs, output_hidden_states=True).hidden_states
    found = call(model, one.inputs, Need(hidden=frozenset({0, 1, 2}))).hidden
    assert sorted(found) == [0, 1, 2]
    for layer, packed in found.items():
        torch.testing.assert_close(packed, states[layer][one.mask], rtol=1e-5, atol=1e-5)
        assert packed.shape == (int(one.mask.sum()), 24)


@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:1] * 2], ids=["padded", "even"])
@pytest.mark.parametrize("name", [*ENCODERS, *DECODERS])
def test_what_enters_the_first_layer_is_seen_without_running_it(name, texts):
    model, one = tiny.model(name), batch(name, texts)
    expected = call(model, one.inputs, Need(hidden=frozenset({0}))).hidden[0]
    ran = []
    for module in model.base_model.modules():
        if isinstance(module, torch.nn.ModuleList):
            module[0].register_forward_hook(lambda *_: ran.append(1))
    assert embedding(model, one.inputs).equal(expected)
    assert ran == []
    assert call(model, one.inputs).logits.shape[0] == len(texts)  # the model is as it was
    assert ran


@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:1] * 2], ids=["padded", "even"])
def test_scores_after_mask_and_softmax_are_eager_attention(family, texts):
    one = batch(family, texts)
    view = call(tiny.model(family), one.inputs, ALL)
    eager = tiny.model(family)
    eager.set_attn_implementation("eager")
    attentions = eager(**one.inputs, output_attentions=True).attentions
    real = one.mask
    for layer, expected in enumerate(attentions, start=1):
        scores = view.scores[layer]
        assert scores.shape == (len(texts), 4, real.shape[1], real.shape[1])
        allowed = real[:, None, None, :].expand_as(scores)
        if family == "modernbert" and layer == 1:
            place = torch.arange(real.shape[1])
            allowed = allowed & ((place[:, None] - place[None, :]).abs() <= 2)
        found = scores.masked_fill(~allowed, float("-inf")).softmax(-1)
        rows = real[:, None, :, None].expand_as(found)
        torch.testing.assert_close(found[rows], expected[rows], rtol=1e-4, atol=1e-5)
        # The same scores from queries and keys.
        product = (
            view.queries[layer] @ view.keys[layer].transpose(-1, -2) / view.queries[layer].shape[-1] ** 0.5
        )
        torch.testing.assert_close(product, scores, rtol=1e-4, atol=1e-5)
        assert view.values[layer].shape == (len(texts), 4, real.shape[1], 6)


def test_gradients_pass_as_in_a_plain_call(family):
    model, one = tiny.model(family), batch(family)

    def gradient(logits):
        model.zero_grad()
        F.cross_entropy(logits, torch.tensor([0, 1, 1, 0])).backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    plain, seen = gradient(model(**one.inputs).logits), gradient(call(model, one.inputs, ALL).logits)
    assert plain.keys() == seen.keys()
    for name, expected in plain.items():
        torch.testing.assert_close(seen[name], expected, rtol=1e-3, atol=2e-5)


def test_scores_carry_a_gradient_to_query_and_key(family):
    model, one = tiny.model(family), batch(family)
    call(model, one.inputs, Need(scores=frozenset({1}))).scores[1].square().sum().backward()
    assert model.get_input_embeddings().weight.grad.abs().max() > 0


def test_dropout_of_attention_is_at_work_while_training():
    model = tiny.model(
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.5, classifier_dropout=0.0
    ).train()
    one = batch()
    twice = [call(model, one.inputs, ALL) for _ in range(2)]
    assert (twice[0].logits - twice[1].logits).abs().max() > 1e-3
    torch.testing.assert_close(
        twice[0].scores[1], twice[1].scores[1]
    )  # scores of the first layer come before it


def test_token_types_reach_a_model_that_has_them():
    model, one = tiny.model("bert"), batch()
    other = {**one.inputs, "token_type_ids": one.inputs["attention_mask"].clone()}
    assert (call(model, one.inputs).logits - call(model, other).logits).abs().max() > 1e-3


def test_token_types_are_left_out_for_distilbert_only():
    inputs = batch().inputs
    assert "token_type_ids" in inputs
    for family in ENCODERS:
        known = "token_type_ids" in views._arguments(tiny.model(family))
        assert known == (family not in {"distilbert", "modernbert"})
    model = tiny.model("distilbert")
    plain = {k: v for k, v in inputs.items() if k != "token_type_ids"}
    torch.testing.assert_close(call(model, inputs, ALL).logits, call(model, plain, ALL).logits)


def test_nothing_of_a_batch_outlives_it(family):
    model = tiny.model(family)
    view = call(model, batch(family).inputs, ALL)
    kept = [
        weakref.ref(t)
        for t in (view.logits, *view.scores.values(), *view.hidden.values(), *view.values.values())
    ]
    del view
    gc.collect()
    assert [ref() for ref in kept] == [None] * len(kept)
    assert views._probe.get() is None


def test_only_what_was_asked_for_is_kept():
    model, one = tiny.model(), batch()
    view = call(model, one.inputs, Need(scores=frozenset({2})))
    assert (list(view.scores), list(view.hidden), list(view.queries)) == ([2], [], [])
    view = call(model, one.inputs, Need(relations=frozenset({1})))
    assert (list(view.scores), list(view.queries), list(view.keys), list(view.values)) == ([], [1], [1], [1])


def test_sdpa_stays_in_use_where_no_scores_are_asked(monkeypatch):
    model, one = tiny.model(), batch()
    layers = []

    def noted(*args, **options):
        layers.append(1)
        return sdpa(*args, **options)

    sdpa = F.scaled_dot_product_attention
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    for need, fused in (
        (None, 2),
        (Need(hidden=frozenset({1})), 2),
        (Need(scores=frozenset({2})), 1),
        (ALL, 0),
    ):
        layers.clear()
        call(model, one.inputs, need)
        assert len(layers) == fused


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_attention_implementation_is_put_back_even_after_an_error(implementation):
    model, one = tiny.model(), batch()
    model.set_attn_implementation(implementation)
    call(model, one.inputs, ALL)
    assert model.config._attn_implementation == implementation
    with pytest.raises(IndexError):
        call(model, {**one.inputs, "input_ids": one.inputs["input_ids"] + 10**6}, ALL)
    assert model.config._attn_implementation == implementation
    assert views._probe.get() is None


def test_a_model_that_hides_its_attention_is_told():
    from transformers import MPNetConfig, MPNetForSequenceClassification

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = MPNetForSequenceClassification(MPNetConfig(vocab_size=tiny.VOCAB, **sizes)).eval()
    inputs = {k: v for k, v in batch().inputs.items() if k != "token_type_ids"}
    with pytest.raises(ModelError, match="0 calls"):
        call(model, inputs, Need(scores=frozenset({1})))


def test_a_model_saved_with_our_attention_is_told():
    model, one = tiny.model(), batch()
    model.config._attn_implementation = views.NAME
    with pytest.raises(ModelError, match="set_attn_implementation"):
        model(**one.inputs)


def test_an_even_batch_has_no_mask():
    assert call(tiny.model(), batch(texts=TEXTS[:1] * 2).inputs).mask is None
    assert call(tiny.model(), batch().inputs).mask.equal(batch().mask)
