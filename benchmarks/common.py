"""What every benchmark shares: figures with their targets, the machine's description, and the closing JSON line.

A benchmark is run as `python benchmarks/NAME.py [--quick]`. Its last line of output is one JSON object, from `report`.
A quick run only shows that the plumbing works: its figures are not kept.
"""

import json
import os
import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypedDict

import psutil

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
