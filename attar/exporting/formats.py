"""The formats of an export, one directory each, and the report of all of them."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from attar.data.columns import Columns
from attar.exporting.onnx import export as export_one
from attar.model.checkpoint import versions
from attar.options.base import Options
from attar.progress import say
from attar.report.report import Report, Row
from attar.storage.writing import check_directory, check_free


def export(
    model: str | Path | PreTrainedModel,
    *,
    out: str | Path,
    data: Any,
    columns: Columns | None,
    tokenizer: Any,
    options: Options,
    overwrite: bool,
) -> Report:
    """Export a model to ONNX, one directory a format below `out`; see `attar.export`."""
    rows: list[Row] = []
    check_directory(out)
    for precision in options.formats:
        check_free(Path(out) / precision, overwrite=overwrite)
    for precision in options.formats:
        kept = () if precision == "fp32" else options.keep_fp32
        place = Path(out) / precision
        made = export_one(
            model,
            place,
            precision=precision,
            keep_fp32=kept,
            max_drop=options.max_drop,
            overwrite=overwrite,
            data=data,
            columns=columns,
            tokenizer=tokenizer,
            max_length=options.max_length,
            pooling=options.pooling,
        )
        if not rows:
            known = {} if made.metric is None or made.torch is None else {made.metric: made.torch}
            rows.append(Row("model", "teacher", metrics=known, parameters=made.parameters))
        known = {} if made.metric is None or made.onnx is None else {made.metric: made.onnx}
        rows.append(
            Row(
                "model",
                "student",
                f"ONNX Runtime {precision}",
                metrics=known,
                bytes=made.bytes,
                directory=str(place),
            )
        )
        say(f"{precision}: {place}, logits within {made.difference:.2g} of torch's on {made.rows} texts")
    name = "agreement" if "agreement" in rows[0].metrics else next(iter(rows[0].metrics), "accuracy")
    return Report(f"{_name(model)} exported", name, tuple(rows), versions=versions())


def _name(model: str | Path | PreTrainedModel) -> str:
    return Path(str(model)).name if isinstance(model, str | Path) else type(model).__name__
