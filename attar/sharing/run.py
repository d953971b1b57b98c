"""`share`: a model whose layers are stored once and run several times, as the stock ALBERT class."""

from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel

from attar.data.batches import Batches, encode, positions
from attar.data.corpus import Texts
from attar.data.lines import lines_of
from attar.evaluation.benchmark import flops
from attar.model.checkpoint import Loaded, load, save, versions
from attar.report.formatting import count
from attar.report.report import Report, Row
from attar.sharing.albert import How, Start, shared
from attar.storage.writing import check_free

# Texts that the embedding's directions are looked for in, at most, and tokens of each; operations are of one such text.
LOOKED, LENGTH = 4000, 128


def share(
    model: str | Path | PreTrainedModel,
    *,
    out: str | Path,
    how: How = "all",
    groups: int | None = None,
    embedding: int | None = None,
    start: Start = "last",
    texts: Texts | None = None,
    tokenizer: Any = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Report:
    """Share the layers of an encoder, and factorise its embedding, into the stock ALBERT class (1909.11942, 3.1).

    Parameters fall; operations do not, since as many layers run as before. Where every layer keeps its own weights
    and the embedding its size, the model is the same; else its answers change, and distillation brings them back:
    `attar.distill(model, student=out, …)`.

    Args:
        model: BERT, RoBERTa and their kin, ELECTRA, DistilBERT: a directory, a hub name, or a model (then with its
            `tokenizer`). A head for texts, tags, answers or masked words comes along where ALBERT has its like.
        out: the directory to write; it appears whole, after it was loaded again and compared.
        how: "all" makes all layers one; "groups" has `groups` runs of neighbours, each of one layer (1-4, 5-8, …);
            "cycles" has `groups` layers run in turn (layers 1, 3, 5, … one and 2, 4, 6, … another, for two).
        embedding: E under the hidden size: V·E + E·h parameters in place of V·h; needs `texts`.
        start: a shared layer begins as the "last" of its layers, or as their "mean", which changes the answers more.
        texts: of the kind that the model reads, as `read_texts` reads them; the first few thousand are looked at.
        seed: of what is drawn.

    Returns:
        A report of parameters and operations, before and after.

    Raises:
        ModelError: a model that computes what ALBERT does not, or sizes that do not fit. DataError, OutputError: see
            the functions that this one calls.
    """
    check_free(out, overwrite=overwrite)
    loaded = load(model, tokenizer=tokenizer)
    options = {"how": how, "groups": groups, "embedding": embedding, "start": start, "seed": seed}
    made = shared(loaded.model, texts=_batches(loaded, texts), **options)  # type: ignore[arg-type]
    before, after = (m.num_parameters() for m in (loaded.model, made))
    length = min(LENGTH, positions(loaded.model))
    done, still = (flops(m, length=length) for m in (loaded.model, made))
    notes = (
        f"parameters {count(before)} before, {count(after)} after; operations {count(done)} before, {count(still)} "
        f"after, for a text of {length} tokens: shared layers are stored once and computed every time",
        "its answers are not the model's yet: distil it, with the model as teacher and this directory as student",
    )
    lineage = {"stage": "share", "parent": loaded.name, "options": options, "notes": notes}
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
        settings=options,
        versions=versions(),
    )


def _batches(loaded: Loaded, texts: Texts | None) -> Batches | None:
    if texts is None:
        return None
    table = Dataset.from_dict({"text": list(islice(lines_of(texts), LOOKED))})
    encoded = encode(table, loaded.tokenizer, max_length=min(LENGTH, positions(loaded.model)))
    return Batches(encoded, loaded.tokenizer)
