"""Laws of embedding models: what sentence-transformers computes, losses at their zeros, students near teachers."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from torch.nn import functional as F

import onnx_backend
import tiny
from attar import bench, compare, dimensions, distill, evaluate, export, prune
from attar.data.embedding_task import Embedding
from attar.data.model_task import task_of
from attar.distillation.student import student
from attar.errors import ModelError, RecipeError
from attar.evaluation.perplexity import is_language_model
from attar.evaluation.table import TableEvaluator
from attar.maths import losses
from attar.model.checkpoint import load, save
from attar.model.embedding import KEY, SentenceEncoder
from attar.model.onnx import OnnxModel
from attar.model.pooling import MODES, pool
from attar.model.sentence_modules import Head, Linear

TEXTS = [f"the {a} film is a {b} story" for a in tiny.GOOD + tiny.BAD for b in tiny.GOOD + tiny.BAD]


def embedder(family="bert", head=None, **sizes):
    """A tiny embedding model."""
    encoder = tiny.model(family, head="base", **sizes)
    setattr(encoder.config, KEY, (head or Head(normalize=True, max_length=40)).written)
    return SentenceEncoder(encoder.config, encoder).eval()


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A directory with Dense layers, as sentence-transformers would write it."""
    head = Head(dense=(Linear(24, 16, True, "Tanh"), Linear(16, 12, False)), normalize=True, max_length=40)
    return save(embedder(head=head), tiny.tokenizer(), tmp_path_factory.mktemp("teacher") / "t", lineage={})


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """One without Dense layers, which normalises."""
    return save(embedder(), tiny.tokenizer(), tmp_path_factory.mktemp("plain") / "t", lineage={})


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
    ours = _embed(again.model, ["the " + text for text in TEXTS[:5]])
    np.testing.assert_allclose(ours, library.encode(TEXTS[:5]), atol=1e-5)
    library.save(str(tmp_path / "theirs"))  # in the names of a newer version
    np.testing.assert_allclose(ours, _embed(load(tmp_path / "theirs").model, ["the " + t for t in TEXTS[:5]]))


def _embed(model, texts):
    batch = tiny.tokenizer()(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model(**batch).logits.numpy()


def test_an_encoder_alone_is_pooled_as_asked(tmp_path):
    encoder = tiny.model(head="base")
    encoder.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    found = _embed(load(tmp_path, pooling="max").model, TEXTS[:3])
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
    np.testing.assert_allclose(_embed(loaded.model, ["a film"]), library.encode(["a film"]), atol=1e-5)
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
    np.testing.assert_allclose(_embed(loaded.model, ["The FILM"]), wanted, atol=1e-5)
    said = json.loads((tmp_path / "t" / "tokenizer_config.json").read_text())
    (tmp_path / "t" / "tokenizer_config.json").write_text(json.dumps(said | {"do_lower_case": False}))
    with pytest.raises(ModelError, match="do_lower_case"):
        load(tmp_path / "t")


# Losses


def test_losses_are_zero_where_embeddings_are_equal_and_relations_know_no_turn():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(8, 6, generator=generator) for _ in range(2))
    turn = torch.linalg.qr(torch.randn(6, 6, generator=generator)).Q
    assert losses.embedding_error(x, x) == pytest.approx(0, abs=1e-6)
    assert losses.similarity_divergence(3 * x @ turn, x) == pytest.approx(0, abs=1e-5)
    assert losses.similarity_divergence(y, x) > 0.01
    unit = F.normalize(x, dim=-1), F.normalize(y, dim=-1)
    assert losses.embedding_error(*unit) == pytest.approx(
        3 * float((1 - F.cosine_similarity(*unit)).mean()), rel=1e-5
    )


