"""`share`: a model whose layers are stored once and run several times, as the stock ALBERT class."""

from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel

from attar.data.batches import Batches, encode, positions
from attar.data.corpus import Texts
from attar.data.lines import lines_of
from attar.evaluation.counting import flops
from attar.model.checkpoint import Loaded, load, save, versions
from attar.options.base import Options
from attar.report.formatting import count
from attar.report.report import Report, Row
from attar.sharing.albert import shared
from attar.storage.writing import check_free

# Texts that the embedding's directions are looked for in, at most, and tokens of each; operations are of one such text.
LOOKED, LENGTH = 4000, 128


def share(
    model: str | Path | PreTrainedModel,
    *,
    out: str | Path,
    texts: Texts | None,
    tokenizer: Any,
    options: Options,
    overwrite: bool,
) -> Report:
    """Share the layers of an encoder, and factorise its embedding; see `attar.share`."""
    check_free(out, overwrite=overwrite)
    loaded = load(model, tokenizer=tokenizer)
    settings = options.settings()
    made = shared(loaded.model, texts=_batches(loaded, texts), **settings)
    before, after = (m.num_parameters() for m in (loaded.model, made))
    length = min(LENGTH, positions(loaded.model))
    done, still = (flops(m, length=length) for m in (loaded.model, made))
    notes = (
        f"parameters {count(before)} before, {count(after)} after; operations {count(done)} before, {count(still)} "
        f"after, for a text of {length} tokens: shared layers are stored once and computed every time",
        "its answers are not the model's yet: distil it, with the model as teacher and this directory as student",
    )
    lineage = {"stage": "share", "parent": loaded.name, "options": settings, "notes": notes}
    save(made, loaded.tokenizer, out, lineage=lineage, overwrite=overwrite)
    name = Path(loaded.name).name
    return Report(
        f"shared {name}: {made.config.num_hidden_groups * made.config.inner_group_num} layers run as "
        f"{made.config.num_hidden_layers * made.config.inner_group_num}",
        rows=(
            Row(name, "teacher", parameters=before, flops=done),
            Row(Path(out).name, "student", parameters=after, flops=still, directory=str(out)),
        ),
        notes=notes,
        settings=settings,
        versions=versions(),
    )


def _batches(loaded: Loaded, texts: Texts | None) -> Batches | None:
    if texts is None:
        return None
    table = Dataset.from_dict({"text": list(islice(lines_of(texts), LOOKED))})
    encoded = encode(table, loaded.tokenizer, max_length=min(LENGTH, positions(loaded.model)))
    return Batches(encoded, loaded.tokenizer)
