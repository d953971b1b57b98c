"""Everything a user may write in a recipe, as frozen values.

Defaults equal those of the public function that each group of options is for (a test compares them).
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from attar.options.base import Count, Options, Rate
from attar.recipes.smaller import Prune, Share


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


class Finetune(Options):
    """Options of `attar.finetune`; `patience` is in epochs without a better dev metric, None never stops early.

    `metric` decides which epoch is best (f1 or matthews where one label is rare); the task's own where null.

    `max_length` is the task's own where null: 128, or 384 for question answering. Windows of what is longer share
    `doc_stride` tokens.
    """

    epochs: Count = 3
    lr: Rate = 3e-5
    batch_size: Count = 32
    max_length: Count | None = None
    doc_stride: Count = 128
    patience: Count | None = 2
    metric: str | None = None
    seed: int = 0


class Pretrain(Options):
    """Options of `attar.pretrain`, on `data.texts`; `mask` is the share of the tokens hidden from an encoder.

    `nsp` adds next-sentence prediction (BERT; one sentence a line, blank lines between documents). `fresh` begins with
    random weights. `sample_by` says what a text is in a file. `streaming` reads lines as they are needed; an epoch is
    then `steps` batches.
    """

    epochs: Count = 1
    lr: Rate = 5e-5
    batch_size: Count = 32
    max_length: Count = 128
    mask: Rate = 0.15
    whole_word: bool = False
    nsp: bool = False
    fresh: bool = False
    sample_by: Literal["line", "paragraph", "document"] = "line"
    streaming: bool = False
    steps: Count = 1000
    seed: int = 0


class Student(Options):
    """Shape of the student and where its weights start; a size left out is the teacher's.

    `embedding` under `hidden` factorises the embedding. `init` is "random", "layers" (chosen layers copied) or
    "project" (the teacher's weights on the leading directions of its hidden states).
    """

    layers: Count | None = None
    hidden: Count | None = None
    heads: Count | None = None
    ffn: Count | None = None
    embedding: Count | None = None
    init: Literal["random", "layers", "project"] = "project"


class General(Options):
    """TinyBERT's first stage: the pre-trained teacher on plain text, intermediate losses only.

    `teacher` is the model before fine-tuning; the one that the fine-tuned teacher's lineage names where None, else the
    fine-tuned one. `streaming` reads lines as they are needed, for text that does not fit in memory; an epoch is then
    `steps` batches.
    """

    texts: str | tuple[str, ...] | None = None
    teacher: str | None = None
    epochs: Count = 3
    lr: Rate = 5e-5
    batch_size: Count = 32
    max_length: Count = 128
    streaming: bool = False
    steps: Count = 1000


class Augment(Options):
    """Options of `attar.augment`: N_a copies, p_t, K, and where candidates come from.

    `source` is "embeddings" (the teacher's own, whole words only), a GloVe or word2vec text file, or a masked language
    model for words of one piece; `vectors` then serves words of several pieces: "embeddings" or a file. `masks` is how
    many words the masked model sees masked at a time: "one" is the paper's, "several" and "none" are faster.
    """

    copies: Count = 20
    probability: Annotated[float, Field(gt=0, le=1)] = 0.4
    k: Count = 15
    source: str = "embeddings"
    vectors: str = "embeddings"
    masks: Literal["one", "several", "none"] = "one"


class Intermediate(Options):
    """Task distillation's first part: attention, hidden and embedding losses."""

    epochs: Count = 20
    lr: Rate = 5e-5
    batch_size: Count = 32


class Prediction(Options):
    """Task distillation's second part: soft cross-entropy at `temperature`.

    `metric` decides which epoch is best (f1 or matthews where one label is rare); the task's own where null.
    """

    epochs: Count = 3
    lr: Rate = 3e-5
    batch_size: Count = 32
    temperature: Annotated[float, Field(gt=0)] = 1.0
    metric: str | None = None


class Distill(Options):
    """Options of `attar.distill`; a part that is null is left out.

    `cache` names a directory for the teacher's outputs that several runs share; true keeps them for this run only.
    `mapping` names the teacher layer of each student layer, or lists them, counted from 1. Right after a `prune` stage
    the pruned model is the student, the model before it the teacher, and `student` is left out.
    """

    student: Student = Student()
    general: General | None = None
    augment: Augment | None = None
    intermediate: Intermediate | None = Intermediate()
    prediction: Prediction | None = Prediction()
    mapping: Literal["uniform", "top", "bottom"] | tuple[Count, ...] = "uniform"
    attention: Literal["auto", "scores", "relations", "none"] = "auto"
    hidden: bool = True
    embedding: bool = True
    projection: Literal["per-layer", "shared"] = "per-layer"
    dropout: bool = False
    cache: bool | str = True
    max_length: Count | None = None
    doc_stride: Count = 128
    seed: int = 0


class LanguageStudent(Student):
    """Shape of a language model's student and where its weights start; see `Student`.

    Where no size is named, it has half of the teacher's layers. `family: distilbert` makes it a stock DistilBERT (no
    token types, no pooler).
    """

    init: Literal["random", "layers", "project"] = "layers"
    family: Literal["distilbert"] | None = None


class DistillLm(Options):
    """Options of `attar.distill_lm`, on `data.texts`: weights of the three losses, and how the student learns.

    `beta` goes from the forward KL (0) over Jensen-Shannon to the reverse KL (1). With `top_k` a causal teacher runs
    once and its k likeliest tokens, with `tail` others that are drawn, are kept in `cache` (beside the output where
    null).
    """

    student: LanguageStudent = LanguageStudent()
    mapping: Literal["uniform", "top", "bottom"] | tuple[Count, ...] = "uniform"
    kl: Annotated[float, Field(ge=0)] = 5.0
    ce: Annotated[float, Field(ge=0)] = 2.0
    cosine: Annotated[float, Field(ge=0)] = 1.0
    beta: Annotated[float, Field(ge=0, le=1)] = 0.0
    temperature: Annotated[float, Field(gt=0)] = 2.0
    top_k: Count | None = None
    tail: Annotated[int, Field(ge=0)] = 32
    cache: str | None = None
    epochs: Count = 3
    lr: Rate = 5e-4
    batch_size: Count = 32
    max_length: Count = 128
    dropout: bool = True
    mask: Rate = 0.15
    whole_word: bool = False
    sample_by: Literal["line", "paragraph", "document"] = "line"
    streaming: bool = False
    steps: Count = 1000
    seed: int = 0


class Export(Options):
    """Options of `attar.export`; `keep_fp32` names layers that int8 leaves alone, `max_drop` what it may cost."""

    formats: Annotated[tuple[Literal["fp32", "int8", "int8-static"], ...], Field(min_length=1)] = (
        "fp32",
        "int8",
    )
    keep_fp32: tuple[str, ...] = ()
    max_drop: Annotated[float, Field(ge=0)] = 0.01


class Evaluate(Options):
    """Options of `attar.evaluate`, on the test table."""

    batch_size: Count = 32
    max_length: Count | None = None
    doc_stride: Count = 128
    sample_by: Literal["line", "paragraph", "document"] = "line"


class Stage(Options):
    """One entry of `stages`: the name of a verb with its options, such as `finetune: {epochs: 3}`."""

    pretrain: Pretrain | None = None
    finetune: Finetune | None = None
    prune: Prune | None = None
    share: Share | None = None
    distill: Distill | None = None
    distill_lm: DistillLm | None = None
    export: Export | None = None
    evaluate: Evaluate | None = None

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


class Recipe(Options):
    """A model, its data, and what is done with them in which order."""

    name: str
    description: str = ""
    model: str
    data: Data = Data()
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
