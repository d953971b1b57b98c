"""`fit`: the only training loop. It runs on Accelerate, so `accelerate launch` and `torchrun` work unchanged."""

import ctypes
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    broadcast_object_list,
    reduce,
    set_seed,
)
from torch import Tensor, nn

from attar.data.batches import Batch
from attar.errors import TrainingError
from attar.model.training_attention import training_attention
from attar.progress import say
from attar.storage.faults import write_error
from attar.training.used_embeddings import UsedRows

Precision = Literal["auto", "fp32", "bf16"]
Parts = Mapping[str, Tensor]
# Parameters of glibc's mallopt: how many blocks may be mapped apart, and above how much free memory it is given back.
_M_MMAP_MAX, _M_TRIM_THRESHOLD = -4, -1


class Source(Protocol):
    """Where batches come from: `Batches` of a table, or a stream."""

    @property
    def content(self) -> tuple[Any, ...]:
        """What names the batches, for a digest."""
        ...

    def __len__(self) -> int: ...

    def epoch(self, number: int = 0, *, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from the `start`-th on."""
        ...


@dataclass(frozen=True)
class Step:
    """One optimizer step: its number from 1, the loss and its named parts, the learning rate, and seconds it took."""

    index: int
    epoch: int
    loss: float
    parts: dict[str, float]
    lr: float
    seconds: float
    last_of_epoch: bool

    def done(self) -> int:
        """How many steps are done with this one, those before a resume included."""
        return self.index


def processes() -> tuple[int, int]:
    """This process's number and how many there are: (0, 1) unless `torchrun` or `accelerate launch` started it."""
    state = PartialState(cpu=not torch.cuda.is_available())
    return state.process_index, state.num_processes


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return processes()[0] == 0


def main_first(work: Callable[[], Any]) -> Any:
    """Run `work` on the main process first and on the others after it (they find its files)."""
    with PartialState(cpu=not torch.cuda.is_available()).main_process_first():
        return work()


def wait() -> None:
    """Go on when every process has come here."""
    PartialState(cpu=not torch.cuda.is_available()).wait_for_everyone()


def broadcast(value: Any) -> Any:
    """The main process's value, on every process."""
    if processes()[1] == 1:
        return value
    return broadcast_object_list([value])[0]


def averaged(tensors: list[Tensor]) -> list[Tensor]:
    """The mean of each over the processes: of gradients of losses that have the step's counts, the whole step's."""
    if processes()[1] == 1:
        return tensors
    # Where the processes talk to each other: a GPU's do not about what lies in main memory.
    place = PartialState().device
    found: list[Tensor] = reduce([tensor.to(place) for tensor in tensors], "mean")
    return [mean.to(tensor.device) for mean, tensor in zip(found, tensors, strict=True)]


def fit(
    learner: nn.Module,
    batches: Source,
    *,
    epochs: int,
    lr: float,
    warmup: float = 0.1,
    weight_decay: float = 0.01,
    clip: float = 1.0,
    accumulate: int = 1,
    precision: Precision = "auto",
    seed: int = 0,
    checkpoint: Path | None = None,
    every: int = 200,
) -> Iterator[Step]:
    """Train, yielding after every optimizer step; the caller logs, evaluates, saves, and stops by not asking on.

    Args:
        learner: a module whose forward takes a `Batch` and returns named loss parts, already weighted; their sum is
            the loss. Each part is a sum over the batch divided by `batch.counts`, so that 8 micro-batches of 1, 2 of
            4, and any number of processes give the same step.
        batches: gives the same micro-batches for the same epoch number.
        lr: peak learning rate, reached after the fraction `warmup` of all steps, then falling linearly to 0.
        weight_decay: of AdamW, for matrices; not for biases, norms and embeddings (an embedding row that no text
            uses then stays as it is).
        clip: largest gradient norm; 0 for none.
        accumulate: micro-batches in one optimizer step.
        precision: "bf16" autocast, "fp32", or "auto": on a CPU the faster of the two as measured here, since bf16 is
            4x faster on some and 3x slower on others; on a GPU bf16.
        checkpoint: a directory to keep the last state in, every `every` steps; a state found there is resumed from,
            exactly: same batches, same dropout, same result as an uninterrupted run.

    Raises:
        TrainingError: the loss is not finite; the last checkpoint is kept.
    """
    _keep_memory()
    accelerator = _accelerator(precision)
    # A learner that reads batches in any order must not see another process's dropout.
    set_seed(seed, device_specific=True)
    optimizer = torch.optim.AdamW(_groups(learner, weight_decay), lr=lr, fused=True)
    model, optimizer = accelerator.prepare(learner, optimizer)
    steps_per_epoch = -(-len(batches) // accumulate)
    total = steps_per_epoch * epochs
    done = _resume(accelerator, checkpoint)
    model.train()
    began = time.perf_counter()
    for index, epoch, last, micro in _schedule(batches, epochs, accumulate, done):
        rate = lr * _linear(index - 1, total, warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate
        parts = _step(accelerator, model, micro, index, checkpoint)
        if clip:
            accelerator.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
        now = time.perf_counter()
        yield Step(index, epoch, sum(parts.values()), parts, rate, now - began, last)
        model.train()
        # Only now, when the caller has written down what it made of this step: a kill repeats work, never skips it.
        if checkpoint is not None and (index % every == 0 or last) and index < total:
            _save_state(accelerator, checkpoint, index)
        began = time.perf_counter()


def _schedule(
    batches: Source, epochs: int, accumulate: int, done: int
) -> Iterator[tuple[int, int, bool, list[Batch]]]:
    """(step number, epoch, last of the epoch, its micro-batches with shared counts), after the `done` first steps."""
    per_epoch = -(-len(batches) // accumulate)
    for epoch in range(done // per_epoch, epochs):
        skip = max(0, done - epoch * per_epoch)
        stream = batches.epoch(epoch, start=skip * accumulate)
        for number in range(skip + 1, per_epoch + 1):
            micro = list(islice(stream, accumulate))
            yield epoch * per_epoch + number, epoch, number == per_epoch, _share_counts(micro)


def _share_counts(micro: list[Batch]) -> list[Batch]:
    if len(micro) == 1:
        return micro
    first, *others = (batch.whole or batch.counts for batch in micro)
    counts = sum(others, start=first)
    # A process without a row of its own in a batch divides by infinity, so that it adds nothing; it must stay so.
    return [replace(batch, counts=batch.counts if batch.whole else counts) for batch in micro]


def _step(
    accelerator: Accelerator, model: nn.Module, micro: list[Batch], index: int, checkpoint: Path | None
) -> dict[str, float]:
    """Forward and backward of one optimizer step; the parts summed over its micro-batches."""
    sums: dict[str, Tensor] = {}
    for number, batch in enumerate(micro):
        # Gradients of all but the last micro-batch stay on their process: one reduction a step.
        with accelerator.no_sync(model) if number + 1 < len(micro) else nullcontext():
            with training_attention(model):
                parts: Parts = model(batch.to(accelerator.device))
            loss = torch.stack([part.float() for part in parts.values()]).sum()
            accelerator.backward(loss)
        for name, part in parts.items():
            sums[name] = sums.get(name, torch.zeros((), device=loss.device)) + part.detach().float()
    values = torch.stack(list(sums.values()))
    if accelerator.num_processes > 1:
        values = accelerator.reduce(values, "mean")
    numbers = dict(zip(sums, values.tolist(), strict=True))
    if not bool(values.isfinite().all()):
        shown = ", ".join(f"{name} {value:.3g}" for name, value in numbers.items())
        kept = f"; the last good state is in {checkpoint}" if checkpoint and checkpoint.exists() else ""
        raise TrainingError(
            expected="a finite loss",
            found=f"{shown} at step {index}{kept}",
            fix="lower the learning rate, or use precision fp32",
        )
    return numbers


def faster_precision(device: torch.device | None = None) -> Literal["fp32", "bf16"]:
    """Which precision multiplies matrices faster here, measured in a few milliseconds (a CPU) or known (a GPU)."""
    if device is not None and device.type != "cpu":
        return "bf16"
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = torch.ones(512, 384, dtype=dtype), torch.ones(1024, 384, dtype=dtype)
        times = []
        for _ in range(5):
            began = time.perf_counter()
            nn.functional.linear(a, b)
            times.append(time.perf_counter() - began)
        seconds[dtype] = min(times)
    return (
        "bf16" if seconds[torch.bfloat16] < 0.7 * seconds[torch.float32] else "fp32"
    )  # autocast itself costs some


_chosen: dict[str, Literal["fp32", "bf16"]] = {}


def settle(precision: Precision) -> Literal["fp32", "bf16"]:
    """What a precision means here; all processes have to ask the first time, since they agree on what "auto" is.

    Measured once: one answer for all stages and steps of a run, so that timing noise does not change the arithmetic.
    """
    if precision != "auto":
        return precision
    if "auto" not in _chosen:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        _chosen["auto"] = broadcast(faster_precision(device))
        say(f"training in {_chosen['auto']}, the faster here")
    return _chosen["auto"]


def autocast(precision: Precision) -> Any:
    """The context that inference should run in for a precision, as training does."""
    return torch.autocast("cpu", torch.bfloat16) if settle(precision) == "bf16" else nullcontext()


def _accelerator(precision: Precision) -> Accelerator:
    cpu = not torch.cuda.is_available()
    mixed = {"fp32": "no", "bf16": "bf16"}[settle(precision)]
    AcceleratorState._reset_state()  # a second Accelerator of another precision is refused otherwise
    accelerator = Accelerator(
        mixed_precision=mixed,
        cpu=cpu,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    check_whole(accelerator.distributed_type)
    return accelerator


def check_whole(kind: DistributedType) -> None:
    """Refuse ways of training that part a model among processes: students are read and saved whole in between.

    Raises:
        TrainingError: FSDP, DeepSpeed, Megatron.
    """
    if kind in {DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM}:
        raise TrainingError(
            expected="one process, or several that each hold the whole model (DDP)",
            found=f"{kind.value}, which parts it among them",
            fix="choose plain multi-GPU training in accelerate config, or start with torchrun",
        )


def _groups(learner: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    embeddings = {id(m.weight) for m in learner.modules() if isinstance(m, nn.Embedding | UsedRows)}
    parameters = [p for p in learner.parameters() if p.requires_grad]
    decayed = [p for p in parameters if p.ndim > 1 and id(p) not in embeddings]
    kept = [p for p in parameters if p.ndim <= 1 or id(p) in embeddings]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]


def _keep_memory() -> None:
    """Let glibc keep freed memory instead of handing every large tensor back to the kernel and faulting it in again.

    At 15,000 page faults a step that was a twelfth of a training step's time. Elsewhere than on glibc nothing happens.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)


def _linear(done: int, total: int, warmup: float) -> float:
    rising = max(1, round(total * warmup))
    if warmup and done < rising:
        return (done + 1) / (rising + 1)
    return max(0.0, (total - done) / max(1, total - (rising if warmup else 0)))


def _save_state(accelerator: Accelerator, place: Path, index: int) -> None:
    """Write the state beside the old one, then swap: a kill at any moment leaves a whole one."""
    fresh, old = place.with_name(place.name + ".new"), place.with_name(place.name + ".old")
    if accelerator.is_main_process:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
    accelerator.wait_for_everyone()
    try:
        accelerator.save_state(
            str(fresh), safe_serialization=False
        )  # pickled, since tied weights may be in it
    except (OSError, RuntimeError) as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise write_error(place, error) from error
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (fresh / "step.json").write_text(json.dumps({"step": index, "processes": accelerator.num_processes}))
        shutil.rmtree(old, ignore_errors=True)
        if place.exists():
            place.rename(old)
        fresh.rename(place)
        shutil.rmtree(old, ignore_errors=True)
    accelerator.wait_for_everyone()


def _resume(accelerator: Accelerator, place: Path | None) -> int:
    """Load the last state, if there is one; how many steps it has seen."""
    if place is None:
        return 0
    old = place.with_name(place.name + ".old")
    if accelerator.is_main_process and old.exists() and not place.exists():
        old.rename(place)  # killed between the two renames
    accelerator.wait_for_everyone()
    if not (place / "step.json").is_file():
        return 0
    written = json.loads((place / "step.json").read_text())
    if written["processes"] != accelerator.num_processes:
        raise TrainingError(
            expected=f"{written['processes']} processes, as when {place} was written",
            found=str(accelerator.num_processes),
            fix="start as many processes, or delete that directory to begin anew",
        )
    accelerator.load_state(str(place))
    say(f"resuming after step {written['step']}")
    return int(written["step"])
