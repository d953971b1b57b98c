"""Every cut of `benchmarks/prune_peers.py`, recovered, and what its model predicts; each is made once."""

import copy
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from prune_peers_setup import AXES, THEIRS, Setting, Setup
from prune_peers_tools import Peers
from transformers import PreTrainedModel

from attar import finetune
from attar.anatomy.form import Form, form_of
from attar.demo.data import model_directory, reviews
from attar.evaluation.prediction import predict
from attar.pruning.alphas import Alphas, alphas_for, betas
from attar.pruning.apply import apply
from attar.pruning.reconstruction import reconstruct
from attar.pruning.rounds import Loss, Recovery, learner, recover
from attar.pruning.schubert import PROBES, learn_alphas
from attar.pruning.scores import per_cost, taylor
from attar.pruning.selection import Scores, in_order
from attar.pruning.units import Kept, everything
from common import once


class Study(Setup):
    """The set-up with its budgets and all settings that are tried; those of the peers where `python` is theirs."""

    def __init__(self, work: Path, settings: Mapping[str, Any], python: str | None, *, quick: bool) -> None:
        tables = reviews()
        super().__init__(work, settings, _teacher(work / "teacher", tables, quick=quick), tables)
        self.dev, self.test = (
            self.batches(tables[part].select(range(settings[f"{part}_rows"]))) for part in ("dev", "test")
        )
        self.peers = None if python is None else Peers(self, python)
        ours = [Setting("attar", axes, way) for axes in AXES for way in settings["ways"]]
        self.tried = [*(THEIRS if self.peers is not None else ()), *ours]
        self.failed: dict[str, str] = {}

    def alphas(self, axes: str, loss: str, seed: int) -> Alphas:
        """Learned once for both budgets."""
        path = self.work / f"alphas-{axes}-{loss}-{seed}.pt".replace(" ", "-").replace("+", "-")
        if path.exists():
            found = alphas_for(self.model, AXES[axes])
            found.load_state_dict(torch.load(path, weights_only=True))
            return found
        kind: Loss = "task" if loss == "task" else "distill"
        model = copy.deepcopy(self.model)
        pulled = learner(kind, model, teacher=self.model, hidden=None, task=self.task).eval()
        rows = self.sentences(seed, scoring=True)
        options = self.settings["alphas"]
        found = learn_alphas(
            model, AXES[axes], pulled, rows, self.cost, seed=seed, precision="fp32", **options
        )
        torch.save(found.state_dict(), path)
        return found

    @cache  # noqa: B019  # one study a process
    def taylor(self, seed: int) -> Scores:
        """Of all axes at once: a unit's score does not depend on which others may be cut."""
        pulled = learner("task", self.model, teacher=self.model, hidden=None, task=self.task).eval()
        epoch = self.sentences(seed, scoring=True).epoch()
        return taylor(
            self.model, AXES["all axes"], epoch, lambda b: torch.stack(list(pulled(b).values())).sum()
        )

    def ours(self, setting: Setting, size: str, seed: int) -> tuple[PreTrainedModel, Kept]:
        """What attar cuts."""
        axes, budget = AXES[setting.axes], self.budgets[size]
        if setting.way == "taylor":
            found = self.taylor(seed)
            shared = {axis: s for axis, s in found.shared.items() if axis in axes}
            layers = tuple({axis: s for axis, s in x.items() if axis in axes} for x in found.layers)
            scores = per_cost(Scores(shared, layers), betas(alphas_for(self.model, axes), self.cost))
        else:
            scores = self.alphas(setting.axes, setting.way.split()[1], seed).scores()
        kept = in_order(self.form, scores, self.cost, budget)
        made = apply(self.model, kept)
        reconstruct(made, self.model, kept, self.sentences(seed, scoring=True).epoch())
        return made, kept

    def cut(self, setting: Setting, size: str, seed: int) -> tuple[PreTrainedModel, Kept]:
        """The model of a setting, without recovery; of a peer's, what stays is all of itself."""
        if setting.tool == "attar":
            return self.ours(setting, size, seed)
        assert self.peers is not None
        made = self.peers.pruned(setting, seed, size, self.goals(setting))
        return made, everything(form_of(made.config))

    def predictions(self, setting: Setting, size: str, seed: int, recovery: str) -> dict[str, Any]:
        """Classes that the model of a setting predicts on dev and test sentences, and its sizes."""
        name = f"{setting.name}-{size}-{recovery}-{seed}"
        path = self.work / "predictions" / f"{name}.npz"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            model, kept = self.cut(setting, size, seed)
            if recovery != "none":
                with tempfile.TemporaryDirectory(dir=self.work) as scratch:
                    recover(
                        model,
                        Recovery(recovery, precision="fp32", seed=seed, **self.settings["recovery"]),  # type: ignore[arg-type]
                        self.sentences(seed, scoring=False),
                        teacher=self.model,
                        kept=kept,
                        task=self.task,
                        place=Path(scratch),
                    )
            form = form_of(model.config)
            np.savez(
                path,
                dev=predict(model, self.dev).argmax(1),
                test=predict(model, self.test).argmax(1),
                total=self.cost(form),
                encoder=self.encoder(form),
                hidden=form.hidden,
                layers=[[x.heads, x.key, x.value, x.ffn] for x in form.layers],
            )
            print(
                f"seed {seed}, {size}, {setting.tool}, {setting.axes}, {setting.way}, recovery {recovery}: done"
            )
            sys.stdout.flush()
        return dict(np.load(path))

    def points(self, setting: Setting, size: str, seed: int, recovery: str, part: str = "test") -> np.ndarray:
        """(N,) 100 where the model is right, else 0."""
        labels = self.tables[part]["label"][: self.settings[f"{part}_rows"]]
        right: np.ndarray = self.predictions(setting, size, seed, recovery)[part] == np.array(labels)
        return 100.0 * right

    def passes(self, setting: Setting, size: str, seed: int) -> int:
        """Forward and backward passes of a batch that the choice took."""
        if setting.tool != "attar":
            assert self.peers is not None
            return self.peers.passes(setting, seed, size)
        batches = -(-self.settings["scoring_rows"] // self.settings["batch"])
        learned = int(self.settings["alphas"]["steps"]) + PROBES
        return batches if setting.way == "taylor" else learned

    def encoder(self, form: Form) -> float:
        """Parameters outside the embeddings, as a part of the whole model's."""
        names = ("word_embeddings", "position_embeddings", "token_type_embeddings", "embeddings.LayerNorm")
        weights = self.model.named_parameters()
        outside = sum(p.numel() for name, p in weights if any(part in name for part in names))
        each = outside / self.form.hidden
        return float((self.cost(form) - each * form.hidden) / (self.cost(self.form) - outside))


def _teacher(place: Path, tables: Mapping[str, Dataset], *, quick: bool) -> Path:
    """MiniLM, fine-tuned here where it is absent."""
    few = {name: table.select(range(64)) if quick else table for name, table in tables.items()}
    options: dict[str, Any] = {"epochs": 1, "max_length": 24} if quick else {"max_length": 64}
    return once(
        place, lambda out: finetune(model_directory(), few["train"], dev=few["dev"], out=out, **options)
    )
