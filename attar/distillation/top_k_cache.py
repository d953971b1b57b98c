"""A causal teacher's likeliest next tokens at every position and a sample of the others, on disk: it runs once."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save as to_bytes
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from attar.data.blocks import Blocks
from attar.errors import DataError, OutputError
from attar.maths.chunks import LOGITS, slices
from attar.maths.losses import fold, log_probabilities
from attar.model.lm_head import last_hidden, output
from attar.progress import say, track
from attar.storage.writing import make_directory, write_atomic
from attar.training.loop import Precision, autocast, broadcast, main_first, processes, wait

Array = NDArray[Any]
ABOUT = "cache.json"
# Predicted tokens in one shard: what is lost when one is damaged, and what is held in memory while it is made.
SHARD = 2**18
# Disk that is left free: a full disk hurts everybody on the machine.
SPARE_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Key:
    """What a cache holds: digests of the teacher, the data (texts, tokenizer, block size), and how it was made.

    `vocab` is the number of the teacher's logits that count, `temperature` that of the log-probabilities. Of the
    tokens beyond the k likeliest, `tail` are drawn by their probability; where it is 0 they are one class together.
    """

    teacher: str
    data: str
    vocab: int
    k: int
    temperature: float
    tail: int = 0
    exact: bool = False

    @property
    def drawn(self) -> int:
        """Tokens that are drawn from the others, where there are any."""
        return self.tail if self.k < self.vocab else 0


@dataclass(frozen=True)
class Folded:
    """A teacher's word on N positions.

    Attributes:
        index: (N, k + m) its k likeliest tokens, then m of the tail.
        log_p: (N, k + m + 1) their log-probabilities, and at last that of all but the k likeliest together.
    """

    index: Tensor
    log_p: Tensor

    def __getitem__(self, part: slice) -> "Folded":
        return Folded(self.index[part], self.log_p[part])

    def weights(self, k: int) -> Tensor:
        """How many tokens each stands for, (N, k + m): 1 of the likeliest, one over its expected draws of the tail."""
        found = torch.ones_like(self.log_p[:, : self.index.shape[1]])
        drawn = self.index.shape[1] - k
        if drawn:
            found[:, k:] = (self.log_p[:, -1:] - self.log_p[:, k:-1]).exp() / drawn
        return found


class TopK:
    """Reads what `top_k` wrote, memory-mapped: the pages of a batch are read when it comes."""

    def __init__(self, directory: Path, blocks: Blocks, key: Key) -> None:
        self.directory, self.key = directory, key
        predicted = log_probabilities_of(blocks)
        self.starts = np.concatenate([[0], np.cumsum(predicted)])
        # A shard holds whole blocks.
        self.shards = np.searchsorted(self.starts, np.arange(0, self.starts[-1], SHARD), side="left")
        self.shards = np.append(np.unique(self.shards), blocks.blocks)
        self._open: dict[int, Any] = {}

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return int(self.starts[-1]) * row_bytes(self.key)

    def file(self, shard: int) -> Path:
        """Where a shard is."""
        return self.directory / f"shard-{shard:05d}.safetensors"

    def __len__(self) -> int:
        return len(self.shards) - 1

    def whole(self, shard: int) -> bool:
        """Whether a shard is there and has the checksum that was noted when it was written."""
        note = self.file(shard).with_suffix(".sha256")
        if not (note.is_file() and self.file(shard).is_file()):
            return False
        return _checksum(self.file(shard).read_bytes()) == note.read_text().strip()

    def of(self, blocks: Tensor) -> Folded:
        """The teacher's log-probabilities at the predicted tokens of some blocks, block after block."""
        found = [self._block(int(number)) for number in blocks]
        index, log_p = (torch.from_numpy(np.concatenate(parts)) for parts in zip(*found, strict=True))
        return Folded(index.long(), log_p.float())

    def _block(self, number: int) -> tuple[Array, Array]:
        shard = int(np.searchsorted(self.shards, number, side="right")) - 1
        if shard not in self._open:
            self._open[shard] = safe_open(self.file(shard), framework="numpy")
        first = self.starts[self.shards[shard]]
        part = slice(int(self.starts[number] - first), int(self.starts[number + 1] - first))
        file = self._open[shard]
        log_p = file.get_slice("log_p")[part]
        return file.get_slice("index")[part].astype(np.int64), log_p


def row_bytes(key: Key) -> int:
    """Bytes of one token's record."""
    named, others = key.k + key.drawn, key.k < key.vocab
    return named * np.dtype(_index(key)).itemsize + (named + others) * np.dtype(_value(key)).itemsize


def log_probabilities_of(blocks: Blocks) -> Array:
    """How many tokens are predicted in each block."""
    follows = np.ones(blocks.blocks * blocks.size, dtype=bool)
    follows[len(blocks.tokens.ids) - 1 :] = False
    begins = blocks.tokens.begins
    follows[begins[begins > 0] - 1] = False
    predicted: Array = follows.reshape(blocks.blocks, blocks.size).sum(1)
    return predicted


