"""What a plan is written with: numbers of units as ranges, sizes and costs of the model before and after."""

import operator
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

# No axis has so many units: a slip in a plan's file must not fill the memory.
MOST = 10_000_000


def ranges(indexes: Sequence[int]) -> str:
    """Sorted numbers as people write them: "0-11,13"."""
    parts: list[list[int]] = []
    for index in indexes:
        if parts and index == parts[-1][1] + 1:
            parts[-1][1] = index
        else:
            parts.append([index, index])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)


def indexes(written: Any) -> tuple[int, ...]:
    """The numbers of `ranges`, sorted.

    Raises:
        ValueError: it is not written so, or a number occurs twice.
    """
    if isinstance(written, str) and not written.strip():
        raise ValueError("nothing would stay")
    if not isinstance(written, str):
        found = [operator.index(i) for i in written]
    else:
        found = []
        for part in written.split(","):
            low, _, high = part.strip().partition("-")
            first, last = int(low), int(high or low)
            if not first <= last < MOST:
                raise ValueError(f"{part.strip()!r} is no range of units")
            found += range(first, last + 1)
    if len(set(found)) != len(found):
        raise ValueError("a number occurs twice")
    return tuple(sorted(found))


Indexes = Annotated[
    tuple[int, ...], BeforeValidator(indexes), PlainSerializer(ranges, return_type=str), Field(min_length=1)
]
Size = Annotated[int, Field(ge=1)]


class Frozen(BaseModel):
    """A value of a plan's file: nothing in it changes, and a key that is not known is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class LayerPlan(Frozen):
    """What stays of one layer: `layer` is its number in the model, from 0; the rest are unit numbers, from 0.

    `key` and `value` are dimensions inside a head, the same ones in all heads of the layer.
    """

    layer: Annotated[int, Field(ge=0)]
    heads: Indexes
    key: Indexes
    value: Indexes
    ffn: Indexes


class LayerSizes(Frozen):
    """Sizes of one layer of the model before."""

    heads: Size
    key: Size
    value: Size
    ffn: Size


class Sizes(Frozen):
    """Sizes of the model before, which unit numbers are checked against."""

    hidden: Size
    embedding: Size
    vocab: Size
    layers: Annotated[tuple[LayerSizes, ...], Field(min_length=1)]


class ModelCost(Frozen):
    """What a model costs: parameters (tied ones once), operations of one call, bytes of fp32 weights, seconds a call.

    `flops` and `latency` are of batch 1 and `length` tokens; latency is None where no table was measured.
    """

    parameters: int
    flops: float
    bytes: int
    latency: float | None = None