def test_distances_are_compared_as_parts_of_their_mean():
    x, y = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(1)).double()
    turn = torch.linalg.qr(torch.randn(7, 7, generator=torch.Generator().manual_seed(2)).double())[0]
    assert losses.distance_error(3 * x @ turn + 1, x) == pytest.approx(0, abs=1e-6)
    apart = [pdist(side.numpy()) for side in (x, y)]
    wrong = np.abs(apart[0] / apart[0].mean() - apart[1] / apart[1].mean())
    huber = np.where(wrong < 1, wrong**2 / 2, wrong - 0.5).mean()
    assert float(losses.distance_error(x, y)) == pytest.approx(losses.RKD_WEIGHT * huber, rel=1e-4)
    assert losses.distance_error(x[:1], y[:1]) == 0


def test_similarity_divergence_is_scipys():
    from scipy.spatial.distance import cosine
    from scipy.special import log_softmax, rel_entr

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 3)), rng.normal(size=(5, 4))
    rows = []
    for i in range(5):
        others = [j for j in range(5) if j != i]
        ours, theirs = (
            np.exp(log_softmax([(1 - cosine(e[i], e[j])) / 0.05 for j in others])) for e in (x, y)
        )
        rows.append(rel_entr(theirs, ours).sum())
    found = losses.similarity_divergence(torch.tensor(x), torch.tensor(y))
    assert float(found) == pytest.approx(np.mean(rows), rel=1e-4)


# Figures


def test_agreement_is_the_rank_correlation_of_similarities_and_pairs_are_scored(plain):
    from scipy.stats import spearmanr
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

    rng = np.random.default_rng(0)
    loaded = load(plain)
    task = task_of(loaded.model)
    table = Dataset.from_dict({"text": TEXTS[:30]})
    evaluator = TableEvaluator(task, table, loaded.tokenizer)
    theirs = evaluator.logits(loaded.model)
    ours = theirs + 0.3 * rng.normal(size=theirs.shape)
    found = evaluator.evaluate_logits(ours, evaluator.evaluate_teacher(theirs)).metrics
    unit = [e / np.linalg.norm(e, axis=1, keepdims=True) for e in (ours, theirs)]
    rows = [spearmanr(unit[0][i] @ unit[0].T, unit[1][i] @ unit[1].T).statistic for i in range(30)]
    assert found["agreement"] == pytest.approx(np.mean(rows), abs=1e-6)
    assert 0 < found["overlap_10"] < 1
    assert evaluator.evaluate_teacher(theirs).metrics["overlap_10"] == 1
    pairs = {"text": TEXTS[:20], "text_pair": TEXTS[30:50], "label": rng.random(20).tolist()}
    report = evaluate(plain, Dataset.from_dict(pairs))
    library = EmbeddingSimilarityEvaluator(pairs["text"], pairs["text_pair"], pairs["label"])
    wanted = library(SentenceTransformer(str(plain), device="cpu"))
    assert report.rows[0].metrics["spearman"] == pytest.approx(wanted["spearman_cosine"], abs=1e-5)
    assert "average_precision" not in report.rows[0].metrics


@pytest.mark.parametrize("name", ["cosine", "euclidean"])
def test_pairs_that_belong_together_or_not_are_told_apart_as_sentence_transformers_does(name, tmp_path):
    from sentence_transformers.sentence_transformer.evaluation import BinaryClassificationEvaluator

    model = embedder(head=Head(similarity=name, max_length=40))
    save(model, tiny.tokenizer(), tmp_path / "model", lineage={})
    labels = np.random.default_rng(0).integers(0, 2, 30).tolist()
    pairs = {"text": TEXTS[:30], "text_pair": TEXTS[40:70], "label": labels}
    library = BinaryClassificationEvaluator(*pairs.values(), similarity_fn_names=[name])
    wanted = library(SentenceTransformer(str(tmp_path / "model"), device="cpu"))
    found = evaluate(tmp_path / "model", Dataset.from_dict(pairs)).rows[0].metrics
    assert found["pair_accuracy"] == pytest.approx(wanted[f"{name}_accuracy"])
    assert found["average_precision"] == pytest.approx(wanted[f"{name}_ap"])


