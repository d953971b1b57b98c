"""A plan: which units of a model stay, as a value that prints, travels as JSON, and touches nothing."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, ValidationError, model_validator

from attar.anatomy.form import Form, LayerForm
from attar.errors import PlanError
from attar.pruning import plan_table
from attar.pruning.plan_parts import Frozen, Indexes, LayerPlan, ModelCost, Sizes
from attar.pruning.units import Kept, KeptLayer
from attar.report.formatting import plain_text
from attar.report.shape import Shape
from attar.storage.writing import write_atomic

if TYPE_CHECKING:
    from rich.console import Group

# The file of a pruned model's directory that says what it was cut from.
PLAN = "plan.json"


class Plan(Frozen):
    """Which units of a model stay.

    Attributes:
        model: the model that the plan was made for.
        digest: of its weights and config.
        family: of the anatomy.
        method: how the units were ranked.
        budget: what was to stay of the cost.
        cost: what the budget counts.
        length: tokens of a call that `flops` and `latency` are of.
        hidden: what stays of the hidden size.
        embedding: what stays of the embedding's; the same as `hidden` where the embedding is not factorised.
        vocab: tokens that stay.
        layers: what stays of each layer that stays, in their order.
        before: what the model costs.
        after: what it will cost.
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
    before: ModelCost
    after: ModelCost
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
        around = self.shape().around()
        title = plan_table.title(self.model, self.method, self.before, self.after)
        lines = [around, *plan_table.cost_lines(self.before, self.after, self.length)]
        return plan_table.group(title, self.source, self.kept, [*lines, plan_table.kind(self.stock)])

    def __str__(self) -> str:
        return plain_text(self, 120)

    def to_json(self) -> str:
        """The plan as a file that a person can read and edit."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"

    def write(self, path: str | Path) -> Path:
        """Write the plan to a file, whole or not at all."""
        path = Path(path)
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
