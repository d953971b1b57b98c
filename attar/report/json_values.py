"""A report's values as JSON has them, and back."""

import math
from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """Values as JSON has them: lists, string keys, null for NaN and infinity."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "item"):  # a numpy scalar
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def restore_nan(found: dict[str, Any]) -> dict[str, Any]:
    """Null back to NaN where a number must stand: in metrics, the ends of intervals, and curves."""

    def numbers(parts: dict[str, Any]) -> dict[str, Any]:
        return {name: math.nan if value is None else value for name, value in parts.items()}

    for row in found["rows"]:
        row["metrics"] = numbers(row["metrics"])
        for name in ("quality", "retained", "speedup"):
            row[name] = row.get(name) and numbers(row[name])
    found["curves"] = {
        stage: [(step, numbers(parts)) for step, parts in points] for stage, points in found["curves"].items()
    }
    return found
