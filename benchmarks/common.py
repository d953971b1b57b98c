"""What every benchmark shares: figures with their targets, the machine's description, and the closing JSON line.

A benchmark is run as `python benchmarks/NAME.py [--quick]`. Its last line of output is one JSON object, from `report`.
A quick run only shows that the plumbing works: its figures are not kept.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypedDict

import psutil
import torch
from datasets import disable_progress_bars
from transformers.utils import logging

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "transformers", "onnxruntime")


class Figure(TypedDict):
    """One measured number beside its target; `met` is None where there is no target."""

    value: float
    target: float | None
    met: bool | None


def figure(value: float, target: float | None = None, at_least: bool = True) -> Figure:
    """Hold `value` against `target`: met when it is at least (else at most) the target.

    A value that is not finite never meets a target.
    """
    value = float(value)
    met = None if target is None else (value >= target if at_least else value <= target)
    return {"value": value, "target": target, "met": met}


def parser(about: str | None, quick: str, *, threads: int = 2) -> argparse.ArgumentParser:
    """The options that benchmarks share: `--quick` and what it does, and `--threads`."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help=quick)
    made.add_argument("--threads", type=int, default=threads)
    return made


def trains(made: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The options of a benchmark that trains models, in addition."""
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    made.add_argument("--work", type=Path, default=None, help="directory to keep the models in")
    return made


def keeps(made: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The option of a benchmark whose result is only kept when asked for, in addition."""
    made.add_argument("--keep", action="store_true", help="write the result to benchmarks/results")
    return made


def read(made: argparse.ArgumentParser) -> argparse.Namespace:
    """What was asked for; libraries are quiet from here on. A quick run has one seed."""
    options = made.parse_args()
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    if options.quick and "seeds" in options:
        options.seeds = [0]
    if options.quick and "keep" in options:
        options.keep = False
    return options


@contextmanager
def workplace(options: argparse.Namespace) -> Iterator[Path]:
    """The directory to keep models in, `--work` or one that is gone afterwards.

    It is of one benchmark with one set of constants, those of its modules in capitals: what was made with others would
    pass for made with these.
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
        ours = json.dumps(
            constants | {"QUICK_RUN": options.quick}, default=lambda x: type(x).__name__, sort_keys=True
        )
        note = work / "constants.json"
        there = note.read_text() if note.is_file() else "" if any(work.iterdir()) else ours
        if there != ours:
            raise SystemExit(
                f"expected {work} to be new, or of this benchmark with its present constants\n"
                f"found what {'others' if there else 'nobody knows which'} made\ndo this: name another --work"
            )
        note.write_text(ours)
        yield work


def _of_benchmark(module: Any) -> bool:
    """Whether a module is one of a benchmark's own."""
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).parent == RESULTS.parent and Path(file) != Path(__file__)


def once(out: Path, make: Any) -> Path:
    """What `make` writes, unless it is there."""
    if not out.exists():
        make(out)
    return out


def machine() -> dict[str, Any]:
    """Describe this machine by what decides speed: processor, cores, memory (GiB), versions. No names of hosts."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def report(
    benchmark: str, figures: Mapping[str, Figure], settings: Mapping[str, Any], *, keep: bool = False
) -> dict[str, Any]:
    """Print the closing line, one JSON object, and return it; with `keep`, also `save` it.

    Call it last: programs read the last line of the output.
    """
    line = {"benchmark": benchmark, "figures": dict(figures), "settings": dict(settings)}
    if keep:
        save(benchmark, figures, settings)
    print(json.dumps(line, ensure_ascii=False, default=str), flush=True)
    return line


def save(
    benchmark: str, figures: Mapping[str, Figure], settings: Mapping[str, Any], directory: Path = RESULTS
) -> Path:
    """Write `directory/benchmark.json`: the figures with the command, the machine and the date that they belong to."""
    content = {
        "benchmark": benchmark,
        "command": _command(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "settings": dict(settings),
        "figures": dict(figures),
    }
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{benchmark}.json"
    temporary = path.with_suffix(".partial")
    temporary.write_text(
        json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8"
    )
    temporary.replace(path)
    return path


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
