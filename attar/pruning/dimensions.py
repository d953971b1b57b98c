"""Fewer dimensions of an embedding model: principal directions of its embeddings, folded into its last matrix."""

import copy
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from attar.data.columns import Columns
from attar.data.embedding_task import Embedding
from attar.data.model_task import embedding_task_of
from attar.data.tables import hold_out, read_table, read_texts
from attar.errors import DataError, RecipeError
from attar.evaluation.quality import Evaluation, quality, retained
from attar.evaluation.table import TableEvaluator
from attar.maths.directions import principal
from attar.model.checkpoint import Loaded, load, save, versions
from attar.model.embedding import KEY, SentenceEncoder
from attar.model.sentence_modules import Linear
from attar.options.base import Options
from attar.report.report import Report, Row
from attar.storage.writing import check_free

Array = NDArray[Any]
Numbers = Literal["fp32", "int8", "binary"]
BITS: dict[Numbers, int] = {"fp32": 32, "int8": 8, "binary": 1}
# Texts that the directions are found on.
SAMPLE = 10_000


def dimensions(
    model: str | Path | PreTrainedModel,
    to: int,
    *,
    out: str | Path,
    texts: Any,
    data: Any,
    columns: Columns | None,
    tokenizer: Any,
    options: Options,
    overwrite: bool,
) -> Report:
    """Cut the dimensions of an embedding model; see `attar.dimensions`."""
    o = options
    check_free(out, overwrite=overwrite)
    loaded = load(model, tokenizer=tokenizer, pooling=o.pooling)
    task, whole = embedding_task_of(loaded.model), cast(SentenceEncoder, loaded.model)
    if to >= whole.width:
        raise RecipeError(
            expected=f"fewer dimensions than {whole.width}", found=str(to), fix="name a smaller number"
        )
    widths = sorted({to, *(n for n in o.compare if n < whole.width)}, reverse=True)
    table = read_texts(texts).select_columns("text")
    if len(table) < 2 * to:
        raise DataError(
            expected=f"at least {2 * to} texts, to find {to} directions",
            found=str(len(table)),
            fix="give more texts, or ask for fewer dimensions",
        )
    learned, held = hold_out(table, seed=o.seed)
    if data is not None:
        held = read_table(data, columns=columns, task=task)[0]
    length = task.window(whole, o.max_length)
    learned = learned.shuffle(seed=o.seed).select(range(min(SAMPLE, len(learned))))
    basis = principal(_embeddings(task, loaded, learned, length).logits(bare(whole)), widths[0])
    evaluator = _embeddings(task, loaded, held, length)
    embeddings = evaluator.logits(bare(whole))
    small = folded(whole, basis[:, :to])
    teacher = evaluator.evaluate_teacher(embeddings)
    rows = [
        Row(
            "as it is", "teacher", f"{whole.width} dimensions", metrics=teacher.metrics, bytes=4 * whole.width
        )
    ]
    for width in widths:
        cut = embeddings @ basis[:, :width].numpy()
        for numbers in BITS:
            found = evaluator.evaluate_logits(rounded(cut, numbers), teacher)
            name = Path(out).name if (width, numbers) == (to, "fp32") else f"{width} {numbers}"
            role: Any = "student" if (width, numbers) == (to, "fp32") else "baseline"
            rows.append(_row(name, role, width, numbers, found, teacher))
    lineage = {"stage": "dimensions", "parent": loaded.name, "options": {"to": to}}
    save(small, loaded.tokenizer, out, lineage=lineage, overwrite=overwrite)
    return Report(
        f"{Path(loaded.name).name} cut to {to} dimensions",
        teacher.main,
        tuple(rows),
        settings={"texts": len(learned)},
        versions=versions(),
        notes=(
            f"size is that of one embedding; measured on {len(held)} texts that no direction was found on",
        ),
    )


def _embeddings(task: Embedding, loaded: Loaded, table: Dataset, length: int) -> TableEvaluator:
    return TableEvaluator(task, table, loaded.tokenizer, max_length=length)


def _row(name: str, role: Any, width: int, numbers: Numbers, found: Evaluation, teacher: Evaluation) -> Row:
    around, kept = quality(found, teacher), retained(found, teacher)
    size = -(-width * BITS[numbers] // 8)
    return Row(name, role, f"{width} dimensions, {numbers}", found.metrics, around, kept, bytes=size)


def bare(model: SentenceEncoder) -> SentenceEncoder:
    """The model without the norm at its end."""
    made = copy.deepcopy(model)
    setattr(made.config, KEY, model.head.but(normalize=False).written)
    return made


@torch.no_grad()
def folded(model: SentenceEncoder, basis: Tensor) -> SentenceEncoder:
    """The model whose embeddings are its own times `basis` (E, n), before they are normed.

    The product is part of the last Dense layer where that is linear; else it is a Dense layer of its own.
    """
    made: SentenceEncoder = copy.deepcopy(model)
    head, last = model.head, model.dense[-1] if len(model.dense) else None
    weights = [{name: value.clone() for name, value in layer.state_dict().items()} for layer in model.dense]
    if last is not None and head.dense[-1].activation == "Identity":
        dense = (*head.dense[:-1], Linear(head.dense[-1].inputs, basis.shape[1], head.dense[-1].bias))
        weights[-1] = {name: basis.T @ value for name, value in weights[-1].items()}
    else:
        dense = (*head.dense, Linear(model.width, basis.shape[1], bias=False))
        weights.append({"weight": basis.T.contiguous()})
    made.set_head(head.but(dense=dense))
    for layer, state in zip(made.dense, weights, strict=True):
        layer.load_state_dict(state)
    made.eval()
    return made


def rounded(embeddings: Array, numbers: Numbers) -> Array:
    """Embeddings (N, n) as they come back from an index of such numbers, each dimension between its ends in int8.

    Of bits the sign stays: dot products of -1 and 1 rank as Hamming distances do.
    """
    unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=-1, keepdims=True), 1e-12)
    if numbers == "fp32":
        return np.asarray(unit, dtype=np.float32)
    if numbers == "binary":
        return np.where(unit > 0, 1.0, -1.0).astype(np.float32)
    low, high = unit.min(axis=0), unit.max(axis=0)
    steps = np.where(high > low, (high - low) / 255, 1.0)
    return np.asarray(np.round((unit - low) / steps) * steps + low, dtype=np.float32)
