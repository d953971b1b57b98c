"""From a trained candidate to what is shipped: vocabulary trimmed, exported, and measured as it lies on disk."""

import copy
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from attar.compression.candidate import Candidate
from attar.compression.data import Texts
from attar.errors import ExportError
from attar.evaluation import memory
from attar.evaluation.counting import flops
from attar.evaluation.timing import Array, Clock, interleaved
from attar.exporting.comparison import random_batch
from attar.exporting.onnx import export
from attar.model.onnx import OnnxModel
from attar.progress import say
from attar.pruning.vocabulary import config_ids, restrict
from attar.storage.writing import write_atomic

# Rounds of timing an export alone, and in turns with the teacher, which is the slower of the two; and the spread of
# repeated timings (quartiles over median) above which a machine is too busy.
REPEATS, TURNS, BUSY = 40, 20, 0.25

Call = Callable[[], Any]


@dataclass(frozen=True)
class Shipped:
    """An export as it lies on disk.

    Attributes:
        directory: with model.onnx, config and tokenizer.
        costs: measured, by the names of the limits; and `speedup`, how many times as long a call of the teacher takes,
            timed in turns.
        metrics: of its answers on the dev table.
        kept_fp32: layers that an int8 export leaves in fp32.
        scales: how int8 finds the scales of its inputs; empty in fp32.
    """

    directory: Path
    costs: Mapping[str, float]
    metrics: Mapping[str, float]
    kept_fp32: tuple[str, ...] = ()
    scales: str = ""

    @property
    def int8(self) -> str:
        """How an export computes in int8; empty in fp32."""
        kept = f"; in fp32: {', '.join(self.kept_fp32)}" if self.kept_fp32 else ""
        return self.scales and f"scales {self.scales}{kept}"


def trimmed(model: PreTrainedModel, tokenizer: Any, kept: Sequence[int]) -> tuple[PreTrainedModel, Any]:
    """A model and its tokenizer with the tokens `kept` alone: rows of its embedding, and of an output matrix."""
    if len(kept) >= model.config.vocab_size:
        return model, tokenizer
    config = copy.deepcopy(model.config)
    for name, value in config_ids(config, kept).items():
        setattr(config, name, value)
    with torch.random.fork_rng(devices=[]):
        small = type(model)(config)
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    by_token = {id(weight) for end in ends if end is not None for weight in end.parameters()}
    rows, state = torch.tensor(kept), model.state_dict()
    for name, weight in model.named_parameters(remove_duplicate=False):
        if id(weight) in by_token:
            state[name] = weight.detach()[rows]
    small.load_state_dict(state)
    small.tie_weights()
    small.config.architectures = [type(small).__name__]
    return small.eval(), restrict(tokenizer, kept)


def ship(
    model: PreTrainedModel,
    tokenizer: Any,
    candidate: Candidate,
    out: Path,
    texts: Texts,
    *,
    length: int,
    batch: int,
    threads: int,
    max_drop: float,
    teacher: Path | None = None,
    memory_too: bool = False,
    static: bool = False,
) -> Shipped:
    """Export a model, and measure size, latency and quality on dev; what was exported before is read.

    Of an export that was timed by another call only the call is timed anew.

    Args:
        model, tokenizer: of the vocabulary that is shipped.
        teacher: export of the teacher in fp32, which the call is timed in turns with; None where it is made here.
        max_drop: of the metric that int8 may cost; layers are kept in fp32 until it is met. None are at 1.
        static: fix the scales of int8 beforehand, on training texts; all that can be is int8 then.

    Raises:
        ExportError: a graph that ONNX Runtime cannot quantize with fixed scales.
    """
    record = out.with_name(f"{out.name}.json")
    call = {"length": length, "batch": batch, "threads": threads}
    known = json.loads(record.read_text()) if record.is_file() else {}
    scales = (
        "" if candidate.precision == "fp32" else "fixed on the texts" if static else "found while it runs"
    )
    if known.get("call") == call and (not memory_too or "memory" in known["costs"]):
        return Shipped(out, known["costs"], known["metrics"], tuple(known["kept_fp32"]), scales)
    if known:  # of another call, which is timed anew
        kept = tuple(known["kept_fp32"])
    else:
        shutil.rmtree(out, ignore_errors=True)
        kept = _exported(model, tokenizer, candidate, out, texts, max_drop, static=static)
    opened = OnnxModel(out, threads=threads)
    costs = {
        "size": directory_bytes(out) / 1e6,
        "parameters": float(model.num_parameters()),
        "flops": flops(model, batch, length),
    }
    shape = {"length": length, "batch": batch}
    costs |= speed(_call(opened, model, tokenizer, **shape), teacher, texts, **call)
    if memory_too:
        costs["memory"] = memory.peak(out, batch_size=batch, length=length, threads=threads) / 1e6
    if known:
        metrics = known["metrics"]
    elif candidate.precision == "fp32" and model is texts.loaded.model:
        metrics = dict(texts.teacher_metrics)  # which the export was compared with
    else:
        metrics = texts.measured(opened, tokenizer)
    made = Shipped(out, costs, metrics, kept, scales)
    write_atomic(record, json.dumps({"call": call, "costs": costs, "metrics": metrics, "kept_fp32": kept}))
    return made


