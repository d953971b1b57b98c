"""How the long benchmarks measure: text that is whole, losses paired by text, and signs that are sure."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

import tiny
from attar.data.language_modeling import reading
from attar.data.tasks import Task
from attar.errors import DataError
from attar.evaluation.language_model import measure
from attar.evaluation.quality import judge

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
studies, texts = (importlib.import_module(name) for name in ("studies", "texts"))


@pytest.fixture
def shards(tmp_path, monkeypatch):
    """Two shards as they should be, with what is known of them."""
    known = {}
    (tmp_path / "folder").mkdir()
    for name in ("a.txt", "b.txt"):
        content = f"the text of {name}\n".encode()
        (tmp_path / "folder" / name).write_bytes(content)
        known[name] = (len(content), texts.hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(texts.FILES, "folder", known)
    return tmp_path


def test_whole_shards_are_taken(shards):
    assert [path.name for path in texts.checked("folder", shards)] == ["a.txt", "b.txt"]


def test_every_shard_that_is_missing_truncated_or_changed_is_named(shards):
    (shards / "folder" / "a.txt").unlink()
    (shards / "folder" / "b.txt").write_bytes(b"the text")
    with pytest.raises(DataError, match=r"a\.txt is missing; b\.txt has 8 of 18 bytes"):
        texts.checked("folder", shards)
    (shards / "folder" / "b.txt").write_bytes(b"the text of X.txt\n")
    with pytest.raises(DataError, match=r"b\.txt has another content"):
        texts.checked("folder", shards)


def test_no_book_is_in_two_splits():
    found = {f"book {n}": [f"words of book {n}"] for n in range(20)}
    splits = texts.by_book(found, {"test": 3, "dev": 2})
    names = [name for split in splits.values() for name in split]
    assert sorted(names) == sorted(found)
    assert [len(splits[name]) for name in ("test", "dev", "train")] == [3, 2, 15]
    assert splits == texts.by_book(dict(reversed(found.items())), {"test": 3, "dev": 2})


def test_every_book_gives_the_same_share_and_a_short_one_all_of_its_own():
    found = {f"book {n}": [f"b{n} {i} x" for i in range(count)] for n, count in enumerate((5, 100, 200))}
    made = texts.documents(found, list(found), words=315, longest=30)
    words = " ".join(made).split()
    assert [sum(word == f"b{n}" for word in words) for n in range(3)] == [5, 50, 50]
    assert max(len(text.split()) for text in made) == 30
    assert sorted(texts.paragraphs(found, list(found), 315)) == sorted("\n".join(made).split("\n"))


def test_losses_of_texts_add_up_to_the_models_loss():
    model, lines = tiny.model("bert", head="masked-lm"), tiny.texts(30)
    found = studies.masked_loss(model, lines, tiny.tokenizer(), max_length=16)
    whole = measure(model, reading(model, max_length=16).batches(lines, tiny.tokenizer()))
    assert found.mean == pytest.approx(whole["mlm_loss"], rel=1e-5)
    assert (found.tokens >= 1).all()


def test_losses_are_paired_by_text():
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 9, 400).astype(float)
    hard = rng.gamma(2.0, 2.0, 400) * tokens
    ours = [studies.TextLoss(hard + 0.02 * tokens, tokens)]
    around = studies.loss_apart(ours, [studies.TextLoss(hard, tokens)])
    assert around.value == pytest.approx(0.02)
    assert around.margin < 1e-9  # that texts are hard or easy cancels out


@pytest.mark.parametrize(("looks", "level"), [(1, 0.05), (2, 0.0294), (3, 0.0221), (5, 0.0158)])
def test_levels_of_several_looks_are_pococks(looks, level):
    found = studies.nominal_level(tuple(range(1, looks + 1)))
    assert found == pytest.approx(level, abs=3e-4)


def test_looking_after_every_seed_is_wrong_as_seldom_as_it_says():
    draws = np.random.default_rng(0).normal(size=(1500, 5))
    wrong = [any(studies.settled(row[:n], 5) for n in range(2, 6)) for row in draws]
    assert np.mean(wrong) < 0.065


def test_seeds_end_where_the_sign_is_settled():
    values = {"ours": [5.0, 5.6, 5.3, 9.0], "theirs": [1.0, 1.0, 1.0, 9.0]}
    found = studies.by_seed(
        list(values), [0, 1, 2, 3], lambda arm, seed: values[arm][seed], [("ours", "theirs")]
    )
    assert {len(each) for each in found.values()} == {3}
    same = {"ours": values["ours"], "theirs": values["ours"][::-1]}
    found = studies.by_seed(list(same), [0, 1, 2, 3], lambda arm, seed: same[arm][seed], [("ours", "theirs")])
    assert {len(each) for each in found.values()} == {4}


def test_a_model_that_says_one_thing_has_collapsed():
    task = Task("single_label", ("no", "yes"))
    labels = np.arange(100) % 2
    logits = np.stack([np.zeros(100), np.where(np.arange(100) < 99, 1.0, -1.0)], axis=1)
    assert studies.collapsed(judge(task, logits, labels))
    assert not studies.collapsed(judge(task, logits * np.where(labels, 1, -1)[:, None], labels))
