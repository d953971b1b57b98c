"""What a cache keeps of each row: 8-bit numbers with a scale for every token, and only what the objective compares."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from attar.maths.losses import relation
from attar.maths.quantization import dequantize, dequantize_gram, quantize, quantize_gram, square
from attar.model.views import Need, View

Kept = Literal["hidden", "scores", "queries and keys", "relations", "queries, keys and values"]
# Those whose codes are as many in a row as tokens times tokens.
SQUARE = ("scores", "relations")


@dataclass(frozen=True)
class Part:
    """One kind of thing of some layers: a row of t tokens has (C, t, ·) codes of it and (C, t) scales.

    Attributes:
        kept: hidden states (t, D); scores (t, t); relations, (t, t) of which only what is below the diagonal is kept,
            as cosines, with norms for scales; or the vectors (t, e) that scores or relations are made of.
        each: matrices of a layer; C is this times the layers.
        width: of the vectors; 0 of scores and relations.
    """

    kept: Kept
    layers: tuple[int, ...]
    each: int
    width: int = 0

    @property
    def count(self) -> int:
        """C."""
        return self.each * len(self.layers)

    def codes(self, t: Any) -> Any:
        """Codes of each matrix in a row of t tokens, or in rows of each length."""
        if self.kept == "relations":
            return t * (t - 1) // 2
        return t * (t if self.kept == "scores" else self.width)

    def bytes(self, t: Any) -> Any:
        """Bytes of a row of t tokens, or of rows of each length."""
        return self.count * (self.codes(t) + 2 * t)

    def of(self, view: View, row: int, tokens: slice, relation_heads: int) -> Tensor:
        """(C, t, ·) of a row of a view, whose hidden states are those of `tokens`."""
        t = tokens.stop - tokens.start
        if self.kept == "hidden":
            return torch.stack([view.hidden[n][tokens] for n in self.layers])
        if self.kept == "scores":
            return torch.cat([view.scores[n][row, :, :t, :t] for n in self.layers])
        sides: tuple[Mapping[int, Tensor], ...] = (view.queries, view.keys, view.values)
        if self.kept == "relations":
            return torch.cat(
                [
                    relation(x[n][row : row + 1, :, :t], heads=relation_heads)[0]
                    for n in self.layers
                    for x in sides
                ]
            )
        if self.kept == "queries and keys":
            sides = ({n: view.queries[n] * view.scaling[n] for n in self.layers}, view.keys)
        return torch.cat([x[n][row, :, :t] for n in self.layers for x in sides])

    def parts(self, codes: Tensor, scales: Tensor) -> dict[str, dict[int, Any]]:
        """What a View has of it, by name and layer, from codes (C, N, D) or (B, C, T, ·) and their scales."""
        found: dict[str, dict[int, Any]] = {}
        for n, code, scale in zip(self.layers, self._split(codes), self._split(scales), strict=True):
            if self.kept == "relations":
                found.setdefault("relations", {})[n] = dequantize_gram(code, scale).chunk(3, dim=1)
                continue
            values = dequantize(code, scale)
            if self.kept == "hidden":
                found.setdefault("hidden", {})[n] = values[0]
            elif self.kept == "scores":
                found.setdefault("scores", {})[n] = values
            elif self.kept == "queries and keys":
                queries, keys = values.chunk(2, dim=1)
                found.setdefault("scores", {})[n] = queries @ keys.transpose(-1, -2)
            else:
                for name, side in zip(("queries", "keys", "values"), values.chunk(3, dim=1), strict=True):
                    found.setdefault(name, {})[n] = side
        return found

    def _split(self, whole: Tensor) -> tuple[Tensor, ...]:
        return torch.split(whole, self.each, dim=0 if self.kept == "hidden" else 1)


@dataclass(frozen=True)
class Layout:
    """What a row's record is made of: the scales of all its parts in half precision, then their codes, part after part.

    Logits are few and decide the prediction: they are kept apart, in fp32. `outputs` is 0 where the teacher has no
    logits of a task (a base model, a masked LM); `per_token` says that each token has so many, not each row.
    """

    parts: tuple[Part, ...]
    relation_heads: int
    outputs: int
    per_token: bool = False

    @property
    def need(self) -> Need:
        """What filling needs to see of the teacher."""
        layers: dict[str, frozenset[int]] = {
            "hidden": frozenset(),
            "scores": frozenset(),
            "relations": frozenset(),
        }
        for part in self.parts:
            name = part.kept if part.kept in ("hidden", "scores") else "relations"
            layers[name] |= set(part.layers)
        return Need(hidden=layers["hidden"], scores=layers["scores"], relations=layers["relations"])

    def bytes(self, t: Any) -> Any:
        """Bytes of the record of a row of t tokens, or of rows of each length: even, for scales have two."""
        size = sum((part.bytes(t) for part in self.parts), 0 * t)
        return size + size % 2

    def record(self, view: View, row: int, tokens: slice) -> np.ndarray:
        """The record of a row of a view, of which `tokens` are the row's among all real ones."""
        scales, codes = [], []
        for part in self.parts:
            values = part.of(view, row, tokens, self.relation_heads)
            code, scale = (quantize_gram if part.kept == "relations" else quantize)(values)
            scales.append(scale.flatten().view(torch.uint8))
            codes.append(code.flatten().view(torch.uint8))
        record = torch.cat(scales + codes)
        return torch.nn.functional.pad(record, (0, len(record) % 2)).numpy()

    def read(self, records: list[Tensor], mask: Tensor) -> dict[str, dict[int, Any]]:
        """The parts of the View of a batch (B, T), from its rows' records."""
        lengths = mask.sum(1).tolist()
        count = sum(part.count for part in self.parts)
        # As whole numbers: under autocast to bf16, tensors in half precision cannot be joined.
        scales = torch.cat(
            [
                record[: 2 * count * t].view(torch.int16).view(count, t)
                for record, t in zip(records, lengths, strict=True)
            ],
            dim=1,
        ).view(torch.float16)
        begins = [2 * count * t for t in lengths]
        found: dict[str, dict[int, Any]] = {}
        for part, own in zip(self.parts, scales.split([part.count for part in self.parts]), strict=True):
            rows = []
            for i, (record, t) in enumerate(zip(records, lengths, strict=True)):
                end = begins[i] + part.count * part.codes(t)
                codes = record[begins[i] : end].view(torch.int8).view(part.count, -1)
                rows.append(square(codes, t) if part.kept == "relations" else codes.view(part.count, t, -1))
                begins[i] = end
            if part.kept == "hidden":
                found |= part.parts(torch.cat(rows, dim=1), own)
            else:
                found |= part.parts(_padded(rows, mask.shape[1], part), _spread(own, mask))
        return found


