"""One conformance test for every family of decoders: its literal, its views, its students, and what they may not be."""

import copy
from functools import cache

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset
from torch import nn
from torch.nn import functional as F

import tiny
from attar.anatomy.families import DECODERS
from attar.anatomy.form import form_of, slots
from attar.anatomy.resolve import resolve
from attar.data.batches import Batches
from attar.distillation.head_outputs import assign, split
from attar.distillation.student import student
from attar.errors import ModelError
from attar.model.checkpoint import load, save
from attar.model.views import Need, call

PARTS = (
    "attention_norm",
    "ffn_norm",
    "query",
    "key",
    "value",
    "attention_out",
    "ffn_in",
    "ffn_out",
    "ffn_up",
)
NARROW = {"hidden": 16, "heads": 2, "ffn": 24}
ALL = Need(hidden=frozenset({0, 1, 2}), scores=frozenset({1, 2}), relations=frozenset({1, 2}))
TEXTS = ["the film is good and very warm with music", "dull", "a lovely warm film"]


# Every family as its tiny config has it, and two the other way.
TIES = [(name, tiny.config(name).tie_word_embeddings) for name in DECODERS] + [
    ("gpt2", False),
    ("llama", True),
]


@pytest.fixture(params=DECODERS)
def name(request):
    return request.param


def model(name, head="causal-lm", layers=2, **changes):
    # Of another seed than students, which would else begin as their teacher does.
    return tiny.model(name, head, seed=7, **{DECODERS[name].sizes.layers: layers}, **changes)


@cache
def chains(rows=60, seed=0):
    """Rows of 6 to 16 tokens, each of which has two that may follow: there is something to tell."""
    rng = np.random.default_rng(seed)
    made = []
    for length in rng.integers(6, 17, size=rows):
        row = [int(rng.integers(5, tiny.VOCAB))]
        while len(row) < length:
            row.append(5 + (3 * row[-1] + int(rng.integers(1, 3))) % (tiny.VOCAB - 5))
        made.append(row)
    table = Dataset.from_dict({"input_ids": made, "length": [len(row) for row in made]})
    return Batches(table, tiny.tokenizer("gpt2"), batch_size=rows)


@torch.no_grad()
def logits(model, texts):
    return torch.cat([model(**batch.inputs).logits[batch.mask] for batch in texts])


@pytest.mark.parametrize("head", ["causal-lm", "base"])
def test_every_path_and_size_of_the_literal_is_there(name, head):
    bound = resolve(model(name, head))
    shape, anatomy = bound.shape, bound.anatomy
    assert (shape.layers, shape.hidden, shape.ffn, shape.vocab) == (2, 24, 40, tiny.VOCAB)
    assert (shape.heads, shape.head_dim) == {"gpt_neox": (3, 8), "qwen3": (4, 10)}.get(name, (4, 6))
    assert shape.kv_heads == (2 if anatomy.sizes.kv_heads else shape.heads)
    assert anatomy.causal
    for part in (*PARTS, "query_norm", "key_norm"):
        path = getattr(anatomy, part)
        assert [bound.at(path, layer) is None for layer in (0, 1)] == [not path] * 2, part
    for part in ("word_embeddings", "position_embeddings", "final_norm"):
        path = getattr(anatomy, part)
        assert (bound.at(path) is None) == (not path)
    assert all(hasattr(bound.model.config, dropout) for dropout in anatomy.sizes.dropouts)


def test_a_config_that_belongs_to_other_weights_is_told(name):
    told, sizes = model(name), DECODERS[name].sizes
    for key, value, said in ((sizes.ffn, 44, "44"), (sizes.layers, 3, "no such module")):
        before = getattr(told.config, key)
        setattr(told.config, key, value)
        with pytest.raises(ModelError, match=said) as caught:
            resolve(told)
        assert name in caught.value.expected
        setattr(told.config, key, before)


