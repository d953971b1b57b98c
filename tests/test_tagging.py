"""Laws of token classification: words are asked once, at their first piece; others count nowhere; names travel."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from transformers import pipeline

import asked
import tiny
from attar import distill, finetune
from attar.cli import app
from attar.data.batches import Batches, Counts
from attar.data.model_task import task_of
from attar.data.tables import read_table
from attar.data.tasks import Supervised
from attar.data.token_classification import Tagging
from attar.distillation.cache import CachedTeacher, LiveTeacher, cached
from attar.distillation.objective import prediction
from attar.distillation.student import student as build
from attar.errors import DataError, ModelError, RecipeError
from attar.evaluation.comparison import compare
from attar.evaluation.opening import open_model
from attar.evaluation.prediction import predict
from attar.evaluation.table import TableEvaluator
from attar.maths.losses import soft_cross_entropy
from attar.model.checkpoint import load
from attar.model.views import Need
from attar.verbs import evaluate

TASK = Tagging("tags", asked.TAGS)
TOKENIZER = tiny.tokenizer()
FAST = {"lr": 6e-3, "batch_size": 8, "max_length": 32, "precision": "fp32"}


def batches(table, tokenizer=TOKENIZER, length=32, stride=128, **options):
    encoded = TASK.encode(table, tokenizer, max_length=length, stride=stride)
    return Batches(encoded, tokenizer, **options)


def tagged(**options):
    return read_table(asked.sentences(**options), task=TASK)[0]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tagger, with the file that it was trained on and another one."""
    place = tmp_path_factory.mktemp("tags")
    train = asked.write_conll(place / "train.txt", asked.sentences(80, seed=1))
    dev = asked.write_conll(place / "dev.conll", asked.sentences(40, seed=2))
    finetune(
        asked.model("tags"), train, dev=dev, out=place / "teacher", tokenizer=TOKENIZER, epochs=5, **FAST
    )
    return place


def test_a_conll_file_is_read_by_columns(tmp_path):
    rows = asked.sentences(5)
    table, task = read_table(asked.write_conll(tmp_path / "train.txt", rows))
    assert table["tokens"][:] == rows["tokens"][:]
    assert [[task.labels[tag] for tag in row] for row in table["tags"]] == rows["tags"][:]
    assert isinstance(task, Tagging)
    parts = read_table(tmp_path / "train.txt", columns={"tags": "2"})[1]
    assert (parts.labels, parts.chunks, task.chunks) == (("NN",), False, True)


def test_lists_of_tokens_and_tags_are_read(tmp_path):
    rows = [{"words": ["good", "film"], "ner": ["B-GOOD", "O"]}, {"words": ["a"], "ner": ["O"]}]
    file = tmp_path / "train.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    table, task = read_table(file, columns={"tokens": "words", "tags": "ner"}, require_label=True)
    assert (task.labels, table["tags"][:]) == (("B-GOOD", "O"), [[0, 1], [1]])
    features = Features(
        {"tokens": Sequence(Value("string")), "tags": Sequence(ClassLabel(names=["O", "B-X"]))}
    )
    named = Dataset.from_dict({"tokens": [["a", "b"]], "tags": [[1, 0]]}, features=features)
    assert read_table(named)[1].labels == ("O", "B-X")
    assert read_table(Dataset.from_dict({"text": ["a good film"]}), task=TASK)[0]["tokens"][:] == [
        ["a", "good", "film"]
    ]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("a O\nb O\nc\n", "1 in line 3: 'c'"),
        ("\n-DOCSTART- O\n\n", "none"),
        ("a O\nb O\n\nc O\n", "only 'O' in all 2 sentences"),
    ],
    ids=["columns", "empty", "one tag"],
)
def test_what_is_wrong_with_a_conll_file_is_said(tmp_path, content, found):
    file = tmp_path / "bad.conll"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=found):
        read_table(file, require_label=True)


@pytest.mark.parametrize(
    ("tokens", "tags", "found"),
    [
        ([["a"], ["b", "c"]], [["O"], ["O"]], "2 tokens and 1 tags in row 2"),
        ([["a"], ["b"]], [["O"], ["B-UGLY"]], "'B-UGLY' at token 1 of sentence 2"),
        ([["a"], []], [["O"], []], "rows with an empty tokens"),
        ([["a"]], [[""]], "an empty one in row 1"),
    ],
)
def test_what_is_wrong_with_a_row_is_said(tokens, tags, found):
    with pytest.raises(DataError, match=found):
        read_table(Dataset.from_dict({"tokens": tokens, "tags": tags}), task=TASK)