def test_the_default_prompt_stands_before_texts_as_in_sentence_transformers(tmp_path):
    """In pairs, and in what a student learns: without it, no student of this teacher would come near."""
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

    said = {"prompts": {"mood": "she was cold and very dull in "}, "default_prompt": "mood"}
    save(
        embedder(head=Head(normalize=True, max_length=40, **said)),
        tiny.tokenizer(),
        tmp_path / "t",
        lineage={},
    )
    rng = np.random.default_rng(0)
    pairs = {"text": TEXTS[:20], "text_pair": TEXTS[30:50], "label": rng.random(20).tolist()}
    library = SentenceTransformer(str(tmp_path / "t"), device="cpu")
    wanted = EmbeddingSimilarityEvaluator(*pairs.values())(library)
    report = evaluate(tmp_path / "t", Dataset.from_dict(pairs))
    assert report.rows[0].metrics["spearman"] == pytest.approx(wanted["spearman_cosine"], abs=1e-5)
    loaded = load(tmp_path / "t")
    evaluator = TableEvaluator(task_of(loaded.model), Dataset.from_dict(pairs), loaded.tokenizer)
    np.testing.assert_allclose(evaluator.logits(loaded.model)[:20], library.encode(pairs["text"]), atol=1e-5)


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_embeddings_are_compared_as_their_model_says(name):
    from sentence_transformers.util import SimilarityFunction

    x, y = (torch.randn(n, 5, generator=torch.Generator().manual_seed(n)) for n in (4, 6))
    theirs = SimilarityFunction.to_similarity_fn(name)(x, y).numpy()
    np.testing.assert_allclose(
        Embedding("embedding", (), name).alike(x.numpy(), y.numpy()), theirs, atol=1e-5
    )


# Students


@pytest.mark.parametrize("name", ["plain", "teacher"])
def test_a_projected_student_of_the_same_size_is_the_teacher(name, request):
    loaded = load(request.getfixturevalue(name))
    task = task_of(loaded.model)
    batches = TableEvaluator(task, Dataset.from_dict({"text": TEXTS}), loaded.tokenizer).batches
    made = student(loaded.model, init="project", texts=batches).model
    np.testing.assert_allclose(_embed(made, TEXTS[:9]), _embed(loaded.model, TEXTS[:9]), atol=1e-3)


@pytest.mark.parametrize(("dense", "width"), [(True, 24), (False, 12)])
def test_a_student_learns_similarities_from_texts_alone(plain, tmp_path, dense, width):
    """With the teacher's dimensions, and in a space of its own; it opens in sentence-transformers."""
    sizes = {"layers": 1, "hidden": 12, "heads": 2, "ffn": 24, "dense": dense}
    options = {"general": None, "intermediate": None, "texts": TEXTS[40:], "dev": {"text": TEXTS[:40]}}
    options["dev"] = Dataset.from_dict(options["dev"])
    start = distill(plain, out=tmp_path / "a", student=sizes, prediction=None, **options)
    report = distill(
        plain, out=tmp_path / "b", student=sizes, prediction={"epochs": 8, "lr": 1e-3}, **options
    )
    assert start.rows[1].metrics.get("agreement", -1) < report.student.metrics["agreement"]
    assert report.student.metrics["agreement"] > 0.5
    assert SentenceTransformer(str(tmp_path / "b"), device="cpu").encode(TEXTS[:2]).shape == (2, width)


def test_what_is_cut_is_counted_once_a_table(plain, tmp_path, caplog):
    long = [f"{text} {text}" for text in TEXTS]
    options = {"texts": TEXTS[:20] + long[:5], "dev": Dataset.from_dict({"text": TEXTS[:8] + long[:3]})}
    phases = {"intermediate": {"epochs": 1}, "prediction": {"epochs": 1}}
    with caplog.at_level(logging.INFO, logger="attar"):
        distill(plain, out=tmp_path / "s", student={"layers": 1}, max_length=12, **phases, **options)
        dimensions(plain, to=6, texts=TEXTS[:30] + long, compare=(), max_length=12, out=tmp_path / "d")
    said = [record.getMessage() for record in caplog.records if "is not read" in record.getMessage()]
    assert [line.partition(" tokens")[0] for line in said[:2]] == [
        "5 of 25 texts reach 12",
        "3 of 11 texts that are measured on reach 12",
    ]
    assert len(said) == 4
    assert sum(int(line.split()[0]) for line in said[2:]) == len(long)


