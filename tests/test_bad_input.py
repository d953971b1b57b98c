"""Bad tables and texts end in an error that says what was expected, what was found and what to do."""

import pytest
from bad import csv, labelled, told
from datasets import ClassLabel, Dataset, Features, IterableDataset, Value

import tiny
from attar.data.streaming import StreamBatches
from attar.data.tables import read_table, read_texts
from attar.data.tasks import Task
from attar.errors import DataError

BINARY = Task("single_label", ("bad", "good"))


def test_a_column_that_is_not_there_names_the_nearest(tmp_path):
    path = csv(tmp_path / "data.csv", "sentense,label\na,1\nb,0\n")
    with pytest.raises(DataError, match="column 'sentence' for the text") as error:
        read_table(path, columns={"text": "sentence"})
    assert "sentense" in told(error)
    assert "--columns text=sentense" in error.value.fix


def test_a_role_that_does_not_exist():
    with pytest.raises(DataError, match="text_pair") as error:
        read_table([{"a": "x"}], columns={"texts": "a"})
    told(error)


def test_labels_that_are_needed_and_not_there():
    with pytest.raises(DataError, match="'label' for the label") as error:
        read_table([{"text": "x"}], require_label=True)
    told(error)


@pytest.mark.parametrize("empty", ["", "  ", None])
def test_empty_texts_are_counted_and_named(empty):
    with pytest.raises(DataError, match=r"2 of 4 rows with an empty text \(rows 2, 4\)") as error:
        read_table([{"text": t} for t in ("a", empty, "b", empty)])
    told(error)


@pytest.mark.parametrize("empty", ["", None])
def test_empty_labels_are_counted_and_named(empty):
    with pytest.raises(DataError, match=r"1 of 3 rows with an empty label \(rows 2\)") as error:
        read_table(labelled("a", empty, "b"))
    told(error)


def test_a_dataset_that_hides_its_labels():
    features = Features({"text": Value("string"), "label": ClassLabel(names=["a", "b"])})
    with pytest.raises(DataError, match="2 of 2 rows with an empty label"):
        read_table(Dataset.from_dict({"text": ["x", "y"], "label": [-1, -1]}, features=features))


def test_a_label_that_the_model_does_not_know():
    with pytest.raises(DataError, match="one of the model's labels: bad, good") as error:
        read_table(labelled("good", "middling"), task=BINARY)
    assert "'middling' in row 2" in told(error)


def test_a_class_number_out_of_range():
    with pytest.raises(DataError, match="5 in row 2"):
        read_table(labelled(1, 5), task=BINARY)


@pytest.mark.parametrize("value", ["many", None, float("nan"), "inf"])
def test_a_score_that_is_no_number(value):
    rows = [{"text": "a", "label": "0.5"}, {"text": "b", "label": None if value is None else str(value)}]
    with pytest.raises(DataError, match=r"in row 2|\(rows 2\)") as error:
        read_table(rows, task=Task("regression", ("score",)))
    told(error)


def test_one_class_only():
    with pytest.raises(DataError, match="only 'good' in all 3 rows") as error:
        read_table(labelled("good", "good", "good"))
    told(error)


@pytest.mark.parametrize(
    ("name", "encoding"),
    [("data.csv", "cp949"), ("data.tsv", "cp949"), ("data.jsonl", "cp949"), ("data.txt", "utf-16")],
)
def test_another_encoding(tmp_path, name, encoding):
    text = '{"text": "영화"}\n' if name.endswith("jsonl") else "text\n영화\n"
    with pytest.raises(DataError, match="to be utf-8") as error:
        read_table(csv(tmp_path / name, text, encoding))
    assert "byte 0x" in told(error)


def test_another_encoding_of_plain_text(tmp_path):
    path = csv(tmp_path / "texts.txt", "영화\n", "cp949")
    with pytest.raises(DataError, match="to be utf-8") as error:
        read_texts(path)
    assert "byte 0x" in told(error)


@pytest.mark.parametrize("name", ["data.csv", "data.tsv", "data.txt", "data.jsonl", "data.parquet"])
def test_a_missing_and_an_empty_file(tmp_path, name):
    with pytest.raises(DataError, match="no such file") as error:
        read_table(tmp_path / name)
    told(error)
    (tmp_path / name).write_text("")
    with pytest.raises(DataError) as error:
        read_table(tmp_path / name)
    assert name in told(error)


@pytest.mark.parametrize("name", ["data.csv", "data.tsv"])
def test_a_header_without_rows(tmp_path, name):
    with pytest.raises(DataError, match="at least one row"):
        read_table(csv(tmp_path / name, "text\n"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("data.jsonl", '{"text": "a"\n'),
        ("data.parquet", "PAR1 nonsense"),
        ("data.csv", 'text\n"' + "a" * 200000),
    ],
)
def test_a_damaged_file(tmp_path, name, text):
    with pytest.raises(DataError) as error:
        read_table(csv(tmp_path / name, text))
    assert name in told(error)


def test_a_row_of_other_length_names_its_line(tmp_path):
    with pytest.raises(DataError, match="3 in line 3") as error:
        read_table(csv(tmp_path / "data.csv", "text,label\na,1\nb,c,0\n"))
    assert "2 fields (text, label)" in told(error)


def test_two_columns_of_one_name(tmp_path):
    with pytest.raises(DataError, match="'text' twice"):
        read_table(csv(tmp_path / "data.csv", "text,text\na,b\n"))


def test_a_kind_of_file_that_is_not_read(tmp_path):
    with pytest.raises(DataError, match=r"\.csv, \.tsv, \.json, \.jsonl, \.parquet, \.txt or \.conll"):
        read_table(csv(tmp_path / "data.xlsx", "x"))


def test_a_folder_in_place_of_a_table(tmp_path):
    with pytest.raises(DataError, match="a directory") as error:
        read_table(tmp_path)
    assert "BEIR" in told(error)


def test_texts_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_texts(tmp_path / "no.txt")
    with pytest.raises(DataError, match="no such file"):
        read_texts("no.txt")
    with pytest.raises(DataError, match="at least one line"):
        read_texts(csv(tmp_path / "empty.txt", "\n \n"))


def test_a_stream_of_nothing_ends():
    nothing = IterableDataset.from_generator(lambda: iter([{"text": "x"}])).filter(
        lambda row: row["text"] != "x"
    )
    with pytest.raises(DataError, match="empty stream"):
        next(StreamBatches(nothing, tiny.tokenizer(), steps=2).epoch(0))