def test_facts_of_one_model_are_read_from_its_config():
    assert resolve(model("gpt_neox")).anatomy.parallel
    assert not resolve(model("gpt_neox", use_parallel_residual=False)).anatomy.parallel
    assert resolve(model("opt")).anatomy.pre_norm
    small = resolve(model("opt", do_layer_norm_before=False, word_embed_proj_dim=16))
    assert (small.anatomy.pre_norm, small.shape.embedding, small.at(small.anatomy.final_norm)) == (
        False,
        16,
        None,
    )
    assert resolve(tiny.model("gpt2", "base", n_inner=None)).shape.ffn == 96


def test_query_key_and_value_are_what_the_model_computes_with(name):
    bound, one = resolve(model(name)), next(iter(tiny.batches(TEXTS[:1] * 2, name)))
    seen = {}
    query = bound.at(bound.anatomy.query, 0)
    query.register_forward_pre_hook(
        lambda _, args, kwargs: seen.update(read=[*args, *kwargs.values()][0]), with_kwargs=True
    )
    view = call(bound.model, one.inputs, Need(relations=frozenset({1})))
    group = bound.shape.group
    for found, (weight, bias) in zip(
        (view.queries[1], view.keys[1], view.values[1]), split(bound, 0), strict=True
    ):
        heads = F.linear(seen["read"], weight, bias).unflatten(-1, (-1, bound.shape.head_dim)).transpose(1, 2)
        heads = heads.repeat_interleave(found.shape[1] // heads.shape[1], 1)
        if found is view.values[1]:
            torch.testing.assert_close(found, heads)
        elif not bound.anatomy.query_norm:  # a rotation keeps lengths; OPT's queries are scaled, all alike
            ratio = found.norm(dim=-1) / heads.norm(dim=-1)
            torch.testing.assert_close(ratio, ratio[:1, :1, :1].expand_as(ratio))
    assert group == 1 or view.keys[1][:, 0].equal(view.keys[1][:, 1])


def test_what_is_assigned_is_what_is_read(name):
    bound, wanted = resolve(model(name)), split(resolve(tiny.model(name, "causal-lm", seed=1)), 1)
    before = split(bound, 0)
    weights, biases = zip(*wanted, strict=True)
    assign(bound, 1, [weight.T for weight in weights], list(biases) if biases[0].any() else None)
    for ours, theirs in zip(split(bound, 1) + split(bound, 0), wanted + before, strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])


@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:1] * 2], ids=["padded", "even"])
def test_views_are_what_transformers_computes(name, texts):
    seen, one = model(name), next(iter(tiny.batches(texts, name)))
    plain = seen(**one.inputs, output_hidden_states=True)
    view = call(seen, one.inputs, ALL)
    torch.testing.assert_close(view.logits[one.mask], plain.logits[one.mask], rtol=1e-5, atol=1e-5)
    only = call(seen, one.inputs, Need(relations=frozenset({1})))  # SDPA, that is, which masks by itself
    torch.testing.assert_close(only.logits[one.mask], plain.logits[one.mask], rtol=1e-5, atol=1e-5)
    for layer, packed in view.hidden.items():
        torch.testing.assert_close(packed, plain.hidden_states[layer][one.mask], rtol=1e-5, atol=1e-5)
    eager = model(name)
    eager.set_attn_implementation("eager")
    attentions = eager(**one.inputs, output_attentions=True).attentions
    for layer, expected in enumerate(attentions, start=1):
        far = torch.finfo(torch.float32).min
        found = view.scores[layer].masked_fill(expected == 0, far).softmax(-1)
        rows = one.mask[:, None, :, None].expand_as(found)
        torch.testing.assert_close(found[rows], expected[rows], rtol=1e-4, atol=1e-5)
        assert view.keys[layer].shape == view.queries[layer].shape == view.values[layer].shape
        product = view.queries[layer] @ view.keys[layer].transpose(-1, -2)
        scale = 1 if name == "opt" else product.new_tensor(view.keys[layer].shape[-1]).rsqrt()
        torch.testing.assert_close(product * scale, view.scores[layer], rtol=1e-4, atol=1e-5)