@pytest.mark.parametrize("normalize", [True, False])
def test_a_teacher_whose_lengths_no_cosine_reads_is_said(normalize, tmp_path, caplog):
    """Its student has lengths, too."""
    caplog.set_level(logging.INFO, logger="attar")
    teacher = save(embedder(head=Head(normalize=normalize)), tiny.tokenizer(), tmp_path / "t", lineage={})
    options = {"general": None, "intermediate": None, "prediction": {"epochs": 1}, "student": {"layers": 1}}
    distill(teacher, out=tmp_path / "out", texts=TEXTS[:20], **options)
    assert ("the student learns their lengths" in caplog.text) is not normalize
    lengths = np.linalg.norm(
        SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(TEXTS[:9]), axis=1
    )
    assert np.allclose(lengths, 1, atol=1e-5) is normalize


def test_dimensions_that_are_taught_by_themselves_are_better_alone(plain, tmp_path):
    options = {
        "general": None,
        "intermediate": None,
        "texts": TEXTS,
        "student": {"layers": 1, "init": "layers"},
    }
    agreed = []
    loaded = load(plain)
    evaluator = TableEvaluator(task_of(loaded.model), Dataset.from_dict({"text": TEXTS}), loaded.tokenizer)
    teacher = evaluator.evaluate_teacher(evaluator.logits(loaded.model))
    for n, alone in enumerate([(), (4,)]):
        phase = {"epochs": 6, "lr": 3e-3, "dimensions": alone}
        distill(plain, out=tmp_path / str(n), prediction=phase, **options)
        cut = evaluator.logits(load(tmp_path / str(n)).model)[:, :4]
        agreed.append(evaluator.evaluate_logits(cut, teacher).metrics["agreement"])
    assert agreed[1] > agreed[0]
    with pytest.raises(RecipeError, match="below"):
        distill(plain, out=tmp_path / "c", prediction={"dimensions": [99]}, **options)


def test_relations_of_texts_are_learned_as_they_are_asked_for(plain, tmp_path):
    sizes = {"layers": 1, "hidden": 12, "heads": 2, "ffn": 24, "dense": False, "init": "random"}
    options = {"general": None, "intermediate": None, "texts": TEXTS, "student": sizes}
    theirs = torch.from_numpy(_embed(load(plain).model, TEXTS[:40]))
    apart = {}
    for relations in ("similarities", "distances"):
        phase = {"epochs": 6, "lr": 3e-3, "relations": relations}
        distill(plain, out=tmp_path / relations, prediction=phase, **options)
        ours = torch.from_numpy(_embed(load(tmp_path / relations).model, TEXTS[:40]))
        apart[relations] = losses.distance_error(ours, theirs)
    assert apart["distances"] < apart["similarities"]


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


# Pruning


@pytest.mark.parametrize("name", ["plain", "teacher"])
@pytest.mark.parametrize("axes", ["all", "heads"])
def test_a_cut_embedding_model_opens_and_is_near(name, axes, request, tmp_path):
    """Hidden units, which Dense layers read, and heads, whose numbers no stock config says."""
    source = request.getfixturevalue(name)
    options = {"method": "magnitude", "axes": axes, "recover_steps": 0}
    report = prune(source, out=tmp_path / "out", budget=0.8, texts=TEXTS, **options)
    loaded = load(tmp_path / "out")
    assert loaded.model.num_parameters() < load(source).model.num_parameters()
    assert report.student.metrics["agreement"] > 0.3
    assert report.student.metrics["overlap_10"] < 1
    if axes == "all":
        library = SentenceTransformer(str(tmp_path / "out"), device="cpu")
        np.testing.assert_allclose(library.encode(TEXTS[:4]), _embed(loaded.model, TEXTS[:4]), atol=1e-5)


