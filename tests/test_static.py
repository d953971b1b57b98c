"""Laws of static embedding models: what model2vec computes, a teacher without layers found again, one report."""

import json
import logging

import numpy as np
import pytest
import torch
from datasets import Dataset
from model2vec import StaticModel
from model2vec.distill import distill_from_model
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

import tiny
from attar import (
    bench,
    compare,
    compress,
    dimensions,
    distill,
    evaluate,
    export,
    finetune,
    mine,
    plan,
    prune,
    share,
    static,
)
from attar.distillation.static import static_model
from attar.distillation.static_start import aligned
from attar.distillation.student import student
from attar.errors import DataError, MissingExtraError, ModelError, RecipeError
from attar.model.checkpoint import Loaded, load, save
from attar.model.embedding import KEY, SentenceEncoder
from attar.model.onnx import OnnxModel
from attar.model.sentence_modules import Head

WORDS = tiny.GOOD + tiny.BAD
TEXTS = [f"the {a} film is a {b} story" for a in WORDS for b in WORDS]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """An embedding model of 24 dimensions."""
    encoder = tiny.model("bert", head="base")
    setattr(encoder.config, KEY, Head(normalize=True, max_length=40).written)
    made = SentenceEncoder(encoder.config, encoder).eval()
    return save(made, tiny.tokenizer(), tmp_path_factory.mktemp("teacher") / "t", lineage={})


@pytest.fixture(scope="module")
def made(teacher, tmp_path_factory):
    """Where a static student of it is, and the report."""
    out = tmp_path_factory.mktemp("static") / "s"
    return out, static(teacher, texts=TEXTS, out=out, dimensions=16, epochs=4, lr=1e-2, batch_size=16)


def embeddings(model, tokenizer, texts):
    """What attar gives, one text at a time."""
    rows = [tokenizer(text, return_tensors="pt", truncation=True, max_length=512) for text in texts]
    with torch.inference_mode():
        return torch.cat([model(**row).logits for row in rows]).numpy()


def test_three_libraries_read_what_is_written(made):
    texts = [*TEXTS[:3], "film " * 700 + "good", "a film"]
    ours = load(made[0])
    mine = embeddings(ours.model, ours.tokenizer, texts)
    theirs = StaticModel.from_pretrained(str(made[0])).encode(texts)
    np.testing.assert_allclose(mine, theirs, atol=2e-3)
    library = SentenceTransformer(str(made[0]), device="cpu").encode(texts)
    np.testing.assert_allclose(mine, library, atol=2e-3)
    assert abs(mine[3] - mine[0]).max() > 0.01


@pytest.mark.parametrize(("shared", "numbers"), [(None, "float16"), (20, "float16"), (20, "int8")])
def test_a_directory_of_model2vec_is_read_as_it_reads_it(teacher, tmp_path, shared, numbers):
    loaded = load(teacher)
    given = {"pca_dims": 12, "vocabulary_quantization": shared, "quantize_to": numbers, "device": "cpu"}
    theirs = distill_from_model(loaded.model.encoder, loaded.tokenizer, **given)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load(tmp_path / "theirs")
    np.testing.assert_allclose(
        embeddings(ours.model, ours.tokenizer, TEXTS[:4]), theirs.encode(TEXTS[:4]), atol=2e-3
    )
    save(ours.model, ours.tokenizer, tmp_path / "again", lineage={})
    again = load(tmp_path / "again")
    np.testing.assert_allclose(
        embeddings(again.model, again.tokenizer, TEXTS[:4]), theirs.encode(TEXTS[:4]), atol=4e-3
    )


def test_a_teacher_that_is_static_itself_is_found(tmp_path):
    """A layer whose matrices are 0 adds nothing, and a norm does not mix tokens: the teacher is a bag of vectors."""
    encoder = tiny.model("bert", head="base", layers=1)
    torch.nn.init.zeros_(encoder.embeddings.position_embeddings.weight)
    layer = encoder.encoder.layer[0]
    for part in (layer.attention.output.dense, layer.output.dense):
        torch.nn.init.zeros_(part.weight)
        torch.nn.init.zeros_(part.bias)
    setattr(encoder.config, KEY, Head(normalize=True, max_length=40).written)
    bag = save(
        SentenceEncoder(encoder.config, encoder).eval(), tiny.tokenizer(), tmp_path / "bag", lineage={}
    )
    report = static(bag, texts=TEXTS, out=tmp_path / "s", dimensions=24, epochs=20, lr=0.03, batch_size=16)
    assert report.rows[-1].metrics["agreement"] > 0.99
    whole, found = load(bag), load(tmp_path / "s")
    theirs, ours = (embeddings(one.model, one.tokenizer, TEXTS[:9]) for one in (whole, found))
    assert (theirs * ours).sum(1).min() > 0.95  # in the teacher's own space


