"""`distill`: TinyBERT's whole way, from a teacher and texts to a small model directory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel

from attar.data.columns import Columns
from attar.data.tables import read_table
from attar.distillation.objective import Attention, Projection
from attar.distillation.tinybert import Run
from attar.model.checkpoint import load, save, versions
from attar.recipes.reading import options_of
from attar.report.report import Report
from attar.storage.writing import check_free
from attar.training import resuming
from attar.training.loop import Precision, is_main

Options = Mapping[str, Any]


def distill(
    teacher: str | Path | PreTrainedModel,
    *,
    out: str | Path,
    data: str | Path | Dataset | None = None,
    texts: str | Path | Sequence[str] | Dataset | None = None,
    dev: str | Path | Dataset | None = None,
    test: str | Path | Dataset | None = None,
    columns: Columns | None = None,
    tokenizer: Any = None,
    student: Options | str | Path | PreTrainedModel | None = None,
    general: Options | None = None,
    augment: Options | None = None,
    intermediate: Options | None = {},  # noqa: B006  # never written to
    prediction: Options | None = {},  # noqa: B006
    mapping: str | Sequence[int] = "uniform",
    attention: Attention = "auto",
    hidden: bool = True,
    embedding: bool = True,
    projection: Projection = "per-layer",
    dropout: bool = False,
    cache: bool | str | Path = True,
    max_length: int | None = None,
    doc_stride: int = 128,
    seed: int = 0,
    precision: Precision = "auto",
    overwrite: bool = False,
) -> Report:
    """Distil a teacher into a smaller student, as TinyBERT does (1909.10351, section 3).

    Labels are optional: the teacher's own outputs teach. Where dev or test have labels, quality is measured against
    them, else as agreement with the teacher.

    Args:
        teacher: a model fine-tuned for texts, for the tags of their words, or for answers to questions: directory, hub
            name, or model (then with its `tokenizer`).
        out: the directory to write.
        data: a table of the task's texts; labels in it are not used to train.
        texts: plain texts of the task, one a line, instead of `data`; questions need `data`, with their contexts.
        dev: chooses the best prediction epoch; a tenth of the texts, at most 1000, is held out where None.
        test: what the report measures on; dev where None.
        student: sizes and start, as `schema.Student` names them (`{"layers": 4, "hidden": 312, …}`), or a student that
            exists already: a directory or a model with the teacher's tokenizer.
        general: the first stage on plain text (`schema.General`); None skips it.
        augment: data augmentation (`schema.Augment`); None uses the texts as they are.
        intermediate, prediction: the two phases of the task stage; None skips one.
        mapping: teacher layer of each student layer (see `layer_map`).
        attention, hidden, embedding, projection: what the intermediate phases compare (see `match`, `Intermediate`).
        dropout: whether the student's dropout is on while it learns, as in the paper. The default is off: a small
            student that regresses on exact targets underfits sooner than it overfits, and steps are cheaper without.
        cache: run the teacher once and keep what is compared on disk: in the work directory beside `out`, or in a
            directory that several runs of the same teacher on the same texts then share.
        max_length, doc_stride: in tokens, see `attar.finetune`.

    Returns:
        A report with teacher and student on the test (or dev) table, and the training curves.

    Raises:
        RecipeError: an option that the schema does not know.
        ModelError, DataError, OutputError, TrainingError: see the functions that this one calls.
    """
    check_free(out, overwrite=overwrite)
    shape = student if isinstance(student, Mapping) else {}
    options = options_of(
        "distill",
        {
            "student": shape,
            "general": general,
            "augment": augment,
            "intermediate": intermediate,
            "prediction": prediction,
            "mapping": mapping if isinstance(mapping, str) else tuple(mapping),
            "attention": attention,
            "hidden": hidden,
            "embedding": embedding,
            "projection": projection,
            "dropout": dropout,
            "cache": cache if isinstance(cache, bool) else str(cache),
            "max_length": max_length,
            "doc_stride": doc_stride,
            "seed": seed,
        },
    )
    loaded = load(teacher, tokenizer=tokenizer)
    with resuming.work_directory(out) as place:
        run = Run(loaded, options, place, precision)
        train, held = run.tables(data, texts, dev, columns)
        made = run.build(train, given=None if isinstance(student, Mapping) else student)
        curves = run.stages(made, train, held)
        rows = run.measure(
            made.model, held if test is None else read_table(test, columns=columns, task=run.task)[0], out
        )
        lineage = {
            "stage": "distill",
            "parent": loaded.name,
            "options": options.model_dump(mode="json"),
            "metrics": dict(rows[1].metrics),
        }
        if is_main():
            save(made.model, loaded.tokenizer, out, lineage=lineage, overwrite=overwrite)
    return Report(
        f"{loaded.name} distilled",
        run.main,
        rows,
        curves,
        settings=options.model_dump(mode="json"),
        versions=versions(),
    )