def test_the_first_piece_of_a_word_is_asked_and_nothing_else():
    table = Dataset.from_dict({"tokens": [["films", "goodly", "the", "dogs."]], "tags": [[0, 1, 2, 3]]})
    row = TASK.encode(table, TOKENIZER)[0]
    reference = TOKENIZER([["films", "goodly", "the", "dogs."]], is_split_into_words=True)
    assert row["input_ids"] == reference["input_ids"][0]
    words = reference.word_ids(0)
    first = [n for n, word in enumerate(words) if word is not None and word not in words[:n]]
    assert len(first) == 4 < len([word for word in words if word is not None])
    assert row["words"] == [words[n] if n in first else -1 for n in range(len(words))]
    assert row["tags"] == [words[n] if n in first else -100 for n in range(len(words))]


@pytest.mark.parametrize(("length", "stride"), [(8, 128), (9, 2), (6, 0), (4, 1)])
def test_of_a_long_sentence_each_word_is_asked_once(length, stride):
    table = tagged(rows=12, longest=30)
    encoded = TASK.encode(table, TOKENIZER, max_length=length, stride=stride)
    assert max(encoded["length"]) <= length
    assert len(encoded) > len(table)
    seen = [(row["example"], word) for row in encoded for word in row["words"] if word >= 0]
    assert sorted(seen) == [(n, word) for n, row in enumerate(table["tokens"]) for word in range(len(row))]
    right = np.zeros((sum(encoded["length"]), len(TASK.labels)))
    tags = np.concatenate([row["tags"] for row in encoded])
    right[np.flatnonzero(tags >= 0), tags[tags >= 0]] = 1
    assert list(TASK.answers(right, encoded, table)) == list(TASK.truth(table))


def test_a_word_without_a_piece_counts_as_untagged():
    table = Dataset.from_dict({"tokens": [["good", "\u200b", "film"]], "tags": [[1, 1, 4]]})
    encoded = TASK.encode(table, TOKENIZER)
    logits = np.tile(np.eye(5)[1], (encoded[0]["length"], 1))
    assert list(TASK.answers(logits, encoded, table)) == [("B-GOOD", "O", "B-GOOD")]


def test_the_loss_is_transformers_own():
    table, model = tagged(rows=6), asked.model("tags")
    batch = batches(table, batch_size=6).rows(np.arange(6))
    expected = model(**batch.inputs, labels=batch.labels).loss
    torch.testing.assert_close(Supervised(model, TASK)(batch)["task"], expected)


def test_a_batch_in_halves_gives_the_same_losses():
    table, model, teacher = tagged(rows=8), asked.model("tags"), asked.model("tags", seed=1)
    source = batches(table, batch_size=8)
    whole = source.rows(np.arange(8))
    halves = [source.rows(rows, whole.counts) for rows in (np.arange(3), np.arange(3, 8))]

    def losses(batch):
        ours, theirs = (TASK.decisions(m(**batch.inputs).logits, batch) for m in (model, teacher))
        soft = prediction(ours, theirs, TASK.kind, temperature=2.0, count=TASK.count(batch.counts))
        return torch.stack([Supervised(model, TASK)(batch)["task"], soft])

    torch.testing.assert_close(losses(halves[0]) + losses(halves[1]), losses(whole))
    assert whole.counts.words == sum(map(len, table["tokens"]))


def test_a_window_that_asks_nothing_adds_nothing():
    batch = batches(tagged(rows=1)).rows(np.arange(1))
    silent = replace(batch, words=torch.full_like(batch.words, -1), counts=Counts(1.0, 5.0, 25.0))
    model = asked.model("tags")
    assert Supervised(model, TASK)(silent)["task"] == 0
    nothing = TASK.decisions(model(**silent.inputs).logits, silent)
    assert soft_cross_entropy(nothing, nothing, count=TASK.count(silent.counts)) == 0


def test_a_tagger_is_learned_and_told_to_strangers(place):
    report = evaluate(place / "teacher", place / "dev.conll")
    assert report.main == "f1"
    assert set(report.rows[0].metrics) == {"f1", "precision", "recall", "accuracy"}
    assert report.rows[0].metrics["f1"] > 0.5
    said = pipeline("token-classification", model=str(place / "teacher"))("the good film")
    assert {piece["entity"] for piece in said} <= set(asked.TAGS)
    assert task_of(load(place / "teacher").model) == TASK


