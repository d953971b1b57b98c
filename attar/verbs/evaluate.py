"""`attar.evaluate`: the quality of a model on a table or on plain text."""

from typing import TYPE_CHECKING, Annotated, Any

from attar.options.base import (
    MEASURING,
    ColumnNames,
    Count,
    Input,
    ModelSource,
    Pooling,
    SampleBy,
    Stride,
    TableSource,
    TaskLength,
    Tokenizer,
)
from attar.options.registry import verb
from attar.options.signature import options_of

if TYPE_CHECKING:
    from attar.report.report import Report


@verb(stage=True)
def evaluate(
    model: ModelSource,
    data: Annotated[TableSource | Any, Input()],
    *,
    teacher: ModelSource | None = None,
    columns: ColumnNames = None,
    tokenizer: Tokenizer = None,
    batch_size: Annotated[Count, MEASURING] = 32,
    pooling: Pooling = None,
    max_length: TaskLength = None,
    doc_stride: Stride = 128,
    sample_by: SampleBy = "line",
) -> "Report":
    """Measure a model on a table against its labels or a teacher, or a language model on plain text.

    A causal model reads every text through a window of `max_length` tokens (as many as every model has positions for,
    at most 1024, where left out) that moves by half of it; a masked model predicts 15% of the tokens of texts cut to
    `max_length` (128). Figures per byte compare across tokenizers.

    Args:
        model: A directory, a hub name, an ONNX export, or a model (then with its `tokenizer`).
        data: Table to measure on, or plain text for a language model; for an embedding model also a collection in
            BEIR's layout, triplets (anchor, positive, negative), or texts with labels that are read from embeddings.
        teacher: Measure agreement with this model too, and the share of its quality that is retained.
        columns: Which column is what: text=sentence (also label, text_pair; tokens, tags; question, context, answers).
        tokenizer: Of models that are given as objects.
        batch_size: Texts in a forward pass.
        pooling: Makes an embedding model of an encoder alone; others say it themselves.
        max_length: Longest text in tokens; 128 where left out, 384 of questions with contexts; of collections, triplets
            and probes what the embedding model was saved with.
        doc_stride: Tokens that windows of a long context or sentence share.
        sample_by: Of a language model, what a text is in a file: a line, a paragraph, or the whole document.

    Returns:
        A report with the metrics, and with intervals where a teacher is named.

    Raises:
        ModelError, DataError: see `open_model`, `read_table`; a table without labels needs a teacher.

    Examples:
        attar evaluate small --data test.csv --teacher teacher
    """
    from attar.evaluation.reports import evaluate as work

    options = options_of(evaluate, locals())
    return work(model, data, teacher=teacher, columns=columns, tokenizer=tokenizer, options=options)
