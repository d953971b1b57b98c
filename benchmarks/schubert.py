"""schuBERT's claims at the size of MiniLM: one budget by learned shapes, by uniform shrinking, by dropping layers.

MiniLM-L6 (its vocabulary trimmed to the texts, so that the embedding's share of the parameters is like BERT-base's)
gets a masked-language-model head, is pruned to the sizes that 4, 3 and 1 of its 6 layers have (77%, 66% and 43%; the
paper's 9, 6 and 3 of 12 are 81%, 61% and 40%), recovers on plain text, and is fine-tuned on Rotten Tomatoes and SST-2.
Every variant gets the same steps; dropped layers get those that the others learn alphas in on top. "close" learns the
alphas and recovers by staying close to the unpruned model; the others by masked words, as the paper. Figures are test
accuracies in points over seeds of the fine-tuning; the pruning has one seed. Nothing is fitted by least squares after
a cut, as the paper has it (`attar.prune` does that by default). `--latency` runs another benchmark.
"""

import argparse
import copy
import csv
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import schubert_draw
import schubert_latency
import torch
from datasets import Dataset
from rich.console import Console
from transformers import PreTrainedModel

from attar import finetune, pretrain, progress
from attar.anatomy.form import Form, form_of
from attar.data.batches import Batches, encode
from attar.data.masking import MaskedBatches, MaskedLanguage
from attar.demo.data import model_directory, reviews
from attar.errors import AttarError
from attar.evaluation.quality import predict
from attar.maths.statistics import seed_interval
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
from common import Figure, figure, parser, read, report, trains, workplace
from common import save as save_result

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


def run(study: Study, options: argparse.Namespace, console: Console) -> dict[str, dict[str, list[float]]]:
    """Accuracies by model and task, in the order of the seeds."""
    found: dict[str, dict[str, list[float]]] = {}
    models: dict[str, Callable[[], Path]] = {"whole": lambda: study.work / "whole"}
    for layers in options.sizes:
        for way in options.ways:
            if (way != "folded" or layers == FOLDED_AT) and _possible(study, way, layers):
                recovery = "distill" if way == "close" else "mlm"
                models[f"{way}-{layers}"] = partial(study.pruned, way, layers, recovery)
        if "all" in options.ways:
            models[f"all-distilled-{layers}"] = partial(study.pruned, "all", layers, "distill")
    for seed in options.seeds:
        for name, place in models.items():
            for task in study.tasks:
                if options.tasks and task not in options.tasks:
                    continue
                value = study.accuracy(name, place, task, seed)
                found.setdefault(name, {}).setdefault(task, []).append(value)
                console.print(f"seed {seed}, {name}, {task}: {value:.1f}")
    return found


def _possible(study: Study, way: str, layers: int) -> bool:
    """Whether a way reaches a size: the feed-forward layers alone are not enough for the smallest."""
    try:
        study.kept(way, layers)
    except AttarError as error:
        print(f"{way} at the size of {layers} layers: {error.found}")
        return False
    return True


def show(study: Study, found: Mapping[str, Mapping[str, list[float]]], options: argparse.Namespace) -> None:
    tasks = [task for task in study.tasks if not options.tasks or task in options.tasks]
    means = {
        name: [float(np.mean(values)) for values in zip(*(by[task] for task in tasks), strict=True)]
        for name, by in found.items()
    }
    whole = study.cost(form_of(study.whole.model.config))
    print(f"\n{'model':18}{'params':>8}" + "".join(f"{task:>24}" for task in tasks) + f"{'mean':>24}")
    for name, by in found.items():
        size = _size(study, name) / whole
        cells = [_cell(by[task]) for task in tasks] + [_cell(means[name])]
        print(f"{name:18}{size:8.0%}" + "".join(f"{cell:>24}" for cell in cells))
    figures: dict[str, Figure] = {"whole": figure(float(np.mean(means["whole"])))}
    settings: dict[str, Any] = {**study.settings, "seeds": options.seeds, "tasks": tasks, "accuracies": found}
    settings["sizes"] = {name: _size(study, name) for name in found}
    settings["shapes"] = {name: _shape(study, name) for name in found}
    settings["intervals_95"] = {}
    print()
    for layers in options.sizes:
        figures |= _margins(layers, means, settings)
    if not options.quick:
        save_result("schubert", figures, settings)
        schubert_draw.draw()
    report("schubert", figures, settings)


def _margins(layers: int, means: Mapping[str, list[float]], settings: dict[str, Any]) -> dict[str, Figure]:
    """Differences of mean accuracy at one size, paired by seed: the best schuBERT variant against the others."""
    names = [f"{way}-{layers}" for way in ("all", "h", "f", "close", "all-distilled")]
    learned = [name for name in names if name in means]
    best = max(learned, key=lambda name: float(np.mean(means[name])))
    paper, over_dropped, over_uniform = SIZES[layers]
    pairs = {
        f"{paper}: best (-{best.rpartition('-')[0]}) over dropped": (best, f"dropped-{layers}", over_dropped),
        f"{paper}: best (-{best.rpartition('-')[0]}) over uniform": (best, f"uniform-{layers}", 0.0),
        f"{paper}: recovery by distillation over by fine-tuning": (
            f"all-distilled-{layers}",
            f"all-{layers}",
            0.0,
        ),
        f"{paper}: alphas not folded over folded": (f"all-{layers}", f"folded-{layers}", None),
    }
    figures: dict[str, Figure] = {}
    for name, (ours, theirs, target) in pairs.items():
        if ours not in means or theirs not in means:
            continue
        around = seed_interval([a - b for a, b in zip(means[ours], means[theirs], strict=True)])
        told = f"(paper's uniform margin {over_uniform})" if "uniform" in name else ""
        print(f"{name:58}{around.value:+6.1f} ({around.low:+.1f} to {around.high:+.1f})  {told}")
        figures[name] = figure(around.value, target)
        settings["intervals_95"][name] = [around.low, around.high]
    return figures


def _cell(values: list[float]) -> str:
    around = seed_interval(values)
    return f"{around.value:.1f} ({around.low:.1f} to {around.high:.1f})"


def _form(study: Study, name: str) -> Form:
    if name == "whole":
        return form_of(study.whole.model.config)
    way, layers = name.replace("-distilled", "").split("-")
    return study.kept(way, int(layers)).form


def _size(study: Study, name: str) -> float:
    return study.cost(_form(study, name))


def _shape(study: Study, name: str) -> dict[str, Any]:
    form = _form(study, name)
    return {
        "hidden": form.hidden,
        "vocab": form.vocab,
        "layers": [list(vars(layer).values()) for layer in form.layers],
    }


def main() -> None:
    asked = trains(parser(__doc__, "one size, few sentences: under a minute"))
    asked.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), choices=list(SIZES))
    asked.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    asked.add_argument("--tasks", nargs="+", default=None, help="the tasks of one of several processes")
    asked.add_argument("--latency", action="store_true", help=schubert_latency.__doc__)
    options = read(asked)
    if options.latency:
        schubert_latency.main(options)
        return
    if options.quick:
        options.sizes, options.ways = [3], ["all", "dropped"]
    with workplace(options) as work:
        study = Study(work, QUICK if options.quick else SETTINGS, quick=options.quick)
        found = run(study, options, Console(width=110))
        progress.attach(None)
        show(study, found, options)


if __name__ == "__main__":
    main()