def layout_of(view: View, need: Need, lengths: np.ndarray, *, outputs: int, per_token: bool) -> Layout:
    """The smallest layout for rows of these lengths that gives what is needed; sizes are read from a view of a row.

    Hidden state 0 is not kept: the teacher's embeddings are run again, which costs little.
    """

    def smaller(*forms: Part) -> Part:
        return min(forms, key=lambda part: int(part.bytes(lengths).sum()))

    parts = []
    hidden, scores, relations = (tuple(sorted(x)) for x in (need.hidden - {0}, need.scores, need.relations))
    if hidden:
        parts.append(Part("hidden", hidden, 1, view.hidden[hidden[0]].shape[-1]))
    if scores:
        _, heads, _, width = view.queries[scores[0]].shape
        parts.append(
            smaller(Part("scores", scores, heads), Part("queries and keys", scores, 2 * heads, width))
        )
    if relations:
        _, heads, _, width = view.queries[relations[0]].shape
        vectors = Part("queries, keys and values", relations, 3 * heads, width)
        products = Part("relations", relations, 3 * need.relation_heads)
        parts.append(smaller(products, vectors) if need.relation_heads else vectors)
    return Layout(tuple(parts), need.relation_heads, outputs, per_token)


def _padded(rows: list[Tensor], width: int, part: Part) -> Tensor:
    """(B, C, T, ·) codes from rows of (C, t, ·): zero at padding."""
    last = width if part.kept in SQUARE else part.width
    padded = torch.zeros(len(rows), part.count, width, last, dtype=torch.int8)
    for i, row in enumerate(rows):
        padded[i, :, : row.shape[1], : row.shape[2]] = row
    return padded


def _spread(scales: Tensor, mask: Tensor) -> Tensor:
    """(B, C, T) from the scales of real tokens, (C, N): zero at padding."""
    spread = scales.new_zeros(len(scales), mask.numel())
    spread[:, mask.flatten()] = scales
    return spread.view(len(scales), *mask.shape).transpose(0, 1)
