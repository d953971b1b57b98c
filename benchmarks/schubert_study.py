"""The models of `benchmarks/schubert.py`: pruned by each way at each size, fitted, recovered, read, and fine-tuned."""

import copy
import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from attar import finetune
from attar.anatomy.form import form_of
from attar.data.batches import Batches, encode
from attar.data.masking import MaskedBatches, MaskedLanguage
from attar.data.model_task import task_of
from attar.errors import PlanError
from attar.evaluation.prediction import predict
from attar.evaluation.quality import Evaluation, judge
from attar.model.checkpoint import Loaded, load, save
from attar.pruning.alphas import Alphas, alphas_for, betas
from attar.pruning.apply import apply
from attar.pruning.cost import Parameters
from attar.pruning.reconstruction import reconstruct
from attar.pruning.rounds import Loss, Recovery, recover
from attar.pruning.schubert import VARIANTS, learn_alphas
from attar.pruning.scores import drop_layers, magnitude, per_cost, taylor
from attar.pruning.selection import INSIDE, Scores, in_order, uniform
from attar.pruning.self_distillation import SelfDistillation
from attar.pruning.units import Kept
from common import once, remembered
from glue import TASKS, glue, texts_of
from minilm import WORDS, book_teacher, book_texts, small_vocabulary
from studies import TextLoss, masked_loss, say_hours, seconds_a_token

# Layers of the dropped-layers model -> size in the paper, its margins of the best schuBERT over it and over uniform.
SIZES = {4: ("88M", 1.1, 0.4), 3: ("66M", 1.9, 0.5), 1: ("43M", 6.6, 1.1)}
# How units are chosen: learned alphas of all axes, of h and of f by masked words (the paper's), of all that is inside
# layers by masked words and of all by closeness (attar's), the alphas of all axes on those axes that a short recovery
# finds best (attar's); the alphas of all axes shrinking every axis alike; layers dropped; first-order Taylor a unit of
# cost over all axes; magnitude shrinking every axis alike.
LEARNED = ("all", "h", "f", "inside", "close", "searched")
WAYS = (*LEARNED, "uniform", "dropped", "taylor", "magnitude")
# How a cut model is mended: fitted by least squares or not, then trained by masked words or by the whole model.
MODES: dict[str, tuple[bool, Loss]] = {
    "fitted": (True, "mlm"),
    "unfitted": (False, "mlm"),
    "distilled": (True, "distill"),
}
LENGTH = 128
ALPHAS: dict[str, Any] = {"steps": 200, "lr": 0.02}
RECOVERY: dict[str, Any] = {"steps": 300, "lr": 2e-4}
SCORED = 16  # batches that Taylor looks at
RATES = (1e-4, 3e-4)
# What "searched" chooses from: axes that are cut, the smallest alphas anywhere or every axis alike; and the steps of
# recovery after which it chooses.
PATTERNS: dict[str, tuple[tuple[str, ...], bool]] = {
    "hidden": (("hidden",), False),
    "feed-forward": (("ffn",), False),
    "feed-forward alike": (("ffn",), True),
    "heads and feed-forward": (("heads", "ffn"), False),
    "heads and feed-forward alike": (("heads", "ffn"), True),
    "inside": (INSIDE, False),
    "inside alike": (INSIDE, True),
    "hidden and feed-forward": (("hidden", "ffn"), False),
    "hidden and feed-forward alike": (("hidden", "ffn"), True),
    "all": (VARIANTS["all"], False),
    "all alike": (VARIANTS["all"], True),
}
SEARCH = 40