def top_k(
    teacher: Callable[[], PreTrainedModel],
    blocks: Blocks,
    directory: Path,
    key: Key,
    *,
    precision: Precision = "auto",
) -> TopK:
    """The cache in a directory; what of it is missing or damaged is made, a shard at a time.

    Args:
        teacher: loads the model; called only where a shard has to be made.
        key: what the cache must hold. Log-probabilities are kept in half precision (fp32 where `exact`): of likely
            tokens, whose log-probability is near 0, it keeps more digits than of unlikely ones.

    Raises:
        DataError: k above the vocabulary, or a directory that holds the cache of another teacher, data or options.
        OutputError: the disk is too small.
    """
    if not 1 <= key.k <= key.vocab:
        raise DataError(
            expected=f"top_k from 1 to the vocabulary's {key.vocab}",
            found=str(key.k),
            fix="leave the default; docs/guide-language-models.md has a table",
        )
    main_first(lambda: _claim(directory, key))
    cache = TopK(directory, blocks, key)
    rank, world = processes()
    # One process looks for all: the others might find what it has begun to make, and would not wait with it.
    missing = broadcast([shard for shard in range(len(cache)) if not cache.whole(shard)])
    if not missing:
        say(f"the teacher's {key.k} likeliest tokens are read from disk; the teacher is not loaded")
        return cache
    room = shutil.disk_usage(directory).free - SPARE_BYTES
    if cache.bytes * len(missing) / len(cache) > room:
        raise OutputError(
            expected=f"{cache.bytes / 2**30:.1f} GiB of disk for the teacher's logits",
            found=f"{max(0, room) / 2**30:.1f} GiB that may be used",
            fix="a cache directory on another disk (--cache; of attar compress --work), or a smaller top_k",
        )
    if len(missing) < len(cache):
        say(
            f"teacher's logits: {len(cache) - len(missing)} of {len(cache)} shards are whole, the rest is made"
        )
    model = teacher()
    model.eval()
    with autocast(precision):
        for shard in track(missing[rank::world], "teacher's logits"):
            _fill(cache, shard, model, blocks)
    wait()
    return cache


def _claim(directory: Path, key: Key) -> None:
    """Take a directory for a cache, or make sure that it is this one's."""
    make_directory(directory)
    about = directory / ABOUT
    if not about.is_file():
        if any(directory.iterdir()):
            raise OutputError(
                expected=f"{directory} to be new, empty, or a cache of logits",
                found="other files",
                fix="name another directory",
            )
        write_atomic(about, json.dumps(asdict(key), indent=2))
        return
    there = json.loads(about.read_text())
    there = {"tail": 0} | there  # of before tails were drawn
    differ = [name for name, value in asdict(key).items() if there.get(name) != value]
    if differ:
        raise DataError(
            expected=f"the cache in {directory} to be of this teacher, data and options",
            found="another " + ", ".join(f"{n} ({there.get(n)}, not {getattr(key, n)})" for n in differ),
            fix="name another directory, or delete that one",
        )


@torch.no_grad()
def _fill(cache: TopK, shard: int, model: PreTrainedModel, blocks: Blocks) -> None:
    key = cache.key
    index: list[Array] = []
    log_p: list[Array] = []
    weight, bias = output(model)
    # By the shard's number: one that is made again is the same.
    random = torch.Generator(device=weight.device).manual_seed(shard)
    numbers = np.arange(cache.shards[shard], cache.shards[shard + 1])
    for part in slices(len(numbers), blocks.batch_size):
        batch = blocks.rows(numbers[part]).to(model.device)
        hidden = last_hidden(model, batch.inputs)[batch.mask]
        for rows in slices(len(hidden), max(1, LOGITS // key.vocab)):
            logits = F.linear(hidden[rows], weight, bias)[:, : key.vocab]
            said = read_top_k(logits, key, random)
            log_p.append(said.log_p.cpu().numpy().astype(_value(key)))
            index.append(said.index.cpu().numpy().astype(_index(key)))
    content = to_bytes({"index": np.concatenate(index), "log_p": np.concatenate(log_p)})
    file = cache.file(shard)
    write_atomic(file, content)
    write_atomic(file.with_suffix(".sha256"), _checksum(content))


def read_top_k(logits: Tensor, key: Key, random: torch.Generator) -> Folded:
    """What is kept of a teacher's logits (N, V)."""
    index = logits.topk(key.k, dim=-1).indices
    log_p = fold(logits, index, temperature=key.temperature)
    if not key.drawn:
        return Folded(index, log_p)
    drawn = draw(logits.float() / key.temperature, index, key.drawn, random)
    theirs = log_probabilities(logits, drawn, temperature=key.temperature)
    return Folded(
        torch.cat([index, drawn], dim=-1), torch.cat([log_p[:, :-1], theirs, log_p[:, -1:]], dim=-1)
    )


def draw(logits: Tensor, but: Tensor, count: int, random: torch.Generator) -> Tensor:
    """(N, count) classes drawn by the softmax of logits (N, V), without those in `but` (N, k); one may come twice.

    Systematic sampling: one random number a row, and steps of equal probability from there. Every class is drawn
    `count` times its probability on average, as by independent draws, with less spread.
    """
    weights = logits.double().scatter(-1, but, float("-inf")).softmax(-1).cumsum(-1)
    start = torch.rand(len(logits), 1, generator=random, dtype=torch.float64, device=logits.device)
    steps = torch.arange(count, dtype=torch.float64, device=logits.device)
    # Of the last sum, which rounding leaves a little off 1.
    return torch.searchsorted(weights, (start + steps) / count * weights[:, -1:], right=True).clamp_max(
        logits.shape[-1] - 1
    )


def _index(key: Key) -> type:
    return np.uint16 if key.vocab <= 2**16 else np.uint32


def _value(key: Key) -> type:
    return np.float32 if key.exact else np.float16


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
