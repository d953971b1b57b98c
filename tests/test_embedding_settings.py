"""What `distill` settles, refuses and says beforehand where the teacher is an embedding model."""

import logging

import numpy as np
import pytest
from datasets import Dataset
from embedders import TEXTS, embedder
from sentence_transformers import SentenceTransformer

import tiny
from attar import compare, dimensions, distill
from attar.data.tables import hold_out
from attar.distillation import defaults, duration, tinybert
from attar.errors import DataError, ModelError, RecipeError
from attar.model.checkpoint import load, save
from attar.model.sentence_modules import Head


def test_options_that_outputs_have_no_use_for_are_refused(plain, tmp_path):
    classifier, few = tiny.saved(tmp_path / "c"), {"texts": TEXTS[:30], "student": {"layers": 1}}
    for model, name, given in (
        (plain, "temperature", 2.0),
        (classifier, "dimensions", [4]),
        (classifier, "relations", "distances"),
    ):
        with pytest.raises(RecipeError, match=f"no prediction.{name}"):
            distill(model, out=tmp_path / "s", prediction={name: given}, **few)
    with pytest.raises(RecipeError, match=r"no student\.dense"):
        distill(classifier, out=tmp_path / "s", texts=TEXTS[:30], student={"layers": 1, "dense": False})
    with pytest.raises(DataError, match="data and texts"):
        distill(plain, out=tmp_path / "s", data=[{"text": text} for text in TEXTS], **few)
    with pytest.raises(ModelError, match="--pooling mean"):
        distill(tiny.saved(tmp_path / "e", head="base"), out=tmp_path / "s", **few)
    assert not (tmp_path / "s").exists()


def test_what_is_left_open_is_settled_by_what_the_teacher_is(plain, tmp_path):
    """An embedding model learns its embeddings alone, at a rate of its own; what is named stays as it is named."""
    few = {"texts": TEXTS[:30], "student": {"layers": 1}}
    report = distill(plain, out=tmp_path / "a", **few)
    assert "learned in 10 passes over 27 texts: epochs were not named" in report.notes
    layers = distill(plain, out=tmp_path / "e", prediction=None, **few)
    assert set(layers.curves) == {"intermediate"}
    classifier = tiny.saved(tmp_path / "c")
    other = distill(classifier, out=tmp_path / "b", intermediate={"epochs": 1}, **few)
    named = {"intermediate": {"epochs": 1}, "prediction": {"epochs": 2, "lr": 1e-3, "batch_size": 8}}
    own = distill(plain, out=tmp_path / "d", **named, **few)
    assert [set(one.curves) for one in (report, other, own)] == [
        {"prediction"},
        {"intermediate", "prediction"},
        {"intermediate", "prediction"},
    ]
    near = [
        distill(plain, out=tmp_path / name, prediction={"epochs": 1}, texts=TEXTS[:30], student=start)
        for name, start in {"f": tmp_path / "a", "g": {"layers": 1, "init": "layers"}}.items()
    ]
    assert [one.settings["prediction"]["lr"] for one in near] == [2e-4, 2e-4]
    found = [one.settings["prediction"] for one in (report, other, own)]
    names = ("epochs", "lr", "batch_size")
    assert [tuple(phase[name] for name in names) for phase in found] == [
        (None, 5e-4, 64),
        (3, 3e-5, 32),
        (2, 1e-3, 8),
    ]


def test_the_passes_of_an_embedding_model_go_over_as_many_texts():
    rows = (2_000, 50_000, 100_000, 1_000_000)
    assert [defaults.prediction_epochs(None, n) for n in rows] == [10, 8, 4, 1]
    assert {defaults.prediction_epochs(5, n) for n in rows} == {5}


def test_an_embedding_wider_than_the_hidden_size_is_refused(plain, tmp_path):
    with pytest.raises(ModelError, match="at most the hidden size, 24"):
        distill(plain, out=tmp_path / "s", texts=TEXTS[:30], student={"layers": 1, "embedding": 30})


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
    with caplog.at_level(logging.INFO, logger="attar"):
        caplog.clear()
        compare(
            [plain, tmp_path / "s"],
            data=Dataset.from_dict({"text": TEXTS[:6] + long[:2]}),
            max_length=12,
        )
    assert ["reach 12 tokens" in record.getMessage() for record in caplog.records].count(True) == 1
    assert "2 of 8 texts reach 12 tokens" in caplog.text


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


def test_the_announced_time_has_the_comparison_with_all_texts_in_it(plain, tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO, logger="attar")
    tried = []

    def say_duration(phases_of_it, made, measured, **given):
        learner = phases_of_it[-1].learner(made, None)
        tried.append(learner.embeddings.others)
        duration.say_duration(phases_of_it, made, measured, **given)

    monkeypatch.setattr(duration, "SHORT", 0)
    monkeypatch.setattr(tinybert, "say_duration", say_duration)
    options = {"texts": TEXTS, "student": {"layers": 1}, "intermediate": None}
    for name, more in (("all", {}), ("none", {"neighbours": False})):
        distill(plain, out=tmp_path / name, prediction={"epochs": 1, **more}, **options)
    distill(plain, out=tmp_path / "live", prediction={"epochs": 1}, cache=False, **options)
    assert "about" in caplog.text
    whole = (len(hold_out(Dataset.from_dict({"text": TEXTS}))[0]), load(plain).model.width)
    assert [None if others is None else tuple(others.shape) for others in tried] == [whole, None, None]
    caplog.clear()
    monkeypatch.setattr(tinybert, "heard", lambda: False)
    distill(plain, out=tmp_path / "silent", prediction={"epochs": 1}, **options)
    assert " in all" not in caplog.text
    assert tiny.identical(load(tmp_path / "all").model, load(tmp_path / "silent").model)