def test_tags_that_are_no_chunks_are_judged_by_accuracy():
    task = Tagging("tags", ("ADJ", "NOUN"))
    table, _ = read_table([{"tokens": ["good", "film"], "tags": ["ADJ", "NOUN"]}], task=task)
    evaluator = TableEvaluator(task, table, TOKENIZER)
    found = evaluator.evaluate(asked.model("tags", num_labels=2))
    assert (found.main, set(found.metrics)) == ("accuracy", {"accuracy"})


def test_a_student_needs_no_tags(place, tmp_path):
    phases = {"intermediate": {"epochs": 1, "lr": 1e-3, "batch_size": 16}}
    phases["prediction"] = {"epochs": 4, "lr": 4e-3, "batch_size": 16}
    options = {"student": {"layers": 1, "hidden": 16, "ffn": 20}, "precision": "fp32", **phases}
    tokens = asked.sentences(40, seed=3, tags=False)
    wrong = tokens.add_column("tags", [["B-BAD"] * len(row) for row in tokens["tokens"]])
    dev = place / "dev.conll"
    for name, data in (("without", tokens), ("wrong", wrong)):
        report = distill(place / "teacher", data=data, dev=dev, out=tmp_path / name, **options)
    assert tiny.identical(*(load(tmp_path / name).model for name in ("without", "wrong")))
    assert report.main == "f1"
    assert report.rows[1].metrics["agreement"] > 0.8
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(" ".join(row) for row in tokens["tokens"]), encoding="utf-8")
    plain = distill(place / "teacher", texts=file, out=tmp_path / "plain", **options | {"intermediate": None})
    assert plain.main == "agreement"
    with pytest.raises(RecipeError, match="leave augment out"):
        distill(place / "teacher", data=tokens, out=tmp_path / "more", augment={"copies": 1}, **options)


@pytest.mark.parametrize("kind", ["tags", "answer"])
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "modernbert"])
def test_a_projected_student_of_the_teachers_size_says_the_same(family, kind):
    teacher, tokenizer = asked.model(kind, family), tiny.tokenizer(family)
    texts = tiny.batches(tiny.texts(40), family, batch_size=40)
    made = build(teacher, texts=texts).model
    assert type(made) is type(teacher)
    assert np.abs(predict(made, texts) - predict(teacher, texts)).max() < 0.02
    small = build(teacher, layers=1, hidden=16, ffn=20, texts=texts).model
    assert predict(small, texts).shape == predict(teacher, texts).shape
    assert tokenizer.is_fast


def test_the_cache_keeps_each_tokens_logits_exactly(tmp_path):
    model, source = asked.model("tags"), batches(tagged(rows=20), batch_size=6, shuffle=True)
    need = Need(hidden=frozenset({1}))
    teacher = cached(model, need, source, tmp_path, precision="fp32")
    assert isinstance(teacher, CachedTeacher)
    live = LiveTeacher(model, need, precision="fp32")
    for batch in source:
        for kept in (teacher, teacher.logits_only()):
            ours, theirs = (TASK.decisions(t.view(batch).logits, batch) for t in (kept, live))
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    assert (tmp_path / "logits-0-of-1.npy").stat().st_size < 4 * 5 * source.lengths.sum() + 200


def test_models_are_compared_sentence_by_sentence(place, tmp_path):
    opened = [open_model(place / "teacher", name=name) for name in ("teacher", "again")]
    table = read_table(place / "dev.conll", task=TASK)[0]
    report = compare(
        list(zip(("teacher", "student"), opened, strict=True)),
        table,
        latency_length=16,
        repeats=1,
        resamples=50,
    )
    assert report.main == "f1"
    assert (report.rows[1].retained.value, report.rows[1].metrics["agreement"]) == (1, 1)
    example = next(one for one in report.examples if one.label != "none")
    assert example.label.split()[0] in example.text
    assert example.says[0].prediction == example.says[1].prediction
    assert example.label.split()[0] in report.write(tmp_path).read_text(encoding="utf-8")


def test_a_model_with_another_head_is_refused(tmp_path):
    with pytest.raises(ModelError, match="a model with a token-classification head"):
        finetune(
            tiny.model(num_labels=5), asked.sentences(12), out=tmp_path / "out", tokenizer=TOKENIZER, **FAST
        )


def test_the_command_line_knows_tags_by_the_file(place, tmp_path):
    from typer.testing import CliRunner

    tiny.saved(tmp_path / "model", head="masked-lm")
    train, out = place / "train.txt", tmp_path / "out"
    words = [
        "finetune",
        tmp_path / "model",
        "--data",
        train,
        "--columns",
        "tags=4",
        "--epochs",
        1,
        "--out",
        out,
    ]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    assert load(out).model.config.id2label[0] == "B-BAD"
