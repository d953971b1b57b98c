"""`attar.augment` by names: a table is read, augmented, and written to a file where one is named."""

from pathlib import Path
from typing import Any

from datasets import Dataset

from attar.augmentation.sources import candidates_from
from attar.augmentation.tinybert import augment as augment_table
from attar.augmentation.words import Candidates
from attar.data.columns import Columns
from attar.data.tables import read_table
from attar.errors import DataError, OutputError
from attar.model.checkpoint import load
from attar.options.base import Options
from attar.storage.writing import new_file

WRITERS = {".csv": "to_csv", ".jsonl": "to_json", ".parquet": "to_parquet"}


def augment(
    source: Any,
    candidates: Candidates | None,
    out: str | Path | None,
    model: Any,
    columns: Columns | None,
    tokenizer: Any,
    options: Options,
    *,
    seed: int,
    batch_size: int,
) -> Dataset:
    """The rows of a table and their augmented copies; see `attar.augment`."""
    file = None if out is None else _free(Path(out))
    table, task = (source, None) if isinstance(source, Dataset) else read_table(source, columns=columns)
    if candidates is None:
        if model is None:
            raise DataError(
                expected="a model whose embeddings give the words, or candidates",
                found="neither",
                fix="pass model=… (--model MODEL)",
            )
        loaded = load(model, tokenizer=tokenizer, head="base")
        words = (options.source, options.vectors, loaded.model, loaded.tokenizer)
        candidates = candidates_from(*words, masks=options.masks)
    sizes = {"copies": options.copies, "k": options.k, "seed": seed, "batch_size": batch_size}
    more = augment_table(table, candidates, probability=options.probability, **sizes)
    if file is not None:
        written = more
        if task is not None and task.kind == "single_label":
            named = [task.labels[label] for label in more["label"]]
            written = more.remove_columns("label").add_column("label", named)
        with new_file(file) as part:
            getattr(written, WRITERS[file.suffix])(str(part))
    return more


def _free(out: Path) -> Path:
    if out.suffix not in WRITERS:
        raise DataError(expected="a .csv, .jsonl or .parquet file to write", found=out.name, fix="name one")
    if out.exists():
        raise OutputError(expected=f"{out} to be new", found="a file", fix="name another file or remove it")
    return out
