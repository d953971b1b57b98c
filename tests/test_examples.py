"""The scripts in `examples/` run with a tiny model and few rows: as they are, or on files that are named."""

import inspect
import runpy
import sys
from pathlib import Path

import pytest
from datasets import Dataset

import attar
import tiny
from attar.demo import data as demo_data
from attar.model.sentence_modules import Head, write_head

EXAMPLES = Path(__file__).parents[1] / "examples"
# What each script is given; nothing where what it makes by itself is quickly made.
ARGUMENTS = {
    "distil_classifier": ["encoder", "train.csv", "dev.csv", "test.csv"],
    "shrink_tagger": [],
    "prune_to_latency": ["classifier", "train.csv", "test.csv"],
    "halve_gpt": ["gpt", "texts.txt"],
    "shrink_embeddings": ["embedder", "texts.txt"],
    "shrink_reranker": ["reranker", "embedder", "texts.txt"],
    "new_language": [],
}
PHASE = {"epochs": 1, "batch_size": 24}
QUICK = {
    "epochs": 1,
    "batch_size": 24,
    "intermediate": PHASE,
    "prediction": PHASE,
    "steps": 2,
    "recover_steps": 2,
    "vocab": 300,
    "length": 8,
    "latency_length": 8,
    "to": 8,
    "precision": "fp32",
    "max_drop": 1.0,  # what int8 costs a model of a few steps is not to be judged, and differs between processors
}


def few(value):
    """The first rows of a table or of texts."""
    if isinstance(value, Dataset):
        return value.select(range(24))
    return value[:24] if isinstance(value, list) and len(value) > 24 else value


def quick(verb):
    """The verb with few rows and steps, whatever the script asks for."""
    known = inspect.signature(verb).parameters
    less = {name: value for name, value in QUICK.items() if name in known}

    def call(*given, **named):
        named = {name: few(value) for name, value in named.items()}
        if "budget" in named:
            named["budget"] = 0.9  # a tiny model can lose little of its latency
        return verb(*map(few, given), **named | less)

    return call


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Tiny models and files of each kind."""
    place = tmp_path_factory.mktemp("examples")
    sizes = {"hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 400}
    tiny.saved(place / "encoder", head="base", max_position_embeddings=130, **sizes)
    tiny.saved(place / "classifier", **sizes)
    tiny.saved(place / "embedder", head="base", max_position_embeddings=130, **sizes)
    head = Head(normalize=True, max_length=64)
    write_head(head, {}, sizes["hidden_size"], place / "embedder")
    tiny.saved(place / "reranker", num_labels=1, max_position_embeddings=130, **sizes)
    tiny.model("gpt2", "causal-lm", max_position_embeddings=130).save_pretrained(place / "gpt")
    tiny.decoder_tokenizer().save_pretrained(place / "gpt")
    (place / "texts.txt").write_text("\n".join(tiny.texts(60)) + "\n")
    for seed, name in enumerate(("train", "dev", "test")):
        tiny.table(24, seed).to_csv(place / f"{name}.csv")
    return place


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda script: script.stem)
def test_an_example_runs(script, place, tmp_path, monkeypatch, capsys):
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 40
    given = [str(place / file) for file in ARGUMENTS[script.stem]]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [script.name, *given])
    monkeypatch.setattr(demo_data, "model_directory", lambda: place / "encoder")
    for verb in (
        "tokenizer",
        "pretrain",
        "finetune",
        "distill",
        "distill_lm",
        "plan",
        "prune",
        "dimensions",
        "compare",
        "export",
    ):
        monkeypatch.setattr(attar, verb, quick(getattr(attar, verb)))
    runpy.run_path(str(script))
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) >= 4
    assert list((tmp_path / "out").rglob("model.safetensors"))
