"""`attar.compare`: quality, size and speed of models side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from attar.options.base import (
    MEASURING,
    ColumnNames,
    Count,
    Input,
    OutputPath,
    Pooling,
    PreTrainedModel,
    SampleBy,
    Stride,
    TableSource,
    TaskLength,
)
from attar.options.registry import verb
from attar.options.signature import options_of

if TYPE_CHECKING:
    from attar.report.report import Report


@verb()
def compare(
    models: Annotated[
        Sequence[str | Path | PreTrainedModel] | Mapping[str, str | Path | PreTrainedModel], Input()
    ],
    data: Annotated[TableSource | Any, Input()],
    *,
    columns: ColumnNames = None,
    out: OutputPath | None = None,
    batch_size: Annotated[Count, MEASURING] = 32,
    pooling: Pooling = None,
    max_length: TaskLength = None,
    doc_stride: Stride = 128,
    latency_batch: Annotated[Count, MEASURING] = 1,
    latency_length: Annotated[Count, MEASURING] = 128,
    sample_by: SampleBy = "line",
    threads: Annotated[Count | None, MEASURING] = None,
) -> "Report":
    """Compare quality, size and latency of models side by side, with intervals; the first is the teacher.

    All models are timed in turns in one run. Language models are compared on plain text (see `evaluate`).

    Args:
        models: Model directories, hub names, ONNX exports or models; by name, or named after their directories.
        data: Table to measure on (see `evaluate` for other data); without labels agreement with the first model counts.
        columns: Which column is what: text=sentence (also label, text_pair; tokens, tags; question, context, answers).
        out: Directory for report.html and report.json.
        batch_size: Texts in a forward pass of the evaluation.
        pooling: Makes an embedding model of an encoder alone; others say it themselves.
        max_length: Longest text in tokens; 128 where left out, 384 of questions with contexts; of collections, triplets
            and probes what the embedding model was saved with.
        doc_stride: Tokens that windows of a long context or sentence share.
        latency_batch: Texts in a timed call.
        latency_length: Tokens of each text in a timed call.
        sample_by: Of language models, what a text is in a file: a line, a paragraph, or the whole document.
        threads: Threads of each model; as many as PyTorch uses now where left out.

    Returns:
        A report with a row for each model.

    Raises:
        ModelError, DataError: see `open_model`, `read_table`, `attar.evaluation.comparison.compare`.

    Examples:
        attar compare teacher small small-onnx/int8 --data test.csv --out report
    """
    from attar.evaluation.reports import compare as work
    from attar.pruning.pipeline import shape_in
    from attar.storage.writing import check_directory

    options = options_of(compare, locals())
    if out is not None:
        check_directory(out)
    report = work(models, data, columns=columns, options=options, shape_in=shape_in)
    if out is not None:
        report.write(out)
    return report
