"""TextPruner and Torch-Pruning in an environment of their own, and what they prune read back as attar's models."""

import json
import os
import subprocess
import venv
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from prune_peers_setup import Goal, Setting, Setup
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from attar.anatomy.form import LayerForm
from attar.data.batches import Batches
from attar.model.slim import class_for, config_for

HERE = Path(__file__).parent
PEERS = {
    "TextPruner": ("prune_textpruner.py", "textpruner==1.1.post2"),
    "Torch-Pruning": ("prune_torchpruning.py", "torch-pruning==1.6.1"),
}
NEEDED = (f"torch=={torch.__version__}", "transformers==4.33.3", "numpy<2", "safetensors", "tqdm")
QUIET = {"PYTHONWARNINGS": "ignore", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}


def environment(place: Path | None) -> tuple[str | None, str]:
    """The Python of the peers, made where it is absent; or why there is none."""
    if place is None:
        return None, "no --peers-venv: TextPruner and Torch-Pruning are missing"
    python = place / "bin" / "python"
    if not python.exists():
        venv.create(place, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, *NEEDED], check=True)
        subprocess.run([*pip, "--no-deps", *(package for _, package in PEERS.values())], check=True)
    return str(python.absolute()), ""


class Peers:
    """The cuts of TextPruner and Torch-Pruning on one set-up, made by `python` in a process of its own."""

    def __init__(self, setup: Setup, python: str) -> None:
        self.setup, self.python = setup, python

    def pruned(self, setting: Setting, seed: int, name: str, goals: Mapping[str, Goal]) -> PreTrainedModel:
        """A peer's cut, as attar's model of the same sizes; its logits on 8 sentences are the peer's.

        Args:
            name: of the goals that one is wanted; where it is not made yet all of them are, in one run.
        """
        file = self._file(setting, seed, name)
        if not file.exists():
            self._run(setting, seed, goals)
        state, record = load_file(file.with_suffix(".safetensors")), json.loads(file.read_text())
        made = self._rebuilt(state)
        with torch.no_grad():
            logits = made(**_inputs(self._check(), labels=False)).logits
        torch.testing.assert_close(logits, torch.tensor(record["check"]), atol=1e-4, rtol=1e-4)
        return made

    def passes(self, setting: Setting, seed: int, name: str) -> int:
        """Forward and backward passes of a batch that the choice took."""
        return int(json.loads(self._file(setting, seed, name).read_text())["passes"])

    def _file(self, setting: Setting, seed: int, name: str) -> Path:
        return self._place(setting, seed) / f"{setting.way}-{name}.json"

    def _place(self, setting: Setting, seed: int) -> Path:
        name = f"{setting.tool}-{setting.axes}-{seed}".replace(" ", "-").replace("+", "-")
        return self.setup.work / name

    def _check(self) -> Batches:
        return self.setup.batches(self.setup.tables["train"].select(range(8)), batch_size=8)

    def _run(self, setting: Setting, seed: int, goals: Mapping[str, Goal]) -> None:
        place = self._place(setting, seed)
        place.mkdir(parents=True, exist_ok=True)
        job = {
            "model": str(self.setup.teacher.absolute()),
            "threads": torch.get_num_threads(),
            "iterations": self.setup.settings["textpruner_iterations"],
            "sizes": goals,
        }
        (place / "job.json").write_text(json.dumps(job))
        rows = self.setup.sentences(seed, scoring=True)
        for name, source in (("batches", rows), ("check", self._check())):
            tensors = {
                f"{n}.{key}": tensor.contiguous()
                for n, batch in enumerate(source.epoch())
                for key, tensor in _inputs_of(batch, labels=name == "batches").items()
            }
            save_file(tensors, place / f"{name}.safetensors")
        command = [self.python, str(HERE / PEERS[setting.tool][0]), str(place.absolute())]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | QUIET)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])

    def _rebuilt(self, state: dict[str, Tensor]) -> PreTrainedModel:
        whole = self.setup.model.state_dict()
        state = {name: state.get(name, tensor) for name, tensor in whole.items()}
        embedding = state["bert.embeddings.word_embeddings.weight"]
        layers = []
        for n, layer in enumerate(self.setup.form.layers):
            name = f"bert.encoder.layer.{n}."
            heads = len(state[name + "attention.self.query.weight"]) // layer.key
            layers.append(
                LayerForm(heads, layer.key, layer.value, len(state[name + "intermediate.dense.weight"]))
            )
        hidden = embedding.shape[1]
        form = replace(self.setup.form, hidden=hidden, embedding=hidden, layers=tuple(layers))
        config = config_for(self.setup.model.config, form)
        made = class_for(self.setup.model, config)(config)
        made.load_state_dict(state)
        return made.eval()


def _inputs_of(batch: Any, *, labels: bool) -> dict[str, Tensor]:
    return {**batch.inputs, **({"labels": batch.labels} if labels else {})}


def _inputs(rows: Batches, *, labels: bool) -> dict[str, Tensor]:
    return _inputs_of(next(rows.epoch()), labels=labels)
