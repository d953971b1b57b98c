"""The teacher's outputs: computed as they are needed, or once and kept on disk."""

import json
import os
import shutil
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from attar.data.batches import Batch, Batches
from attar.data.model_task import task_of
from attar.model.views import Need, View, call
from attar.progress import say, track
from attar.storage.writing import write_atomic
from attar.training.loop import Precision, autocast

# Disk that is left free: a full disk hurts everybody on the machine.
SPARE_BYTES = 2 * 2**30
FILL_TOKENS = 4096


class Teacher(Protocol):
    """Gives the teacher's View of a batch."""

    def view(self, batch: Batch) -> View:
        """What the teacher says and holds inside, for the rows of a batch."""
        ...


class LiveTeacher:
    """Runs the teacher for every batch."""

    def __init__(self, model: PreTrainedModel, need: Need, *, precision: Precision = "auto") -> None:
        self.model, self.need, self.precision = model.eval(), need, precision

    @torch.no_grad()
    def view(self, batch: Batch) -> View:
        """Run the teacher."""
        with autocast(self.precision):
            return call(self.model, batch.inputs, self.need)


@dataclass(frozen=True)
class Layout:
    """Where a row's record keeps what: a row of t tokens has bf16 numbers, part after part.

    `outputs` is 0 where the teacher has no logits of a task (a base model, a masked LM); `per_token` says that each
    token has so many, not each row.

    Order: hidden states (t, D) of each layer, then scores (H, t, t) of each layer, then queries, keys and values
    (heads, t, e) of each layer. Logits are few and decide the prediction: they are kept apart, in fp32.
    """

    hidden: tuple[int, ...]
    scores: tuple[int, ...]
    relations: tuple[int, ...]
    width: int
    heads: int
    head_dim: int
    outputs: int
    per_token: bool = False

    def numbers(self, lengths: np.ndarray) -> np.ndarray:
        """bf16 numbers in the record of a row of each length."""
        t = lengths.astype(np.int64)
        linear = len(self.hidden) * self.width + 3 * len(self.relations) * self.heads * self.head_dim
        return t * linear + t * t * (len(self.scores) * self.heads)

    def split(self, row: Tensor, t: int) -> Iterator[tuple[str, int, Tensor]]:
        """The parts of one record, as views into it."""
        at = 0
        plan: list[tuple[str, int, tuple[int, ...]]] = [("hidden", n, (t, self.width)) for n in self.hidden]
        plan += [("scores", n, (self.heads, t, t)) for n in self.scores]
        for name in ("queries", "keys", "values"):
            plan += [(name, n, (self.heads, t, self.head_dim)) for n in self.relations]
        for name, layer, shape in plan:
            size = int(np.prod(shape))
            yield name, layer, row[at : at + size].view(shape)
            at += size


