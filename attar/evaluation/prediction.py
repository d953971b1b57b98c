"""Logits of a model on every row of a table, whatever its runtime and the order of the batches."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attar.data.batches import Batch, Batches
from attar.errors import DataError
from attar.model.onnx import OnnxModel
from attar.model.views import outputs
from attar.progress import track

Array = NDArray[Any]


def predict(model: torch.nn.Module | OnnxModel, batches: Batches | Iterable[Batch]) -> Array:
    """Logits (N, C) of every row of `batches`, in row order whatever the order of the batches, as float32.

    Of a model that is asked for tokens, the logits of the N real tokens of all rows, one row after the other.

    A torch model is put in evaluation mode for the time and back.

    Raises:
        DataError: rows are missing or come twice (batches of one process of several, say).
    """
    total = len(batches) if isinstance(batches, Batches) else None
    indexes: list[Array] = []
    logits: list[Array] = []
    training = isinstance(model, torch.nn.Module) and model.training
    if isinstance(model, torch.nn.Module):
        model.eval()
    try:
        for batch in track(batches, "evaluate", total):
            indexes.append(batch.index.numpy())
            logits += _each(_logits(model, batch), batch)
    finally:
        if isinstance(model, torch.nn.Module):
            model.train(training)
    index = np.concatenate(indexes) if indexes else np.zeros(0, dtype=np.int64)
    if not len(index) or not np.array_equal(np.sort(index), np.arange(len(index))):
        raise DataError(
            expected="every row of the table once",
            found=f"{len(index)} rows, {len(np.unique(index))} of them distinct",
            fix="predict on the batches of one whole epoch, in one process",
        )
    return np.concatenate([logits[row] for row in np.argsort(index)])


def _each(logits: Array, batch: Batch) -> list[Array]:
    """Of each row of a batch its logits, (1, C), or (t, C) of its t tokens."""
    if logits.ndim < 3:
        return list(logits[:, None])
    return [row[real] for row, real in zip(logits, batch.mask.numpy(), strict=True)]


def _logits(model: torch.nn.Module | OnnxModel, batch: Batch) -> Array:
    if not isinstance(model, torch.nn.Module):
        return np.asarray(model(batch.inputs), dtype=np.float32)
    device = next(model.parameters()).device
    with torch.inference_mode():
        output = model(**batch.to(device).inputs)
    return np.asarray(outputs(output).float().cpu().numpy())
