"""Laws of question answering: windows hold every answer, texts come back letter by letter, both logits are taught."""

import json

import numpy as np
import onnx
import pytest
import torch
from datasets import Dataset

import asked
import tiny
from attar import distill, finetune, run
from attar.data.batches import Batches
from attar.data.model_task import task_of
from attar.data.question_answering import Answering
from attar.data.tables import read_table
from attar.data.tasks import Supervised
from attar.errors import DataError
from attar.evaluation.comparison import compare
from attar.evaluation.opening import open_model
from attar.evaluation.prediction import predict
from attar.evaluation.table import TableEvaluator
from attar.exporting import export
from attar.model.checkpoint import load
from attar.verbs import evaluate

TASK = Answering("answer", ("start", "end"))
TOKENIZER = tiny.tokenizer()
QUICK = {"lr": 6e-3, "batch_size": 8, "max_length": 40, "precision": "fp32"}
LONG = " ".join(tiny.WORDS * 2)


def table_of(*rows):
    """Questions with a context, and answers with where they should begin."""
    return [
        {
            "id": f"q{number}",
            "question": question,
            "context": context,
            "answers": [{"text": text, "answer_start": start} for text, start in answers],
        }
        for number, (question, context, answers) in enumerate(rows)
    ]


def batches(table, length=40, **options):
    return Batches(TASK.encode(table, TOKENIZER, max_length=length), TOKENIZER, **options)