def test_prompts_are_kept_and_learned_with(tmp_path):
    encoder = tiny.model("bert", head="base")
    said = {"prompts": {"query": "it ", "mood": "she was cold "}, "default_prompt": "mood"}
    setattr(encoder.config, KEY, Head(normalize=True, max_length=40, **said).written)
    whole = save(
        SentenceEncoder(encoder.config, encoder).eval(), tiny.tokenizer(), tmp_path / "t", lineage={}
    )
    pairs = {
        "text": TEXTS[:40],
        "text_pair": TEXTS[60:100],
        "label": np.random.default_rng(0).random(40).tolist(),
    }
    data = Dataset.from_dict(pairs)
    report = static(whole, texts=TEXTS, data=data, out=tmp_path / "s", dimensions=24, epochs=0)
    for name, row in (("t", report.rows[0]), ("s", report.rows[2])):
        library = SentenceTransformer(str(tmp_path / name), device="cpu")
        assert library.prompts["query"] == "it "
        assert library.default_prompt_name == "mood"
        wanted = EmbeddingSimilarityEvaluator(*pairs.values())(library)
        assert row.metrics["spearman"] == pytest.approx(wanted["spearman_cosine"], abs=5e-3)


def test_training_brings_it_nearer_to_the_teacher(teacher, made, tmp_path):
    report = static(teacher, texts=TEXTS, out=tmp_path / "s", dimensions=16, epochs=0)
    fitted, trained = (one.rows[-1].metrics["agreement"] for one in (report, made[1]))
    plain = report.rows[1]
    assert plain.name == "model2vec"
    assert plain.role == "baseline"
    assert plain.metrics["agreement"] < fitted < trained


def test_one_report_has_both_ends(teacher, made, tmp_path):
    export(made[0], out=tmp_path / "onnx", data=TEXTS)
    report = compare(
        [teacher, made[0], tmp_path / "onnx" / "fp32"], data=[{"text": text} for text in TEXTS[:40]]
    )
    rows = {row.name: row for row in report.rows}
    assert rows["s"].metrics == pytest.approx(rows["fp32"].metrics, abs=1e-3)
    assert rows["s"].bytes < rows["t"].bytes
    ids = np.arange(6, 16)[None]
    graph = OnnxModel(tmp_path / "onnx" / "fp32")({"input_ids": ids, "attention_mask": np.ones_like(ids)})
    with torch.inference_mode():
        assert graph == pytest.approx(load(made[0]).model(torch.from_numpy(ids)).logits.numpy(), abs=1e-5)


def test_fewer_dimensions_are_in_the_token_vectors(made, tmp_path):
    pairs = {
        "text": TEXTS[:40],
        "text_pair": TEXTS[60:100],
        "label": np.random.default_rng(0).random(40).tolist(),
    }
    options = {"to": 6, "texts": TEXTS, "data": Dataset.from_dict(pairs), "compare": ()}
    report = dimensions(made[0], out=tmp_path / "cut", **options)
    assert StaticModel.from_pretrained(str(tmp_path / "cut")).embedding.shape[1] == 6
    library = SentenceTransformer(str(tmp_path / "cut"), device="cpu")
    wanted = EmbeddingSimilarityEvaluator(*pairs.values())(library)
    ours = next(row for row in report.rows if row.role == "student")
    assert ours.metrics["spearman"] == pytest.approx(wanted["spearman_cosine"], abs=5e-3)