def _exported(
    model: PreTrainedModel,
    tokenizer: Any,
    candidate: Candidate,
    out: Path,
    texts: Texts,
    max_drop: float,
    *,
    static: bool,
) -> tuple[str, ...]:
    """Write the export; the layers that int8 leaves in fp32."""
    if candidate.precision == "fp32":
        export(model, out, tokenizer=tokenizer, max_length=texts.max_length)
        return ()
    if not static:
        return _int8(model, tokenizer, out, texts, max_drop)
    options: dict[str, Any] = {
        "tokenizer": tokenizer,
        "data": texts.compared,
        "max_length": texts.max_length,
    }
    export(model, out, precision="int8-static", calibration=texts.tables.train, max_drop=1.0, **options)
    return ()


def _int8(
    model: PreTrainedModel, tokenizer: Any, out: Path, texts: Texts, max_drop: float
) -> tuple[str, ...]:
    """Export in int8, with the matrices that lose most in fp32 where all in int8 lose too much; which those are."""
    options: dict[str, Any] = {"tokenizer": tokenizer, "precision": "int8", "data": texts.compared}
    if max_drop >= 1:
        return export(model, out, **options, max_length=texts.max_length, max_drop=1.0).keep_fp32
    options["max_length"] = texts.max_length
    try:
        return export(model, out, **options, keep_fp32="auto", max_drop=max_drop).keep_fp32
    except ExportError as error:  # what it costs is measured, and weighed against what it saves
        say(f"int8: expected {error.expected}, found {error.found}")
        return export(model, out, **options, max_drop=1.0).keep_fp32


def speed(
    call: Call, teacher: Path | None, texts: Texts, *, length: int, batch: int, threads: int
) -> dict[str, float]:
    """`latency`, milliseconds of a call, p50; and `speedup`, of the teacher's over it in each round, the median.

    Args:
        call: of an export.
        teacher: export to time in turns with; None where the call is of that one.
    """
    if teacher is None:
        return {
            "latency": 1e3 * _median(_timed({"export": call}, REPEATS, threads)["export"]),
            "speedup": 1.0,
        }
    loaded = texts.loaded
    whole = OnnxModel(teacher, threads=threads)
    calls = {
        "export": call,
        "teacher": _call(whole, loaded.model, loaded.tokenizer, length=length, batch=batch),
    }
    seconds = _timed(calls, TURNS, threads)
    return {
        "latency": 1e3 * _median(seconds["export"]),
        "speedup": _median(seconds["teacher"] / seconds["export"]),
    }


def seconds_of_call(
    opened: OnnxModel, inputs: dict[str, torch.Tensor], *, threads: int, repeats: int
) -> float:
    """Seconds of one call without padding, p50."""
    inputs["attention_mask"][:] = 1
    return _median(_timed({"export": lambda: opened(inputs)}, repeats, threads)["export"])


def clock_of(threads: int) -> Clock:
    """The processor's clock where one thread computes, since other work on the machine disturbs it less."""
    return "cpu" if threads == 1 else "wall"


def _call(opened: OnnxModel, model: PreTrainedModel, tokenizer: Any, *, length: int, batch: int) -> Call:
    """A call of an export on random texts of one length."""
    inputs = random_batch(model, tokenizer, batch, length)
    inputs["attention_mask"][:] = 1
    return lambda: opened(inputs)


def _timed(calls: Mapping[str, Call], repeats: int, threads: int) -> dict[str, Array]:
    """Seconds of each call in turns; says where the machine is too busy to rely on them."""
    seconds = interleaved(calls, repeats=repeats, clock=clock_of(threads))
    low, middle, high = np.quantile(seconds["export"], (0.25, 0.5, 0.75))
    if high - low > BUSY * middle:
        clock = "the processor's clock, which that disturbs least" if threads == 1 else "the median"
        say(
            f"this machine is busy: repeated calls differ by {(high - low) / middle:.0%}; what counts is {clock}"
        )
    return seconds


def _median(values: Array) -> float:
    return float(np.median(values))


def directory_bytes(place: Path) -> int:
    """Bytes of all files in a directory."""
    return sum(file.stat().st_size for file in place.rglob("*") if file.is_file())


def tokenizer_bytes(tokenizer: Any, place: Path) -> int:
    """Bytes of a tokenizer's files."""
    tokenizer.save_pretrained(place)
    return directory_bytes(place)
