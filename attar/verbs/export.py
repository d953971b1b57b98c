"""`attar.export`: a model as ONNX, fp32 and int8, compared with the model before it is written."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from attar.options.base import (
    ColumnNames,
    Flag,
    Input,
    ModelSource,
    OutputPath,
    Overwrite,
    Pooling,
    TableSource,
    TaskLength,
    Tokenizer,
    Weight,
)
from attar.options.registry import verb
from attar.options.signature import options_of

if TYPE_CHECKING:
    from attar.report.report import Report


@verb(stage=True)
def export(
    model: ModelSource,
    *,
    out: OutputPath,
    data: Annotated[TableSource | Any | None, Input()] = None,
    formats: Annotated[
        Sequence[Literal["fp32", "int8", "int8-static"]], Field(min_length=1), Flag("--format")
    ] = ("fp32", "int8"),
    columns: ColumnNames = None,
    tokenizer: Tokenizer = None,
    keep_fp32: Literal["auto"] | Sequence[str] = (),
    max_drop: Weight = 0.01,
    pooling: Pooling = None,
    max_length: TaskLength = None,
    overwrite: Overwrite = False,
) -> "Report":
    """Export a model to ONNX, one directory a format, each compared with PyTorch before it is written.

    Args:
        model: Model directory or hub name, or a model (then with its `tokenizer`).
        out: Directory to write; each format's directory in it appears whole or not at all.
        data: Texts, best with labels, on which the loss of int8 is measured; int8 needs them.
        formats: fp32, int8 (scales of activations found at run time), int8-static (fixed on the data).
        columns: Which column is what: text=sentence (also label, text_pair; tokens, tags; question, context, answers).
        tokenizer: Of a model that is given as an object.
        keep_fp32: Layers that stay in fp32, such as layer.0 or embeddings; auto for the few that int8 hurts most.
        max_drop: Largest loss of the task's metric in int8.
        pooling: Makes an embedding model of an encoder alone; others say it themselves.
        max_length: Longest text in tokens; 128 where left out, 384 of questions with contexts.
        overwrite: Replace what attar wrote there before.

    Returns:
        A report with a row for each format.

    Raises:
        ExportError: other logits than PyTorch's, or more loss than `max_drop`.
        DataError: int8 without data.

    Examples:
        attar export small --data dev.csv --out small-onnx
    """
    from attar.exporting.formats import export as work

    options = options_of(export, locals())
    return work(
        model,
        out=out,
        data=data,
        columns=columns,
        tokenizer=tokenizer,
        options=options,
        overwrite=overwrite,
    )