class Study:
    """What the study makes, each thing once, in its own place of `work`."""

    def __init__(self, work: Path, *, quick: bool) -> None:
        self.work, self.quick = work, quick
        self.texts, self.tables = book_texts(quick), glue(quick)
        self._alphas: dict[tuple[str, int], Alphas] = {}

    @cached_property
    def whole(self) -> Loaded:
        """MiniLM that read books."""
        return load(book_teacher(self.work, self.texts, texts_of(self.tables)), head="masked-lm")

    @cached_property
    def cost(self) -> Parameters:
        """Parameters of a form of it."""
        return Parameters(self.whole.model)

    @cached_property
    def encoded(self) -> Dataset:
        """The books, encoded once."""
        table = Dataset.from_dict({"text": self.texts["train"]})
        return encode(table, self.whole.tokenizer, max_length=LENGTH)

    def batches(self, seed: int, *, masked: bool) -> Any:
        """The books in an order that a seed decides."""
        plain = Batches(self.encoded, self.whole.tokenizer, batch_size=32, shuffle=True, seed=seed)
        return MaskedBatches(plain, self.whole.tokenizer, seed=seed) if masked else plain

    def _steps(self, options: Mapping[str, Any]) -> dict[str, Any]:
        return dict(options) | ({"steps": 1} if self.quick else {})

    def alphas(self, name: str, seed: int) -> Alphas:
        """The alphas of a variant, which serve all sizes; "close" are of all axes, taught without masked words."""
        if (name, seed) not in self._alphas:
            model = self.whole.model
            axes = INSIDE if name == "inside" else VARIANTS.get(name, VARIANTS["all"])

            def make(out: Path) -> None:
                loss = (
                    SelfDistillation(model, copy.deepcopy(model))
                    if name == "close"
                    else MaskedLanguage(model)
                )
                texts = self.batches(seed, masked=name != "close")
                found = learn_alphas(model, axes, loss, texts, self.cost, seed=seed, **self._steps(ALPHAS))
                torch.save(found.state_dict(), out.with_suffix(".part"))
                out.with_suffix(".part").rename(out)

            path = once(self.work / f"alphas-{name}-{seed}.pt", make)
            found = alphas_for(model, axes)
            found.load_state_dict(torch.load(path, weights_only=True))
            self._alphas[name, seed] = found
        return self._alphas[name, seed]

    def _scores(self, way: str, seed: int) -> Scores:
        model, axes = self.whole.model, VARIANTS["all"]
        if way == "magnitude":
            return magnitude(model, axes)
        if way == "taylor":
            some, learner = islice(self.batches(seed, masked=True).epoch(), SCORED), MaskedLanguage(model)
            found = taylor(model, axes, some, lambda batch: learner(batch)["mlm"])
            return per_cost(found, betas(alphas_for(model, axes), self.cost))
        return self.alphas("all" if way == "uniform" else way, seed).scores()

    def kept(self, way: str, layers: int, seed: int) -> Kept:
        """What stays by a way at the size that so many layers have."""
        form = form_of(self.whole.model.config)
        budget = self.cost(replace(form, layers=form.layers[:layers]))
        if way == "searched":
            return self._pattern(self.found(layers)["best"], budget, seed)
        if way == "dropped":
            return drop_layers(self.whole.model, "alternate", self.cost, budget)
        # Sizes of weights on different axes say nothing of each other.
        pick = uniform if way in ("uniform", "magnitude") else in_order
        return pick(form, self._scores(way, seed), self.cost, budget)

    def _pattern(self, name: str, budget: float, seed: int) -> Kept:
        """What stays by the alphas of all axes where only some axes are cut."""
        (some, alike), scores = PATTERNS[name], self.alphas("all", seed).scores()
        cut = Scores(
            {axis: values for axis, values in scores.shared.items() if axis in some},
            tuple({axis: each[axis] for axis in each if axis in some} for each in scores.layers),
        )
        pick = uniform if alike else in_order
        return pick(form_of(self.whole.model.config), cut, self.cost, budget)

    def found(self, layers: int) -> dict[str, Any]:
        """The pattern that is best at a size after a short recovery of the first seed, on the books to choose by."""

        def cut(name: str) -> PreTrainedModel:
            form, model = form_of(self.whole.model.config), self.whole.model
            kept = self._pattern(name, self.cost(replace(form, layers=form.layers[:layers])), 0)
            small = apply(model, kept)
            reconstruct(small, model, kept, self.batches(0, masked=False).epoch())
            self._recover(small, kept, "mlm", 0, RECOVERY | {"steps": SEARCH})
            return small

        def make() -> dict[str, Any]:
            losses = {}
            for name in PATTERNS:
                with suppress(PlanError):  # such axes alone do not reach the size
                    what = f"pattern-{name.replace(' ', '-')}-{layers}"
                    losses[name] = self._lost(what, lambda name=name: cut(name), "dev").mean
            return {"losses": losses, "best": min(losses, key=lambda name: losses[name])}

        return dict(remembered(self.work / f"searched-{layers}.json", make))

    def _recover(
        self, small: PreTrainedModel, kept: Kept, loss: Loss, seed: int, options: Mapping[str, Any]
    ) -> None:
        """Train a cut model for some steps, in place."""
        texts = self.batches(seed + 100, masked=loss == "mlm")
        with tempfile.TemporaryDirectory(dir=self.work) as scratch:
            how = Recovery(loss, seed=seed, **self._steps(options))
            recover(small, how, texts, teacher=self.whole.model, kept=kept, task=None, place=Path(scratch))

    def cut(self, way: str, layers: int, seed: int, *, fit: bool) -> tuple[PreTrainedModel, Kept]:
        """A pruned model, fitted by least squares or not."""
        kept = self.kept(way, layers, seed)
        small = apply(self.whole.model, kept)
        if fit:
            reconstruct(small, self.whole.model, kept, self.batches(seed, masked=False).epoch())
        return small.eval(), kept

    def pruned(self, way: str, layers: int, mode: str, seed: int) -> Path:
        """A pruned and recovered model; dropped layers, which need no alphas, recover for as many steps more."""
        fit, loss = MODES[mode]

        def make(out: Path) -> None:
            small, kept = self.cut(way, layers, seed, fit=fit)
            self.before(way, layers, seed, fit=fit, small=small)
            more = 0 if way in LEARNED or way == "uniform" else ALPHAS["steps"]
            self._recover(small, kept, loss, seed, RECOVERY | {"steps": RECOVERY["steps"] + more})
            save(small, self.whole.tokenizer, out, lineage={"stage": "prune"})
            shape = {"hidden": kept.form.hidden, "vocab": kept.form.vocab, "parameters": self.cost(kept.form),
                     "layers": [list(vars(layer).values()) for layer in kept.form.layers]}  # fmt: skip
            (out / "shape.json").write_text(json.dumps(shape))

        return once(self.work / f"{way}-{layers}-{mode}-{seed}", make)

    def shape(self, way: str, layers: int, seed: int) -> dict[str, Any]:
        """The sizes of a pruned model."""
        return dict(json.loads((self.pruned(way, layers, "fitted", seed) / "shape.json").read_text()))

    def before(
        self, way: str, layers: int, seed: int, *, fit: bool, small: PreTrainedModel | None = None
    ) -> TextLoss:
        """What a cut model, `small` where it is there, loses on held-out books before any recovery."""
        name = f"{way}-{layers}-{'fitted' if fit else 'cut'}-{seed}-before"
        return self._lost(name, lambda: small or self.cut(way, layers, seed, fit=fit)[0])

    def after(self, way: str, layers: int, mode: str, seed: int, part: str = "test") -> TextLoss:
        """What a recovered model loses on held-out books: those to choose by (dev), or those read once (test)."""
        place = self.pruned(way, layers, mode, seed)
        return self._lost(place.name, lambda: load(place, head="masked-lm").model, part)

    def lost_whole(self) -> TextLoss:
        """What the whole model loses on held-out books."""
        return self._lost("whole", lambda: self.whole.model)

    def _lost(self, name: str, model: Any, part: str = "test") -> TextLoss:
        def make() -> Any:
            found = masked_loss(model(), self.texts[part], self.whole.tokenizer, max_length=LENGTH)
            return [found.nats.tolist(), found.tokens.tolist()]

        file = f"{name}.json" if part == "test" else f"{name}-{part}.json"
        return TextLoss(*map(np.array, remembered(self.work / "lost" / file, make)))

    def value(self, way: str, layers: int, task: str, seed: int) -> float:
        """Metric in points of a pruned model (`whole`: of the unpruned one) that learned a task, at its best rate."""
        rates = RATES[: 1 if self.quick else None]
        places = {rate: self._tuned(way, layers, task, rate, 0) for rate in rates}
        rate = max(rates, key=lambda rate: self._metric(places[rate], task, "choose"))
        return self._metric(self._tuned(way, layers, task, rate, seed), task, "test")

    def _tuned(self, way: str, layers: int, task: str, rate: float, seed: int) -> Path:
        what, data = TASKS[task], self.tables[task]

        def make(out: Path) -> None:
            start = self.work / "teacher" if way == "whole" else self.pruned(way, layers, "fitted", seed)
            options: dict[str, Any] = {
                "epochs": 1 if self.quick else what.epochs,
                "lr": rate,
                "metric": what.metric,
            }
            given: dict[str, Any] = {"dev": data["choose"], "seed": seed, "max_length": what.length}
            finetune(start, data["train"], out=out, patience=None, **options, **given)

        return once(self.work / "tuned" / f"{way}-{layers}-{task}-{rate:g}-{seed}", make)

    def _metric(self, place: Path, task: str, part: str) -> float:
        return 100 * float(np.nan_to_num(self.said(place, task, part).metrics[TASKS[task].metric]))

    def said(self, place: Path, task: str, part: str) -> Evaluation:
        """What a fine-tuned model says of a table, kept."""
        loaded, table = load(place), self.tables[task][part]

        def make() -> Any:
            encoded = encode(table, loaded.tokenizer, max_length=TASKS[task].length)
            return np.asarray(
                predict(loaded.model, Batches(encoded, loaded.tokenizer, batch_size=64))
            ).tolist()

        logits = np.array(remembered(self.work / "said" / f"{place.name}-{part}.json", make))
        return judge(task_of(loaded.model.config), logits, np.array(table["label"][:]))

    def hours(self, ways: Sequence[str], sizes: Sequence[int], seeds: Sequence[int], cells: int) -> None:
        """Say what is left to be made and how long it takes; `cells` models are pruned and recovered."""
        small = small_vocabulary(self.work, self.texts, texts_of(self.tables))
        model = load(small, head="masked-lm", fresh_head=True).model
        whole = seconds_a_token(model, rows=16, length=100, train=True)
        step = 32 * 100 * whole
        left = {} if (self.work / "teacher").exists() else {"the whole model": 1.35 * WORDS * whole}
        learned = {
            "all" if way in ("searched", "uniform") else way for way in ways if way in (*LEARNED, "uniform")
        }
        made = len(list(self.work.glob("alphas-*")))
        left["alphas"] = max(0, len(learned) * len(seeds) - made) * ALPHAS["steps"] * step
        if "searched" in ways:
            sought = [n for n in sizes if not (self.work / f"searched-{n}.json").exists()]
            left["search of axes"] = len(sought) * len(PATTERNS) * SEARCH * step * 0.7
        made = len(list(self.work.glob("*-*-*-[0-9]*/shape.json")))
        left[f"{cells - made} recoveries"] = max(0, cells - made) * RECOVERY["steps"] * step * 0.7
        say_hours({name: seconds for name, seconds in left.items() if seconds})
