"""Laws of pre-training: pairs of sentences, the heads that are saved, and what cannot be learned from."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModelForMaskedLM,
    BertForPreTraining,
)

import tiny
from attar import finetune, pretrain, run
from attar.data import corpus
from attar.data.corpus import FOLLOWS, RANDOM, hold_out, next_sentences, read_corpus, read_documents
from attar.errors import DataError, ModelError, RecipeError
from attar.model.checkpoint import load, read_lineage
from attar.training import loop as train

TOKENIZER = tiny.tokenizer()
MASK, SPECIAL = TOKENIZER.mask_token_id, np.array(TOKENIZER.all_special_ids)
OPTIONS = {"epochs": 2, "lr": 4e-3, "batch_size": 8, "max_length": 32, "precision": "fp32"}


# Pairs


DOCUMENTS = [[f"{word} {other}" for other in tiny.PLAIN[:10]] for word in tiny.GOOD]


def test_half_the_pairs_follow_and_the_others_are_of_other_documents():
    place = {line: (d, i) for d, document in enumerate(DOCUMENTS) for i, line in enumerate(document)}
    labels = []
    for seed in range(10):
        for row in next_sentences(DOCUMENTS, seed=seed):
            (d, i), (e, j) = place[row["text"]], place[row["text_pair"]]
            assert ((e, j) == (d, i + 1)) if row["label"] == FOLLOWS else (e != d)
            labels.append(row["label"])
    assert len(labels) == 10 * 6 * 9
    assert np.mean(labels) == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(len(labels)))
    assert (FOLLOWS, RANDOM) == (0, 1)


def test_of_one_document_the_other_line_is_neither_this_one_nor_the_next():
    (document,) = DOCUMENTS[:1]
    for row in itertools.chain(*(next_sentences([document[:3]], seed=seed) for seed in range(9))):
        here, there = document.index(row["text"]), document.index(row["text_pair"])
        assert there == here + 1 if row["label"] == FOLLOWS else there not in {here, here + 1}


def test_documents_are_parted_by_blank_lines_and_ends_of_files(tmp_path):
    (tmp_path / "a.txt").write_text("\ufeffone\ntwo\n\n \n\nthree\nfour\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("five\nsix", encoding="utf-8")
    expected = [["one", "two"], ["three", "four"], ["five", "six"]]
    assert read_documents([tmp_path / "a.txt", str(tmp_path / "b.txt")]) == expected
    lines = ["one", "two", "", "three", "four", "", "five", "six"]
    assert read_documents(lines) == read_documents(Dataset.from_dict({"text": lines})) == expected


def test_whole_documents_are_held_out_where_there_are_several():
    learned, held = hold_out(DOCUMENTS, 12)
    assert (learned, held) == (DOCUMENTS[:4], DOCUMENTS[4:])
    learned, held = hold_out(DOCUMENTS[:1], 3)
    assert (learned, held) == ([DOCUMENTS[0][:-3]], [DOCUMENTS[0][-3:]])
    learned, held = hold_out([["a", "b"], ["c", "d"], ["e"]], 1)
    assert (learned, held) == ([["a", "b"]], [["c", "d"], ["e"]])


def test_pairs_train_both_heads_of_bert(tmp_path):
    tiny.saved(tmp_path / "base", head="base")
    report = pretrain(
        tmp_path / "base",
        [line for document in DOCUMENTS for line in [*document, ""]],
        out=tmp_path / "out",
        dev=[line for document in DOCUMENTS for line in [*document, ""]],
        nsp=True,
        **{**OPTIONS, "epochs": 10},
    )
    before, after = report.rows[1].metrics, report.rows[0].metrics
    assert after["nsp_accuracy"] > before["nsp_accuracy"] + 0.1  # the same first word
    assert after["mlm_loss"] < 0.7 * before["mlm_loss"]
    assert set(report.curves["pre-training"][0][1]) == {"mlm", "nsp"}
    assert isinstance(BertForPreTraining.from_pretrained(tmp_path / "out"), BertForPreTraining)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == [
        "BertForPreTraining"
    ]
    again = load(tmp_path / "out").model  # as a masked language model
    pretrained = BertForPreTraining.from_pretrained(tmp_path / "out").eval()
    inputs = TOKENIZER("the film is good", return_tensors="pt")
    torch.testing.assert_close(again(**inputs).logits, pretrained(**inputs).prediction_logits)


# The verb


CYCLE = [" ".join(tiny.PLAIN[(i + j) % 12] for j in range(7)) for i in range(12)] * 6


@pytest.mark.parametrize("family", tiny.CONFIGS)
def test_a_new_head_is_tied_to_the_embedding_and_saved_with_it(tmp_path, family):
    tiny.saved(tmp_path / "base", family, head="base")
    model = load(tmp_path / "base", head="masked-lm", fresh_head=True).model
    decoder, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    assert decoder.weight is embedding.weight
    assert decoder.bias.abs().max() == 0
    expected = tiny.model(family, head="base").get_input_embeddings().weight
    assert embedding.weight.equal(expected)
    torch.nn.init.normal_(decoder.bias)
    model.save_pretrained(tmp_path / "out")
    again = AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    assert tiny.identical(model, again)
    assert again.get_output_embeddings().bias.equal(decoder.bias)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_a_model_without_the_head_gets_one_that_strangers_and_finetune_can_use(tmp_path, family):
    tiny.saved(tmp_path / "base", family, head="base")
    report = pretrain(tmp_path / "base", CYCLE, out=tmp_path / "out", **{**OPTIONS, "epochs": 6})
    before, after = report.rows[1].metrics, report.rows[0].metrics
    assert after["pseudo_perplexity"] < 0.3 * before["pseudo_perplexity"]
    assert after["pseudo_perplexity"] == pytest.approx(math.exp(after["mlm_loss"]))
    assert "before" in str(report)
    model, info = AutoModelForMaskedLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    decoder = model.get_output_embeddings()
    assert decoder.weight is model.get_input_embeddings().weight
    assert decoder.bias.abs().max() > 0  # it began at 0
    lineage = read_lineage(tmp_path / "out")
    assert (lineage["stage"], lineage["metrics"]) == ("pretrain", after)
    tuned = {**OPTIONS, "epochs": 1, "lr": 1e-4}
    assert finetune(tmp_path / "out", tiny.table(24), out=tmp_path / "tuned", **tuned).main == "accuracy"


def test_the_best_epoch_is_kept_and_the_curves_tell_it(tmp_path):
    texts = tiny.texts(24, longest=4)
    options = {**OPTIONS, "epochs": 6, "lr": 2e-2}
    model = tiny.model(head="masked-lm")
    report = pretrain(
        model, texts, dev=tiny.texts(30, seed=1), out=tmp_path / "o", tokenizer=TOKENIZER, **options
    )
    losses = {step: parts["mlm"] for step, parts in report.curves["dev"]}
    assert list(losses) == [3, 6, 9, 12, 15, 18]
    assert report.rows[0].metrics["mlm_loss"] == pytest.approx(min(losses.values()))
    assert list(tmp_path.iterdir()) == [tmp_path / "o"]


@pytest.mark.parametrize("fresh", [False, True])
def test_resumed_is_uninterrupted(tmp_path, monkeypatch, fresh):
    drop = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3}
    tiny.saved(tmp_path / "model", head="masked-lm", **drop)
    options = {**OPTIONS, "epochs": 4, "whole_word": True, "fresh": fresh, "seed": 2}

    def go(name):
        torch.rand(5)  # what was drawn before must not matter
        return pretrain(tmp_path / "model", tiny.texts(32, longest=12), out=tmp_path / name, **options)

    whole = go("whole")
    inner, steps = train._step, itertools.count(1)

    def failing(*arguments):
        if next(steps) == 11:  # in the third epoch of 4 steps
            raise KeyboardInterrupt
        return inner(*arguments)

    monkeypatch.setattr(train, "_step", failing)
    with pytest.raises(KeyboardInterrupt):
        go("cut")
    monkeypatch.undo()
    assert not (tmp_path / "cut").exists()
    again = go("cut")
    assert again.curves == whole.curves
    assert again.rows[0].metrics == whole.rows[0].metrics
    assert tiny.identical(load(tmp_path / "cut").model, load(tmp_path / "whole").model)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut", "model", "whole"]


def test_fresh_reads_only_the_config_and_the_tokenizer(tmp_path):
    place = tmp_path / "config"
    tiny.config("roberta").save_pretrained(place)
    tiny.tokenizer("roberta").save_pretrained(place)
    options = {**OPTIONS, "epochs": 1, "lr": 1e-6, "fresh": True}
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        pretrain(place, CYCLE, out=tmp_path / name, **{**options, "seed": seed})
    one, same, other = (load(tmp_path / name).model for name in ("one", "same", "other"))
    assert tiny.identical(one, same)
    assert tiny.difference(one, other) > 0.1
    known = tiny.model("bert", head="masked-lm")
    pretrain(known, CYCLE, out=tmp_path / "object", tokenizer=TOKENIZER, **options)
    assert tiny.difference(known, load(tmp_path / "object").model) > 0.1
    assert tiny.identical(known, tiny.model("bert", head="masked-lm"))


def test_texts_can_be_streamed(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "MOST_HELD", 8)
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(CYCLE))
    found = read_corpus(path, streaming=True)
    assert found.dev["text"][:] == CYCLE[:8]
    assert [row["text"] for row in found.train] == CYCLE[8:]
    tiny.saved(tmp_path / "model", head="masked-lm")
    options = {**OPTIONS, "streaming": True, "steps": 12, "epochs": 3}
    report = pretrain(tmp_path / "model", path, out=tmp_path / "out", **options)
    assert [step for step, _ in report.curves["dev"]] == [12, 24, 36]
    assert report.rows[0].metrics["mlm_loss"] < 0.8 * report.rows[1].metrics["mlm_loss"]


def test_a_recipe_pretrains_and_goes_on(tmp_path):
    tiny.saved(tmp_path / "model", head="base")
    (tmp_path / "texts.txt").write_text("\n".join(CYCLE))
    tiny.table(24).to_csv(tmp_path / "train.csv")
    stages = [
        {"pretrain": {"batch_size": 16, "max_length": 32}},
        {"finetune": {"epochs": 1, "max_length": 32}},
    ]
    recipe = {"name": "r", "model": str(tmp_path / "model"), "stages": stages}
    data = {"train": str(tmp_path / "train.csv"), "texts": str(tmp_path / "texts.txt")}
    run({**recipe, "data": data}, out=tmp_path / "run")
    assert read_lineage(tmp_path / "run" / "2-finetune")["parent"] == str(tmp_path / "run" / "1-pretrain")
    with pytest.raises(DataError, match="no such file"):
        run({**recipe, "data": {**data, "texts": ["missing.txt", "too.txt"]}}, out=tmp_path / "missing")
    with pytest.raises(DataError, match=r"data\.texts"):
        run({**recipe, "data": {"train": data["train"]}}, out=tmp_path / "other")


# Errors


def refuse(error, match, texts=CYCLE, *, model=None, tokenizer=TOKENIZER, **options):
    model = tiny.model(head="masked-lm") if model is None else model
    with pytest.raises(error, match=match) as caught:
        pretrain(model, texts, tokenizer=tokenizer, **{**OPTIONS, "out": "never", **options})
    assert caught.value.fix


def test_what_cannot_be_learned_from_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refuse(DataError, "at least two lines", ["the film"])
    refuse(DataError, "at least two lines", ["", " "])
    refuse(DataError, "words that the tokenizer knows", ["zzzz qqqq"] * 9)
    refuse(RecipeError, "mask: less than 1", mask=1.5)
    refuse(DataError, "blank line", ["the", "", "film", "", "is"], nsp=True)
    refuse(DataError, "read whole", nsp=True, streaming=True)
    (tmp_path / "short.txt").write_text("the film\nis good\n")
    refuse(DataError, "more than 1000 lines", tmp_path / "short.txt", streaming=True)


def test_what_cannot_learn_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mute = tiny.tokenizer()
    mute.mask_token = None
    refuse(ModelError, "a mask token", tokenizer=mute)
    refuse(ModelError, "a language-model head", model=tiny.model())
    refuse(ModelError, "next-sentence head: bert", DOCUMENTS[0] * 9, nsp=True)
    tiny.saved(tmp_path / "roberta", "roberta", head="masked-lm")
    refuse(
        ModelError,
        "next-sentence head: bert",
        DOCUMENTS[0] * 9,
        model=tmp_path / "roberta",
        nsp=True,
    )
    refuse(ModelError, "a row for each", model=tiny.model(head="masked-lm", vocab_size=40))
    tiny.model("gpt2", "causal-lm").save_pretrained(tmp_path / "gpt")
    endless = tiny.tokenizer()
    endless.eos_token = None
    refuse(ModelError, "an end-of-text token", model=tmp_path / "gpt", tokenizer=endless)
    refuse(ModelError, "no such directory", model=tmp_path / "none", fresh=True)
