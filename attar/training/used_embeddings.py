"""Train only the embedding rows that the texts use: the same result, without dragging the others along."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class UsedRows(nn.Module):
    """An embedding that holds some rows of a larger one and takes the larger one's numbers.

    Args:
        full: the embedding, (V, E).
        rows: the row numbers to hold, ascending, (U,).
    """

    def __init__(self, full: nn.Embedding, rows: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(full.weight.detach()[rows].clone())
        place = torch.full(
            (full.num_embeddings,), -1
        )  # a row that is not held: an index error, not a wrong word
        place[rows] = torch.arange(len(rows))
        self.register_buffer("place", place, persistent=False)
        self.padding_idx = None if full.padding_idx is None else int(place[full.padding_idx])

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) token numbers to (B, T, E)."""
        place: Tensor = self.place  # type: ignore[assignment]
        return F.embedding(place[ids], self.weight, self.padding_idx)


@contextmanager
def used_rows(model: Any, *sources: Any) -> Iterator[None]:
    """Within the block `model` has only the embedding rows that its batches use; after it all, those as trained.

    A row that no text uses has no gradient, and `fit` decays no embedding, so it would stay as it is anyway; but the
    optimizer, the gradient and its norm run over every row there is, at each step. Left as it is: a model whose output
    layer shares the embedding (every row has a gradient there), and one whose texts are not known beforehand.

    Args:
        sources: all batches that the model will see in the block (those with `token_ids`); None is passed over.
    """
    full = model.get_input_embeddings()
    output = model.get_output_embeddings()
    tied = output is not None and output.weight is full.weight
    known = [source for source in sources if source is not None]
    if (
        tied
        or not isinstance(full, nn.Embedding)
        or not all(hasattr(source, "token_ids") for source in known)
    ):
        yield
        return
    kept = np.unique(np.concatenate([np.unique(source.token_ids) for source in known]))
    if full.padding_idx is not None:
        kept = np.union1d(kept, [full.padding_idx])
    rows = torch.from_numpy(kept.astype(np.int64))
    part = UsedRows(full, rows)
    model.set_input_embeddings(part)
    try:
        yield
    finally:
        with torch.no_grad():
            full.weight[rows] = part.weight.to(full.weight)
        model.set_input_embeddings(full)
