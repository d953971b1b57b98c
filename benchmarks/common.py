"""What makes a script a benchmark: its options, where it works, the closing JSON line, and the result that is kept.

A benchmark is one function from its options and a directory to a `Result`, handed to `benchmark` at the end of its
script. What all have in common is said in README.md.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypedDict

import psutil
import torch
from datasets import disable_progress_bars
from filelock import FileLock
from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers.utils import logging

from attar import progress
from attar.report.json_values import plain
from attar.storage.writing import write_atomic

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("attar", "torch", "transformers", "onnxruntime")


class Figure(TypedDict):
    """One measured number beside its target; `value` is None where there is none, `met` where nothing can be said."""

    value: float | None
    target: float | None
    met: bool | None


class Result(NamedTuple):
    """What a benchmark found, with the settings that the figures belong to, and drawings (SVG) by file name.

    `part` names what of a benchmark was run, where its parts take hours each and are kept beside each other.
    """

    figures: Mapping[str, Figure]
    settings: Mapping[str, Any]
    drawings: Mapping[str, str] = {}
    part: str = ""


Measure = Callable[[argparse.Namespace, Path], Result]


def figure(value: float | None, target: float | None = None, at_least: bool = True) -> Figure:
    """Hold `value` against `target`: met when it is at least (else at most) the target.

    A value that is not finite never meets a target; None was not measured and neither meets nor misses it.
    """
    if value is None:
        return {"value": None, "target": target, "met": None}
    value = float(value)
    met = None if target is None else isfinite(value) and (value >= target if at_least else value <= target)
    return {"value": value if isfinite(value) else None, "target": target, "met": met}


def benchmark(
    measure: Measure,
    about: str | None,
    *,
    quick: str,
    threads: int = 2,
    seeds: bool = False,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Run a benchmark as a script: read the options, measure, print, and keep the result where `--keep` asks for it.

    Args:
        measure: what is measured; it prints its own tables.
        about: the script's docstring.
        quick: what `--quick` does.
        threads: the default of `--threads`.
        seeds: whether it has `--seeds`; a quick run has one.
        options: arguments of `add_argument` of its own options, by name.
    """
    asked = read(parser(about, quick=quick, threads=threads, seeds=seeds, options=options or {}))
    progress.attach(Console(width=110))
    with workplace(asked) as work:
        result = measure(asked, work)
    progress.attach(None)
    if asked.quick:  # which measures nothing, so nothing is met or missed
        figures = {name: figure(one["value"]) for name, one in result.figures.items()}
        result = result._replace(figures=figures)
    report(asked, result)


def parser(
    about: str | None,
    *,
    quick: str,
    threads: int,
    seeds: bool,
    options: Mapping[str, Mapping[str, Any]],
) -> argparse.ArgumentParser:
    """The options that all benchmarks have, and a benchmark's own; see `benchmark`."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help=f"{quick}; nothing is kept")
    made.add_argument(
        "--work", type=Path, default=None, help="directory of what is made: the same command goes on there"
    )
    made.add_argument("--keep", action="store_true", help="write the result to benchmarks/results")
    made.add_argument("--threads", type=int, default=threads)
    if seeds:
        made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    for name, settings in options.items():
        made.add_argument(name, **settings)
    return made


def read(made: argparse.ArgumentParser) -> argparse.Namespace:
    """What was asked for; libraries are quiet from here on."""
    options = made.parse_args()
    if options.quick and options.keep:
        made.error("--quick shows that everything runs, and measures nothing to keep: leave out one of both")
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    if options.quick and "seeds" in options:
        options.seeds = [0]
    return options


@contextmanager
def workplace(options: argparse.Namespace) -> Iterator[Path]:
    """The directory to work in, `--work` or one that is gone afterwards.

    It is of one benchmark with one set of options and of constants, those of its modules in capitals: what was made
    with others would pass for made with these. Options of several values only choose what is made.
    """
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        constants = {
            name: value
            for module in list(sys.modules.values())
            if _of_benchmark(module)
            for name, value in vars(module).items()
            if name.isupper() and not isinstance(value, Path)
        }
        chosen = {
            name: value
            for name, value in vars(options).items()
            if name != "keep" and isinstance(value, bool | int | float | str)
        }
        ours = json.loads(json.dumps(constants | chosen, default=lambda x: type(x).__name__))
        note = work / "constants.json"
        if not note.is_file() and any(work.iterdir()):
            _refuse(work, "what nobody knows which made")
        there = remembered(note, lambda: ours)
        if there != ours:
            names = sorted(name for name in {*there, *ours} if there.get(name) != ours.get(name))
            _refuse(work, "\n".join(_both(name, there.get(name), ours.get(name)) for name in names))
        yield work


def _refuse(work: Path, found: str) -> NoReturn:
    raise SystemExit(
        f"expected {work} to be new, or of this benchmark with its present options and constants\n"
        f"found {found}\ndo this: name another --work"
    )


def _both(name: str, there: Any, ours: Any) -> str:
    """A setting as it was and as it is; of a table of settings those entries that differ."""
    if isinstance(there, dict) and isinstance(ours, dict):
        keys = sorted(key for key in {*there, *ours} if there.get(key) != ours.get(key))
        there, ours = ({key: each[key] for key in keys if key in each} for each in (there, ours))
    return f"{name}: {there!r} there, {ours!r} now"


def _of_benchmark(module: Any) -> bool:
    """Whether a module is one of a benchmark's own."""
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).parent == RESULTS.parent and Path(file) != Path(__file__)


