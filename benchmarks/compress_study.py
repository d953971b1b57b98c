"""The runs of `benchmarks/compress.py`: teachers, and compressions that are each made once."""

import time
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from compress_korsts_study import korsts
from compress_peers_study import CUT_SECONDS, PeersAtLatency
from datasets import Dataset
from export_costs_study import export_costs

from attar import finetune
from attar.compression.pipeline import compress as compress_with
from attar.data.tables import read_table
from attar.demo.data import model_directory
from attar.evaluation.opening import open_model
from attar.options.signature import options_of
from attar.report.report import Report
from attar.verbs.compress import compress
from common import once, remembered
from headline_study import Headline
from studies import Array, right, say_hours
from texts import SHARED

# Of SST-2's training phrases, which are many, and the fine-tuning of its teacher.
ROWS = 12_000
TUNED: dict[str, Any] = {"epochs": 1, "lr": 1e-4, "max_length": 48}
# A quick run's teacher learns its few sentences by heart, and is measured on them: one at chance would be refused.
BY_HEART: dict[str, Any] = {"epochs": 12, "lr": 3e-4, "max_length": 24, "patience": None}


class Runs:
    """Compressions of a teacher each on Rotten Tomatoes, SST-2 and KorSTS; each has a work directory of its own."""

    def __init__(self, work: Path, peers_python: str | None, *, quick: bool) -> None:
        self.work, self.quick, self.peers_python = work, quick, peers_python
        self.headline = Headline(work, quick=quick)
        self.done: dict[str, Any] = {}
        self.peer_rows: dict[str, Any] = {}
        self.bounds: dict[str, list[float]] = {}

    @cached_property
    def parameters(self) -> int:
        """Of the teacher."""
        return open_model(self._of("reviews")[0]).parameters or 0

    @cached_property
    def sst2(self) -> dict[str, Dataset]:
        """Phrases to learn from and to choose by, and the sentences of the dev split, read once."""
        columns = {"text": "sentence", "label": "label"}
        place = SHARED / "glue_sst2"
        phrases = read_table(place / "train.tsv", columns=columns)[0].shuffle(seed=0)
        sentences = read_table(place / "dev.tsv", columns=columns)[0]
        return {
            "train": phrases.select(range(ROWS)),
            "dev": phrases.select(range(ROWS, ROWS + 1000)),
            "test": sentences,
        }

    def _of(self, data: str) -> tuple[Path, dict[str, Dataset]]:
        if data == "korsts":
            return korsts(self.work / "korsts", quick=self.quick)
        if data == "reviews" and not self.quick:
            return self.headline.teacher, self.headline.tables
        few = self.headline.tables["train"]
        tables = dict.fromkeys(("train", "dev", "test"), few) if self.quick else self.sst2
        options = BY_HEART if self.quick else TUNED

        def make(out: Path) -> None:
            finetune(model_directory(), tables["train"], dev=tables["dev"], out=out, **options)

        return once(self.work / f"teacher-{data}", make), tables

    @cached_property
    def peers(self) -> PeersAtLatency | None:
        """The peers' cuts of the teacher on Rotten Tomatoes; None without their Python."""
        if self.peers_python is None:
            return None
        teacher, tables = self._of("reviews")
        return PeersAtLatency(self.work / "peers", teacher, tables, self.peers_python, quick=self.quick)

    def peers_at(self, to: str, times: float, minutes: float) -> dict[str, Array]:
        """Of each peer the kind of cut that is best on dev: (N,) 1 where it is right on test, else 0."""
        best: dict[str, Any] = {}
        for setting in self.peers.settings if self.peers else ():
            assert self.peers is not None
            cut = self.peers.closest(setting, times)
            said = f"{to}, {setting.tool}, {setting.axes}"
            if cut["times"] < times and not self.quick:  # what is too slow says nothing beside what is not
                self.peer_rows[said] = cut
                continue
            row = self.peers.recovered(setting, cut["part"], minutes)
            on_test = np.array(row.pop("right"))
            self.peer_rows[said] = {**cut, **row, "test": on_test.mean()}
            if setting.tool not in best or row["dev"] > best[setting.tool][0]:
                best[setting.tool] = row["dev"], on_test
        return {name: on_test for name, (_, on_test) in best.items()}

    def right(self, name: str) -> Array:
        """(N,) 1 where the export of a run, or the teacher, is right on a sentence of Rotten Tomatoes' test, else 0."""
        teacher, tables = self._of("reviews")
        place = teacher if name == "teacher" else self.work / "runs" / name / "small" / "onnx"
        file = self.work / "right" / f"{name}.json"
        return np.array(remembered(file, lambda: right(place, tables["test"]).tolist()))

    def say_left(self, names: list[str], minutes: float, times: list[float]) -> None:
        """Say how long runs and the peers will take, as far as they are not made."""
        left = {n: 60 * minutes for n in names if not (self.work / "runs" / f"{n}.json").exists()}
        left |= self.peers.left(minutes, times) if self.peers else {}
        say_hours({n: s for n, s in left.items() if s}, f"by the times given, and {CUT_SECONDS} s a cut,")

    def export_costs(self) -> dict[str, Any]:
        """Predicted and measured costs of candidates that are built and exported."""
        teacher, tables = self._of("reviews")
        rows = tables["dev"].select(range(32))
        make = lambda: export_costs(teacher, rows, self.work / "export-costs", quick=self.quick)  # noqa: E731
        return dict(remembered(self.work / "runs" / "export-costs.json", make))

    def compressed(self, name: str, *, data: str = "reviews", blind: bool = False, **options: Any) -> Any:
        """A compression's figures.

        Args:
            options: of `attar.compress`.
        """
        if self.quick:
            options["time"] = 0

        def make() -> dict[str, Any]:
            teacher, tables = self._of(data)
            place = self.work / "runs" / name
            began, worked = time.monotonic(), time.process_time()
            report = _run(teacher, tables, place, blind=blind, options=options)
            # The clock also knows what a sitting used that was killed; of the processor's time that is lost.
            seconds, share = time.monotonic() - began, time.process_time() - worked
            return {
                **_figures(report),
                "seconds": max(seconds, report.settings["seconds"]),
                "of_a_core": share / seconds,
                "given": float(options["time"]),
                "asked": {key: value for key, value in options.items() if key != "time"},
            }

        self.done[name] = remembered(self.work / "runs" / f"{name}.json", make)
        return self.done[name]