# Dimensions


@pytest.mark.parametrize("name", ["plain", "teacher"])
def test_fewer_dimensions_are_the_best_ones_and_are_inside_the_model(name, request, tmp_path):
    source = request.getfixturevalue(name)
    report = dimensions(source, to=6, texts=TEXTS, compare=(3,), out=tmp_path / "out")
    whole, cut = load(source), load(tmp_path / "out")
    assert cut.model.width == 6
    library = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    np.testing.assert_allclose(library.encode(TEXTS[:4]), _embed(cut.model, TEXTS[:4]), atol=1e-5)
    full, small = _embed(whole.model, TEXTS), _embed(cut.model, TEXTS)
    first = full[:, :6] / np.linalg.norm(full[:, :6], axis=1, keepdims=True)
    gram = full @ full.T
    assert np.abs(small @ small.T - gram).mean() < 0.9 * np.abs(first @ first.T - gram).mean()
    agreed = {row.runtime: row.metrics["agreement"] for row in report.rows}
    width = whole.model.width
    assert agreed["6 dimensions, fp32"] < agreed[f"{width} dimensions, int8"] < 1
    assert agreed[f"{width} dimensions, binary"] < agreed[f"{width} dimensions, int8"]
    assert agreed["6 dimensions, fp32"] >= agreed["3 dimensions, fp32"] > agreed["3 dimensions, binary"]
    assert agreed["6 dimensions, fp32"] >= agreed["6 dimensions, int8"] - 1e-3
    assert [row.bytes for row in report.rows][:6] == [4 * width, width, -(-width // 8), 24, 6, 1]
    assert report.columns()["size"][3:6] == ["24 B", "6 B", "1 B"]


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_the_table_of_dimensions_has_what_is_written(similarity, tmp_path):
    """Of a model that does not normalise, and a folder of documents: lengths count where its similarity reads them."""
    model = embedder(head=Head(("mean_sqrt_len_tokens",), similarity=similarity, max_length=40))
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "all.md").write_text("\n\n".join(TEXTS))
    options = {"tokenizer": tiny.tokenizer(), "to": 6, "texts": tmp_path / "documents", "compare": ()}
    sides = [" ".join([text] * (1 + n % 3)) for n, text in enumerate(TEXTS[:40])], TEXTS[60:100]
    alike = np.diag(Embedding("embedding", (), similarity).alike(*(_embed(model, side) for side in sides)))
    pairs = {"text": sides[0], "text_pair": sides[1], "label": (alike - alike.min()).tolist()}
    report = dimensions(model, data=Dataset.from_dict(pairs), out=tmp_path / "out", **options)
    library = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

    wanted = EmbeddingSimilarityEvaluator(*pairs.values(), main_similarity=similarity)(library)
    ours = next(row for row in report.rows if row.role == "student")
    assert ours.metrics["spearman"] == pytest.approx(wanted[f"spearman_{similarity}"], abs=1e-4)


def test_leading_dimensions_are_those_that_truncation_leaves(plain, tmp_path):
    options = {"texts": TEXTS, "compare": (3,), "out": tmp_path / "out"}
    report = dimensions(plain, to=6, directions="leading", **options)
    library = SentenceTransformer(str(plain), device="cpu", truncate_dim=6)
    cut = library.encode(TEXTS[:9])
    np.testing.assert_allclose(
        _embed(load(tmp_path / "out").model, TEXTS[:9]), F.normalize(torch.tensor(cut)).numpy(), atol=1e-5
    )
    best = dimensions(plain, to=6, **(options | {"out": tmp_path / "best"}))
    assert best.student.metrics["agreement"] > report.student.metrics["agreement"]
