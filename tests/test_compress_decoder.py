"""A causal language model is compressed by the same search, from texts alone."""

import itertools

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import compressing
import tiny
from attar import compress, pretrain, tokenizer
from attar.anatomy.resolve import resolve
from attar.compression import shipping
from attar.compression.budget import budget_of
from attar.compression.candidate import Candidate, teacher_architecture
from attar.compression.candidate_costs import operations
from attar.compression.space import Space
from attar.distillation.student import student
from attar.errors import RecipeError
from attar.evaluation.counting import flops
from attar.evaluation.language_model import sliding_window_loss
from attar.model.checkpoint import load
from attar.model.onnx import OnnxModel
from compressing import costs


@pytest.fixture
def seconds(monkeypatch):
    compressing.without_time(monkeypatch)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """A causal teacher that has learned to repeat sentences, its byte-level tokenizer, and texts."""
    place = tmp_path_factory.mktemp("decoder")
    lines = [f"{row['text']}." for row in tiny.sentiment(200)]
    words = tokenizer(lines, out=place / "tokenizer", style="decoder", vocab=400)
    sizes = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_inner": 64, "initializer_range": 0.05}
    marks = {"bos_token_id": words.eos_token_id, "eos_token_id": words.eos_token_id}
    model = tiny.model("gpt2", "causal-lm", **sizes, **marks, vocab_size=len(words), pad_token_id=None)
    options = {"max_length": 32, "batch_size": 8, "precision": "fp32"}
    pretrain(model, lines, dev=lines[:20], tokenizer=words, out=place / "gpt", epochs=6, lr=3e-3, **options)
    return place / "gpt", lines


def test_a_causal_model_is_compressed_by_the_same_search(decoder, seconds, tmp_path):
    model, lines = decoder
    out = tmp_path / "teacher"  # whose row in the report has that name
    report = compress(
        model,
        texts=lines[:120],
        to="1.6x smaller",
        time=25,
        ways=["distil"],
        out=out,
        formats=["fp32"],
        max_length=32,
        length=16,
        precision="fp32",
    )
    small = AutoModelForCausalLM.from_pretrained(out).eval()
    words = AutoTokenizer.from_pretrained(out)
    whole = AutoModelForCausalLM.from_pretrained(model)
    assert report.settings["fits"]
    assert small.num_parameters() <= whole.num_parameters() / 1.6
    assert report.settings["measured"]["parameters"] == small.num_parameters()
    ours, theirs = (row.metrics["bits_per_byte"] for row in (report.student, report.teacher))
    assert report.student.retained.value == pytest.approx(theirs / ours)
    inputs = words(["the film was very good."], return_tensors="pt")
    logits = small(**inputs).logits.detach().numpy()
    assert abs(OnnxModel(out / "onnx")(inputs) - logits).max() < 1e-3
    again = sliding_window_loss(small, lines[:120], words, max_length=32)
    assert again.metrics["bits_per_byte"] < 2 * theirs


def test_a_trimmed_causal_model_gives_the_logits_of_the_tokens_that_stay(decoder):
    loaded = load(decoder[0])
    kept = [
        n for n in range(loaded.model.config.vocab_size) if n % 7 or n in loaded.tokenizer.all_special_ids
    ]
    rows = shipping.trimmed(loaded.model, loaded.tokenizer, kept)[0]
    ids = torch.arange(12)[None]
    whole = loaded.model(input_ids=torch.tensor(kept)[ids]).logits[..., kept]
    assert torch.allclose(rows(input_ids=ids).logits, whole, atol=1e-6)
    assert rows.get_output_embeddings().weight is rows.get_input_embeddings().weight


def test_operations_by_which_latency_is_predicted_are_those_that_torch_counts():
    model = tiny.model("gpt2", "causal-lm")
    bound = resolve(model)
    form = teacher_architecture(bound).student_form(bound, bound.shape.vocab)
    assert 2 * operations(form, 20) == pytest.approx(flops(model, 1, 20))


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3", "gpt_neox"])
def test_sizes_of_a_causal_student_are_ones_that_its_family_has(family):
    wide = {"n_embd": 64} if family == "gpt2" else {"hidden_size": 64}
    heads = {"num_attention_heads": 4} if family == "gpt_neox" else {}
    bound = resolve(tiny.model(family, "causal-lm", **wide, **heads, num_hidden_layers=3))
    found = Space(bound, costs, budget_of("60k params"), ("distil",), (), ("all",), ("fp32",))
    for size, layers in itertools.product((16, 32, 64), (1, 2)):
        one = found.largest_student(
            Candidate(found._dropped(1)), layers=layers, size=size, ratio=2.0, part=1.0
        )
        a = one.architecture
        student(bound.model, layers=a.layers, hidden=a.hidden, heads=a.heads, ffn=a.ffn, init="random")


@pytest.mark.parametrize(
    ("given", "found"),
    [({"data": [{"text": "a"}]}, "data"), ({"ways": ["prune"]}, "decoders are not pruned")],
)
def test_what_does_not_apply_to_a_causal_model_is_refused(decoder, tmp_path, given, found):
    model, lines = decoder
    with pytest.raises(RecipeError) as caught:
        compress(model, texts=lines, to="2x smaller", out=tmp_path / "small", **given)
    assert found in caught.value.found
    assert not (tmp_path / "small").exists()
