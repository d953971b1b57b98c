"""A plan: which units of a model stay, as a value that prints, travels as JSON, and touches nothing."""

import json
import operator
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)

from attar.anatomy.form import Form, LayerForm
from attar.errors import PlanError
from attar.pruning.units import Kept, KeptLayer
from attar.report.shape import Shape
from attar.storage.writing import write_atomic

if TYPE_CHECKING:
    from rich.console import Group


# No axis has so many units: a slip in a plan's file must not fill the memory.
MOST = 10_000_000

# The file of a pruned model's directory that says what it was cut from.
PLAN = "plan.json"


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


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class LayerPlan(_Frozen):
    """What stays of one layer: `layer` is its number in the model, from 0; the rest are unit numbers, from 0.

    `key` and `value` are dimensions inside a head, the same ones in all heads of the layer.
    """

    layer: Annotated[int, Field(ge=0)]
    heads: Indexes
    key: Indexes
    value: Indexes
    ffn: Indexes


class LayerSizes(_Frozen):
    """Sizes of one layer of the model before."""

    heads: Size
    key: Size
    value: Size
    ffn: Size


class Sizes(_Frozen):
    """Sizes of the model before, which unit numbers are checked against."""

    hidden: Size
    embedding: Size
    vocab: Size
    layers: Annotated[tuple[LayerSizes, ...], Field(min_length=1)]


class Cost(_Frozen):
    """What a model costs: parameters (tied ones once), operations of one call, bytes of fp32 weights, seconds a call.

    `flops` and `latency` are of batch 1 and `length` tokens; latency is None where no table was measured.
    """

    parameters: int
    flops: float
    bytes: int
    latency: float | None = None


class Plan(_Frozen):
    """Which units of a model stay.

    Attributes:
        model, digest: the model that the plan was made for, and a digest of its weights and config.
        family: of the anatomy.
        method, budget, cost: how the plan was found.
        length: tokens of a call that `flops` and `latency` are of.
        hidden, embedding, vocab: what stays of the axes that all layers share; `embedding` equals `hidden` where the
            embedding is not factorised.
        layers: what stays of each layer that stays, in their order.
        before, after: what the model costs and what it will cost.
        sizes: of the model before.
        stock: whether the result is a stock class of transformers.
    """

    model: str
    digest: str
    family: str
    method: str
    budget: float
    cost: str
    length: int = 128
    hidden: Indexes
    embedding: Indexes
    vocab: Indexes
    layers: Annotated[tuple[LayerPlan, ...], Field(min_length=1)]
    sizes: Sizes
    before: Cost
    after: Cost
    stock: bool

    @model_validator(mode="after")
    def _inside(self) -> Self:
        _check_inside(self, self.source)
        return self

    @property
    def source(self) -> Form:
        """The form of the model before."""
        s = self.sizes
        layers = tuple(LayerForm(x.heads, x.key, x.value, x.ffn) for x in s.layers)
        return Form(s.hidden, s.embedding, s.vocab, layers)

    @property
    def kept(self) -> Kept:
        """What stays, as the rest of this room knows it."""
        layers = tuple(KeptLayer(x.layer, x.heads, x.key, x.value, x.ffn) for x in self.layers)
        return Kept(self.hidden, self.embedding, self.vocab, layers)

    @property
    def form(self) -> Form:
        """The form of the model after."""
        return self.kept.form

    def shape(self, name: str | None = None) -> Shape:
        """The sizes before and after, for a picture."""
        numbers = [layer.layer for layer in self.layers]
        return Shape.of(name or self.model, self.source, self.form, numbers)

    def __rich__(self) -> "Group":
        from attar.pruning.plan_table import shown

        return shown(self)

    def __str__(self) -> str:
        from io import StringIO

        from rich.console import Console

        file = StringIO()
        Console(file=file, width=120).print(self)
        return file.getvalue().rstrip()

    def to_json(self) -> str:
        """The plan as a file that a person can read and edit."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"

    def write(self, path: str | Path) -> Path:
        """Write the plan to a file, whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, self.to_json())
        return path

    @classmethod
    def read(cls, path: str | Path) -> "Plan":
        """Read a plan that was written, and perhaps edited.

        Raises:
            PlanError: no such file, or nonsense in it.
        """
        path = Path(path)
        if not path.is_file():
            raise PlanError(expected=f"a plan at {path}", found="no such file", fix="check the path")
        try:
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the plan"
            raise PlanError(
                expected=f"{where} of {path.name} to be as attar writes it ('0-11,13' for kept units)",
                found=f"{first['msg']} ({str(first['input'])[:80]!r})",
                fix="mend that entry, or make the plan again",
            ) from None
        except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
            raise PlanError(
                expected=f"JSON in {path}", found=str(error), fix="mend the file, or make the plan again"
            ) from None


def _check_inside(plan: Plan, source: Form) -> None:
    def check(name: str, kept: Iterable[int], size: int) -> None:
        outside = [i for i in kept if not 0 <= i < size]
        if outside:
            raise ValueError(f"{name} has {outside[0]}, and the model has 0 to {size - 1} only")

    for name in ("hidden", "embedding", "vocab"):
        check(name, getattr(plan, name), getattr(source, name))
    numbers = [layer.layer for layer in plan.layers]
    check("layers", numbers, len(source.layers))
    if numbers != sorted(set(numbers)):
        raise ValueError("layers are not in their order, or one occurs twice")
    for layer in plan.layers:
        own = source.layers[layer.layer]
        for axis in ("heads", "key", "value", "ffn"):
            check(f"{axis} of layer {layer.layer}", getattr(layer, axis), getattr(own, axis))
    if source.embedding == source.hidden and plan.family != "albert" and plan.embedding != plan.hidden:
        raise ValueError("embedding differs from hidden, and no matrix stands between the two")
