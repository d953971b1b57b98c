"""A recipe: a model, its data, and stages, whose options are those of the verbs that may be stages."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, create_model, model_validator

from attar.options.base import Options
from attar.options.registry import STAGES
from attar.options.signature import options_model


class Columns(Options):
    """Which column of a table holds what, where not the column of that name; one named here must be there."""

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    tokens: str | None = None
    tags: str | None = None
    id: str | None = None
    question: str | None = None
    context: str | None = None
    answers: str | None = None


class Data(Options):
    """Tables (.csv, .tsv, .json, .jsonl, .parquet, .txt, .conll) and plain text, one a line, for the general stage."""

    train: str | None = None
    dev: str | None = None
    test: str | None = None
    texts: str | tuple[str, ...] | None = None
    columns: Columns = Columns()


class OneStage(Options):
    """One entry of `stages`: the name of a verb with its options, such as `finetune: {epochs: 3}`."""

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        # `- evaluate` and `- evaluate:` mean all defaults.
        if isinstance(value, str):
            return {value: {}}
        if isinstance(value, Mapping):
            return {verb: {} if options is None else options for verb, options in value.items()}
        return value

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise ValueError(f"one verb an entry, found {len(self.model_fields_set)}")
        return self

    @property
    def verb(self) -> str:
        """The stage's name, which is that of a public function."""
        return next(iter(self.model_fields_set))

    @property
    def options(self) -> Options:
        """The options of that function."""
        options: Options = getattr(self, self.verb)
        return options


if TYPE_CHECKING:
    Stage = OneStage
else:
    # A field for each verb that may be a stage.
    Stage = create_model(
        "Stage",
        __base__=OneStage,
        __doc__=OneStage.__doc__,
        **{name: (options_model(verb) | None, None) for name, verb in STAGES.items()},
    )


class Recipe(Options):
    """A model, its data, and what is done with them in which order."""

    name: str
    description: str = ""
    model: str
    data: Data = Data()
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]


def is_default(stage: OneStage, name: str) -> bool:
    """Whether an option of a stage has its default."""
    return bool(getattr(stage.options, name) == type(stage.options).model_fields[name].default)