def once(out: Path, make: Callable[[Path], Any]) -> Path:
    """What `make` writes, unless it is there; of several processes one makes it, and the others wait for it."""
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        # Not the lock of the verb that writes it; a process that is killed gives it back.
        with FileLock(out.with_name(f".{out.name}.once")):
            if not out.exists():
                make(out)
    return out


def remembered(file: Path, make: Callable[[], Any]) -> Any:
    """What `make` returns, as JSON has it, unless `file` has it from an earlier run."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json.dumps(plain(make())))
    return json.loads(file.read_text(encoding="utf-8"))


def machine() -> dict[str, Any]:
    """Describe this machine by what decides speed: processor, cores, memory (GiB), versions. No names of hosts."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def report(options: argparse.Namespace, result: Result) -> None:
    """Print the figures and the closing line, one JSON object; with `--keep`, also `save` the result."""
    name = Path(sys.argv[0]).stem
    asked = {name: value for name, value in vars(options).items() if name not in ("work", "keep")}
    settings = _plain(asked | dict(result.settings))
    if options.keep:
        save(name, result._replace(settings=settings))
    table = Table("figure", "value", "target", "met", box=None)
    for title, one in result.figures.items():
        met = {True: "yes", False: "no", None: ""}[one["met"]]
        table.add_row(Text(title), _number(one["value"]), _number(one["target"]), met)
    Console(width=110).print(table)
    line = {"benchmark": name, "figures": result.figures, "settings": settings | {"machine": machine()}}
    print(json.dumps(line, ensure_ascii=False), flush=True)  # the last line, which programs read


def save(name: str, result: Result, directory: Path | None = None) -> Path:
    """Write the figures with the command, the machine and the date that they belong to.

    Returns:
        `directory/name.json`, or of a part `name-part.json`.
    """
    directory = directory or RESULTS
    content = {
        "benchmark": name,
        "command": _command(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "settings": _plain(result.settings),
        "figures": result.figures,
    }
    directory.mkdir(parents=True, exist_ok=True)
    for drawing, svg in result.drawings.items():
        write_atomic(directory / drawing, svg)
    path = directory / f"{name}{result.part and '-'}{result.part}.json"
    write_atomic(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return path


def committed(name: str) -> dict[str, Any]:
    """What `save` wrote of a benchmark, or of a part of one (`name-part`), as it is committed."""
    return dict(json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")))


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON has them; of a path its last part, since folders of others say nothing to a reader."""
    return dict(
        json.loads(json.dumps(plain(value), default=lambda x: x.name if isinstance(x, Path) else str(x)))
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _cpu_model() -> str:
    # platform.processor() is empty on most Linux builds, hence the kernel's own table.
    table = Path("/proc/cpuinfo")
    if table.exists():
        for line in table.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _command() -> str:
    # Only the last part of a full path: the result is for strangers, whose folders are others.
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    return " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words])