def test_no_token_sees_one_that_follows(name):
    seen, one = model(name), next(iter(tiny.batches(TEXTS[:1] * 2, name)))
    other = one.inputs["input_ids"].clone()
    other[:, -1] = 7
    for need in (ALL, Need(relations=frozenset({1}))):
        ours, theirs = (
            call(seen, {**one.inputs, "input_ids": ids}, need) for ids in (one.inputs["input_ids"], other)
        )
        torch.testing.assert_close(ours.logits[:, :-1], theirs.logits[:, :-1])
        assert (ours.logits[:, -1] - theirs.logits[:, -1]).abs().max() > 1e-3


@pytest.mark.parametrize(("name", "tied"), TIES)
def test_copied_layers_are_the_teacher_without_the_others(name, tied):
    teacher, texts = model(name, layers=4, tie_word_embeddings=tied), chains(20)
    whole = student(teacher, init="layers").model
    assert type(whole) is type(teacher)
    torch.testing.assert_close(logits(whole, texts), logits(teacher, texts), rtol=0, atol=1e-6)
    made = student(teacher, layers=2, init="layers", mapping=[1, 3]).model
    assert (made.get_output_embeddings().weight is made.get_input_embeddings().weight) == tied
    expected = without(teacher, (1, 3))
    torch.testing.assert_close(logits(made, texts), logits(expected, texts), rtol=0, atol=1e-6)


def without(teacher, chosen):
    """The teacher with all layers but the chosen ones taken out by hand."""
    cut, anatomy = copy.deepcopy(teacher), DECODERS[teacher.config.model_type]
    holder = cut.base_model.get_submodule(anatomy.layers.rpartition(".")[0])
    layers = getattr(holder, anatomy.layers.rpartition(".")[2])
    setattr(holder, anatomy.layers.rpartition(".")[2], nn.ModuleList(layers[n - 1] for n in chosen))
    setattr(cut.config, anatomy.sizes.layers, len(chosen))
    if getattr(cut.config, "layer_types", None):
        cut.config.layer_types = [teacher.config.layer_types[n - 1] for n in chosen]
    cut.config.use_cache = False
    return cut


def test_windows_follow_the_chosen_layers():
    teacher = model("qwen2", layers=4, max_window_layers=2)
    made = student(teacher, layers=3, init="layers", mapping=[2, 3, 4]).model.config
    assert made.layer_types == ["full_attention", "sliding_attention", "sliding_attention"]
    assert made.max_window_layers == 1
    assert (
        type(made)(**{k: v for k, v in made.to_dict().items() if k != "layer_types"}).layer_types
        == made.layer_types
    )


def test_scores_that_are_divided_by_the_layers_number_stay():
    teacher, texts = model("gpt2", layers=4, scale_attn_by_inverse_layer_idx=True), chains(20)
    made = student(teacher, layers=2, init="layers", mapping=[2, 4])
    torch.testing.assert_close(
        logits(made.model, texts), logits(without(teacher, (2, 4)), texts), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(("name", "tied"), TIES)
def test_projected_to_its_own_sizes_is_the_teacher(name, tied):
    teacher = model(name, tie_word_embeddings=tied)
    made = student(teacher, texts=chains())
    assert sorted(made.projections) == [0, 1, 2]
    unseen = chains(20, seed=1)
    torch.testing.assert_close(logits(made.model, unseen), logits(teacher, unseen), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("gpt_neox", {"use_parallel_residual": False, "attention_bias": False}),
        (
            "opt",
            {"_remove_final_layer_norm": True, "enable_bias": False, "layer_norm_elementwise_affine": False},
        ),
        ("llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    ],
)
def test_projection_knows_the_variants_of_a_family(name, changes):
    teacher, unseen = model(name, **changes), chains(20, seed=1)
    made = student(teacher, texts=chains()).model
    torch.testing.assert_close(logits(made, unseen), logits(teacher, unseen), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "task"),
    [("gpt2", "SequenceClassification"), ("gpt_neox", "TokenClassification"), ("llama", "QuestionAnswering")],
)
def test_the_head_of_a_task_is_projected(name, task):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        teacher = getattr(transformers, f"AutoModelFor{task}").from_config(tiny.config(name)).eval()
    made, batch = student(teacher, texts=chains()).model, next(iter(chains(20, seed=1)))
    with torch.no_grad():
        torch.testing.assert_close(made(**batch.inputs)[0], teacher(**batch.inputs)[0], rtol=1e-3, atol=1e-4)


def test_a_projected_student_starts_nearer_to_its_teacher_than_a_random_one(name):
    teacher, batch = model(name), next(iter(chains()))
    labels = batch.inputs["input_ids"].masked_fill(~batch.mask, -100)
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=1e-2)
    first = None
    for _ in range(30):
        loss = teacher(**batch.inputs, labels=labels).loss
        first = first or loss.item()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.5 * first
    unseen = chains(20, seed=1)
    wanted = logits(teacher, unseen).log_softmax(-1)

    def far(init):
        made = student(teacher, init=init, texts=chains(), **NARROW).model
        return F.kl_div(logits(made, unseen).log_softmax(-1), wanted, log_target=True, reduction="batchmean")

    assert far("project") < 0.5 * far("random")