class CachedTeacher:
    """Reads the teacher's outputs from a memory-mapped file; `cached` makes it.

    Hidden states and scores are kept in bf16, whose relative error of 2⁻⁹ adds about 4·10⁻⁶ of a value's square to an
    MSE: far below what a student ever reaches.
    """

    def __init__(self, directory: Path, batches: Batches, layout: Layout) -> None:
        self.layout = layout
        self.rows = np.arange(batches.rank, len(batches.lengths), batches.world)
        lengths = batches.lengths[self.rows]
        self.starts = np.concatenate([[0], np.cumsum(layout.numbers(lengths))])
        rows_of_logits = lengths if layout.per_token else np.ones_like(lengths)
        self.logit_starts = np.concatenate([[0], np.cumsum(rows_of_logits)])
        self.world = batches.world
        self.file = directory / f"states-{batches.rank}-of-{batches.world}.bf16"
        self.logit_file = directory / f"logits-{batches.rank}-of-{batches.world}.npy"
        self.states: Tensor | None = None
        self.logits: Tensor | None = None

    @property
    def bytes(self) -> int:
        """Size of this process's file of states."""
        return int(self.starts[-1]) * 2

    def open(self) -> "CachedTeacher":
        """Map the files; the pages of a batch are read when it comes."""
        total = int(self.starts[-1])
        if total:
            self.states = torch.from_file(str(self.file), shared=False, size=total, dtype=torch.bfloat16)
        self.logits = torch.from_numpy(np.load(self.logit_file))
        return self

    def logits_of(self, places: np.ndarray, width: int) -> Tensor:
        """(B, C), or (B, width, C) with zeros at padding where each token has its logits."""
        assert self.logits is not None
        if not self.layout.per_token:
            return self.logits[torch.from_numpy(places)]
        found = self.logits.new_zeros(len(places), width, self.layout.outputs)
        for row, place in enumerate(places):
            own = self.logits[self.logit_starts[place] : self.logit_starts[place + 1]]
            found[row, : len(own)] = own
        return found

    def logits_only(self) -> "CachedTeacher":
        """The same teacher for a phase that compares predictions only: it reads no states."""
        other = copy(self)
        other.states = None
        return other

    def view(self, batch: Batch) -> View:
        """The teacher's View of a batch, as `LiveTeacher` gives it, up to the rounding to bf16."""
        places = (batch.index.numpy() // self.world).astype(np.int64)
        mask = batch.mask
        lengths = mask.sum(1).tolist()
        width = mask.shape[1]
        padded = None if min(lengths) == width else mask
        found: dict[str, dict[int, list[Tensor]]] = {
            n: {} for n in ("hidden", "scores", "queries", "keys", "values")
        }
        if self.states is not None:
            for place, t in zip(places, lengths, strict=True):
                record = self.states[self.starts[place] : self.starts[place + 1]]
                for name, layer, part in self.layout.split(record, t):
                    found[name].setdefault(layer, []).append(part)
        parts = {
            name: {n: _join(name, rows, width) for n, rows in layers.items()}
            for name, layers in found.items()
        }
        return View(self.logits_of(places, width), padded, **parts)


def _join(name: str, rows: list[Tensor], width: int) -> Tensor:
    """One tensor of a part's rows: packed hidden states, or rows padded with zeros to the batch's width, in fp32."""
    if name == "hidden":
        return torch.cat(rows).float()
    last = width if name == "scores" else rows[0].shape[-1]
    heads = rows[0].shape[0]
    if rows[0].shape[1] == rows[-1].shape[1] == width and all(row.shape[1] == width for row in rows):
        return torch.stack(rows).float()
    padded = torch.zeros(len(rows), heads, width, last)
    for i, row in enumerate(rows):
        padded[i, :, : row.shape[1], : row.shape[2]] = row
    return padded


def cached(
    model: PreTrainedModel, need: Need, batches: Batches, directory: Path, *, precision: Precision = "auto"
) -> Teacher:
    """Run the teacher once over all rows of this process and keep what `need` names; later calls find it.

    Args:
        directory: named by a digest of teacher, data, tokenizer and options, so that what is found there fits.

    Returns:
        The cached teacher, or a live one, with a line that says so, where the disk would overflow.
    """
    layout = _layout(model, need, batches)
    teacher = CachedTeacher(directory, batches, layout)
    done = directory / f"done-{batches.rank}-of-{batches.world}.json"
    if done.is_file():
        return teacher.open()
    directory.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(directory).free - SPARE_BYTES
    if teacher.bytes * batches.world > free:
        say(
            f"teacher cache needs {teacher.bytes * batches.world / 2**30:.1f} GiB "
            f"and {max(free, 0) / 2**30:.1f} GiB may be used: "
            "the teacher runs for every batch instead"
        )
        return LiveTeacher(model, need, precision=precision)
    live = LiveTeacher(model, need, precision=precision)
    try:
        _reserve(teacher.file, teacher.bytes)
        _fill(teacher, live, batches)
    except OSError as error:
        teacher.file.unlink(missing_ok=True)
        say(f"teacher cache: {error.strerror}, so the teacher runs for every batch instead")
        return live
    write_atomic(done, json.dumps({"bytes": teacher.bytes, "rows": len(teacher.rows)}))
    return teacher.open()


def _layout(model: PreTrainedModel, need: Need, batches: Batches) -> Layout:
    """The record's layout, its sizes read from the teacher's View of one short row."""
    with torch.no_grad():
        view = call(model, batches.rows(batches.own()[:1]).inputs, need)
    hidden = next(iter(view.hidden.values()), torch.empty(0, 0))
    inside = next(iter({**view.scores, **view.queries}.values()), torch.empty(0, 0, 0, 0))
    keys = next(iter(view.queries.values()), torch.empty(0, 0, 0, 0))
    per_token = task_of(model).per_token
    return Layout(
        tuple(sorted(need.hidden)),
        tuple(sorted(need.scores)),
        tuple(sorted(need.relations)),
        hidden.shape[-1],
        inside.shape[1],
        keys.shape[-1],
        view.logits.shape[-1] if view.logits.dim() == 2 or per_token else 0,
        per_token,
    )


def _reserve(file: Path, size: int) -> None:
    """Take the disk that a file needs now: a page of a mapped file that cannot be written later kills the process."""
    with file.open("wb") as handle:
        handle.truncate(size)
        if size and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle.fileno(), 0, size)