def _run(
    teacher: Path, tables: dict[str, Dataset], place: Path, *, blind: bool, options: dict[str, Any]
) -> Report:
    asked = {**{name: tables[name] for name in ("dev", "test")}, "data": tables["train"], "overwrite": True}
    out, work = place / "small", place / "work"
    if not blind:
        return compress(teacher, out=out, work=work, **asked, **options)
    chosen: Any = options_of(compress, {"model": teacher, "out": out, "work": work, **asked, **options})
    rest: dict[str, Any] = {"texts": None, "columns": None, "tokenizer": None, "precision": "auto"}
    return compress_with(teacher, out=out, **asked, **rest, options=chosen, blind=True)


def _figures(report: Report) -> dict[str, Any]:
    student, teacher, settings, main = report.student, report.teacher, report.settings, report.main
    assert student is not None
    assert student.retained is not None
    assert teacher is not None
    kept, frontier = student.retained, report.frontier
    assert frontier is not None
    chosen = next(point for point in frontier.points if point.state == "chosen")
    return {
        "kept": kept.value,
        "low": kept.low,
        "high": kept.high,
        main: student.metrics[main],
        "teacher": teacher.metrics[main],
        "agreement": student.metrics["agreement"],
        "candidate": chosen.name,
        "steps": chosen.steps,
        "tried": sum(point.state in ("tried", "stopped", "chosen") for point in frontier.points),
        "fits": settings["fits"],
        **{name: settings["measured"][name] for name in ("size", "parameters", "latency")},
        "notes": list(report.notes),
        "rows": {row.name: {main: row.metrics[main], "p50": row.p50} for row in report.rows},
    }
