"""A report as a table: its columns as words, and the table of a terminal."""

from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any

from attar.report.formatting import count, duration, figure, metric_name, percent_interval, size, times
from attar.report.rows import ReportData

if TYPE_CHECKING:
    from rich.table import Table

# Columns that a narrow terminal does without, the first first, and one more where names are broken, too.
_DISPENSABLE = (
    "memory",
    "MRR@10",
    "top-1 agreement",
    "texts/s",
    "FLOPs",
    "p90",
    "KL",
    "nDCG@10, teacher's index",
    "size",
    "agreement",
)
_LAST = ("p50",)
_WORDS = ("model", "runtime")
_GAP = 2
# Metrics that have a column beside the main one.
_BESIDE = (
    "exact_match",
    "mrr@10",
    "ndcg@10_in_teachers_index",
    "agreement",
    "top_1_agreement",
    "kl",
    "perplexity",
    "pseudo_perplexity",
    "bits_per_byte",
    "pseudo_bits_per_byte",
)


def table(report: ReportData, width: int | None = None) -> "Table":
    """For a terminal of `width` letters, its own where None; columns that find no room are named below."""
    from rich.table import Table
    from rich.text import Text

    cells_of, left_out, widths = _fitted(report, width or get_terminal_size().columns)
    made = Table(title=Text(report.title, style="bold"), title_justify="left", header_style="dim", box=None)
    made.pad_edge, made.caption_justify = False, "left"
    made.caption = f"a wider terminal also shows {', '.join(left_out)}" if left_out else None
    for name in cells_of:
        words = name in _WORDS
        justify: Any = "left" if words else "right"
        made.add_column(name, justify=justify, no_wrap=not words, width=widths.get(name))
    styles = {"teacher": "cyan", "student": "bold magenta", "baseline": "dim"}
    for i, row in enumerate(report.rows):
        cells = [Text(column[i]) for column in cells_of.values()]
        made.add_row(*cells, style=styles[row.role])
    return made


def columns(report: ReportData) -> dict[str, list[str]]:
    """Heading -> a cell per row, as words; columns without a figure are left out."""
    found = {"model": [row.name for row in report.rows], "runtime": [row.runtime for row in report.rows]}
    shown = {report.main: None} | {
        name: None for row in report.rows for name in row.metrics if name in _BESIDE
    }
    found |= {
        {"agreement": "agreement", "kl": "KL"}.get(name, metric_name(name)): [
            figure(name, row.metrics.get(name)) for row in report.rows
        ]
        for name in shown
    }
    if report.main == "agreement":  # which is what is retained
        kept = [
            percent_interval(row.retained) if row.retained else cell
            for row, cell in zip(report.rows, found["agreement"], strict=True)
        ]
        found["agreement"] = kept
    else:
        found["retained"] = [percent_interval(row.retained) for row in report.rows]
    found["params"] = [count(row.parameters) for row in report.rows]
    found["size"] = [size(row.bytes) for row in report.rows]
    found["FLOPs"] = [count(row.flops) for row in report.rows]
    found["p50"] = [duration(row.p50) for row in report.rows]
    found["p90"] = [duration(row.p90) for row in report.rows]
    found["speed-up"] = [times(report.speedup(row)) for row in report.rows]
    found["texts/s"] = [count(row.throughput) for row in report.rows]
    found["memory"] = [size(row.memory) for row in report.rows]
    return {name: cells for name, cells in found.items() if any(cell != "–" for cell in cells)}


def _fitted(report: ReportData, room: int) -> tuple[dict[str, list[str]], list[str], dict[str, int]]:
    """The columns for which there is room, those for which there is none, and the widths of the columns of words."""
    cells_of, left_out = columns(report), []
    wanted = {name: max(len(name), *map(len, cells)) for name, cells in cells_of.items()}
    words = {name: _longest_word([name, *cells_of.get(name, ())]) for name in _WORDS}
    for names, widths in ((_DISPENSABLE, wanted), (_LAST, wanted | words)):
        for name in names:
            if sum(widths[name] + _GAP for name in cells_of) - _GAP <= room:
                break
            if name != report.main and name in cells_of:
                del cells_of[name]
                left_out.append(name)
    # Where names have to be broken, it is between words, and the runtime has the room that is left, then the model.
    left = room - sum((wanted | words)[name] + _GAP for name in cells_of) + _GAP
    for name in reversed(_WORDS):
        more = max(0, min(left, wanted.get(name, 0) - words[name]))
        words[name], left = words[name] + more, left - more
    return cells_of, left_out, words


def _longest_word(cells: list[str]) -> int:
    return max(len(word) for cell in cells for word in cell.split())
