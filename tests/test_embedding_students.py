"""Laws of students of embedding models: losses at their zeros, figures, students and pruned forms near teachers."""

import numpy as np
import pytest
import scipy.linalg
import torch
from datasets import Dataset
from embedders import TEXTS, embed, embedder, saved
from scipy.spatial.distance import pdist
from sentence_transformers import SentenceTransformer
from torch.nn import functional as F

import tiny
from attar import distill, evaluate, prune
from attar.data.batches import Batches, encode
from attar.data.embedding_task import Embedding
from attar.data.model_task import task_of
from attar.distillation import objective, phases, tinybert
from attar.distillation.embedding_head import embedding_match
from attar.distillation.phases import near, teacher_of
from attar.distillation.student import student
from attar.errors import RecipeError
from attar.evaluation.table import TableEvaluator
from attar.maths import losses
from attar.model.checkpoint import load, save
from attar.model.sentence_modules import Head
from attar.model.views import Need
from attar.pruning.pruner import Pruner
from attar.pruning.round import Way

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


def test_neighbour_divergence_ranks_the_same_texts_by_each_sides_embedding():
    from scipy.special import log_softmax, rel_entr

    rng = np.random.default_rng(0)
    student, teacher, others = rng.normal(size=(5, 4)), rng.normal(size=(5, 4)), rng.normal(size=(9, 4))
    turn = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (student, teacher, others)]
    ours, theirs = (log_softmax(side @ units[2].T / 0.05, axis=1) for side in units[:2])
    given = [torch.tensor(x) for x in (2 * student @ turn, teacher, 3 * others @ turn, others)]
    wanted = rel_entr(np.exp(theirs), np.exp(ours)).sum(1).mean()
    assert float(losses.neighbour_divergence(*given)) == pytest.approx(wanted, rel=1e-4)
    assert losses.neighbour_divergence(given[1] @ torch.tensor(turn), *given[1:]) == pytest.approx(
        0, abs=1e-5
    )


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
    np.testing.assert_allclose(embed(made, TEXTS[:9]), embed(loaded.model, TEXTS[:9]), atol=1e-3)


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


def test_a_space_of_its_own_has_texts_as_like_each_other_as_the_teachers(plain, teacher):
    loaded, start = load(plain), {1: 5 * torch.randn(12, 24, generator=torch.Generator().manual_seed(0)) ** 3}
    made = student(loaded.model, layers=1, hidden=12, heads=2, ffn=24, dense=False, init="random").model
    match = embedding_match(loaded.model, made, start, (), "similarities")
    polar, _ = scipy.linalg.polar(start[1].T.double().numpy())
    np.testing.assert_allclose(match.space, polar, atol=1e-5)
    torch.testing.assert_close(match.space.T @ match.space, torch.eye(12))
    # The maps lead to hidden states, which are no embeddings where a Dense layer follows.
    dense = load(teacher).model
    narrow = student(dense, layers=1, hidden=8, heads=2, ffn=16, dense=False, init="random").model
    assert embedding_match(dense, narrow, {1: torch.eye(8, dense.width)}, (), "similarities").space is None


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
    theirs = torch.from_numpy(embed(load(plain).model, TEXTS[:40]))
    apart = {}
    for relations in ("similarities", "distances"):
        phase = {"epochs": 6, "lr": 3e-3, "relations": relations}
        distill(plain, out=tmp_path / relations, prediction=phase, **options)
        ours = torch.from_numpy(embed(load(tmp_path / relations).model, TEXTS[:40]))
        apart[relations] = losses.distance_error(ours, theirs)
    assert apart["distances"] < apart["similarities"]


def test_texts_of_like_topics_are_learned_together(plain, tmp_path, monkeypatch):
    """By the teacher's own embeddings, where it keeps them; else in any order."""
    loaded = load(plain)
    encoded = encode(Dataset.from_dict({"text": TEXTS}), loaded.tokenizer)
    batches = Batches(encoded, loaded.tokenizer)
    options = {"precision": "fp32", "name": "any"}
    found = near(teacher_of(loaded.model, Need(), batches, cache=tmp_path / "cache", **options))
    np.testing.assert_allclose(found, embed(loaded.model, TEXTS), atol=1e-5)
    assert near(teacher_of(loaded.model, Need(), batches, cache=None, **options)) is None
    asked = []

    def learn(phase, learner, batches, **given):
        asked.append((batches.near is not None, learner.embeddings.others is not None))
        return phases.learn(phase, learner, batches, **given)

    monkeypatch.setattr(tinybert, "learn", learn)
    for neighbours in (True, False):
        distill(plain, out=tmp_path / f"{neighbours}", texts=TEXTS, student={"layers": 1}, intermediate=None,
                prediction={"epochs": 1, "neighbours": neighbours})  # fmt: skip
    assert asked == [(True, True), (False, False)]


def test_a_text_is_compared_with_the_nearest_of_all_and_with_any(monkeypatch):
    monkeypatch.setattr(objective, "SEARCHED", 60)
    monkeypatch.setattr(objective, "NEAREST", 5)
    generator = torch.Generator().manual_seed(0)
    others = F.normalize(torch.randn(120, 6, generator=generator), dim=-1)
    teacher, student = (3 * torch.randn(4, 6, generator=generator) for _ in range(2))
    match = objective.EmbeddingMatch(others=others)
    found = match._near(teacher)
    assert found.shape == (10, 6)
    rows = [int((others == row).all(1).nonzero()[0, 0]) for row in found]
    assert len({row % 2 for row in rows}) == 1
    middle = F.normalize(teacher, dim=-1).mean(0)
    half = others[rows[0] % 2 :: 2]
    torch.testing.assert_close(found[:5] @ middle, (half @ middle).topk(5).values)
    assert objective.EmbeddingMatch()(student, teacher, count=4) < match(student, teacher, count=4)
    assert match(teacher, teacher, count=4) == pytest.approx(0, abs=1e-4)
    alone = objective.EmbeddingMatch(relations="distances")(student, teacher, count=4)
    assert objective.EmbeddingMatch(relations="distances", others=others)(student, teacher, count=4) == alone


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
        np.testing.assert_allclose(library.encode(TEXTS[:4]), embed(loaded.model, TEXTS[:4]), atol=1e-5)


def test_pruning_reads_texts_after_the_default_prompt(tmp_path):
    """As sentence-transformers does, so that what is kept is what the model needs in use."""
    head = Head(normalize=True, max_length=40, prompts={"mood": "she was cold "}, default_prompt="mood")
    loaded = load(saved(tmp_path / "t", head))
    texts = Dataset.from_dict({"text": TEXTS[:5]})
    batches = Pruner(loaded, Way("taylor"), texts=texts, batch_size=5).batches("distill")
    found = {tuple(row[row != 0].tolist()) for batch in batches.epoch() for row in batch.inputs["input_ids"]}
    assert found == {tuple(tiny.tokenizer()("she was cold " + text)["input_ids"]) for text in TEXTS[:5]}
