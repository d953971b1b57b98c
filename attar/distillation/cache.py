"""The teacher's outputs: computed as they are needed, or once and kept on disk."""

import json
import os
import shutil
from collections.abc import Iterator
from copy import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from attar.data.batches import Batch, Batches
from attar.data.model_task import task_of
from attar.distillation.records import Layout, layout_of
from attar.model.views import Need, View, call, embedding
from attar.progress import say, track
from attar.storage.writing import make_directory, write_atomic
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

    @torch.no_grad()
    def embedding(self, batch: Batch) -> Tensor:
        """Run the teacher's embeddings."""
        with autocast(self.precision):
            return embedding(self.model, batch.inputs)


class CachedTeacher:
    """Reads the teacher's outputs from a memory-mapped file, a record for each row; `cached` makes it.

    Hidden states, scores and vectors of 8 bits with a scale for each token are off by about 10⁻⁴ of their variance, far
    less than a student ever is. What enters the first layer is made anew by the teacher's embeddings.
    """

    def __init__(self, directory: Path, batches: Batches, layout: Layout, live: LiveTeacher) -> None:
        self.layout, self.live = layout, live
        self.rows = np.arange(batches.rank, len(batches.lengths), batches.world)
        lengths = batches.lengths[self.rows]
        self.starts = np.concatenate([[0], np.cumsum(layout.bytes(lengths))])
        rows_of_logits = lengths if layout.per_token else np.ones_like(lengths)
        self.logit_starts = np.concatenate([[0], np.cumsum(rows_of_logits)])
        self.world = batches.world
        self.file = directory / f"states-{batches.rank}-of-{batches.world}.int8"
        self.logit_file = directory / f"logits-{batches.rank}-of-{batches.world}.npy"
        self.states: Tensor | None = None
        self.logits: Tensor | None = None
        self.inside = True

    @property
    def bytes(self) -> int:
        """Size of this process's file of states."""
        return int(self.starts[-1])

    @property
    def mark(self) -> str:
        """What stands beside a file that is filled: files of another layout are no use."""
        return json.dumps({"bytes": self.bytes, "rows": len(self.rows), "layout": asdict(self.layout)})

    def open(self) -> "CachedTeacher":
        """Map the files; the pages of a batch are read when it comes."""
        if self.bytes:
            self.states = torch.from_file(str(self.file), shared=False, size=self.bytes, dtype=torch.uint8)
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
        other.inside = False
        return other

    def view(self, batch: Batch) -> View:
        """The teacher's View of a batch, as `LiveTeacher` gives it, up to the rounding to 8 bits."""
        places = (batch.index.numpy() // self.world).astype(np.int64)
        mask = batch.mask
        logits, padded = self.logits_of(places, mask.shape[1]), None if bool(mask.all()) else mask
        if not self.inside:
            return View(logits, padded)
        parts: dict[str, dict[int, Any]] = {}
        if self.states is not None:
            rows = [self.states[self.starts[place] : self.starts[place + 1]] for place in places]
            parts = self.layout.read(rows, mask)
        if 0 in self.live.need.hidden:
            parts.setdefault("hidden", {})[0] = self.live.embedding(batch)
        return View(logits, padded, **parts)


def cached(
    model: PreTrainedModel, need: Need, batches: Batches, directory: Path, *, precision: Precision = "auto"
) -> Teacher:
    """Run the teacher once over all rows of this process and keep what `need` names; later calls find it.

    Args:
        directory: named by a digest of teacher, data, tokenizer and options, so that what is found there fits.

    Returns:
        The cached teacher, or a live one, with a line that says so, where the disk would overflow.

    Raises:
        OutputError: the directory cannot be made.
    """
    live = LiveTeacher(model, need, precision=precision)
    teacher = CachedTeacher(directory, batches, _layout(model, need, batches), live)
    done = directory / f"done-{batches.rank}-of-{batches.world}.json"
    if done.is_file() and done.read_text() == teacher.mark:
        return teacher.open()
    make_directory(directory)
    free = shutil.disk_usage(directory).free - SPARE_BYTES
    if teacher.bytes * batches.world > free:
        say(
            f"teacher cache needs {teacher.bytes * batches.world / 2**30:.1f} GiB "
            f"and {max(free, 0) / 2**30:.1f} GiB may be used: "
            "the teacher runs for every batch instead"
        )
        return live
    try:
        done.unlink(missing_ok=True)
        _reserve(teacher.file, teacher.bytes)
        _fill(teacher, batches)
    except OSError as error:
        teacher.file.unlink(missing_ok=True)
        say(f"teacher cache: {error.strerror}, so the teacher runs for every batch instead")
        return live
    write_atomic(done, teacher.mark)
    return teacher.open()


def _layout(model: PreTrainedModel, need: Need, batches: Batches) -> Layout:
    """The record's layout, its sizes read from the teacher's View of one short row."""
    inside = Need(hidden=need.hidden, relations=need.scores | need.relations)
    with torch.no_grad():
        view = call(model, batches.rows(batches.own()[:1]).inputs, inside)
    per_token = task_of(model).per_token
    outputs = view.logits.shape[-1] if view.logits.dim() == 2 or per_token else 0
    return layout_of(view, need, batches.lengths, outputs=outputs, per_token=per_token)


def _reserve(file: Path, size: int) -> None:
    """Take the disk that a file needs now: a page of a mapped file that cannot be written later kills the process."""
    with file.open("wb") as handle:
        handle.truncate(size)
        if size and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle.fileno(), 0, size)


def _fill(teacher: CachedTeacher, batches: Batches) -> None:
    states = None
    if teacher.bytes:
        states = np.memmap(teacher.file, dtype=np.uint8, mode="r+", shape=(teacher.bytes,))
    logits = np.zeros((teacher.logit_starts[-1], teacher.layout.outputs), dtype=np.float32)
    live = LiveTeacher(teacher.live.model, teacher.layout.need, precision=teacher.live.precision)
    groups = list(_groups(batches))
    for rows in track(groups, "teacher's outputs"):
        batch = batches.rows(rows)
        view = live.view(batch)
        places = rows // batches.world
        if teacher.layout.outputs:
            _keep_logits(logits, view.logits.float().numpy(), places, teacher)
        if states is None:
            continue
        ends = np.cumsum(batches.lengths[rows])
        for i, (place, end) in enumerate(zip(places, ends, strict=True)):
            tokens = slice(int(end - batches.lengths[rows[i]]), int(end))
            states[teacher.starts[place] : teacher.starts[place + 1]] = teacher.layout.record(view, i, tokens)
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
