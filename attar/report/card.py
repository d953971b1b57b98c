"""The model card: `README.md` of a saved model, with its figures and how to use it."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from attar.report.formatting import count, duration, ends, figure, metric_name, percent, size, times
from attar.report.rows import ReportData, Row
from attar.report.summary import headline
from attar.storage.writing import write_atomic

# What `pipeline_tag` and transformers.pipeline call the task of a classification head.
_PIPELINE = "text-classification"


def card(
    name: str,
    *,
    lineage: Mapping[str, Any],
    row: Row | None = None,
    report: ReportData | None = None,
    labels: tuple[str, ...] = (),
    base_model: str | None = None,
    data: str | None = None,
    onnx: str | None = None,
    slim: bool = False,
) -> str:
    """The text of a Hugging Face model card with its YAML head.

    Args:
        name: of the model, the card's title.
        lineage: what `lineage.json` says of it (`stage`, `parent`, `options`); a parent may be a lineage itself.
        row: its measured figures; the headline and latency are put beside `report`'s teacher.
        report: what the row is from.
        labels: class names.
        base_model: hub name of the model that all began with, for the card's head; a local path has no place there.
        data: what it was trained and measured on, a line.
        onnx: path inside the directory of the exported model, where there is one.
        slim: whether its directory holds the code of its class, which a stranger has to trust.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    template = files("attar.report").joinpath("card.md.j2").read_text(encoding="utf-8")
    student = row is not None and row.role == "student"
    return environment.from_string(template).render(
        name=name,
        head=_head(name, row, report, base_model),
        summary=_summary(row, report),
        figures=_figures(row, report),
        stages=_stages(lineage),
        labels=labels,
        data=data,
        onnx=onnx,
        slim=slim,
        versions=dict(lineage.get("versions", {})),
        student=student,
        latency=report.settings.get("latency") if report else None,
    )


def write_card(directory: str | Path, text: str) -> Path:
    """Write a card as `README.md` of a model directory, whole or not at all.

    Raises:
        OutputError: the directory is not writable, or the disk is full.
    """
    path = Path(directory) / "README.md"
    write_atomic(path, text)
    return path


def _head(name: str, row: Row | None, report: ReportData | None, base_model: str | None) -> str:
    import yaml

    tags = ["attar", *(["knowledge-distillation"] if row is not None and row.role == "student" else [])]
    head: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": _PIPELINE, "tags": tags}
    if base_model is not None:
        head["base_model"] = base_model
    finite = {} if row is None else {k: v for k, v in row.metrics.items() if math.isfinite(v)}
    if finite:
        head["metrics"] = [metric for metric in finite if metric not in {"agreement", "kl"}]
        results = [
            {"type": k, "value": round(float(v), 4), "name": metric_name(k)} for k, v in finite.items()
        ]
        dataset = report.title if report is not None else "test texts"
        head["model-index"] = [
            {
                "name": name,
                "results": [
                    {
                        "task": {"type": _PIPELINE},
                        "dataset": {"name": dataset, "type": "text"},
                        "metrics": results,
                    }
                ],
            }
        ]
    return str(yaml.safe_dump(head, sort_keys=False, allow_unicode=True)).rstrip()


def _summary(row: Row | None, report: ReportData | None) -> str:
    if row is None or report is None or report.teacher is None or row.role == "teacher":
        return ""
    # The headline of a report is about its first student: here it is about this row.
    teachers = (other for other in report.rows if other.role == "teacher")
    own = replace(report, rows=(*teachers, replace(row, role="student")))
    sentence = headline(own)
    return "" if sentence == own.title else sentence.replace("The student", "This model", 1)


def _figures(row: Row | None, report: ReportData | None) -> str:
    """A Markdown table: what, this model, the teacher where there is one; "" without a figure."""
    if row is None:
        return ""
    teacher = report.reference(row) if report is not None and row.role != "teacher" else None

    def line(what: str, show: Any) -> tuple[str, str, str]:
        return what, show(row), "" if teacher is None else show(teacher)

    lines = [line(metric_name(name), lambda r, n=name: figure(n, r.metrics.get(n))) for name in row.metrics]
    if row.retained is not None and teacher is not None:
        around = ends(row.retained) + ("" if row.retained.missing else ", 95% interval")
        lines.insert(0, ("retained", f"{percent(row.retained.value)} ({around})", ""))
    lines.append(line("parameters", lambda r: count(r.parameters)))
    lines.append(line("size on disk", lambda r: size(r.bytes)))
    lines.append(line("FLOPs of a pass", lambda r: count(r.flops)))
    lines.append(line("latency, median", lambda r: duration(r.p50)))
    lines.append(line("latency, 90th percentile", lambda r: duration(r.p90)))
    if teacher is not None and teacher.p50 and row.p50:
        lines.append((f"speed-up in {row.runtime}", times(teacher.p50 / row.p50), times(1.0)))
    table = [
        ("", "this model", "teacher"),
        ("---", "---:", "---:"),
        *(cells for cells in lines if cells[1] != "–"),
    ]
    wide = 2 if teacher is None else 3
    return "\n".join(f"| {' | '.join(cells[:wide])} |" for cells in table) if table[2:] else ""


def _stages(lineage: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(stage, parent's name, options as JSON), the first stage first."""
    found = []
    here: Any = lineage
    while isinstance(here, Mapping) and here:
        parent = here.get("parent")
        of = (
            str(parent.get("name") or parent.get("stage") or "its parent")
            if isinstance(parent, Mapping)
            else str(parent or "")
        )
        options = json.dumps(here.get("options", {}), ensure_ascii=False, default=str, sort_keys=True)
        found.append(
            (str(here.get("stage", "made")), of, "" if options == "{}" else options.replace("`", "'"))
        )
        here = parent
    return found[::-1]
