"""The runs of `benchmarks/compress.py`: teachers, and compressions that are each made once."""

import time
from functools import cached_property
from pathlib import Path
from typing import Any

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
from texts import SHARED

# Of SST-2's training phrases, which are many, and the fine-tuning of its teacher.
ROWS = 12_000
TUNED: dict[str, Any] = {"epochs": 1, "lr": 1e-4, "max_length": 48}
# A quick run's teacher learns its few sentences by heart, and is measured on them: one at chance would be refused.
QUICK: dict[str, Any] = {"epochs": 12, "lr": 3e-4, "max_length": 24, "patience": None}


class Runs:
    """Compressions of one teacher on Rotten Tomatoes and one on SST-2; each has a work directory of its own."""

    def __init__(self, work: Path, *, quick: bool) -> None:
        self.work, self.quick = work, quick
        self.headline = Headline(work, quick=quick)
        self.done: dict[str, Any] = {}
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
        if data == "reviews" and not self.quick:
            return self.headline.teacher, self.headline.tables
        few = self.headline.tables["train"]
        tables = dict.fromkeys(("train", "dev", "test"), few) if self.quick else self.sst2
        options = QUICK if self.quick else TUNED

        def make(out: Path) -> None:
            finetune(model_directory(), tables["train"], dev=tables["dev"], out=out, **options)

        return once(self.work / f"teacher-{data}", make), tables

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
    student, teacher, settings = report.student, report.teacher, report.settings
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
        "accuracy": student.metrics["accuracy"],
        "teacher": teacher.metrics["accuracy"],
        "agreement": student.metrics["agreement"],
        "candidate": chosen.name,
        "steps": chosen.steps,
        "tried": sum(point.state in ("tried", "stopped", "chosen") for point in frontier.points),
        "fits": settings["fits"],
        **{name: settings["measured"][name] for name in ("size", "parameters", "latency")},
        "notes": list(report.notes),
        "rows": {row.name: {"accuracy": row.metrics["accuracy"], "p50": row.p50} for row in report.rows},
    }