@pytest.fixture
def said(monkeypatch):
    lines = []
    for name in ("attar.data.question_tables", "attar.data.question_answering"):
        monkeypatch.setattr(f"{name}.say", lines.append)
    return lines


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model that answers or says that there is no answer, with the file it was trained on and another one."""
    place = tmp_path_factory.mktemp("answers")
    train = asked.write_squad(place / "train.json", 96, seed=1, impossible=0.3)
    dev = asked.write_squad(place / "dev.json", 40, seed=2, impossible=0.3)
    finetune(
        asked.model("answer"), train, dev=dev, out=place / "teacher", tokenizer=TOKENIZER, epochs=5, **QUICK
    )
    return place


def test_squads_json_is_read(tmp_path):
    table, task = read_table(asked.write_squad(tmp_path / "one.json", 8))
    assert (task, len(table)) == (TASK, 8)
    assert read_table(asked.write_squad(tmp_path / "two.json", 8, impossible=0.5))[1].impossible
    for row in table:
        (begin, end), text = row["spans"][0], row["answers"][0]
        assert row["context"][begin:end] == text
    flat = [{"question": "a ?", "context": "the good", "answers": {"text": ["good"], "answer_start": [4]}}]
    assert read_table(flat)[0]["spans"][:] == [[[4, 8]]]
    renamed = Dataset.from_list([{"q": "a ?", "text": "the good", "a": ["good"]}])
    columns = {"question": "q", "context": "text", "answers": "a"}
    assert read_table(renamed, columns=columns)[0]["spans"][:] == [[[4, 8]]]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda d: d["data"][0]["paragraphs"][3].pop("context"), "KeyError: 'context', after 3 questions"),
        (lambda d: d["data"][0]["paragraphs"][2]["qas"][0].pop("answers"), "no answers for 'q2'"),
        (lambda d: d["data"][0]["paragraphs"].clear(), "none"),
        (lambda d: d["data"][0]["paragraphs"][1].update(context=" "), "1 of 8 rows with an empty context"),
    ],
    ids=["structure", "some answers", "nothing", "context"],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, change, found):
    content = asked.squad(8)
    change(content)
    file = tmp_path / "bad.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match=found):
        read_table(file, require_label=True)


def test_an_answer_is_looked_for_where_it_should_be_then_nearby_then_loosely(said):
    context = "good film , good plot , Good\n cast"
    rows = table_of(
        ("a ?", context, [("good", 0)]),
        ("a ?", context, [("good", 10)]),
        ("a ?", context, [("good cast", 0)]),
        ("a ?", context, [(" plot", 16)]),
        ("a ?", context, [("dull", 3), ("film", 0)]),
    )
    spans = read_table(rows)[0]["spans"][:]
    assert spans == [[[0, 4]], [[12, 16]], [[24, 34]], [[17, 21]], [[-1, -1], [5, 9]]]
    assert not said


def test_answers_that_no_context_holds_are_counted_and_named(said):
    rows = table_of(*(("a ?", "the good film", [(text, 0)]) for text in ("good", "bad", "dull", "film")))
    table, task = read_table(rows)
    assert "2 of 4 questions" in said[0]
    assert said[0].endswith("(q1, q2)")
    encoded = TASK.encode(table, TOKENIZER)
    assert [row["labels"] for row in encoded][1:3] == [[-100, -100]] * 2
    model = asked.model("answer")
    taught = Supervised(model, task)(Batches(encoded, TOKENIZER).rows(np.arange(1, 3)))["task"]
    assert taught == 0
    with pytest.raises(DataError, match=r"none that does, of 2 questions \(q1, q2\)"):
        read_table(rows[1:3])
    with pytest.raises(DataError, match="none in"):
        read_table(table_of(("a ?", "good", [])), require_label=True)


def test_every_answer_is_whole_in_a_window_and_windows_without_it_say_so():
    words = LONG.split()
    starts = [len(" ".join([*words[:n], ""])) for n in range(len(words))]
    rows = [("it is ?", LONG, [(" ".join(words[n : n + 3]), starts[n])]) for n in range(len(words) - 2)]
    table = read_table(table_of(*rows))[0]
    encoded = TASK.encode(table, TOKENIZER, max_length=24, stride=6)
    held = np.zeros(len(table))
    covered = [set() for _ in rows]
    for row in encoded:
        first, last = row["labels"]
        example, begins, ends = row["example"], row["begins"], row["ends"]
        covered[example] |= {at for b, e in zip(begins, ends, strict=True) for at in range(b, e) if b >= 0}
        begin, end = table["spans"][example][0]
        whole = begin in begins and end in ends
        assert (first > 0) == whole
        if whole:
            held[example] += 1
            assert LONG[begins[first] : ends[last]] == table["answers"][example][0]
        else:
            assert (first, last) == (0, 0)
    assert held.min() > 0
    assert all(len(found) == len(LONG.replace(" ", "")) for found in covered)
    assert encoded["begins"][0][:4] == [-1] * 4


def test_a_long_question_is_cut_and_that_is_said(said):
    table = read_table(table_of((LONG, LONG, [("good", 0)]), ("it ?", LONG, [("good", 0)])))[0]
    encoded = TASK.encode(table, TOKENIZER, max_length=33)
    assert said == ["1 of 2 questions are cut to 15 tokens"]
    assert max(encoded["length"]) == 33
    assert encoded["begins"][0].index(0) == 17


def test_the_loss_is_transformers_own_and_padding_changes_nothing():
    table = read_table(_rows(8))[0]
    model, source = asked.model("answer"), batches(table, bucket=False)
    for row in range(3):
        batch = source.rows(np.array([row]))
        start, end = batch.labels.T
        expected = model(**batch.inputs, start_positions=start, end_positions=end).loss
        torch.testing.assert_close(Supervised(model, TASK)(batch)["task"], expected)
    whole = source.rows(np.arange(8))
    assert not whole.mask.all()
    each = [Supervised(model, TASK)(source.rows(np.array([row]), whole.counts))["task"] for row in range(8)]
    torch.testing.assert_close(torch.stack(each).sum(), Supervised(model, TASK)(whole)["task"])


def _rows(count, **options):
    paragraphs = asked.squad(count, **options)["data"][0]["paragraphs"]
    return [{"context": p["context"], **p["qas"][0]} for p in paragraphs]


def test_the_best_span_of_all_windows_is_the_answer():
    table = read_table(table_of(("it is ?", LONG, [("good", 0)])))[0]
    encoded = TASK.encode(table, TOKENIZER, max_length=24, stride=6)
    stops = np.cumsum(encoded["length"])
    logits = np.zeros((stops[-1], 2))
    window, (first, last) = 2, (8, 10)
    place = stops[window - 1]
    logits[place + first, 0] = logits[place + last, 1] = 5
    logits[place + 2] = 9  # in the question
    logits[place + 12, 0] = 6  # with no end after it
    logits[place] = 4.9  # the least of all windows counts, and it is 0 in the others
    begins, ends = encoded["begins"][window], encoded["ends"][window]
    assert list(TASK.answers(logits, encoded, table)) == [LONG[begins[first] : ends[last]]]
    may_be_none = Answering("answer", TASK.labels, impossible=True)
    assert list(may_be_none.answers(logits, encoded, table)) == [LONG[begins[first] : ends[last]]]
    logits[stops - encoded["length"]] = 5.1
    assert list(may_be_none.answers(logits, encoded, table)) == [""]
    assert list(TASK.answers(logits, encoded, table)) != [""]


def test_no_answer_is_longer_than_thirty_tokens():
    table = read_table(table_of(("it is ?", LONG, [("good", 0)])))[0]
    encoded = TASK.encode(table, TOKENIZER, max_length=80)
    logits = np.zeros((encoded["length"][0], 2))
    logits[5, 0] = logits[50, 1] = 3
    logits[33, 1] = 2
    (found,) = TASK.answers(logits, encoded, table)
    assert len(found.split()) == 29


def test_questions_are_learned_and_the_model_says_that_there_may_be_no_answer(place):
    report = evaluate(place / "teacher", place / "dev.json", max_length=40)
    assert (report.main, set(report.rows[0].metrics)) == ("f1", {"exact_match", "f1"})
    assert report.rows[0].metrics["exact_match"] > 0.8
    config = load(place / "teacher").model.config
    assert config.handle_impossible_answer
    assert task_of(config).impossible


def test_a_student_needs_no_answers(place, tmp_path):
    phases = {"intermediate": {"epochs": 1, "lr": 1e-3, "batch_size": 16}}
    phases["prediction"] = {"epochs": 3, "lr": 4e-3, "batch_size": 16}
    options = {"student": {"layers": 1, "init": "layers"}, "precision": "fp32", "max_length": 40, **phases}
    table = read_table(place / "train.json")[0].select(range(64))
    bare = table.select_columns(["id", "question", "context"])
    wrong = _with_first_word(bare)
    for name, data in (("bare", bare), ("wrong", wrong)):
        report = distill(place / "teacher", data=data, dev=place / "dev.json", out=tmp_path / name, **options)
    assert tiny.identical(*(load(tmp_path / name).model for name in ("bare", "wrong")))
    assert report.rows[1].metrics["f1"] > 0.7
    assert task_of(load(tmp_path / "bare").model).impossible
    alone = distill(place / "teacher", data=bare, out=tmp_path / "alone", **options | {"intermediate": None})
    assert alone.main == "agreement"
    with pytest.raises(DataError, match="a column 'question'"):
        distill(place / "teacher", texts=["a text"], out=tmp_path / "texts", **options)


def _with_first_word(table):
    return Dataset.from_list([{**row, "answers": [row["context"].split()[0]]} for row in table])


def test_models_are_compared_question_by_question(place, tmp_path):
    table = read_table(place / "dev.json", task=TASK)[0]
    pair = [open_model(place / "teacher", name=name) for name in ("teacher", "again")]
    roles = list(zip(("teacher", "student"), pair, strict=True))
    report = compare(roles, table, latency_length=16, repeats=1, resamples=50)
    assert (report.rows[1].retained.value, report.rows[1].metrics["kl"]) == (1, 0)
    page = report.write(tmp_path).read_text(encoding="utf-8")
    for example in report.examples:
        assert example.text == "it is good ?"
        assert example.says[0].prediction in {*example.text_pair.split(), "no answer"}
        assert example.text_pair in page


def test_both_outputs_are_exported(tmp_path):
    model = asked.model("answer", num_hidden_layers=1)
    table = read_table(_rows(24))[0]
    options = {"precision": "int8", "data": table, "tokenizer": TOKENIZER, "max_drop": 1.0}
    made = export(
        model, tmp_path / "int8", max_length=40, **options
    )  # fp32 is compared with torch on the way
    assert (made.metric, made.rows, made.positions) == ("f1", 24, 80)
    evaluator = TableEvaluator(TASK, table, TOKENIZER, max_length=40)
    exported = open_model(tmp_path / "int8")
    assert isinstance(exported.task, Answering)
    logits, ours = predict(exported.model, evaluator.batches), evaluator.logits(model)
    assert logits.shape == (evaluator.batches.lengths.sum(), 2)
    assert 0 < np.abs(logits - ours).max() == pytest.approx(made.difference, rel=1e-4)
    assert (made.onnx, made.torch) == tuple(
        pytest.approx(evaluator.evaluate_logits(x).value) for x in (logits, ours)
    )
    graph = onnx.load(tmp_path / "int8" / "model.onnx").graph
    stored = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert onnx.TensorProto.INT8 in stored.values()
    last = [node for node in graph.node if node.op_type.startswith(("MatMul", "Gemm"))][-1]
    assert stored[last.input[1]] == onnx.TensorProto.FLOAT  # the head


def test_a_recipe_knows_questions_by_the_file(place, tmp_path):
    tiny.saved(tmp_path / "model", head="masked-lm")
    data = {"train": str(place / "train.json"), "dev": str(place / "dev.json")}
    short = {"epochs": 1, "batch_size": 32}
    stages = [
        {"finetune": {**short, "max_length": 40}},
        {"distill": {"student": {"layers": 1, "init": "layers"}, "intermediate": None, "prediction": short}},
        {"evaluate": {"doc_stride": 20}},
    ]
    recipe = {"name": "qa", "model": str(tmp_path / "model"), "data": data, "stages": stages}
    report = run(recipe, out=tmp_path / "out")
    assert set(report.rows[0].metrics) == {"exact_match", "f1"}
