"""What a model costs: parameters, bytes, operations, latency, throughput, memory. Models are timed in turns."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from attar.errors import ModelError
from attar.evaluation import memory as memory_
from attar.evaluation.counting import flops, parameters
from attar.evaluation.timing import Clock, interleaved, median_interval, torch_threads
from attar.maths.statistics import Interval
from attar.model import checkpoint
from attar.model.onnx import FILE, REPORT, OnnxModel, is_onnx
from attar.model.pretrained import from_pretrained

Array = NDArray[Any]
Source = nn.Module | OnnxModel | str | Path


@dataclass(frozen=True)
class Speed:
    """What one model costs at one shape.

    Attributes:
        name: the model's key.
        runtime: what computed it, and in which number format.
        batch_size: texts per call, B.
        length: tokens per text, T, no padding.
        parameters: how many; tied weights once.
        bytes: of the weights on disk; of the parameters in memory for a model that is not saved.
        flops: of one call: 2 x the multiply-adds of all matrix products; not softmax, norms or activations.
        p50, p90: percentiles of the seconds that one call takes.
        throughput: texts per second, B / p50.
        speedup: of the reference's time over this model's, taken in each round: median and its 95% interval.
        memory: peak bytes that the model adds to a fresh process; None where it is not on disk or was not asked for.
    """

    name: str
    runtime: str
    batch_size: int
    length: int
    parameters: int
    bytes: int
    flops: float
    p50: float
    p90: float
    throughput: float
    speedup: Interval
    memory: int | None


def bench(
    models: Mapping[str, Source],
    *,
    batch_sizes: Sequence[int] = (1,),
    lengths: Sequence[int] = (128,),
    repeats: int = 50,
    threads: int | None = None,
    clock: Clock = "wall",
    memory: bool = False,
    reference: str | None = None,
    pooling: str | None = None,
) -> list[Speed]:
    """Time models in turns, A B C, B C A, …: what disturbs the machine for a while disturbs all of them.

    Before each timed call its model is called once untimed, so that caches hold what they hold when one model serves.

    Args:
        models: torch models, ONNX models, or directories of either, by name.
        batch_sizes: texts per call.
        lengths: tokens per text.
        repeats: rounds, each of which times every model once.
        threads: that compute, for all models alike; where None, the number that an `OnnxModel` was opened with, else
            torch's present one.
        clock: `wall`, or `cpu`, the processor time of the calling thread, which other work on the machine disturbs far
            less; the same thing where one thread computes on a quiet machine, so it takes `threads=1`.
        memory: also start a process per model and shape, to measure its peak memory.
        reference: the model that `speedup` is relative to; the first where None.
        pooling: makes an embedding model of the directory of an encoder alone.

    Returns:
        A row per shape and model.

    Raises:
        ModelError: there is no model, `reference` names none, or the clock does not fit the threads.
    """
    reference = reference or next(iter(models), "")
    if reference not in models:
        raise ModelError(
            expected=f"reference to be one of {', '.join(models)}", found=repr(reference), fix="name one"
        )
    torch_has = torch.get_num_threads()
    # An export that asked for no number is timed with torch's, as the others are.
    asked = (m.threads if isinstance(m, OnnxModel) else None for m in models.values())
    computing = {threads or own or torch_has for own in asked}
    if len(computing) > 1 or (clock == "cpu" and computing != {1}):
        raise ModelError(
            expected="the same number of threads for all models"
            + (', 1 with clock="cpu"' if clock == "cpu" else ""),
            found=", ".join(sorted(map(str, computing))),
            fix="pass threads=1",
        )
    count = computing.pop() or torch_has
    rows = []
    with torch_threads(count):
        loaded = {name: _load(model, count, pooling) for name, model in models.items()}
        for size in batch_sizes:
            for length in lengths:
                inputs = _inputs(size, length, loaded.values())
                calls = {name: _call(model, inputs) for name, model in loaded.items()}
                seconds = interleaved(
                    calls, repeats=repeats, clock=clock, description=f"time {size} x {length}"
                )
                for name, model in loaded.items():
                    peak = None
                    place = _path(models[name])
                    if memory and place is not None:
                        shape = {"batch_size": size, "length": length, "threads": count}
                        peak = memory_.peak(place, **shape, pooling=pooling)
                    ratio = median_interval(seconds[reference] / seconds[name])
                    rows.append(_row(name, model, place, size, length, seconds[name], ratio, peak))
    return rows


def _load(model: Source, threads: int, pooling: str | None) -> nn.Module | OnnxModel:
    if isinstance(model, nn.Module):
        return model.eval()
    if isinstance(model, OnnxModel):  # again, for its threads to be those of the others
        return OnnxModel(model.path, threads=threads)
    if is_onnx(model):
        return OnnxModel(model, threads=threads)
    found: nn.Module = checkpoint.load(model, pooling=pooling).model
    return found


def _call(model: nn.Module | OnnxModel, inputs: dict[str, torch.Tensor]) -> Callable[[], Any]:
    if isinstance(model, OnnxModel):
        arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
        return lambda: model(arrays)

    def call() -> None:
        with torch.inference_mode():
            model(**inputs)

    return call


def _inputs(size: int, length: int, models: Any) -> dict[str, torch.Tensor]:
    vocabulary = min((_shape(m).config.vocab_size for m in models), default=100)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, max(6, vocabulary), (size, length), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _row(
    name: str,
    model: nn.Module | OnnxModel,
    place: Path | None,
    size: int,
    length: int,
    seconds: Array,
    speedup: Interval,
    memory: int | None,
) -> Speed:
    shape = _shape(model)
    p50, p90 = (float(value) for value in np.percentile(seconds, (50, 90)))
    return Speed(
        name=name,
        runtime=_runtime(model),
        batch_size=size,
        length=length,
        parameters=parameters(shape),
        bytes=_bytes(model, place),
        flops=flops(shape, size, length),
        p50=p50,
        p90=p90,
        throughput=size / p50,
        speedup=speedup,
        memory=memory,
    )


def _shape(model: nn.Module | OnnxModel) -> Any:
    """A torch model to count in: itself, or, of an ONNX directory, what its config makes, without weights."""
    if isinstance(model, nn.Module):
        return model
    from transformers import AutoConfig

    directory = model.path.parent
    if not (directory / "config.json").is_file():
        raise ModelError(
            expected=f"config.json beside {FILE} in {directory}",
            found="none",
            fix="use the directory that attar wrote",
        )
    config = from_pretrained(AutoConfig, directory)
    with torch.device("meta"):
        return checkpoint.loader_of(config, checkpoint.saved_head(config)).from_config(config)


def _runtime(model: nn.Module | OnnxModel) -> str:
    if isinstance(model, nn.Module):
        return "torch fp32"
    record = model.path.parent / REPORT
    precision = json.loads(record.read_text(encoding="utf-8"))["precision"] if record.is_file() else ""
    return f"ONNX Runtime {precision}".strip()


def _bytes(model: nn.Module | OnnxModel, place: Path | None) -> int:
    if isinstance(model, OnnxModel):
        return model.bytes
    if place is not None and place.is_dir():
        files = [file for kind in ("*.safetensors", "*.bin") for file in place.glob(kind)]
        return sum(file.stat().st_size for file in files)
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())


def _path(model: Source) -> Path | None:
    if isinstance(model, nn.Module):
        return None
    path = model.path if isinstance(model, OnnxModel) else Path(model)
    return path if path.exists() else None
