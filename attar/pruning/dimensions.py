"""Fewer dimensions of an embedding model: principal directions of its embeddings, folded into its last Dense layer."""

import copy
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from attar.data.batches import say_cut
from attar.data.columns import Columns
from attar.data.embedding_task import Embedding
from attar.data.model_task import embedding_task_of
from attar.data.retrieval import Collection, is_collection, read_collection
from attar.data.tables import hold_out, read_table, read_texts
from attar.errors import DataError, RecipeError
from attar.evaluation.opening import open_model
from attar.evaluation.quality import quality, retained
from attar.evaluation.ranking import NDCG
from attar.evaluation.retrieval import Embedder, Known, intervals
from attar.evaluation.table import TableEvaluator
from attar.maths.directions import principal
from attar.maths.statistics import Interval
from attar.model.checkpoint import Loaded, load, save, versions
from attar.model.embedding import SentenceEncoder
from attar.model.sentence_modules import Linear
from attar.model.static import StaticEncoder
from attar.options.base import Options
from attar.progress import say
from attar.report.report import Report, Role, Row
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
    widths = sorted({whole.width, to, *(n for n in o.compare if n < whole.width)}, reverse=True)
    table, principal_ones = read_texts(texts).select_columns("text"), o.directions == "principal"
    if principal_ones and len(table) < 2 * to:
        raise DataError(
            expected=f"at least {2 * to} texts, to find {to} directions",
            found=str(len(table)),
            fix="give more texts, or ask for fewer dimensions",
        )
    learned, held = hold_out(table, seed=o.seed)
    length = task.window(whole, o.max_length)
    # Whose lengths nobody reads are compared as they are then: of one length.
    unit = whole.head.normalize or task.similarity == "cosine"
    if principal_ones:
        learned = learned.shuffle(seed=o.seed).select(range(min(SAMPLE, len(learned))))
        basis = principal(_evaluator(task, loaded, learned, length, "texts").logits(whole), widths[1])
    else:
        basis = torch.eye(whole.width)
    judge: OnTexts | OnCollection
    if is_collection(data):
        judge = OnCollection(loaded, read_collection(data), o.max_length)
    else:
        if data is not None:
            held = read_table(data, columns=columns, task=task)[0]
        judge = OnTexts(_evaluator(task, loaded, held, length, "texts that are measured on"), whole)
    rows = [judge.row("as it is", "teacher", whole.width, "fp32", judge.embeddings)]
    for width in widths:
        cut = judge.embeddings if width == whole.width else judge.embeddings @ basis[:, :width].numpy()
        for numbers in BITS:
            if (width, numbers) == (whole.width, "fp32"):  # the teacher
                continue
            ours = (width, numbers) == (to, "fp32")
            name = Path(out).name if ours else f"{width} {numbers}"
            role: Role = "student" if ours else "baseline"
            rows.append(judge.row(name, role, width, numbers, rounded(cut, numbers, unit=unit)))
    lineage = {
        "stage": "dimensions",
        "parent": loaded.name,
        "options": {"to": to, "directions": o.directions},
    }
    small = folded(whole, basis[:, :to])
    save(small, loaded.tokenizer, out, lineage=lineage, overwrite=overwrite)
    apart = " that no direction was found on" if principal_ones and data is None else ""
    return Report(
        f"{Path(loaded.name).name} cut to {to} dimensions",
        judge.main,
        tuple(rows),
        settings={"texts": len(learned)} if principal_ones else {},
        versions=versions(),
        notes=(f"size is that of one embedding; measured on {judge.measured_on}{apart}",),
    )


class OnTexts:
    """Measures forms of the embeddings of a table: against the labels of pairs, or against the model as it is."""

    def __init__(self, evaluator: TableEvaluator, model: SentenceEncoder) -> None:
        self.evaluator = evaluator
        self.embeddings = evaluator.logits(model)
        self.whole = evaluator.evaluate_teacher(self.embeddings)
        self.main, self.measured_on = self.whole.main, f"{len(evaluator.table)} texts"

    def row(self, name: str, role: Role, width: int, numbers: Numbers, embeddings: Array) -> Row:
        """The row of one form (N, n)."""
        if role == "teacher":
            return _row(name, role, width, numbers, self.whole.metrics)
        found = self.evaluator.evaluate_logits(embeddings, self.whole)
        judged: tuple[Interval | None, Interval | None]
        try:
            judged = quality(found, self.whole), retained(found, self.whole)
        except DataError as error:
            say(f"no interval for {name}: {error.found}")
            judged = None, None
        return _row(name, role, width, numbers, found.metrics, *judged)


