"""`attar.distill`: a smaller student of a fine-tuned teacher."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from attar.options.base import (
    DATA,
    RUNNING,
    ColumnNames,
    Count,
    Flag,
    ModelSource,
    Options,
    OutputPath,
    Overwrite,
    Pooling,
    Precision,
    PreTrainedModel,
    Rate,
    Seed,
    Stride,
    TableSource,
    TaskLength,
    TextSource,
    Tokenizer,
)
from attar.options.registry import verb
from attar.options.signature import options_of
from attar.verbs.augment import Augment

if TYPE_CHECKING:
    from attar.report.report import Report

SIZES = Flag(panel="Student")
LOSSES = Flag(panel="Losses")


class StudentSizes(Options):
    """Sizes of the student and where its weights start; a size left out is the teacher's.

    Attributes:
        layers: Layers of the student.
        hidden: Hidden size.
        heads: Attention heads.
        ffn: Inner size of the feed-forward layers.
        embedding: Size of a factorised embedding, under the hidden size.
        init: Start: random, layers (chosen layers of the teacher copied), project (the teacher's weights projected onto
            the leading directions of its hidden states), or of an embedding model static (the token vectors of a static
            student, which attention weighs).
    """

    layers: Annotated[Count | None, Flag()] = None
    hidden: Annotated[Count | None, Flag()] = None
    heads: Annotated[Count | None, SIZES] = None
    ffn: Annotated[Count | None, SIZES] = None
    embedding: Annotated[Count | None, SIZES] = None
    init: Annotated[Literal["random", "layers", "project", "static"], SIZES] = "project"


class Student(StudentSizes):
    """Sizes of the student and where its weights start; a size left out is the teacher's.

    Attributes:
        dense: Of an embedding model: keep the teacher's dimensions, by a Dense layer where the hidden size is another;
            without it embeddings have as many dimensions as the student's hidden size.
    """

    dense: Annotated[bool, SIZES] = True


class General(Options):
    """TinyBERT's first stage: the pre-trained teacher on plain text, intermediate losses only.

    Attributes:
        texts: Plain text for the general stage, one text a line; without it there is no such stage.
        teacher: The model before fine-tuning; where None the one that the teacher's lineage names, else the teacher.
        epochs: Passes over the texts.
        lr: Peak learning rate.
        batch_size: Texts in a step.
        max_length: Longest text in tokens.
        streaming: Read lines as they are needed, for text that does not fit in memory.
        steps: Batches of an epoch when streaming.
    """

    texts: Annotated[str | tuple[str, ...] | None, Flag("--general", "Data")] = None
    teacher: str | None = None
    epochs: Count = 3
    lr: Rate = 5e-5
    batch_size: Count = 32
    max_length: Count = 128
    streaming: bool = False
    steps: Count = 1000


class Intermediate(Options):
    """Task distillation's first phase: attention, hidden and embedding losses.

    Attributes:
        epochs: Passes over the texts and their copies; where None as many as make 20,000 rows, from 3 to 20, and of an
            embedding model, where there is a prediction phase, no such phase.
        lr: Peak learning rate.
        batch_size: Texts in a step.
    """

    epochs: Count | None = None
    lr: Rate = 5e-5
    batch_size: Count = 32


class Prediction(Options):
    """Task distillation's second phase: soft cross-entropy with the teacher's logits.

    Attributes:
        epochs: Passes over the texts and their copies; where None 3, of an embedding model as many as make 400,000
            rows, from 1 to 10.
        lr: Peak learning rate; where None 3e-5, of an embedding model 5e-4, or 2e-4 of a student that exists already or
            has the teacher's layers.
        batch_size: Texts in a step; where None 32, of an embedding model 64.
        temperature: Divides the logits of both.
        metric: Decides which epoch is best: f1 or matthews where one label is rare; the task's own where None.
        dimensions: Of an embedding model: numbers of leading dimensions that are to be good by themselves (Matryoshka).
        relations: Of an embedding model, what of the texts of a batch is compared: similarities (KL of which texts are
            alike) or distances (RKD, 1904.05068).
        neighbours: Of an embedding model whose teacher is cached, in one process: learn what near texts are told apart
            by. Texts of a batch are of like topics (2104.06967), and compared with their nearest of all texts, too.
    """

    epochs: Count | None = None
    lr: Rate | None = None
    batch_size: Count | None = None
    temperature: Annotated[float, Field(gt=0)] = 1.0
    metric: str | None = None
    dimensions: Annotated[Sequence[Count], Flag("--dimensions", "Losses")] = ()
    relations: Literal["similarities", "distances"] = "similarities"
    neighbours: Annotated[bool, Flag("--neighbours", "Losses")] = True


@verb(stage=True)
def distill(
    teacher: ModelSource,
    *,
    out: OutputPath,
    data: TableSource | None = None,
    texts: TextSource | None = None,
    dev: Annotated[TableSource | None, DATA] = None,
    test: Annotated[TableSource | None, DATA] = None,
    columns: ColumnNames = None,
    tokenizer: Tokenizer = None,
    student: Annotated[Student | Mapping[str, Any] | str | Path | PreTrainedModel | None, SIZES] = Student(),
    general: General | Mapping[str, Any] | None = None,
    augment: Augment | Mapping[str, Any] | None = None,
    intermediate: Intermediate | Mapping[str, Any] | None = Intermediate(),
    prediction: Prediction | Mapping[str, Any] | None = Prediction(),
    mapping: Annotated[Literal["uniform", "top", "bottom"] | Sequence[Count], LOSSES] = "uniform",
    attention: Annotated[Literal["auto", "scores", "relations", "none"], LOSSES] = "auto",
    hidden: Annotated[bool, Flag("--hidden-loss", "Losses")] = True,
    embedding: Annotated[bool, Flag("--embedding-loss", "Losses")] = True,
    pooling: Pooling = None,
    projection: Annotated[Literal["per-layer", "shared"], LOSSES] = "per-layer",
    dropout: Annotated[bool, LOSSES] = False,
    cache: Annotated[bool | str | Path, RUNNING] = True,
    max_length: TaskLength = None,
    doc_stride: Stride = 128,
    seed: Seed = 0,
    precision: Precision = "auto",
    overwrite: Overwrite = False,
) -> "Report":
    """Distil a fine-tuned model into a smaller one, as TinyBERT does (1909.10351, section 3).

    Labels are optional: the teacher's own outputs teach. Where dev or test have labels, quality is measured against
    them, else as agreement with the teacher.

    Args:
        teacher: The fine-tuned teacher: a directory, a hub name, or a model (then with its `tokenizer`).
        out: Directory to write; it appears whole or not at all.
        data: Table of the task's texts; labels in it are not used to train.
        texts: Texts of the task instead of a table: a file with one a line, or a folder, whose paragraphs they are;
            questions need a table, with their contexts.
        dev: Table that chooses the best epoch; a tenth of the texts, at most 1000, where left out.
        test: Table that the report measures on; dev where left out.
        columns: Which column is what: text=sentence (also label, text_pair; tokens, tags; question, context, answers).
        tokenizer: Of a teacher that is given as a model.
        student: A student that exists already (with the teacher's tokenizer) instead of sizes and start.
        general: Options of the general stage on plain text (`General`); None skips it.
        augment: Options of data augmentation (`Augment`); None uses the texts as they are.
        intermediate: Options of the intermediate phase (`Intermediate`); None skips it, and an embedding model with a
            prediction phase has it only where its epochs are named.
        prediction: Options of the prediction phase (`Prediction`); None skips it.
        mapping: Teacher layer of each student layer: uniform, top, bottom, or a list such as 3,6,9,12.
        attention: Compare attention scores, relations of queries, keys and values, none, or what fits (auto).
        hidden: Compare hidden states.
        embedding: Compare the embeddings' output.
        pooling: Makes an embedding model of an encoder alone; others say it themselves.
        projection: Student's hidden states meet the teacher's through a matrix per layer, or a shared one.
        dropout: Dropout in the student, as in the paper; without it a small student learns faster.
        cache: Run the teacher once and keep its outputs on disk, in 8 bits; a directory is shared between runs.
        max_length: Longest text in tokens; 128 where left out, 384 of questions with contexts.
        doc_stride: Tokens that windows of a long context or sentence share.
        seed: Seed of every random choice.
        precision: Arithmetic of the training: bf16 where the machine has it (auto), fp32 or bf16.
        overwrite: Replace what attar wrote there before.

    Returns:
        A report with teacher and student on the test (or dev) table, and the training curves.

    Raises:
        RecipeError: an option that the schema does not know.
        ModelError, DataError, OutputError, TrainingError: see the functions that this one calls.

    Examples:
        attar distill teacher --texts texts.txt --layers 4 --hidden 312 --ffn 1200 --out small

        attar distill teacher --data train.csv --test test.csv --layers 2 --copies 8 --out small

        attar distill teacher --texts texts.txt --layers 4 --set intermediate.epochs=6 --out small
    """
    from attar.distillation.tinybert import distill as work

    student = Student() if student is None else student
    return work(
        teacher,
        out=out,
        data=data,
        texts=texts,
        dev=dev,
        test=test,
        columns=columns,
        tokenizer=tokenizer,
        options=options_of(distill, locals()),
        precision=precision,
        overwrite=overwrite,
    )
