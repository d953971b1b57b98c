"""TextPruner and Torch-Pruning for `benchmarks/compress.py`: cut to a latency, recovered for a time."""

import copy
import math
import tempfile
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from prune_peers_setup import QUICK, SETTINGS, THEIRS, Goal, Setting, Setup
from prune_peers_tools import Peers
from transformers import PreTrainedModel

from attar import finetune
from attar.data.tasks import Supervised
from attar.evaluation.benchmark import bench
from attar.exporting import export
from attar.model.checkpoint import load, save
from attar.model.onnx import OnnxModel
from attar.progress import say
from attar.pruning.schubert import Limited
from attar.training.loop import fit
from common import committed, once, remembered
from studies import Array, right

# Sizes of a peer's cuts, in so many parts of the heads, of the FFN units and, on all axes, of the hidden size.
GRID = 48
# Calls that a latency is measured by, and processor seconds of one cut with its export and these calls, about.
CALLS, CUT_SECONDS = 100, 30
RECOVERY_RATES = (5e-5, 1.5e-4)
# Part of the time that each rate is tried for; the best has all of it.
TRIAL = 0.25
# Steps that a pace is measured on, after a first one.
PROBE_STEPS = 8


class PeersAtLatency:
    """The peers' cuts of one teacher, scored by the sentences of seed 0, and what recovery makes of them.

    Args:
        teacher: a directory.
        tables: `train` is scored on and learned from, `dev` chooses, `test` is read once for each recovery.
        python: that of the peers.
    """

    def __init__(
        self, work: Path, teacher: Path, tables: dict[str, Dataset], python: str, *, quick: bool
    ) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self.work, self.quick, self.tables, self.teacher = work, quick, tables, teacher
        self.setup = Setup(work, QUICK if quick else SETTINGS, teacher, tables)
        self.peers = Peers(self.setup, python)
        self.read: dict[str, Any] = {"max_length": self.setup.settings["max_length"]}

    @cached_property
    def settings(self) -> list[Setting]:
        """Of each tool and kind of cut the way that was best on dev in prune_peers.py."""
        best = committed("prune_peers")["settings"]["chosen_on_dev"]
        return [one for one in THEIRS if best[f"{one.tool} {one.axes}"] == one.way]

    def closest(self, setting: Setting, times: float) -> dict[str, Any]:
        """The largest cut that is so many times as fast as the teacher; the smallest of all where none is."""
        low, high = (GRID // 2,) * 2 if self.quick else (1, GRID - 1)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.speed(setting, middle)["times"] >= times else (low, middle - 1)
        return self.speed(setting, low)

    def speed(self, setting: Setting, part: int) -> dict[str, Any]:
        """How many times as fast as the teacher a cut is, as ONNX fp32 in turns: 128 tokens, batch 1, one thread."""

        def make() -> dict[str, Any]:
            model = self._cut(setting, part)
            with tempfile.TemporaryDirectory(dir=self.work) as scratch:
                place = Path(scratch) / "onnx"
                export(model, place, tokenizer=self.setup.whole.tokenizer)
                models = {
                    name: OnnxModel(one, threads=1)
                    for name, one in {"teacher": self._teacher_export, "cut": place}.items()
                }
                _, row = bench(models, repeats=5 if self.quick else CALLS, threads=1, clock="cpu")
            found = {"part": part, "times": row.speedup.value, "p50": row.p50, "parameters": row.parameters}
            say(f"{setting.name}, {part} of {GRID}: {row.speedup.value:.2f} times as fast as the teacher")
            return found | {"times_95": [row.speedup.low, row.speedup.high]}

        return dict(remembered(self.work / "speeds" / f"{setting.name}-{part}.json", make))

    @property
    def _teacher_export(self) -> Path:
        return once(self.work / "teacher-onnx", lambda out: export(self.teacher, out))

    def _cut(self, setting: Setting, part: int) -> PreTrainedModel:
        """A peer's model with `part` of `GRID` of what it cuts."""
        form, layer = self.setup.form, self.setup.form.layers[0]
        goal = Goal(
            hidden=form.hidden * part // GRID if setting.axes == "all axes" else form.hidden,
            heads=max(1, round(layer.heads * part / GRID)),
            ffn=layer.ffn * part // GRID,
            # A hair less, so that int() of what stays is not one unit short.
            ratio=1 - (part + 1e-3) / GRID,
        )
        return self.peers.pruned(setting, 0, str(part), {str(part): goal})

    def untrained(self, size: str) -> dict[str, Array]:
        """Of each tool its best cut to a size of prune_peers.py by dev: (N,) 1 where it is right on test, else 0."""
        best: dict[str, Any] = {}
        for setting in THEIRS:
            found = self._untrained(setting, size)
            if setting.tool not in best or np.mean(found["dev"]) > np.mean(best[setting.tool]["dev"]):
                best[setting.tool] = found
        return {tool: np.array(found["test"]) for tool, found in best.items()}

    def _untrained(self, setting: Setting, size: str) -> dict[str, Any]:
        name = f"{setting.name}-{size}"

        def cut(out: Path) -> None:
            made = self.peers.pruned(setting, 0, size, self.setup.goals(setting))
            save(made, self.setup.whole.tokenizer, out, lineage={"stage": setting.tool})

        def make() -> dict[str, Any]:
            place = once(self.work / name, cut)
            return {part: right(place, self.tables[part]).tolist() for part in ("dev", "test")}

        return dict(remembered(self.work / "right" / f"{name}.json", make))

    def recovered(self, setting: Setting, part: int, minutes: float) -> dict[str, Any]:
        """A cut that learned labels for so many minutes, by the learning rate that was best on dev in a part of them.

        `right` is (N,) of the test sentences.
        """
        rates = RECOVERY_RATES[: 1 if self.quick else None]
        tried = {rate: self._trained(setting, part, TRIAL * minutes, rate)["dev"] for rate in rates}
        rate = max(rates, key=lambda one: tried[one])
        made = self._trained(setting, part, minutes, rate)
        name = _name(setting, part, minutes, rate)
        test = remembered(
            self.work / "right" / f"{name}.json",
            lambda: right(self.work / name, self.tables["test"]).tolist(),
        )
        on_dev = {str(one): dev for one, dev in tried.items()}
        return {**made, "rate": rate, "dev by rate": on_dev, "right": test}

    def left(self, minutes: float, times: list[float]) -> dict[str, float]:
        """Seconds of what is not made yet."""
        cuts, recoveries = 0, 0
        for setting in self.settings:
            made = len(list((self.work / "speeds").glob(f"{setting.name}-*")))
            cuts += max(0, len(times) * math.ceil(math.log2(GRID)) - made)
            done = len(list((self.work / "right").glob(f"{setting.name}-*-{minutes:g}m.json")))
            recoveries += max(0, len(times) - done)
        each = 60 * minutes * (1 + TRIAL * len(RECOVERY_RATES))
        return {"the peers' cuts": cuts * CUT_SECONDS, "their recovery": recoveries * each}

    def _trained(self, setting: Setting, part: int, minutes: float, rate: float) -> dict[str, Any]:
        name = _name(setting, part, minutes, rate)
        start = self._saved(setting, part)

        def make() -> dict[str, Any]:
            # Whole passes, so rather more time than less.
            epochs = max(1, math.ceil(60 * minutes / self._pass_seconds(start)))
            options: dict[str, Any] = {"epochs": epochs, "lr": rate, "patience": None, **self.read}
            train, out, began = self.tables["train"], self.work / name, time.process_time()
            finetune(start, train, dev=self.tables["dev"], out=out, overwrite=True, **options)
            seconds = time.process_time() - began
            dev = float(right(out, self.tables["dev"]).mean())
            return {"epochs": epochs, "rows": len(train), "seconds": seconds, "dev": dev}

        return dict(remembered(self.work / "trained" / f"{name}.json", make))

    def _saved(self, setting: Setting, part: int) -> Path:
        """The cut as a model directory."""
        tokenizer = self.setup.whole.tokenizer
        return once(
            self.work / f"{setting.name}-{part}",
            lambda out: save(self._cut(setting, part), tokenizer, out, lineage={"stage": setting.tool}),
        )

    def _pass_seconds(self, start: Path) -> float:
        """Processor seconds of a pass over the training sentences; the teacher's and dev's are not in it."""
        model = copy.deepcopy(load(start).model)
        rows = self.setup.batches(self.tables["train"], shuffle=True)
        steps = fit(Supervised(model, self.setup.task), Limited(rows, PROBE_STEPS + 1), epochs=1, lr=1e-9)
        next(steps)
        began = time.process_time()
        done = sum(1 for _ in steps)
        return (time.process_time() - began) / done * len(rows)


def _name(setting: Setting, part: int, minutes: float, rate: float) -> str:
    return f"{setting.name}-{part}-labels-{rate:g}-{minutes:g}m"
