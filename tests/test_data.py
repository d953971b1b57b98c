"""Laws of tables and batches: every row once, in an order that only seed and epoch decide, however many processes."""

import itertools
import json

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, IterableDataset, Value
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from attar.data.batches import Batches, Counts, encode
from attar.data.corpus import read_documents
from attar.data.streaming import StreamBatches
from attar.data.tables import read_table, read_texts
from attar.data.tasks import Task
from attar.errors import DataError

ROWS = 37
ENCODED = encode(tiny.table(ROWS, longest=14), tiny.tokenizer(), max_length=12)
TOKENIZER = tiny.tokenizer()
laws = settings(max_examples=25, deadline=None)
sizes, seeds, worlds = st.integers(1, 50), st.integers(0, 5), st.integers(1, 4)


def batches(**options):
    return Batches(ENCODED, TOKENIZER, **options)


def rows_of(found):
    return [batch.index.tolist() for batch in found]


@laws
@given(sizes, seeds, st.integers(0, 3), st.booleans(), st.booleans())
def test_an_epoch_has_every_row_once(size, seed, epoch, shuffle, bucket):
    source = batches(batch_size=size, seed=seed, shuffle=shuffle, bucket=bucket)
    found = rows_of(source.epoch(epoch))
    assert sorted(itertools.chain(*found)) == list(range(ROWS))
    assert len(found) == len(source) == -(-ROWS // size)
    assert all(len(rows) <= size for rows in found)


def test_order_depends_on_seed_and_epoch_only():
    one = batches(batch_size=4, shuffle=True, seed=1)
    first, second = rows_of(one.epoch(0)), rows_of(one.epoch(1))
    torch.manual_seed(5)
    np.random.seed(5)
    assert rows_of(one.epoch(0)) == rows_of(batches(batch_size=4, shuffle=True, seed=1).epoch(0)) == first
    assert first != second
    assert first != rows_of(batches(batch_size=4, shuffle=True, seed=2).epoch(0))


@laws
@given(sizes, seeds, worlds)
def test_shares_of_processes_are_the_whole(size, seed, world):
    whole = batches(batch_size=size, seed=seed, shuffle=True)
    shares = [batches(batch_size=size, seed=seed, shuffle=True, rank=r, world=world) for r in range(world)]
    for expected, *parts in zip(whole.epoch(1), *(share.epoch(1) for share in shares), strict=True):
        working = [part for part in parts if part.whole is None]
        assert sorted(itertools.chain(*(part.index.tolist() for part in working))) == sorted(
            expected.index.tolist()
        )
        for rank, part in enumerate(parts):
            assert set((part.index % world).tolist()) == {rank}  # a row is always the same process's
            assert (part.whole or part.counts) == expected.counts / world
            if part.whole is not None:
                assert part.counts == Counts(float("inf"), float("inf"), float("inf"))
    assert sorted(itertools.chain(*(share.own().tolist() for share in shares))) == list(range(ROWS))


@laws
@given(sizes, st.integers(0, 40))
def test_to_start_later_is_to_skip(size, start):
    source = batches(batch_size=size, shuffle=True)
    assert rows_of(source.epoch(2, start=start)) == rows_of(source.epoch(2))[start:]


def test_bucketing_saves_padding():
    table = tiny.table(400, longest=30)
    encoded = encode(table, TOKENIZER, max_length=64)

    def padding(bucket):
        source = Batches(encoded, TOKENIZER, batch_size=16, shuffle=True, bucket=bucket)
        return sum(int((~batch.mask).sum()) for batch in source)

    assert padding(True) < padding(False) / 5


def test_padding_and_token_types_are_the_tokenizers():
    table = tiny.table(9, longest=12, pair=True)
    source = tiny.batches(table, batch_size=4)
    for batch in source:
        texts, pairs = ([table[name][i] for i in batch.index.tolist()] for name in ("text", "text_pair"))
        expected = TOKENIZER(texts, pairs, padding=True, return_tensors="pt", max_length=32, truncation=True)
        assert set(batch.inputs) == {"input_ids", "token_type_ids", "attention_mask"}
        for name, tensor in batch.inputs.items():
            assert tensor.equal(expected[name]), name
            assert tensor.dtype == torch.int64
        assert batch.mask.equal(expected["attention_mask"].bool())
        assert int(batch.inputs["token_type_ids"].max()) == 1
        assert batch.labels.tolist() == [table["label"][i] for i in batch.index.tolist()]


def test_another_padding_token_is_used():
    other = tiny.tokenizer("roberta")
    other.pad_token = "[MASK]"
    source = Batches(encode(tiny.table(9), other), other, batch_size=9)
    batch = next(iter(source))
    assert set(batch.inputs) == {"input_ids", "attention_mask"}
    assert set(batch.inputs["input_ids"][~batch.mask].tolist()) == {other.pad_token_id} == {4}


def test_texts_are_cut_to_the_length_asked_for():
    encoded = encode(Dataset.from_dict({"text": ["good " * 50, "bad"]}), TOKENIZER, max_length=8)
    assert encoded["length"][:] == [8, 3]
    assert encoded["input_ids"][0][-1] == TOKENIZER.sep_token_id


def test_counts_are_those_of_the_real_tokens():
    for batch in batches(batch_size=7):
        lengths = batch.mask.sum(1)
        assert batch.counts == Counts(len(lengths), float(lengths.sum()), float((lengths**2).sum()))


def test_content_names_texts_labels_and_length():
    from attar.model.checkpoint import digest

    def key(rows=9, seed=0, **options):
        return digest(*Batches(encode(tiny.table(rows, seed), TOKENIZER, **options), TOKENIZER).content)

    assert key() == key()
    assert len({key(), key(rows=8), key(seed=1), key(max_length=4)}) == 4


def stream(texts, **options):
    def generate():
        for text in texts:
            yield {"text": text}

    return StreamBatches(IterableDataset.from_generator(generate), TOKENIZER, **options)


def test_a_stream_gives_the_batches_of_a_table(monkeypatch):
    monkeypatch.setattr(Batches, "POOL", 8)
    monkeypatch.setattr(StreamBatches, "POOL", 8)
    texts = tiny.texts(32)  # 8 batches of 4: one pool
    table = Batches(
        encode(Dataset.from_dict({"text": texts}), TOKENIZER), TOKENIZER, batch_size=4, shuffle=True, seed=2
    )
    found = list(stream(texts, steps=8, batch_size=4, seed=2).epoch(0))
    for ours, theirs in zip(found, table.epoch(0), strict=True):
        assert ours.inputs["input_ids"].equal(theirs.inputs["input_ids"])
        assert ours.counts == theirs.counts


def test_a_stream_goes_on_where_it_was_and_begins_anew_at_its_end(monkeypatch):
    monkeypatch.setattr(StreamBatches, "POOL", 4)
    source = stream(tiny.texts(25), steps=6, batch_size=3)
    assert len(source) == 6

    def tokens(found):
        return [batch.inputs["input_ids"].tolist() for batch in found]

    epochs = [tokens(source.epoch(n)) for n in range(4)]
    assert [len(epoch) for epoch in epochs] == [6] * 4
    straight = tokens(stream(tiny.texts(25), steps=24, batch_size=3).epoch(0))
    assert straight == list(itertools.chain(*epochs))
    assert tokens(source.epoch(2, start=4)) == epochs[2][4:]


def test_shares_of_a_stream_are_the_whole(monkeypatch):
    monkeypatch.setattr(StreamBatches, "POOL", 4)
    whole = stream(tiny.texts(24), steps=4, batch_size=6)
    shares = [stream(tiny.texts(24), steps=4, batch_size=6, rank=r, world=2) for r in range(2)]
    for expected, *parts in zip(whole.epoch(0), *(s.epoch(0) for s in shares), strict=True):
        rows = [p.index.tolist() for p in parts if p.whole is None]
        assert sorted(itertools.chain(*rows)) == sorted(expected.index.tolist())


def test_a_stream_is_named_by_what_it_is_not_where():
    from attar.model.checkpoint import digest

    def key(texts, **options):
        return digest(*stream(texts, **{"steps": 4, "batch_size": 3, **options}).content)

    assert key(tiny.texts(9)) == key(tiny.texts(9))
    assert key(tiny.texts(9)) == key(tiny.texts(9), rank=1, world=2)
    assert (
        len(
            {
                key(tiny.texts(9)),
                key(tiny.texts(9, seed=1)),
                key(tiny.texts(9), steps=5),
                key(tiny.texts(9), seed=1),
            }
        )
        == 4
    )


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


def test_fewer_rows_than_processes_are_refused():
    few = encode(tiny.table(2), TOKENIZER)
    with pytest.raises(DataError, match="at least 3 rows"):
        Batches(few, TOKENIZER, rank=2, world=3)


def test_another_encoding_deep_in_a_stream_is_an_error_of_the_data():
    def lines():
        yield {"text": "a plain line"}
        yield {"text": b"caf\xe9".decode("utf-8")}  # as the reader does, megabytes into a file

    stream = StreamBatches(IterableDataset.from_generator(lines), TOKENIZER, steps=1, batch_size=1)
    with pytest.raises(DataError, match="UTF-8"):
        list(stream.epoch())