def test_a_norm_that_the_teacher_does_not_have_is_said(teacher, tmp_path, caplog):
    """Where cosines are asked for, which it does not change."""
    caplog.set_level(logging.INFO, logger="attar")
    options = {"texts": TEXTS[:60], "epochs": 0}
    static(teacher, out=tmp_path / "same", **options)
    assert "normalise" not in caplog.text
    loaded = load(teacher)
    loaded.model.set_head(loaded.model.head.but(normalize=False))
    bare = save(loaded.model, loaded.tokenizer, tmp_path / "bare", lineage={})
    static(bare, out=tmp_path / "out", **options)
    assert "does not normalise them: the static model does" in caplog.text
    assert load(tmp_path / "out").model.head.normalize
    loaded.model.set_head(loaded.model.head.but(similarity="dot"))
    dot = save(loaded.model, loaded.tokenizer, tmp_path / "dot", lineage={})
    caplog.clear()
    static(dot, out=tmp_path / "dots", **options)
    assert "normalise" not in caplog.text
    assert not load(tmp_path / "dots").model.head.normalize


def test_what_is_written_is_of_half_precision_and_says_where_it_is_from(teacher, made):
    said = json.loads((made[0] / "config.json").read_text())
    assert (said["model_type"], said["embedding_dtype"], said["hidden_dim"]) == ("model2vec", "float16", 16)
    assert json.loads((made[0] / "lineage.json").read_text())["parent"] == str(teacher)


