"""`report.html`: one file that opens offline, from a template, with the plots drawn into it."""

import json
import math
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from attar.report import formatting, plots, summary, table
from attar.report.frontier import frontier_svg
from attar.report.heatmap import heatmap_svg
from attar.report.rows import ReportData
from attar.report.shape import shape_svg

if TYPE_CHECKING:
    from jinja2 import Environment

# Columns that the page sets in small print below another one.
_FOLDS = {"params": "size", "p50": "p90"}


def render(report: ReportData) -> str:
    """The page of a report. All text of the user is escaped."""
    from markupsafe import Markup

    names, columns = plots.part_names(report.curves), table.columns(report)
    curves = [(stage, Markup(plots.curve(stage, points, names))) for stage, points in report.curves.items()]
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            headline=summary.headline(report),
            footing=summary.footing(report),
            remarks=summary.remarks(report),
            kept="agreement" if report.main == "agreement" else "retained",
            sure=any(row.quality and not row.quality.missing for row in report.rows),
            tiles=_tiles(report),
            columns=columns,
            folds={name: inside for name, inside in _FOLDS.items() if {name, inside} <= columns.keys()},
            folded={"runtime"}
            | {inside for name, inside in _FOLDS.items() if {name, inside} <= columns.keys()},
            best=_best(report),
            plot=Markup(plots.quality_latency(report.rows, report.main)),
            curves=curves,
            shapes=[(shape.name, Markup(shape_svg(shape))) for shape in report.shapes],
            heat=Markup(heatmap_svg(report.heat)) if report.heat else "",
            frontiers=[Markup(frontier_svg(report.frontier, cost)) for cost in ("latency", "bytes")]
            if report.frontier
            else [],
            legend=[
                (name, "ink" if name == "loss" else f"c{i % plots.LINES}") for i, name in enumerate(names)
            ],
            speakers=[(said.name, said.role) for said in report.examples[0].says] if report.examples else [],
            details=[
                ("Settings", report.settings),
                ("Versions", report.versions),
                ("Machine", report.machine),
            ],
        )
    )


def _tiles(report: ReportData) -> list[tuple[str, ...]]:
    """Big figures below the headline: (figure, what it is, on what it stands)."""
    student, teacher = report.student, report.teacher
    if student is None or teacher is None:
        return []
    found: list[tuple[str, ...]] = []
    if student.retained is not None:
        kept = f"of the teacher's {formatting.metric_name(report.main)} kept"
        what = "agreement with the teacher" if report.main == "agreement" else kept
        ends = formatting.ends(student.retained)
        note = ends if student.retained.missing else f"95% interval {ends}"
        found.append((formatting.percent(student.retained.value), what, note))
    if report.smaller is not None:
        if report.stored_otherwise:
            note = f"{formatting.size(teacher.bytes)} → {formatting.size(student.bytes)} on disk"
        else:
            note = (
                f"{formatting.count(teacher.parameters)} → {formatting.count(student.parameters)} parameters"
            )
        found.append((*formatting.change(report.smaller, "smaller", "larger").split(), note))
    reference = report.reference(student)
    if report.faster is not None and reference is not None:
        note = (
            f"{formatting.duration(reference.p50)} → {formatting.duration(student.p50)} in {student.runtime}"
        )
        found.append((*formatting.change(report.faster, "faster", "slower").split(), note))
    return found


def _best(report: ReportData) -> list[str]:
    """Class names of the table's rows: the student that the headline is about stands out."""
    return [f"{row.role} subject" if row is report.student else row.role for row in report.rows]


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    def source(name: str) -> str:
        return files("attar.report").joinpath(name).read_text(encoding="utf-8")

    environment = Environment(
        loader=FunctionLoader(source),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=formatting.percent, ends=formatting.ends, pretty=_pretty)
    return environment


def _pretty(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:g}"
    return json.dumps(value, ensure_ascii=False, indent=2, default=str)
