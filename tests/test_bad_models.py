"""Damaged and unknown models end in an error that says what was expected, what was found and what to do."""

import json

import pytest
import torch
from bad import csv, labelled, told
from transformers import BloomConfig, BloomForCausalLM

import tiny
from attar.anatomy.resolve import family, resolve
from attar.data.batches import fitting
from attar.data.model_task import task_of
from attar.data.tables import read_table
from attar.data.tasks import Task
from attar.errors import DataError, ModelError
from attar.model.checkpoint import load


def test_models_that_are_not_there(tmp_path):
    with pytest.raises(ModelError, match="no such directory") as error:
        load(tmp_path / "no")
    told(error)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"config\.json in"):
        load(tmp_path / "empty")
    with pytest.raises(ModelError, match="transformers can load at some/name"):
        load("some/name")
    with pytest.raises(ModelError, match="a tokenizer beside"):
        load(tiny.model())
    with pytest.raises(ModelError):
        load(csv(tmp_path / "file", "x"))


@pytest.mark.parametrize("part", [0.0, 0.5, 0.98])
def test_a_truncated_weight_file(tmp_path, part):
    path = tiny.saved(tmp_path / "model") / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(ModelError, match="transformers can load") as error:
        load(path.parent)
    told(error)


def test_a_truncated_pickle(tmp_path):
    place = tiny.saved(tmp_path / "model")
    (place / "model.safetensors").unlink()
    (place / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00")
    with pytest.raises(ModelError):
        load(place)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file(tmp_path, name):
    place = tiny.saved(tmp_path / "model")
    (place / name).unlink()
    with pytest.raises(ModelError, match=name):
        load(place)


def test_a_truncated_config(tmp_path):
    place = tiny.saved(tmp_path / "model")
    csv(place / "config.json", (place / "config.json").read_text()[:80])
    with pytest.raises(ModelError, match="transformers can load"):
        load(place)


def change(place, **values):
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**config, **values}))
    return place


def test_a_config_of_another_shape(tmp_path):
    with pytest.raises(ModelError, match="transformers can load"):
        load(change(tiny.saved(tmp_path / "model"), hidden_size=12))


def test_layers_that_the_weights_do_not_have_are_not_made_up(tmp_path):
    place = change(tiny.saved(tmp_path / "model"), num_hidden_layers=3)
    for fresh in (False, True):
        with pytest.raises(ModelError, match=r"layer\.2"):
            load(place, fresh_head=fresh)


def test_a_head_that_was_never_trained_is_only_loaded_to_be_trained(tmp_path):
    place = tiny.saved(tmp_path / "model", head="base")
    with pytest.raises(ModelError, match="classifier"):
        load(place, head="sequence-classification")
    assert load(place, head="sequence-classification", fresh_head=True).model.config.num_labels == 2
    place = tiny.saved(tmp_path / "language", head="masked-lm")  # which has no pooler, and needs none
    assert load(place, head="base").model.config.hidden_size == 24


def test_a_head_of_other_outputs_is_begun_anew_and_nothing_else_is(tmp_path):
    place = tiny.saved(tmp_path / "model")
    again = load(place, head="sequence-classification", fresh_head=True, num_labels=5).model
    assert again.classifier.out_features == 5
    assert tiny.difference(again.base_model, load(place).model.base_model) == 0
    with pytest.raises(ModelError):
        load(place, head="sequence-classification", num_labels=5)
    with pytest.raises(ModelError, match="intermediate"):
        load(place, head="sequence-classification", fresh_head=True, num_labels=5, intermediate_size=41)


def test_labels_that_nobody_asks_for_are_no_error():
    task = Task("single_label", ("no", "yes"))
    rows = labelled("maybe", "yes")
    with pytest.raises(DataError, match="maybe"):
        read_table(rows, task=task)
    assert read_table(rows, task=task, labels=False)[0].column_names == ["text"]


def test_texts_are_cut_to_the_positions_that_a_model_has(tmp_path):
    for name in ("bert", "roberta"):
        model = tiny.model(name)
        longest = fitting(500, model)
        assert longest == {"bert": 80, "roberta": 79}[name]
        ids = torch.full((1, longest), 7)
        assert model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.isfinite().all()


def test_a_family_nobody_knows(tmp_path):
    with pytest.raises(ModelError, match="transformers can load"):
        load(change(tiny.saved(tmp_path / "model"), model_type="bertt"))
    with pytest.raises(ModelError, match=r"nearest: 'bert'"):
        family("bertt")
    with pytest.raises(ModelError, match='"add a family"'):
        resolve(BloomForCausalLM(BloomConfig(hidden_size=8, n_layer=1, n_head=2, vocab_size=20)))


def test_a_problem_type_nobody_knows(tmp_path):
    config = tiny.config()
    config.problem_type = "ranking"
    with pytest.raises(ModelError, match="regression"):
        task_of(config)