def test_what_cannot_be_made_is_said(teacher, made, tmp_path, monkeypatch):
    out = tmp_path / "s"
    with pytest.raises(ModelError, match="a static model"):
        static(made[0], texts=TEXTS, out=out)
    with pytest.raises(RecipeError, match="24"):
        static(teacher, texts=TEXTS, out=out, dimensions=25)
    with pytest.raises(DataError, match="50"):
        static(teacher, texts=TEXTS[:20], out=out)
    monkeypatch.setattr("attar.distillation.static.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="attar\\[embeddings\\]"):
        static(teacher, texts=TEXTS, out=out)
    assert not list(tmp_path.iterdir())


def test_what_needs_layers_says_that_there_are_none(made, tmp_path):
    """And names the verbs that take it, of which those that no other test here calls are called."""
    calls = {
        "plan": lambda: plan(made[0], budget=0.6, method="magnitude", texts=TEXTS),
        "prune": lambda: prune(made[0], out=tmp_path / "p", method="vocabulary", texts=TEXTS),
        "compress": lambda: compress(made[0], out=tmp_path / "c", to="2x smaller", time="1m", texts=TEXTS),
        "share": lambda: share(made[0], out=tmp_path / "s"),
        "distill": lambda: distill(made[0], out=tmp_path / "d", texts=TEXTS, general=None, intermediate=None),
    }
    for call in calls.values():
        with pytest.raises(ModelError, match="a vector for each token, and no layer") as refused:
            call()
    assert "evaluate, compare, bench, export, dimensions, mine and finetune" in refused.value.fix
    rows = [{"text": text} for text in TEXTS[:9]]
    assert evaluate(made[0], rows, teacher=made[0]).student.metrics["overlap_10"] == 1
    assert bench([made[0]], lengths=[8], repeats=1).rows[0].parameters == load(made[0]).model.num_parameters()
    assert len(mine(made[0], TEXTS[:20], queries=TEXTS[:3], k=2, out=tmp_path / "pairs.jsonl"))


@pytest.fixture(scope="module")
def bag():
    """An embedding model of 24 dimensions, and a static model of its tokens, of very unequal lengths."""
    encoder = tiny.model("bert", head="base")
    setattr(encoder.config, KEY, Head(normalize=True, max_length=40).written)
    draw = torch.Generator().manual_seed(3)
    vectors = torch.randn(encoder.config.vocab_size, 15, generator=draw)
    vectors = vectors * torch.randn(len(vectors), 1, generator=draw).exp()
    return SentenceEncoder(encoder.config, encoder).eval(), static_model(vectors, Head(normalize=True))


@pytest.mark.parametrize(
    "sizes", [{"hidden": 16}, {"hidden": 20, "embedding": 16}, {"hidden": 16, "layers": 1}]
)
def test_a_static_start_is_the_static_model(bag, sizes):
    whole, flat = bag
    tokenizer = tiny.tokenizer()
    vectors = aligned(Loaded(flat, tokenizer, "static"), tokenizer, whole.config.vocab_size)
    started = student(whole, heads=2, ffn=32, init="static", vectors=vectors, dense=False, **sizes).model
    batch = tokenizer(TEXTS[:40], padding=True, return_tensors="pt")
    given = {name: batch[name] for name in ("input_ids", "attention_mask")}
    started.encoder.set_attn_implementation("eager")
    with torch.inference_mode():
        attention = started.encoder(**given, output_attentions=True).attentions[0]
        weights = vectors.norm(dim=1)[given["input_ids"]] * given["attention_mask"]
        weights = weights / weights.sum(1, keepdim=True)
        # Attention that is spread evenly is 0.1 apart.
        assert (attention - weights[:, None, None]).abs().mean() < 0.03
        ours = torch.nn.functional.normalize(started(**given).logits - started(**given).logits.mean(0))
        theirs = torch.nn.functional.normalize(flat(**given).logits - flat(**given).logits.mean(0))
    upper = torch.triu_indices(len(ours), len(ours), 1).unbind()
    assert spearmanr((ours @ ours.T)[upper], (theirs @ theirs.T)[upper])[0] > 0.9


def test_a_student_starts_as_its_static_student(teacher, tmp_path):
    """Before it learns anything it agrees with its teacher more than one of the same sizes that was projected."""
    learn = {"intermediate": None, "prediction": {"epochs": 1, "lr": 1e-9}, "cache": tmp_path / "cache"}
    sizes = {"layers": 1, "hidden": 16, "heads": 2, "ffn": 16, "embedding": 12}
    said = {}
    for init in ("static", "project"):
        out = tmp_path / init
        report = distill(teacher, texts=TEXTS, out=out, student=sizes | {"init": init}, **learn)
        said[init] = report.rows[1].metrics["agreement"]
        assert load(out).model.encoder.config.embedding_size == 12
    assert said["static"] > said["project"]


def test_a_static_start_that_has_no_place_is_refused(bag, teacher, tmp_path, monkeypatch):
    classifier = save(tiny.model("bert"), tiny.tokenizer(), tmp_path / "classifier", lineage={})
    with pytest.raises(RecipeError, match="an embedding model as the teacher"):
        distill(classifier, texts=TEXTS, out=tmp_path / "s", student={"layers": 1, "init": "static"})
    encoder = tiny.model("modernbert", head="base")
    setattr(encoder.config, KEY, Head(normalize=True).written)
    modern = SentenceEncoder(encoder.config, encoder).eval()
    with pytest.raises(ModelError, match="BERT's layers"):
        student(modern, layers=1, init="static", vectors=torch.ones(encoder.config.vocab_size, 8))
    whole = save(modern, tiny.tokenizer(), tmp_path / "modern", lineage={})
    with pytest.raises(ModelError, match="BERT's layers"):
        distill(whole, texts=TEXTS, out=tmp_path / "s", student={"layers": 1, "init": "static"})
    assert not list(tmp_path.glob(".s*"))
    monkeypatch.setattr("attar.distillation.setup.processes", lambda: (0, 2))
    with pytest.raises(RecipeError, match="one process"):
        distill(teacher, texts=TEXTS, out=tmp_path / "s", student={"layers": 1, "init": "static"})
    assert not (tmp_path / "s").exists()


def test_it_learns_from_pairs(made, tmp_path):
    pairs = [
        {"text": f"{a} film", "text_pair": f"the {b} plot"} for a, b in zip(tiny.GOOD, tiny.BAD, strict=False)
    ]
    learn = {"epochs": 4, "lr": 0.05, "batch_size": 4, "precision": "bf16"}
    report = finetune(made[0], pairs * 20, dev=pairs, out=tmp_path / "tuned", **learn)
    assert report.rows[1].metrics["ndcg@10"] > report.rows[0].metrics["ndcg@10"] + 0.1
    assert json.loads((tmp_path / "tuned" / "config.json").read_text())["embedding_dtype"] == "float16"
    theirs = StaticModel.from_pretrained(str(tmp_path / "tuned")).encode(TEXTS[:3])
    ours = load(tmp_path / "tuned")
    np.testing.assert_allclose(embeddings(ours.model, ours.tokenizer, TEXTS[:3]), theirs, atol=2e-3)
