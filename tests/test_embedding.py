"""Laws of embedding models: what sentence-transformers computes, reads and writes, is what attar does."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch
from datasets import Dataset
from embedders import TEXTS, embed, embedder
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from torch.nn import functional as F

import onnx_backend
import tiny
from attar import bench, compare, evaluate, export
from attar.errors import ModelError
from attar.evaluation.perplexity import is_language_model
from attar.model.checkpoint import load, save
from attar.model.onnx import OnnxModel
from attar.model.pooling import MODES, pool
from attar.model.sentence_modules import Head, Linear

# Pooling and files


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.sampled_from(sorted(MODES)))
@settings(deadline=None, max_examples=40)
def test_pooling_is_that_of_sentence_transformers(lengths, mode):
    hidden = torch.randn(len(lengths), max(lengths), 5, generator=torch.Generator().manual_seed(sum(lengths)))
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    theirs = Pooling(5, mode)({"token_embeddings": hidden.clone(), "attention_mask": mask})
    torch.testing.assert_close(pool(hidden, mask, (mode,)), theirs["sentence_embedding"])


@pytest.mark.parametrize("modes", [("mean",), ("cls", "max"), ("max", "cls")])
def test_a_directory_opens_in_sentence_transformers_and_comes_back(modes, tmp_path):
    head = Head(
        modes,
        (Linear(24 * len(modes), 9, True, "Tanh"),),
        similarity="dot",
        prompts={"query": "the "},
        default_prompt="query",
        max_length=17,
    )
    model = embedder(head=head)
    save(model, tiny.tokenizer(), tmp_path / "out", lineage={})
    library = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert library.max_seq_length == 17
    assert library.similarity_fn_name == "dot"
    assert library.prompts["query"] == "the "
    again = load(tmp_path / "out")
    assert again.model.head == head
    ours = embed(again.model, ["the " + text for text in TEXTS[:5]])
    np.testing.assert_allclose(ours, library.encode(TEXTS[:5]), atol=1e-5)
    library.save(str(tmp_path / "theirs"))  # in the names of a newer version
    np.testing.assert_allclose(ours, embed(load(tmp_path / "theirs").model, ["the " + t for t in TEXTS[:5]]))


def test_an_encoder_alone_is_pooled_as_asked(tmp_path):
    encoder = tiny.model(head="base")
    encoder.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    found = embed(load(tmp_path, pooling="max").model, TEXTS[:3])
    batch = tiny.tokenizer()(TEXTS[:3], padding=True, return_tensors="pt")
    states = encoder(**batch).last_hidden_state.detach()
    wanted = F.normalize(states.masked_fill(batch["attention_mask"][..., None] == 0, -9e9).amax(1), dim=-1)
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)
    with pytest.raises(ModelError, match="pooling"):
        load(tmp_path, pooling="middle")


def test_an_encoder_alone_is_measured_as_it_is_pooled(tmp_path):
    """A checkpoint with the head of a language model, as most are, beside the embedding model that it makes."""
    tiny.saved(tmp_path / "encoder", head="masked-lm")
    loaded = load(tmp_path / "encoder", pooling="mean")
    save(loaded.model, loaded.tokenizer, tmp_path / "embedder", lineage={})
    pair, texts = [tmp_path / "encoder", tmp_path / "embedder"], [{"text": text} for text in TEXTS[:30]]
    with pytest.raises(ModelError, match="--pooling"):
        compare(pair, texts)
    teacher, student = compare(pair, texts, pooling="mean", latency_length=8).rows
    assert student.metrics["agreement"] == pytest.approx(1)
    assert student.flops == teacher.flops
    (row,) = evaluate(pair[0], texts, teacher=pair[1], pooling="mean").rows[1:]
    assert row.metrics["agreement"] == pytest.approx(1)
    speeds = bench(pair, pooling="mean", lengths=[8], repeats=1).rows
    assert speeds[0].flops == speeds[1].flops


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_a_decoder_saved_as_a_language_model_is_pooled(family, tmp_path):
    """As asked, and as its modules.json says, whatever class its config names; both as sentence-transformers does."""
    plain = tiny.saved(tmp_path / "plain", family, head="causal-lm")
    library = SentenceTransformer(
        modules=[Transformer(str(plain)), Pooling(24, "lasttoken"), Normalize()], device="cpu"
    )
    wanted = library.encode(TEXTS[:5])
    asked = load(plain, pooling="lasttoken")
    library.save(str(tmp_path / "modules"))
    shutil.copy(plain / "config.json", tmp_path / "modules")  # …ForCausalLM
    assert is_language_model(plain)
    assert not is_language_model(tmp_path / "modules")
    for loaded in (asked, load(tmp_path / "modules")):
        batch = loaded.tokenizer(TEXTS[:5], padding=True, return_tensors="pt")
        with torch.no_grad():
            np.testing.assert_allclose(loaded.model(**batch).logits, wanted, atol=1e-5)
    save(asked.model, asked.tokenizer, tmp_path / "out", lineage={})
    np.testing.assert_allclose(
        SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(TEXTS[:5]), wanted, atol=1e-5
    )


def test_a_pooling_that_there_is_not_or_of_a_model_that_has_none_is_an_error(plain, tmp_path):
    decoder = tiny.saved(tmp_path / "decoder", "gpt2", head="causal-lm")
    with pytest.raises(ModelError, match="a pooling among"):
        load(decoder, pooling="nonsense")
    reranker = tiny.saved(tmp_path / "reranker", num_labels=1)
    with pytest.raises(ModelError, match="sequence-classification head"):
        load(reranker, pooling="mean")
    loaded = load(plain)
    assert load(loaded.model, tokenizer=loaded.tokenizer, pooling="mean").model is loaded.model
    with pytest.raises(ModelError, match="BertModel"):
        load(tiny.model(head="base"), tokenizer=loaded.tokenizer, pooling="mean")


def test_modules_that_attar_does_not_know_are_named(plain, tmp_path):
    shutil.copytree(plain, tmp_path / "odd")
    file = tmp_path / "odd" / "modules.json"
    modules = json.loads(file.read_text())
    modules.insert(2, {"idx": 2, "name": "2", "path": "2_LSTM", "type": "sentence_transformers.models.LSTM"})
    file.write_text(json.dumps(modules))
    with pytest.raises(ModelError, match="LSTM"):
        load(tmp_path / "odd")
    with pytest.raises(ModelError, match="trained with, mean"):
        load(plain, pooling="cls")


@pytest.mark.parametrize(
    ("file", "content", "what"),
    [
        ("modules.json", "{[", "JSON in"),
        ("modules.json", '[{"type": "sentence_transformers.models.Transformer"}]', "a type and a path"),
        ("1_Pooling/config.json", None, "1_Pooling/config.json"),
        ("2_Dense/config.json", None, "2_Dense/config.json"),
        ("config_sentence_transformers.json", '{"similarity_fn_name": "angle"}', "angle"),
        ("config_sentence_transformers.json", '{"default_prompt_name": "query"}', "default_prompt_name"),
    ],
)
def test_files_that_are_damaged_or_missing_are_named(file, content, what, teacher, tmp_path):
    shutil.copytree(teacher, tmp_path / "odd")
    assert (tmp_path / "odd" / file).is_file()
    if content is None:
        (tmp_path / "odd" / file).unlink()
    else:
        (tmp_path / "odd" / file).write_text(content)
    with pytest.raises(ModelError, match=what):
        load(tmp_path / "odd")


def test_a_first_token_that_sees_only_itself_is_no_embedding(tmp_path, caplog):
    """Asked for, it is refused; in a model's own files it is said, and read as sentence-transformers reads it."""
    caplog.set_level(logging.INFO, logger="attar")
    plain = tiny.saved(tmp_path / "plain", "gpt2", head="causal-lm")
    with pytest.raises(ModelError, match="take lasttoken or mean"):
        load(plain, pooling="cls")
    load(plain, pooling="mean")
    load(tiny.saved(tmp_path / "encoder", head="base"), pooling="cls")
    assert not caplog.messages
    library = SentenceTransformer(modules=[Transformer(str(plain)), Pooling(24, "cls")], device="cpu")
    library.save(str(tmp_path / "modules"))
    loaded = load(tmp_path / "modules")
    assert "knows nothing of the text's other words" in caplog.text
    batch = loaded.tokenizer(["the film", "the plot of it"], padding=True, return_tensors="pt")
    with torch.no_grad():
        found = loaded.model(**batch).logits
    np.testing.assert_allclose(found, library.encode(["the film", "the plot of it"]), atol=1e-5)


