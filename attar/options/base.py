"""What options are made of: types with limits, groups of options, and how an option stands on the command line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from datasets import Dataset as Dataset  # noqa: PLC0414  # names that the verbs import from here
    from transformers import PreTrainedModel as PreTrainedModel  # noqa: PLC0414
else:
    # Types that only a Python caller can pass. Importing them takes seconds, and a recipe or a command never has one.
    Dataset = PreTrainedModel = Any


@dataclass(frozen=True)
class Input:
    """Marks an argument that is not an option of a recipe's stage: the recipe's `model` and `data` provide it.

    Attributes:
        files: on the command line a name is always a file's, though Python may give texts themselves.
    """

    files: bool = False


@dataclass(frozen=True)
class Flag:
    """How an argument, or a field of a group, stands on the command line.

    Attributes:
        name: of the option, its own name in dashes where None.
        panel: heading of the help under which it is listed; the most needed options have none.
    """

    name: str | None = None
    panel: str | None = None


Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, lt=1)]
Weight = Annotated[float, Field(ge=0)]

DATA = Flag(panel="Data")
TRAINING = Flag(panel="Training")
MEASURING = Flag(panel="Measuring")
RUNNING = Flag(panel="Running")

# Inputs, which most verbs have.
ModelSource = Annotated[str | Path | PreTrainedModel, Input()]
TableSource = Annotated[str | Path | Dataset, Input()]
TextSource = Annotated[str | Path | Sequence[str | Path] | Dataset, Input(files=True)]
OutputPath = Annotated[str | Path, Input()]
ColumnNames = Annotated[Mapping[str, str] | None, Input(), DATA]
Tokenizer = Annotated[Any, Input()]
Precision = Annotated[Literal["auto", "fp32", "bf16"], Input(), RUNNING]
Overwrite = Annotated[bool, Input(), RUNNING]

# Options, which several verbs have.
Seed = Annotated[int, RUNNING]
BatchSize = Annotated[Count, TRAINING]
MaxLength = Annotated[Count, DATA]
Pooling = Annotated[
    Literal["mean", "cls", "max", "lasttoken", "mean_sqrt_len_tokens", "weightedmean"] | None, DATA
]
TaskLength = Annotated[Count | None, DATA]
Stride = Annotated[Count, DATA]
SampleBy = Annotated[Literal["line", "paragraph", "document"], DATA]


class Options(BaseModel):
    """A group of options: no key but those named, no change once made."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), arbitrary_types_allowed=True
    )

    if TYPE_CHECKING:
        # The options of a verb are fields made from its signature, which a type checker does not see.
        def __getattr__(self, name: str) -> Any: ...

    def settings(self, *, exclude: set[str] | None = None) -> dict[str, Any]:
        """The options as JSON has them; an object that JSON does not know is named by its class."""
        return self.model_dump(
            mode="json", exclude=exclude, warnings=False, fallback=lambda value: type(value).__name__
        )