class OnCollection:
    """Measures forms of the embeddings of a collection by what is found with them."""

    def __init__(self, loaded: Loaded, collection: Collection, max_length: int | None) -> None:
        opened = open_model(loaded.model, tokenizer=loaded.tokenizer)
        self.known = Known(Embedder(opened, max_length), collection)
        self.embeddings, self.main = self.known.embeddings, NDCG
        self.whole = self.known.searched(self.embeddings)[NDCG]
        self.measured_on = f"{len(collection.queries)} queries and {len(collection.corpus)} documents"

    def row(self, name: str, role: Role, width: int, numbers: Numbers, embeddings: Array) -> Row:
        """The row of one form (Q + D, n)."""
        each = self.known.searched(embeddings)
        metrics = {figure: float(values.mean()) for figure, values in each.items()}
        judged = intervals(name, each[NDCG], None if role == "teacher" else self.whole)
        return _row(name, role, width, numbers, metrics, *judged)


def _evaluator(task: Embedding, loaded: Loaded, table: Dataset, length: int, what: str) -> TableEvaluator:
    made = TableEvaluator(task, table, loaded.tokenizer, max_length=length)
    say_cut(made.batches.lengths, length, what)
    return made


def _row(
    name: str,
    role: Role,
    width: int,
    numbers: Numbers,
    metrics: dict[str, float],
    around: Interval | None = None,
    kept: Interval | None = None,
) -> Row:
    size = -(-width * BITS[numbers] // 8)
    described = f"{width} dimensions" + ("" if role == "teacher" else f", {numbers}")
    return Row(name, role, described, metrics, around, kept, bytes=size)


@torch.no_grad()
def folded(model: SentenceEncoder, basis: Tensor) -> SentenceEncoder:
    """The model whose embeddings are its own times `basis` (E, n), before they are normed.

    The product is part of a static model's token vectors, of which an embedding is the mean, and else of the last Dense
    layer where that is linear, or a Dense layer of its own.
    """
    if isinstance(model.encoder, StaticEncoder):
        return _folded_static(model, model.encoder, basis)
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


def _folded_static(model: SentenceEncoder, encoder: StaticEncoder, basis: Tensor) -> SentenceEncoder:
    config = copy.deepcopy(model.config)
    config.hidden_dim = config.hidden_size = basis.shape[1]
    made = SentenceEncoder(config, StaticEncoder(config))
    vectors = cast(StaticEncoder, made.encoder)
    vectors.embedding.weight.copy_(encoder.embedding.weight @ basis.to(encoder.embedding.weight))
    if config.embedding_dtype != "float32":
        vectors.round()
    made.eval()
    return made


def rounded(embeddings: Array, numbers: Numbers, *, unit: bool) -> Array:
    """Embeddings (N, n) as they come back from an index of such numbers, each dimension between its ends in int8.

    Of bits the sign stays: dot products of -1 and 1 rank as Hamming distances do.

    Args:
        unit: bring them to length 1 first, as where the model does so or cosines compare them.
    """
    if unit:
        embeddings = embeddings / np.maximum(np.linalg.norm(embeddings, axis=-1, keepdims=True), 1e-12)
    if numbers == "fp32":
        return np.asarray(embeddings, dtype=np.float32)
    if numbers == "binary":
        return np.where(embeddings > 0, 1.0, -1.0).astype(np.float32)
    low, high = embeddings.min(axis=0), embeddings.max(axis=0)
    steps = np.where(high > low, (high - low) / 255, 1.0)
    return np.asarray(np.round((embeddings - low) / steps) * steps + low, dtype=np.float32)
