"""`attar.dimensions`: an embedding model of fewer dimensions."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from attar.options.base import (
    ColumnNames,
    Count,
    Input,
    ModelSource,
    OutputPath,
    Overwrite,
    Pooling,
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
def dimensions(
    model: ModelSource,
    *,
    to: Count,
    texts: TextSource,
    out: OutputPath,
    data: Annotated[TableSource | Any | None, Input()] = None,
    columns: ColumnNames = None,
    directions: Literal["principal", "leading"] = "principal",
    compare: Sequence[Count] = (256, 128, 64),
    tokenizer: Tokenizer = None,
    pooling: Pooling = None,
    max_length: TaskLength = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> "Report":
    """Cut an embedding model to its leading dimensions on your texts, and show what other numbers of them keep.

    Principal directions of the embeddings (not centred, so that cosines stay) are folded into the model's last Dense
    layer (one more where it has none that is linear; of a static model into its token vectors); no step is added for
    who uses it. The table has each number of dimensions, all of them included, in fp32, int8 and binary.

    Args:
        model: A sentence-transformers directory, a hub name, or an embedding model (then with its `tokenizer`).
        to: Dimensions of the model that is written.
        texts: Texts of the kind that are embedded: a file with one a line, or a folder, whose paragraphs they are.
        out: Directory to write; it appears whole or not at all.
        data: Pairs with scores to measure on (text, text_pair, label), or a collection in BEIR's layout; some of the
            texts where left out.
        columns: Which column is what: text=sentence (also label, text_pair).
        directions: Principal ones of your texts, or the leading numbers of each embedding as they stand, which is what
            `truncate_dim` takes of a model that was trained for it (`distill --dimensions`).
        compare: Other numbers of dimensions in the table.
        tokenizer: Of a model that is given as an object.
        pooling: Makes an embedding model of an encoder alone; others say it themselves.
        max_length: Longest text in tokens; 128 where left out.
        seed: Seed of every random choice.
        overwrite: Replace what attar wrote there before.

    Returns:
        A report with a row for each number of dimensions and format.

    Raises:
        ModelError, DataError, OutputError: no embedding model, too few texts, a directory that is taken.

    Examples:
        attar dimensions my-embedder --to 128 --texts texts.txt --out small
    """
    from attar.pruning.dimensions import dimensions as work

    return work(
        model,
        to,
        out=out,
        texts=texts,
        data=data,
        columns=columns,
        tokenizer=tokenizer,
        options=options_of(dimensions, locals()),
        overwrite=overwrite,
    )
