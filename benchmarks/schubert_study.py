"""The models of `benchmarks/schubert.py`: pruned by each variant at each size, recovered, fine-tuned and tested."""

import copy
import csv
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from attar import finetune, pretrain
from attar.anatomy.form import form_of
from attar.data.batches import Batches, encode
from attar.data.masking import MaskedBatches, MaskedLanguage
from attar.demo.data import model_directory, reviews
from attar.evaluation.prediction import predict
from attar.model.checkpoint import Loaded, load, save
from attar.pruning.alphas import Alphas, alphas_for, fold
from attar.pruning.apply import apply
from attar.pruning.cost import Parameters
from attar.pruning.rounds import Recovery, recover
from attar.pruning.schubert import VARIANTS, learn_alphas
from attar.pruning.scores import drop_layers
from attar.pruning.selection import in_order, uniform
from attar.pruning.self_distillation import SelfDistillation
from attar.pruning.units import Kept, everything
from attar.pruning.vocabulary import config_ids, trim

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "glue_sst2"
# Layers of the dropped-layers model -> size in the paper, its margins of the best schuBERT over it and over uniform.
SIZES = {4: ("88M", 1.1, 0.4), 3: ("66M", 1.6, 0.5), 1: ("43M", 6.6, 1.1)}
WAYS = ("all", "h", "f", "close", "folded", "uniform", "dropped")
FOLDED_AT = 3  # the one size at which learned alphas are also multiplied into the weights, as the paper does
SETTINGS: dict[str, Any] = {
    "texts": 4000,
    "rows": 600,
    "pretrain": {"epochs": 3, "lr": 3e-4, "max_length": 64},
    "alphas": {"steps": 100, "lr": 0.02},
    "recovery": {"steps": 100, "lr": 2e-4},
    "finetune": {"epochs": 3, "lr": 3e-4, "max_length": 64, "patience": None},
}
QUICK: dict[str, Any] = {
    "texts": 96,
    "rows": 32,
    "pretrain": {"epochs": 1, "lr": 3e-4, "max_length": 32},
    "alphas": {"steps": 3, "lr": 0.02},
    "recovery": {"steps": 2, "lr": 2e-4},
    "finetune": {"epochs": 1, "lr": 1e-4, "max_length": 32, "patience": None},
}


def tables(settings: Mapping[str, Any], *, quick: bool) -> dict[str, dict[str, Dataset]]:
    """Train, dev and test of each task; SST-2's dev file is the test, its dev rows are of the training file."""
    found = reviews()
    rows, some = settings["rows"], 32 if quick else 1000
    few = 32 if quick else 200
    made = {
        "rotten tomatoes": {
            "train": found["train"].select(range(rows)),
            "dev": found["dev"].select(range(few)),
            "test": found["test"].select(range(some)),
        }
    }
    if SHARED.is_dir() and not quick:
        train = _sst(SHARED / "train.tsv").shuffle(seed=0)
        made["sst-2"] = {
            "train": train.select(range(rows)),
            "dev": train.select(range(rows, rows + few)),
            "test": _sst(SHARED / "dev.tsv"),
        }
    return made


def _sst(path: Path) -> Dataset:
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return Dataset.from_dict(
        {"text": [r["sentence"].strip() for r in rows], "label": [int(r["label"]) for r in rows]}
    )


