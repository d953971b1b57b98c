"""`attar.static`: a static student of an embedding model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from attar.options.base import (
    RUNNING,
    TRAINING,
    ColumnNames,
    Count,
    ModelSource,
    OutputPath,
    Overwrite,
    Pooling,
    Precision,
    Rate,
    Seed,
    TableSource,
    TaskLength,
    TextSource,
    Tokenizer,
)
from attar.options.registry import verb
from attar.options.signature import options_of

if TYPE_CHECKING:
    from attar.report.report import Report


@verb()
def static(
    teacher: ModelSource,
    *,
    texts: TextSource,
    out: OutputPath,
    data: TableSource | None = None,
    columns: ColumnNames = None,
    dimensions: Count | None = None,
    epochs: Annotated[int, Field(ge=0), TRAINING] = 10,
    lr: Annotated[Rate, TRAINING] = 1e-2,
    batch_size: Annotated[Count, TRAINING] = 256,
    tokenizer: Tokenizer = None,
    pooling: Pooling = None,
    max_length: TaskLength = None,
    cache: Annotated[str | Path | None, RUNNING] = None,
    precision: Precision = "auto",
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> "Report":
    """Make a static embedding model, which has a vector for each token and no layer, and distil it further.

    Token vectors come from model2vec (each token through the teacher, SIF weights); they are mapped to the teacher's
    embeddings of your texts by least squares, then trained on these: 1 - cosine and squared error, and the KL
    divergence of the similarities of each text to the others of its batch. Written in model2vec's format, which
    `StaticModel.from_pretrained` and `SentenceTransformer` open.

    Args:
        teacher: A sentence-transformers directory, a hub name, or an embedding model (then with its `tokenizer`).
        texts: Texts of the kind that are embedded: a file with one a line, or a folder, whose paragraphs they are.
        out: Directory to write; it appears whole or not at all.
        data: Pairs with scores to measure on (text, text_pair, label); some of the texts where left out.
        columns: Which column is what: text=sentence (also label, text_pair).
        dimensions: Of the embeddings; 256, or the teacher's where it has fewer, where left out.
        epochs: Passes over the texts; 0 stops after the least-squares fit.
        lr: Peak learning rate.
        batch_size: Texts in a step.
        tokenizer: Of a model that is given as an object.
        pooling: Makes an embedding model of an encoder alone; others say it themselves.
        max_length: Longest text in tokens; 128 where left out.
        cache: Directory that keeps the teacher's embeddings for other students, too.
        precision: Of the training; auto takes bf16 where it is faster.
        seed: Seed of every random choice.
        overwrite: Replace what attar wrote there before.

    Returns:
        A report with the teacher, what model2vec alone makes of it in as many dimensions, and the student.

    Raises:
        ModelError, DataError, OutputError: no embedding model, too few texts, a directory that is taken.
        MissingExtraError: model2vec is not installed.

    Examples:
        attar static my-embedder --texts texts.txt --out static
    """
    from attar.distillation.static import static as work

    return work(
        teacher,
        out=out,
        texts=texts,
        data=data,
        columns=columns,
        tokenizer=tokenizer,
        options=options_of(static, locals()),
        precision=precision,
        overwrite=overwrite,
    )
