"""Embedding models that learn from pairs: by sentence-transformers' losses, for search that gets better."""

import json
import logging

import pytest
import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder, SentenceTransformer

import attar
import tiny
from attar.errors import DataError, MissingExtraError, ModelError
from attar.model.checkpoint import load, save
from attar.model.embedding import KEY, SentenceEncoder
from attar.model.sentence_modules import Head
from attar.training.embedding_finetuning import _pairs

# A query and its document share no word.
PAIRS = [
    {
        "text": f"{tiny.GOOD[n % len(tiny.GOOD)]} film",
        "text_pair": f"the {tiny.BAD[n % len(tiny.BAD)]} story is a plot",
    }
    for n in range(min(len(tiny.GOOD), len(tiny.BAD)))
]
LEARN = {"epochs": 4, "lr": 3e-3, "batch_size": 4, "precision": "fp32", "patience": None}


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    torch.manual_seed(0)
    encoder = tiny.model("bert", head="base")
    head = Head(normalize=True, max_length=40, prompts={"query": "the "})
    setattr(encoder.config, KEY, head.written)
    made = SentenceEncoder(encoder.config, encoder).eval()
    return save(made, tiny.tokenizer(), tmp_path_factory.mktemp("embedder") / "e", lineage={})


def test_search_gets_better_on_pairs(embedder, tmp_path):
    rows = PAIRS * 20
    report = attar.finetune(embedder, rows, dev=PAIRS, out=tmp_path / "out", **LEARN)
    before, after = report.rows
    assert report.main == "ndcg@10"
    assert after.metrics["ndcg@10"] > before.metrics["ndcg@10"] + 0.1
    found = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert found.prompts["query"] == "the "
    lineage = json.loads((tmp_path / "out" / "lineage.json").read_text())
    assert (lineage["stage"], lineage["parent"]) == ("finetune", str(embedder))
    assert not list(tmp_path.glob(".out*"))


def test_a_model_that_got_no_better_is_said_to_be_so(embedder, tmp_path):
    report = attar.finetune(
        embedder, PAIRS * 4, dev=PAIRS, out=tmp_path / "out", **(LEARN | {"lr": 1e-9, "epochs": 1})
    )
    assert report.rows[1].metrics["ndcg@10"] <= report.rows[0].metrics["ndcg@10"]
    assert "no epoch was better" in report.notes[0]


def test_the_best_epoch_is_kept(embedder, tmp_path, monkeypatch):
    """Pairs that contradict the dev pairs make the model worse on these with each epoch."""
    said = []
    monkeypatch.setattr("attar.training.embedding_finetuning.say", said.append)
    wrong = [
        {"text": row["text"], "text_pair": other["text_pair"]}
        for row, other in zip(PAIRS, PAIRS[1:] + PAIRS[:1], strict=True)
    ]
    options = LEARN | {"epochs": 4, "patience": None}
    report = attar.finetune(embedder, wrong * 20, dev=PAIRS, out=tmp_path / "out", **options)
    epochs = [float(line.split()[-1]) for line in said if line.startswith("epoch")]
    assert len(epochs) == 4
    assert max(epochs) > epochs[-1]
    assert report.rows[1].metrics["ndcg@10"] == pytest.approx(max(epochs), abs=1e-4)


def test_triplets_teach_as_pairs_with_a_negative(embedder, tmp_path):
    rows = [
        {"anchor": row["text"], "positive": row["text_pair"], "negative": other["text_pair"]}
        for row, other in zip(PAIRS, PAIRS[1:] + PAIRS[:1], strict=True)
    ] * 20
    report = attar.finetune(embedder, rows, dev=rows[: len(PAIRS)], out=tmp_path / "out", **LEARN)
    assert report.rows[1].metrics["ndcg@10"] > report.rows[0].metrics["ndcg@10"]


@pytest.mark.parametrize("labels", [(0.0, 0.5, 1.0, 1.5, 2.0), (0, 2, 10, 3, 1), (0, 1)])
def test_scores_are_learned_by_rank(labels, embedder, tmp_path):
    """Whole numbers, too: as `compare` reads them."""
    rows = [{**row, "label": labels[n % len(labels)]} for n, row in enumerate(PAIRS)]
    assert _pairs(rows, None)["score"][:] == [row["label"] for row in rows]
    report = attar.finetune(embedder, rows * 20, dev=rows, out=tmp_path / "out", **LEARN)
    assert report.main == "spearman"
    assert report.rows[1].metrics["spearman"] > report.rows[0].metrics["spearman"]


