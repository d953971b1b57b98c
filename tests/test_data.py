"""Laws of tables: files of each kind are one table, and labels decide the task."""

import json

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from attar.data.corpus import read_documents
from attar.data.tables import read_table, read_texts
from attar.data.tasks import Task
from attar.errors import DataError

TABLE = [("good, film", "good"), ('a "dull" plot', "bad"), ("영화 정말 좋다", "good"), ("x", "bad")]


def write(path, kind):
    if kind == "csv":
        import csv

        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *TABLE])
    elif kind == "tsv":
        path.write_text(
            "\n".join("\t".join(row) for row in [("text", "label"), *TABLE]) + "\n", encoding="utf-8"
        )
    elif kind == "jsonl":
        path.write_text("\n".join(json.dumps({"text": t, "label": y}) for t, y in TABLE), encoding="utf-8")
    else:
        Dataset.from_list([{"text": t, "label": y} for t, y in TABLE]).to_parquet(str(path))


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_files_of_each_kind_are_the_same_table(tmp_path, kind):
    path = tmp_path / f"data.{kind}"
    write(path, kind)
    table, task = read_table(path)
    assert table["text"][:] == [text for text, _ in TABLE]
    assert task == Task("single_label", ("bad", "good"))
    assert table["label"][:] == [1, 0, 1, 0]


def test_a_lone_quote_is_a_letter_in_a_tab_separated_file(tmp_path):
    path = tmp_path / "data.tsv"
    path.write_text('text\tlabel\n"good\t1\na 5" disk\t0\n', encoding="utf-8")
    assert read_table(path)[0]["text"][:] == ['"good', 'a 5" disk']


def test_a_byte_order_mark_and_windows_lines_are_no_part_of_the_text(tmp_path):
    path = tmp_path / "data.csv"
    path.write_bytes(b"\xef\xbb\xbftext,label\r\ngood,1\r\nbad,0\r\n")
    table, _ = read_table(path)
    assert table.column_names == ["text", "label"]
    assert table["text"][:] == ["good", "bad"]
    plain = tmp_path / "texts.txt"
    plain.write_bytes(b"\xef\xbb\xbfgood film\r\n\r\nbad\r\n")
    assert read_table(plain)[0]["text"][:] == read_texts(plain)["text"][:] == ["good film", "bad"]