def _fill(teacher: CachedTeacher, live: LiveTeacher, batches: Batches) -> None:
    states = None
    if teacher.starts[-1]:
        states = np.memmap(teacher.file, dtype=np.uint16, mode="r+", shape=(int(teacher.starts[-1]),))
    logits = np.zeros((teacher.logit_starts[-1], teacher.layout.outputs), dtype=np.float32)
    groups = list(_groups(batches))
    for rows in track(groups, "teacher's outputs"):
        batch = batches.rows(rows)
        view = live.view(batch)
        places = rows // batches.world
        if teacher.layout.outputs:
            _keep_logits(logits, view.logits.float().numpy(), places, teacher)
        if states is None:
            continue
        records = _records(view, teacher.layout, batch.mask.sum(1).tolist())
        for place, record in zip(places, records, strict=True):
            states[teacher.starts[place] : teacher.starts[place + 1]] = record
    if states is not None:
        states.flush()
    with teacher.logit_file.open("wb") as file:
        np.save(file, logits)


def _keep_logits(kept: np.ndarray, logits: np.ndarray, places: np.ndarray, teacher: CachedTeacher) -> None:
    if not teacher.layout.per_token:
        kept[places] = logits
        return
    for place, row in zip(places, logits, strict=True):
        begin, end = teacher.logit_starts[place : place + 2]
        kept[begin:end] = row[: end - begin]


def _groups(batches: Batches) -> Iterator[np.ndarray]:
    """This process's rows in groups of like length, about `FILL_TOKENS` tokens each."""
    rows = batches.own()
    begin = 0
    while begin < len(rows):
        # Rows come shortest first, so the last row of a group sets its width.
        end = begin + 1
        while end < len(rows) and (end + 1 - begin) * batches.lengths[rows[end]] <= FILL_TOKENS:
            end += 1
        yield rows[begin:end]
        begin = end


def _records(view: View, layout: Layout, lengths: list[int]) -> Iterator[np.ndarray]:
    ends = np.cumsum(lengths)
    for i, (t, end) in enumerate(zip(lengths, ends, strict=True)):
        parts = [view.hidden[n][end - t : end].flatten() for n in layout.hidden]
        parts += [view.scores[n][i, :, :t, :t].flatten() for n in layout.scores]
        for source in (view.queries, view.keys, view.values):
            parts += [source[n][i, :, :t].flatten() for n in layout.relations]
        yield torch.cat([part.to(torch.bfloat16) for part in parts]).view(torch.int16).numpy().view(np.uint16)