def test_a_student_of_a_tuned_model_can_be_distilled(embedder, tmp_path):
    attar.finetune(embedder, PAIRS * 20, dev=PAIRS, out=tmp_path / "tuned", **(LEARN | {"epochs": 1}))
    assert isinstance(load(tmp_path / "tuned").model, SentenceEncoder)


def test_its_encoder_gets_a_head_for_other_labels(embedder, tmp_path):
    """Classes of single texts, and a reranker's score where the problem type says so."""
    quick = {"epochs": 1, "batch_size": 24, "precision": "fp32"}
    report = attar.finetune(embedder, tiny.table(24, 0), dev=tiny.table(24, 1), out=tmp_path / "a", **quick)
    assert report.main == "accuracy"
    assert load(tmp_path / "a").model.config.num_labels == 2
    scored = Dataset.from_list([pair | {"label": n % 2} for n, pair in enumerate(PAIRS * 4)])
    attar.finetune(embedder, scored, dev=scored, out=tmp_path / "b", problem_type="regression", **quick)
    made = CrossEncoder(str(tmp_path / "b"), device="cpu")
    assert made.num_labels == 1


def test_an_encoder_alone_learns_as_it_is_pooled(tmp_path):
    encoder = tiny.saved(tmp_path / "encoder", head="base")
    quick = LEARN | {"epochs": 1}
    attar.finetune(encoder, PAIRS * 20, dev=PAIRS, out=tmp_path / "out", pooling="max", **quick)
    assert load(tmp_path / "out").model.head.pooling == ("max",)
    made = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert made[1].pooling_mode == "max"
    with pytest.raises(ModelError, match="--pooling mean"):
        attar.finetune(encoder, PAIRS * 20, out=tmp_path / "no")
    with pytest.raises(DataError, match="leave pooling out"):
        attar.finetune(encoder, tiny.table(24), out=tmp_path / "no", pooling="max")
    assert {place.name for place in tmp_path.iterdir()} == {"encoder", "out"}


def test_a_model_of_one_score_learns_scores(tmp_path, caplog):
    """Grades of a reranker are no classes; a classifier's whole numbers are, and words are."""
    caplog.set_level(logging.INFO, logger="attar")
    quick = {"epochs": 1, "batch_size": 24, "precision": "fp32"}
    rows = [pair | {"label": n % 3} for n, pair in enumerate(PAIRS * 4)]
    words = [row | {"label": "good" if row["label"] else "bad"} for row in rows]
    reranker, classifier = (tiny.saved(tmp_path / f"{n}", num_labels=n) for n in (1, 2))
    outputs = {}
    for name, model, table in (
        ("grades", reranker, rows),
        ("loaded", load(reranker).model, rows),
        ("words", reranker, words),
        ("classes", classifier, rows),
    ):
        more = {"tokenizer": tiny.tokenizer()} if name == "loaded" else {}
        attar.finetune(model, table, dev=table, out=tmp_path / name, **quick, **more)
        outputs[name] = load(tmp_path / name).model.config.num_labels
    assert outputs == {"grades": 1, "loaded": 1, "words": 2, "classes": 3}
    assert caplog.text.count("labels are scores") == 2


def test_what_cannot_be_learned_from_is_said(embedder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    scored = [{"anchor": "a film", "positive": "a plot", "score": 0.5}] * 20
    with pytest.raises(DataError, match="label=score"):
        attar.finetune(embedder, scored, out=out)
    with pytest.raises(DataError, match="text_pair"):
        attar.finetune(embedder, [{"text": "a film"}] * 20, out=out)
    with pytest.raises(DataError, match="10 rows"):
        attar.finetune(embedder, PAIRS[:4], out=out)
    with pytest.raises(DataError, match="problem_type"):
        attar.finetune(embedder, PAIRS * 3, out=out, problem_type="regression")
    with pytest.raises(DataError, match="empty"):
        attar.finetune(embedder, [{"anchor": "a", "positive": " "}, *PAIRS * 3][:1] * 12, out=out)
    monkeypatch.setattr("attar.training.embedding_finetuning.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="embeddings"):
        attar.finetune(embedder, PAIRS * 3, out=out)
    assert not list(tmp_path.iterdir())