@pytest.mark.parametrize(("name", "init"), [*((name, "project") for name in DECODERS), ("qwen2", "layers")])
def test_a_student_is_saved_and_loaded_as_its_stock_class(name, init, tmp_path):
    teacher = model(name)
    teacher.generation_config.pad_token_id = 4
    sizes = {} if init == "layers" else NARROW
    made = student(teacher, layers=1, init=init, texts=chains(), **sizes).model
    save(made, tiny.tokenizer(name), tmp_path / "out", lineage={})
    again = load(tmp_path / "out", head="causal-lm").model
    assert type(again) is type(teacher)
    assert tiny.identical(made, again)
    assert again.generation_config.pad_token_id == 4
    tied = teacher.get_output_embeddings().weight is teacher.get_input_embeddings().weight
    assert (again.get_output_embeddings().weight is again.get_input_embeddings().weight) == tied
    shape = resolve(again).shape
    if init != "layers":
        assert (shape.layers, shape.hidden, shape.heads, shape.ffn) == (1, 16, 2, 24)
        assert shape.group == resolve(teacher).shape.group
        assert shape.head_dim == (10 if name == "qwen3" else 8)


def test_a_gpt2_that_leaves_its_ffn_open_has_students_that_do():
    teacher = tiny.model("gpt2", "causal-lm", n_inner=None)
    made = student(teacher, hidden=16, init="random").model.config
    assert (made.n_inner, resolve(student(teacher, hidden=16, init="random").model).shape.ffn) == (None, 64)
    assert student(teacher, hidden=16, ffn=40, init="random").model.config.n_inner == 40


@pytest.mark.parametrize(
    ("name", "sizes", "fix"),
    [
        ("llama", {"heads": 3}, "heads="),
        ("llama", {"hidden": 26}, "hidden="),
        ("llama", {"hidden": 12}, "even multiple"),
        ("gpt_neox", {"hidden": 18}, "even multiple"),
        ("gpt2", {"embedding": 8}, "leave embedding out"),
        ("llama", {"hidden": 16, "init": "layers"}, "init='project'"),
        ("opt", {"embedding": 8}, "init='layers'"),
    ],
)
def test_what_a_student_cannot_be_is_told(name, sizes, fix):
    with pytest.raises(ModelError) as caught:
        student(model(name), texts=chains(20), **sizes)
    assert fix in caught.value.fix


def test_an_opt_that_norms_after_its_layers_is_copied_but_not_projected():
    teacher, texts = model("opt", layers=3, do_layer_norm_before=False, word_embed_proj_dim=16), chains(20)
    made = student(teacher, layers=2, init="layers", mapping=[1, 3]).model
    torch.testing.assert_close(
        logits(made, texts), logits(without(teacher, (1, 3)), texts), rtol=0, atol=1e-6
    )
    assert resolve(student(teacher, hidden=16, init="random").model).shape.embedding == 16
    with pytest.raises(ModelError, match="norms after them"):
        student(teacher, texts=texts)


def test_a_decoder_is_not_pruned(name):
    for refused in (slots, lambda m: form_of(m.config)):
        with pytest.raises(ModelError, match="encoder") as caught:
            refused(model(name))
        assert name in caught.value.found
        assert "student" in caught.value.fix
