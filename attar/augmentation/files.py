"""`attar.augment` by names: a table is read, augmented, and written to a file where one is named."""

from pathlib import Path
from typing import Any

from datasets import Dataset

from attar.augmentation.sources import candidates_from
from attar.augmentation.tinybert import augment as augment_table
from attar.augmentation.words import Candidates
from attar.data.columns import Columns
from attar.data.files import check_table, write_table
from attar.data.tables import read_table
from attar.errors import DataError
from attar.model.checkpoint import load
from attar.options.base import Options


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
    if out is not None:
        check_table(out)
    table, task = (source, None) if isinstance(source, Dataset) else read_table(source, columns=columns)
    if candidates is None:
        if model is None:
            raise DataError(
                expected="a model whose embeddings or vocabulary give the words, or candidates",
                found="neither",
                fix="pass model=… (--model MODEL)",
            )
        loaded = load(model, tokenizer=tokenizer, head="base")
        words = (options.source, options.vectors, loaded.model, loaded.tokenizer)
        candidates = candidates_from(*words, masks=options.masks)
    sizes = {"copies": options.copies, "k": options.k, "seed": seed, "batch_size": batch_size}
    more = augment_table(table, candidates, probability=options.probability, **sizes)
    if out is not None:
        written = more
        if task is not None and task.kind == "single_label":
            named = [task.labels[label] for label in more["label"]]
            written = more.remove_columns("label").add_column("label", named)
        write_table(written, out)
    return more
