"""`attar.mine`: pairs of queries and passages for a reranker."""

from typing import TYPE_CHECKING, Annotated, Any

from attar.options.base import (
    Count,
    Input,
    ModelSource,
    OutputPath,
    Pooling,
    SampleBy,
    Seed,
    TableSource,
    TaskLength,
    TextSource,
    Tokenizer,
)
from attar.options.registry import verb
from attar.options.signature import options_of

if TYPE_CHECKING:
    from datasets import Dataset


@verb()
def mine(
    model: ModelSource,
    data: Annotated[TableSource | Any, Input()],
    *,
    out: OutputPath,
    queries: TextSource | None = None,
    k: Count = 10,
    max_queries: Count = 10_000,
    tokenizer: Tokenizer = None,
    sample_by: SampleBy | None = None,
    pooling: Pooling = None,
    max_length: TaskLength = None,
    seed: Annotated[Seed, Input()] = 0,
) -> "Dataset":
    """Find the best passages of each query by an embedding model: pairs for distilling and measuring a reranker.

    Documents without queries make their own: a sentence of a passage is the query, and the passage goes without that
    sentence (the inverse cloze task, 1906.00300). A judged collection gives the judged queries, with each passage's
    grade as label, 0 where nothing is said of it.

    Args:
        model: The embedding model that searches: a directory, a hub name, an ONNX export, or a model.
        data: A collection in BEIR's layout, or documents: a text file, a table with the column text, or a folder.
        out: File to write: .csv, .jsonl or .parquet, with the columns text (the query), text_pair (the passage), label.
        queries: Queries, one a line, in place of the collection's own or of drawn ones.
        k: Passages of each query.
        max_queries: Of more queries, so many are drawn.
        tokenizer: Of a model that is given as an object.
        sample_by: What a passage is in a file; a line where left out, and a paragraph of a folder's files.
        pooling: Makes an embedding model of an encoder alone; others say it themselves.
        max_length: Longest text in tokens that the embedding model reads; what it was saved with where left out.
        seed: Seed of every random choice.

    Returns:
        The table.

    Raises:
        ModelError: no embedding model.
        DataError: documents that cannot be read, fewer than two passages, or `out` ends otherwise.
        OutputError: `out` is there already.
        MissingExtraError: sentence-transformers is not installed.

    Examples:
        attar mine my-embedder --data documents --out pairs.csv
    """
    from attar.evaluation.mining import mine as work

    options = options_of(mine, locals())
    return work(
        model,
        data,
        queries=queries,
        out=out,
        tokenizer=tokenizer,
        options=options,
        seed=seed,
    )