class Study:
    """The models of the study, each made once in a directory of `work`."""

    def __init__(self, work: Path, settings: Mapping[str, Any], *, quick: bool) -> None:
        self.work, self.settings, self.quick = work, settings, quick
        self.tasks = tables(settings, quick=quick)
        texts = reviews()["train"]["text"][: settings["texts"]]
        # The plain text holds no sentence that a model is tested on: SST-2 was cut from the same reviews.
        tested = {_plain(text) for task in self.tasks.values() for text in task["test"]["text"]}
        self.texts = Dataset.from_dict({"text": [text for text in texts if _plain(text) not in tested]})
        self.held = Dataset.from_dict({"text": reviews()["dev"]["text"][: 32 if quick else 400]})
        self.whole = load(self._pretrained(), head="masked-lm")
        self.cost = Parameters(self.whole.model)
        self._alphas: dict[str, Alphas] = {}

    def _pretrained(self) -> Path:
        """MiniLM with a trimmed vocabulary and a masked-language-model head."""
        trimmed, place = self.work / "trimmed", self.work / "whole"
        if not place.exists():
            loaded = load(model_directory(), head="base")
            used = [text for task in self.tasks.values() for text in task["train"]["text"]]
            found = trim(loaded.tokenizer, [*self.texts["text"], *used])
            kept = replace(everything(form_of(loaded.model.config)), vocab=found.kept)
            small = apply(loaded.model, kept)
            for name, value in config_ids(loaded.model.config, found.kept).items():
                setattr(small.config, name, value)
            save(small, found.tokenizer, trimmed, lineage={"stage": "trim"}, overwrite=True)
            pretrain(trimmed, self.texts, dev=self.held, out=place, **self.settings["pretrain"])
        return place

    def batches(self, *, masked: bool) -> Any:
        """The plain text."""
        length = self.settings["pretrain"]["max_length"]
        encoded = encode(self.texts, self.whole.tokenizer, max_length=length)
        plain = Batches(encoded, self.whole.tokenizer, batch_size=32, shuffle=True)
        return MaskedBatches(plain, self.whole.tokenizer) if masked else plain

    def alphas(self, name: str) -> Alphas:
        """The alphas of a variant, which serve all sizes; "close" are of all axes, taught without masked words."""
        if name not in self._alphas:
            model, path = self.whole.model, self.work / f"alphas-{name}.pt"
            axes, close = VARIANTS.get(name, VARIANTS["all"]), name == "close"
            found = alphas_for(model, axes)
            if path.exists():
                found.load_state_dict(torch.load(path, weights_only=True))
            else:
                loss = SelfDistillation(model, copy.deepcopy(model)) if close else MaskedLanguage(model)
                batches = self.batches(masked=not close)
                found = learn_alphas(model, axes, loss, batches, self.cost, **self.settings["alphas"])
                torch.save(found.state_dict(), path)
            self._alphas[name] = found
        return self._alphas[name]

    def kept(self, way: str, layers: int) -> Kept:
        """What stays by a way at the size that so many layers have."""
        form = form_of(self.whole.model.config)
        budget = self.cost(replace(form, layers=form.layers[:layers]))
        if way == "dropped":
            return drop_layers(self.whole.model, "alternate", self.cost, budget)
        pick = uniform if way == "uniform" else in_order
        alphas = self.alphas(way if way in {*VARIANTS, "close"} else "all")
        return pick(form, alphas.scores(), self.cost, budget)

    def pruned(self, way: str, layers: int, recovery: str = "mlm") -> Path:
        """A pruned and recovered model."""
        place = self.work / f"{way}-{layers}-{recovery}"
        if not place.exists():
            kept, source = self.kept(way, layers), self.whole.model
            if way == "folded":
                source = _folded(source, self.alphas("all"))
            small = apply(source, kept)
            options = dict(self.settings["recovery"])
            if way == "dropped":
                options["steps"] += self.settings["alphas"]["steps"]
            scratch = Path(tempfile.mkdtemp(dir=self.work))
            recover(
                small,
                Recovery(recovery, **options),  # type: ignore[arg-type]
                self.batches(masked=recovery == "mlm"),
                teacher=self.whole.model,
                kept=kept,
                task=None,
                place=scratch,
            )
            shutil.rmtree(scratch)
            save(small, self.whole.tokenizer, place, lineage={"stage": "prune"})
        return place

    def accuracy(self, name: str, place: Callable[[], Path], task: str, seed: int) -> float:
        """Test accuracy in points of one fine-tuning."""
        done = self.work / f"{name}-{task.replace(' ', '-')}-{seed}.json"
        if not done.exists():
            data = self.tasks[task]
            with tempfile.TemporaryDirectory(dir=self.work) as scratch:
                out = Path(scratch) / "tuned"
                finetune(
                    place(), data["train"], dev=data["dev"], out=out, seed=seed, **self.settings["finetune"]
                )
                loaded = load(out)
                said = predict(loaded.model, _test(data["test"], loaded)).argmax(1)
            done.write_text(json.dumps(100 * float(np.mean(said == np.array(data["test"]["label"][:])))))
        return float(json.loads(done.read_text()))


def _plain(text: str) -> str:
    return "".join(letter for letter in text.casefold() if letter.isalnum())


def _folded(model: PreTrainedModel, alphas: Alphas) -> PreTrainedModel:
    made = copy.deepcopy(model)
    fold(made, alphas)
    return made


def _test(table: Dataset, loaded: Loaded) -> Batches:
    return Batches(encode(table, loaded.tokenizer, max_length=64), loaded.tokenizer, batch_size=64)
