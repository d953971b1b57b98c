"""Predicted size and latency of candidates against those of their exports, for `benchmarks/compress.py`."""

import random
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from attar.anatomy.form import Form, LayerForm, form_of
from attar.anatomy.resolve import resolve
from attar.compression.candidate import Architecture, Candidate
from attar.compression.candidate_costs import CandidateCosts
from attar.compression.export_costs import ExportCosts
from attar.compression.shipping import REPEATS, directory_bytes, seconds_of_call, tokenizer_bytes
from attar.distillation.student import student
from attar.exporting import export
from attar.exporting.comparison import random_batch
from attar.model.checkpoint import load
from attar.model.onnx import OnnxModel
from attar.model.slim import class_for, config_for
from attar.progress import say

STUDENTS, PRUNED = 16, 8
# Each export is timed in so many rounds, all in turns: by itself, and in turns with the reference of all predictions.
ROUNDS = 3
CALL = {"length": 128, "batch": 1, "threads": 1}
CLOSE = 0.1


def export_costs(teacher: Path, rows: Any, work: Path, *, quick: bool = False) -> dict[str, Any]:
    """For each precision: predicted and measured milliseconds and bytes of candidates, students and pruned forms."""
    loaded = load(teacher)
    bound, chance = resolve(loaded.model), random.Random(0)
    forms: dict[Architecture, Form] = {}
    learning: Any = SimpleNamespace(bound=bound, texts=SimpleNamespace(loaded=loaded))
    learning.form = lambda a: forms.get(a) or a.student_form(bound, bound.shape.vocab)
    learning.pruned = SimpleNamespace(cost=lambda: lambda form: 0)
    for n in range(PRUNED):
        forms[Architecture("prune", 0, 0, 0, 0, 0, "all", n / 100)] = _pruned(
            form_of(loaded.model.config), chance
        )
    asked = [*(_student(bound.shape, chance) for _ in range(STUDENTS)), *forms]
    costs = CandidateCosts(
        learning,
        ExportCosts(learning, work / "call-times.json", **CALL),
        exact=("size", "latency"),
        vocabularies={"all": bound.shape.vocab},
        tokenizer_bytes={"all": tokenizer_bytes(loaded.tokenizer, work / "tokenizer")},
    )
    found: dict[str, Any] = {"fp32": [], "int8": []}
    for architecture in asked[: 2 if quick else None]:
        model = _built(loaded.model, architecture, forms)
        for precision, rest in found.items():
            candidate = Candidate(architecture, "all", precision)  # type: ignore[arg-type]
            costs.measure(candidate)
            out = work / "exports" / f"{architecture.key}-{precision}"
            options: Any = {
                "tokenizer": loaded.tokenizer,
                "precision": precision,
                "data": rows,
                "max_drop": 1.0,
            }
            if not out.exists():
                export(model, out, **options)
            predicted = costs(candidate)
            rest.append(
                {
                    "name": str(architecture) if architecture.way == "distil" else f"pruned {len(rest)}",
                    "predicted_ms": predicted["latency"],
                    "predicted_bytes": 1e6 * predicted["size"],
                    "bytes": directory_bytes(out),
                    "ms": [],
                    "times": [],
                    "out": str(out),
                    "candidate": candidate,
                }
            )
        say(f"{architecture}: exported")
    for _ in range(ROUNDS):
        for one in (one for rest in found.values() for one in rest):
            inputs = random_batch(loaded.model, loaded.tokenizer, CALL["batch"], CALL["length"])
            opened = OnnxModel(one["out"], threads=CALL["threads"])
            one["ms"].append(1e3 * seconds_of_call(opened, inputs, threads=CALL["threads"], repeats=REPEATS))
            one["times"].append(costs.exports.times_reference(partial(opened, inputs)))
    for one in (one for rest in found.values() for one in rest):
        one["predicted_times"] = one["predicted_ms"] / 1e3 / costs.exports.reference_seconds
        del one["out"], one["candidate"]
    return found


def shares(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Parts of the candidates whose latency is within a tenth of the predicted one, and of repeats; errors."""
    times = np.array([row["ms"] for row in rows])
    middle = np.median(times, axis=1)
    ratio = np.array([row["predicted_ms"] for row in rows]) / middle
    times_as_long = np.median([row["times"] for row in rows], axis=1)
    beside = np.array([row["predicted_times"] for row in rows]) / times_as_long
    sizes = np.array([row["predicted_bytes"] / row["bytes"] for row in rows])
    return {
        "latency within a tenth": float((abs(ratio - 1) <= CLOSE).mean()),
        "latency within a tenth, as multiples": float((abs(beside - 1) <= CLOSE).mean()),
        "repeats within a tenth": float((abs(times / middle[:, None] - 1) <= CLOSE).mean()),
        "median error of latency": float(np.median(abs(ratio - 1))),
        "median error of latency, as multiples": float(np.median(abs(beside - 1))),
        "spread of repeats": float(np.median(times.max(axis=1) / times.min(axis=1) - 1)),
        "largest error of size": float(abs(sizes - 1).max()),
    }


def _student(shape: Any, chance: random.Random) -> Architecture:
    size = chance.choice((16, 32, 64))
    hidden = size * chance.randint(max(1, 64 // size), shape.hidden // size)
    ffn = hidden * chance.choice((1, 2, 3, 4))
    embedding = chance.choice((hidden, hidden // 2))
    return Architecture("distil", chance.randint(1, shape.layers), hidden, hidden // size, ffn, embedding)


def _pruned(form: Form, chance: random.Random) -> Form:
    """As pruning leaves layers: whole heads where the hidden size stays, else everything."""
    part = chance.uniform(0.3, 0.95)

    def some(size: int) -> int:
        return max(1, round(size * min(1.0, part * chance.uniform(0.8, 1.2))))

    every = chance.random() < 0.5
    hidden = some(form.hidden) if every else form.hidden
    layers = [
        LayerForm(
            some(x.heads), some(x.key) if every else x.key, some(x.value) if every else x.value, some(x.ffn)
        )
        for x in form.layers
    ]
    return Form(hidden, hidden, form.vocab, tuple(layers))


def _built(teacher: Any, architecture: Architecture, forms: dict[Architecture, Form]) -> Any:
    if architecture in forms:
        config = config_for(teacher.config, forms[architecture])
        model = class_for(teacher, config)(config)
    else:
        names = ("layers", "hidden", "heads", "ffn", "embedding")
        sizes = {name: getattr(architecture, name) for name in names}
        model = student(teacher, init="random", **sizes).model
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.02)
    return model.eval()
