"""A report in sentences: what the student retains, how much smaller and faster it is, and on what that stands."""

from attar.report.formatting import change, count, duration, ends, figure, metric_name, percent, times
from attar.report.rows import ReportData


def headline(report: ReportData) -> str:
    """What the student keeps, how much smaller and how much faster it is, in a sentence."""
    student, teacher = report.student, report.teacher
    if student is None or teacher is None:
        return report.title
    parts = []
    if student.retained is not None:
        kept, around = percent(student.retained.value), ends(student.retained).split(";")[0]
        agrees = f"agrees with the teacher on {kept} of the texts ({around})"
        if "overlap_10" in student.metrics:  # embeddings: what agrees is an order
            agrees = f"orders texts by similarity as the teacher does, with a rank correlation of {kept} ({around})"
        parts.append(
            agrees
            if report.main == "agreement"
            else f"keeps {kept} of the teacher's {metric_name(report.main)} ({around})"
        )
    if (ratio := report.smaller) is not None:
        parts.append(f"is {change(ratio, 'smaller', 'larger')}")
    if (ratio := report.faster) is not None:
        parts.append(("" if report.smaller else "is ") + change(ratio, "faster", "slower"))
    if not parts:
        return report.title
    return "The student " + (", ".join(parts[:-1]) + " and " if parts[1:] else "") + parts[-1] + "."


def footing(report: ReportData) -> str:
    """On what the headline stands: the two figures, the runtime, the fastest form."""
    student, teacher = report.student, report.teacher
    if student is None or teacher is None:
        return ""
    sure = student.retained is not None and not student.retained.missing
    over = "queries" if report.main == "ndcg@10" else "test texts"
    said = [f"{student.name} against {teacher.name}{f', 95% interval over {over}' if sure else ''}."]
    if report.main in student.metrics and report.main in teacher.metrics and report.main != "agreement":
        ours, theirs = (figure(report.main, row.metrics[report.main]) for row in (student, teacher))
        name = metric_name(report.main)
        said.append(f"{name[:1].upper()}{name[1:]} {ours} against {theirs}.")
    if student.parameters and teacher.parameters:
        said.append(f"{count(student.parameters)} parameters against {count(teacher.parameters)}.")
    same, where = report.reference(student), report.settings.get("latency")
    if same is not None and student.p50 and same.p50:
        other = "" if same.runtime == student.runtime else f" against {same.runtime}"
        at = f", {where}" if where else ""
        said.append(
            f"{duration(student.p50)} against {duration(same.p50)} a pass ({student.runtime}{other}{at})."
        )
    others = [
        r
        for r in report.rows
        if r.role == "student" and r.name == student.name and r.p50 and r is not student
    ]
    fastest = min(others, key=lambda row: row.p50 or 0.0, default=None)
    if fastest is not None and (gain := report.speedup(fastest)) is not None:
        said.append(
            f"As {fastest.runtime} it runs {times(gain)} as fast as the teacher in {teacher.runtime}."
        )
    return " ".join(said)


def remarks(report: ReportData) -> tuple[str, ...]:
    """The report's notes, and why figures have no interval, each reason once.

    A teacher held against its own answers has none, and needs no reason.
    """
    rows = [
        row for row in report.rows if not (row is report.teacher and row.quality and row.quality.value == 1)
    ]
    intervals = [*(row.retained for row in report.rows), *(row.quality for row in rows)]
    missing = dict.fromkeys(interval.missing for interval in intervals if interval and interval.missing)
    return tuple(dict.fromkeys((*report.notes, *missing)))