def _with_modules(source, out, *kinds):
    """A copy of a directory whose modules.json lists these after the encoder, each in a folder of its own."""
    shutil.copytree(source, out)
    listed = [("", "Transformer"), *((f"{n}_{kind}", kind) for n, kind in enumerate(kinds, 1))]
    library = "sentence_transformers.models"
    modules = [{"idx": n, "path": path, "type": f"{library}.{kind}"} for n, (path, kind) in enumerate(listed)]
    (out / "modules.json").write_text(json.dumps(modules))
    return out


@pytest.mark.parametrize(
    ("kinds", "named"), [(("SpladePooling",), "knows no SpladePooling"), (("Dense",), "Transformer, Dense")]
)
def test_models_of_another_kind_are_not_taken_for_language_models(kinds, named, tmp_path):
    """Sparse encoders are saved with a masked language model's head, ColBERT's have no pooling."""
    saved = tiny.saved(tmp_path / "masked", head="masked-lm")
    place = _with_modules(saved, tmp_path / "odd", *kinds)
    assert is_language_model(saved)
    assert not is_language_model(place)
    with pytest.raises(ModelError, match=named):
        load(place)
    alone = _with_modules(saved, tmp_path / "alone")  # a reranker's list: the head is the encoder's own
    assert type(load(alone).model).__name__ == "BertForMaskedLM"