def test_a_line_ends_at_a_line_feed_only(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("one\u2028still one\x85 and so\ntwo\n", encoding="utf-8")
    assert len(read_table(path)[0]) == len(read_texts(path)) == 2


def test_another_encoding_can_be_named(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("text,label\n영화,1\n좋다,0\n", encoding="cp949")
    assert read_table(path, encoding="cp949")[0]["text"][:] == ["영화", "좋다"]


def test_columns_may_have_other_names():
    rows = [{"a": "x", "b": "y", "gold": "n", "other": 1}, {"a": "z", "b": "w", "gold": "p", "other": 2}]
    table, task = read_table(rows, columns={"text": "a", "text_pair": "b", "label": "gold"})
    assert table[0] == {"text": "x", "text_pair": "y", "label": 0}
    assert task.labels == ("n", "p")


@pytest.mark.parametrize(
    ("values", "task", "labels"),
    [
        ([3, 1, 3], Task("single_label", ("1", "3")), [1, 0, 1]),
        (["10", "9", "10"], Task("single_label", ("9", "10")), [1, 0, 1]),
        (["1.0", "0.0", "1.0"], Task("single_label", ("0", "1")), [1, 0, 1]),
        ([1.0, 0.0, 1.0], Task("single_label", ("0", "1")), [1, 0, 1]),
        ([True, False, True], Task("single_label", ("0", "1")), [1, 0, 1]),
        (["-1", "1", "-1"], Task("single_label", ("-1", "1")), [0, 1, 0]),
        ([0.5, 2.0, 1.0], Task("regression", ("score",)), [0.5, 2.0, 1.0]),
        (["0.5", "2", "1"], Task("regression", ("score",)), [0.5, 2.0, 1.0]),
        (
            ["b|a", "", "c"],
            Task("multi_label", ("a", "b", "c")),
            [[1.0, 1.0, 0.0], [0.0] * 3, [0.0, 0.0, 1.0]],
        ),
        ([["b", "a"], [], ["a"]], Task("multi_label", ("a", "b")), [[1.0, 1.0], [0.0, 0.0], [1.0, 0.0]]),
    ],
)
def test_labels_decide_the_task(values, task, labels):
    table, found = read_table([{"text": "x", "label": value} for value in values])
    assert found == task
    assert table["label"][:] == labels


SEVERAL, ONE, SCORE = "multi_label_classification", "single_label_classification", "regression"


@pytest.mark.parametrize(
    ("values", "asked", "task", "labels"),
    [
        (["b", "a", "b"], SEVERAL, Task("multi_label", ("a", "b")), [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]),
        (["b", "", "a"], SEVERAL, Task("multi_label", ("a", "b")), [[0.0, 1.0], [0.0, 0.0], [1.0, 0.0]]),
        ([10, 9, 10], SEVERAL, Task("multi_label", ("9", "10")), [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]),
        ([2.0, 1.0], SEVERAL, Task("multi_label", ("1", "2")), [[0.0, 1.0], [1.0, 0.0]]),
        (["b|a", "c"], SEVERAL, Task("multi_label", ("a", "b", "c")), [[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
        (["a", "a"], SEVERAL, Task("multi_label", ("a",)), [[1.0], [1.0]]),
        (["b|a", "c", "b|a"], ONE, Task("single_label", ("b|a", "c")), [0, 1, 0]),
        ([0.5, 1.0, 0.5], ONE, Task("single_label", ("0.5", "1.0")), [0, 1, 0]),
        ([3, 1, 3], SCORE, Task("regression", ("score",)), [3.0, 1.0, 3.0]),
        (["3", "1", "3"], SCORE, Task("regression", ("score",)), [3.0, 1.0, 3.0]),
        (
            [[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]],
            None,
            Task("multi_label", ("0", "1", "2")),
            [[1, 0, 0], [0, 1, 1]],
        ),
    ],
)
def test_labels_that_leave_it_open_are_what_is_asked_for(values, asked, task, labels):
    rows = [{"text": "x", "label": value} for value in values]
    table, found = read_table(rows, problem_type=asked)
    assert found == task
    assert table["label"][:] == labels
    assert read_table(rows, task=found)[0]["label"][:] == labels  # as a dev table is read


def test_class_names_of_a_dataset_may_be_several_of_a_row():
    features = Features({"text": Value("string"), "label": ClassLabel(names=["z", "a"])})
    dataset = Dataset.from_dict({"text": ["x", "y"], "label": [1, 0]}, features=features)
    table, task = read_table(dataset, problem_type=SEVERAL)
    assert task == Task("multi_label", ("z", "a"))
    assert table["label"][:] == [[0.0, 1.0], [1.0, 0.0]]
    with pytest.raises(DataError, match="a number as label"):
        read_table(dataset, problem_type=SCORE)


@pytest.mark.parametrize(
    ("row", "asked", "message"),
    [
        ({"text": "x", "label": ["a"]}, ONE, "a list in row 1"),
        ({"text": "x", "label": ["a"]}, SCORE, "a list in row 1"),
        ({"text": "x", "label": "many"}, SCORE, "a number as label"),
        ({"text": "x", "label": ""}, SEVERAL, "a label in some row"),
        ({"text": "x", "label": None}, SEVERAL, "an empty label"),
        ({"tokens": ["x", "y"], "tags": ["A", "B"]}, SEVERAL, "tagged words"),
        (
            {"question": "x", "context": "y", "answers": {"text": ["y"], "answer_start": [0]}},
            SEVERAL,
            "questions",
        ),
    ],
)
def test_labels_that_are_not_of_the_kind_asked_for_are_an_error(row, asked, message):
    with pytest.raises(DataError, match=message):
        read_table([row], problem_type=asked)


def test_class_names_of_a_dataset_are_kept():
    features = Features({"text": Value("string"), "label": ClassLabel(names=["rotten", "fresh"])})
    table, task = read_table(Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features))
    assert task == Task("single_label", ("rotten", "fresh"))
    assert table["label"][:] == [1, 0]


def test_a_models_own_names_are_followed():
    task = Task("single_label", ("NEGATIVE", "POSITIVE"))
    for values in ([1, 0], ["1", "0"], ["1.0", "0.0"], ["POSITIVE", "NEGATIVE"], [1.0, 0.0]):
        table, found = read_table([{"text": "x", "label": value} for value in values], task=task)
        assert found == task
        assert table["label"][:] == [1, 0]
    rows = [{"text": "x", "label": [0.0, 1.0]}, {"text": "y", "label": [1.0, 1.0]}]
    assert read_table(rows, task=Task("multi_label", ("a", "b")))[0]["label"][:] == [[0.0, 1.0], [1.0, 1.0]]


def test_a_table_without_labels_has_no_task():
    table, task = read_table([{"text": "x"}])
    assert (table.column_names, task) == (["text"], None)


def test_texts_come_from_files_lists_and_datasets(tmp_path):
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("a\n\nb\n", encoding="utf-8")
    two.write_text("c\n", encoding="utf-8")
    assert read_texts(one)["text"][:] == ["a", "b"]
    assert read_texts([one, str(two)])["text"][:] == ["a", "b", "c"]
    assert [row["text"] for row in read_texts([one, two], streaming=True)] == ["a", "b", "c"]
    assert read_texts(["x", " ", "y"])["text"][:] == ["x", "y"]
    assert read_texts(Dataset.from_dict({"text": ["x"], "n": [1]})).column_names == ["text"]


def test_texts_of_a_corpus_have_their_titles_as_they_are_searched(tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(
        '{"_id": "1", "title": "A film", "text": "It is good."}\n{"_id": "2", "title": "", "text": "b"}\n'
    )
    assert read_texts(corpus)["text"][:] == ["A film It is good.", "b"]
    other = tmp_path / "other.jsonl"
    other.write_text(
        '{"title": "A film", "text": "It is good."}\n'
    )  # of which nobody knows what the title is for
    assert read_texts(other)["text"][:] == ["It is good."]


def test_a_folder_is_read_as_its_paragraphs(tmp_path):
    inner = tmp_path / "documents" / "more"
    inner.mkdir(parents=True)
    (inner.parent / ".hidden.txt").write_text("never")
    (inner.parent / "scan.pdf").write_bytes(b"\0")
    (inner / "b.txt").write_text("e\n")
    (inner.parent / "a.md").write_text("a\nb\n\nc\n")
    for options in ({}, {"streaming": True}):
        assert [row["text"].strip() for row in read_texts(inner.parent, **options)] == ["a\nb", "c", "e"]
    assert read_texts(str(inner.parent), sample_by="line")["text"][:] == ["a", "b", "c", "e"]
    (inner / "b.txt").write_text("e\nf\n")
    assert read_documents(inner.parent) == [["a", "b"], ["c"], ["e", "f"]]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"texts \(\.txt"):
        read_texts(tmp_path / "empty")


def test_texts_of_a_tables_file_are_its_column(tmp_path):
    one, two = tmp_path / "one.csv", tmp_path / "two.jsonl"
    one.write_text('label,text\n1,"a, and b"\n0,\n')
    two.write_text('{"text": "c", "n": 1}\n')
    assert read_texts(one)["text"][:] == ["a, and b"]
    assert read_texts([one, two])["text"][:] == ["a, and b", "c"]
    assert [row["text"] for row in read_texts(two, streaming=True)] == ["c"]
    one.write_text("sentence,label\na,1\n")
    with pytest.raises(DataError, match="data=") as error:
        read_texts(one)
    assert "sentence, label" in str(error.value)
    (tmp_path / "three.txt").write_text("d\n")
    with pytest.raises(DataError, match="both"):
        read_texts([two, tmp_path / "three.txt"])


def test_a_long_sentence_is_no_file_name():
    sentences = ["영화가 정말 좋다 " * 60, "x/" * 3000, "a\0b"]
    assert read_texts(sentences)["text"][:] == sentences
