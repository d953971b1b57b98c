"""Laws of model directories: what is saved loads as it was, appears whole or not at all, and takes no one's place."""

import json
import os
import shutil
import stat

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import tiny
from attar.anatomy.families import ENCODERS
from attar.errors import ModelError, OutputError
from attar.model.checkpoint import load, read_lineage, save, verify
from attar.storage.writing import check_free, new_directory, save_tensors, write_atomic


@pytest.mark.parametrize("family", ENCODERS)
@pytest.mark.parametrize("head", ["sequence-classification", "masked-lm", "base"])
def test_a_model_comes_back_as_it_was(tmp_path, family, head):
    model = tiny.model(family, head)
    assert (
        save(model, tiny.tokenizer(family), tmp_path / "out", lineage={"stage": "test"}) == tmp_path / "out"
    )
    again = load(tmp_path / "out")
    assert type(again.model) is type(model)
    assert tiny.identical(model, again.model)
    assert not again.model.training
    assert again.name == str(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_stranger_with_transformers_alone_can_load_it(tmp_path):
    save(tiny.model(), tiny.tokenizer(), tmp_path / "out", lineage={})
    text = AutoTokenizer.from_pretrained(tmp_path / "out")("the film is good", return_tensors="pt")
    logits = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")(**text).logits
    torch.testing.assert_close(logits, tiny.model()(**text).logits)


def test_lineage_and_further_files_are_written(tmp_path):
    save(
        tiny.model(),
        tiny.tokenizer(),
        tmp_path / "out",
        lineage={"parent": "näher"},
        files={"README.md": "# é\n"},
    )
    found = read_lineage(tmp_path / "out")
    assert found["parent"] == "näher"
    assert set(found["versions"]) == {"attar", "torch", "transformers"}
    assert (tmp_path / "out" / "README.md").read_text(encoding="utf-8") == "# é\n"
    assert read_lineage(tmp_path) == {}


def test_saving_leaves_the_model_in_its_mode(tmp_path):
    model = tiny.model().train()
    save(model, tiny.tokenizer(), tmp_path / "out", lineage={})
    assert model.training


def test_permissions_are_those_of_the_users_other_files(tmp_path):
    before = os.umask(0o022)
    try:
        save(tiny.model(), tiny.tokenizer(), tmp_path / "out", lineage={})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o755
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()} == {0o644}


def test_what_does_not_load_as_it_was_is_never_left_behind(tmp_path):
    model = tiny.model()
    # Not in the config, so a reloaded model has not got it.
    model.classifier.register_forward_hook(lambda _m, _i, out: out + 1.0)
    with pytest.raises(ModelError, match="differ by 1"):
        save(model, tiny.tokenizer(), tmp_path / "out", lineage={})
    assert not list(tmp_path.iterdir())
    broken = tiny.model()
    broken.classifier.weight.data.fill_(float("nan"))
    with pytest.raises(ModelError, match="differ by nan"):
        save(broken, tiny.tokenizer(), tmp_path / "out", lineage={})


def test_verify_measures_the_difference(tmp_path):
    model = tiny.model()
    model.save_pretrained(tmp_path)
    assert verify(model, tmp_path) < 1e-6


def test_a_failure_leaves_nothing_and_keeps_what_was_there(tmp_path):
    save(tiny.model(), tiny.tokenizer(), tmp_path / "out", lineage={"n": 1})
    for error in (RuntimeError("x"), KeyboardInterrupt()):
        with pytest.raises(type(error)), new_directory(tmp_path / "out", overwrite=True) as place:  # noqa: PT012
            (place / "half").write_text("written")
            raise error
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert read_lineage(tmp_path / "out")["n"] == 1


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    left = tmp_path / ".out.killed__.part"
    other = tmp_path / ".out.v2.killed__.part"
    old = tmp_path / ".out.before__.old"
    (tmp_path / "out").mkdir()
    for place in (left, other, old):
        place.mkdir()
        (place / "half").write_text("written")
    with new_directory(tmp_path / "out") as living:
        assert not left.exists()
        assert not old.exists()
        (living / "a").write_text("ours")
        with new_directory(tmp_path / "out", overwrite=True) as place:
            (place / "a").write_text("theirs")
            assert (living / "a").read_text() == "ours"
        shutil.rmtree(tmp_path / "out")
    assert (tmp_path / "out" / "a").read_text() == "ours"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.v2.killed__.part", "out"]


def test_what_was_moved_away_to_be_replaced_is_put_back(tmp_path):
    # Killed between the two renames: what was there has gone aside, what is new has not come.
    for place in (tmp_path / ".out.killed__.part", tmp_path / ".out.killed__.old"):
        place.mkdir()
        (place / "lineage.json").write_text(place.suffix)
    with pytest.raises(OutputError, match="overwrite"):
        check_free(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "lineage.json").read_text() == ".old"


def test_overwriting_replaces_a_directory_of_attars_own_only(tmp_path):
    out = tmp_path / "out"
    save(tiny.model(), tiny.tokenizer(), out, lineage={"n": 1})
    with pytest.raises(OutputError, match="overwrite"):
        save(tiny.model(), tiny.tokenizer(), out, lineage={"n": 2})
    save(tiny.model(seed=1), tiny.tokenizer(), out, lineage={"n": 2}, overwrite=True)
    assert read_lineage(out)["n"] == 2
    assert tiny.identical(load(out).model, tiny.model(seed=1))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="move it away"):
        save(tiny.model(), tiny.tokenizer(), mine, lineage={}, overwrite=True)
    assert (mine / "notes.txt").read_text() == "mine"


def test_an_empty_directory_is_free_and_parents_are_made(tmp_path):
    (tmp_path / "out").mkdir()
    check_free(tmp_path / "out")
    with new_directory(tmp_path / "out") as place:
        (place / "a").write_text("x")
    with new_directory(tmp_path / "deep" / "er" / "out") as place:
        (place / "a").write_text("x")
    assert (tmp_path / "out" / "a").is_file()
    assert (tmp_path / "deep" / "er" / "out" / "a").is_file()


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    write_atomic(tmp_path / "a.json", "{}")
    write_atomic(tmp_path / "a.json", json.dumps({"x": 1}))
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
    save_tensors({"x": torch.ones(1)}, tmp_path / "deep" / "er" / "a.pt")
    assert torch.load(tmp_path / "deep" / "er" / "a.pt", weights_only=True)["x"] == 1
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["a.json", "a.pt"]


def test_a_loaded_model_is_taken_as_it_is():
    model, tokenizer = tiny.model().train(), tiny.tokenizer()
    found = load(model, tokenizer=tokenizer)
    assert found.model is model
    assert not model.training
    assert found.tokenizer is tokenizer
    assert found.name == "BertForSequenceClassification"