@pytest.mark.parametrize("settings", ["sentence_bert_config.json", "sentence_xlm-roberta_config.json"])
def test_the_older_layout_is_read(settings, plain, tmp_path):
    """The encoder in a folder of its own, with the settings under its family's name."""
    place = tmp_path / "old"
    shutil.copytree(plain, place)
    (place / "0_Transformer").mkdir()
    for file in [*place.glob("model.*"), *place.glob("tokenizer*"), place / "config.json"]:
        file.rename(place / "0_Transformer" / file.name)
    (place / "sentence_bert_config.json").unlink()
    (place / "0_Transformer" / settings).write_text(
        json.dumps({"max_seq_length": 37, "do_lower_case": False})
    )
    modules = json.loads((place / "modules.json").read_text())
    (place / "modules.json").write_text(json.dumps([modules[0] | {"path": "0_Transformer"}, *modules[1:]]))
    loaded = load(place)
    library = SentenceTransformer(str(place), device="cpu")
    assert library.max_seq_length == loaded.model.head.max_length == 37
    np.testing.assert_allclose(embed(loaded.model, ["a film"]), library.encode(["a film"]), atol=1e-5)
    save(loaded.model, loaded.tokenizer, tmp_path / "out", lineage={})
    again = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert again.max_seq_length == 37
    np.testing.assert_allclose(again.encode(TEXTS[:4]), library.encode(TEXTS[:4]), atol=1e-5)
    shutil.rmtree(place / "0_Transformer")
    with pytest.raises(ModelError, match=r"config\.json in .*0_Transformer"):
        load(place)
    (place / "modules.json").write_text(json.dumps([modules[0] | {"path": "../out"}, *modules[1:]]))
    with pytest.raises(ModelError, match="folders of"):
        load(place)


def test_texts_that_only_the_library_lower_cases_are_refused(plain, tmp_path):
    """A tokenizer that lower-cases itself, too, gives the same tokens."""
    shutil.copytree(plain, tmp_path / "t")
    file = tmp_path / "t" / "sentence_bert_config.json"
    file.write_text(json.dumps({"max_seq_length": 40, "do_lower_case": True}))
    loaded = load(tmp_path / "t")
    wanted = SentenceTransformer(str(tmp_path / "t"), device="cpu").encode(["The FILM"])
    np.testing.assert_allclose(embed(loaded.model, ["The FILM"]), wanted, atol=1e-5)
    said = json.loads((tmp_path / "t" / "tokenizer_config.json").read_text())
    (tmp_path / "t" / "tokenizer_config.json").write_text(json.dumps(said | {"do_lower_case": False}))
    with pytest.raises(ModelError, match="do_lower_case"):
        load(tmp_path / "t")


# Exports


@pytest.fixture(scope="module")
def exported(teacher, tmp_path_factory):
    """fp32 and int8 of the model with Dense layers."""
    place = tmp_path_factory.mktemp("onnx")
    texts = Dataset.from_dict({"text": TEXTS[:60]})
    export(teacher, out=place, formats=["fp32", "int8"], data=texts, max_drop=0.2)
    return place


def test_an_export_has_pooling_inside(teacher, exported):
    opened = OnnxModel(exported / "fp32")
    assert opened.outputs == ("sentence_embedding", "last_hidden_state")
    batch = tiny.tokenizer()(
        ["a film", "the film is a lovely story of it"], padding=True, return_tensors="np"
    )
    library = SentenceTransformer(str(teacher), device="cpu")
    wanted = library.encode(["a film", "the film is a lovely story of it"])
    np.testing.assert_allclose(opened(batch), wanted, atol=1e-5)
    report = compare([teacher, exported / "fp32"], data=Dataset.from_dict({"text": TEXTS[:40]}))
    assert report.student.metrics["agreement"] == pytest.approx(1, abs=1e-4)


def test_an_export_opens_in_sentence_transformers_which_pools_itself(
    teacher, exported, tmp_path, monkeypatch
):
    """Each format's directory, and a graph among others in the model's own directory, as models on the hub have it."""
    wanted = SentenceTransformer(str(teacher), device="cpu").encode(TEXTS[:9])
    onnx_backend.provide(monkeypatch)
    found = {}
    for precision in ("fp32", "int8"):
        opened = SentenceTransformer(str(exported / precision), backend="onnx", device="cpu")
        assert opened.max_seq_length == 40
        found[precision] = opened.encode(TEXTS[:9])
    np.testing.assert_allclose(found["fp32"], wanted, atol=1e-5)
    assert 0 < np.abs(found["int8"] - wanted).max() < 0.1
    shutil.copytree(teacher, tmp_path / "hub")
    (tmp_path / "hub" / "onnx").mkdir()
    for precision, name in (("fp32", "model.onnx"), ("int8", "model_int8.onnx")):
        shutil.copy(exported / precision / "model.onnx", tmp_path / "hub" / "onnx" / name)
    for precision, chosen in (("fp32", {}), ("int8", {"file_name": "onnx/model_int8.onnx"})):
        hub = SentenceTransformer(str(tmp_path / "hub"), backend="onnx", device="cpu", model_kwargs=chosen)
        np.testing.assert_allclose(hub.encode(TEXTS[:9]), found[precision], atol=1e-6)
