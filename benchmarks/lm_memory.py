"""Peak memory of distilling a language model with a large vocabulary, over that of plain cross-entropy.

One step, forward and backward, of a model with one small layer and 151,936 logits over 4,096 tokens, each in a process
of its own: plain cross-entropy as transformers computes it; the same from chunks; and `distill_lm`'s three losses, in
chunks over positions. Memory is the kernel's high-water mark less what the process held before the step.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import GPT2Config, GPT2LMHeadModel

from attar.data.blocks import Blocks, CausalLanguage, Packed, Tokens
from attar.distillation.language_objective import LanguageDistiller, Live
from common import Result, benchmark, figure, remembered

SIZES = {
    "vocab_size": 151_936,
    "n_embd": 64,
    "n_layer": 1,
    "n_head": 2,
    "n_positions": 512,
    "bos_token_id": 0,
}
TOKENS, QUICK_TOKENS, QUICK_VOCABULARY = 4096, 1024, 20_000
TARGET = 1.5


def model(vocabulary: int, seed: int) -> GPT2LMHeadModel:
    """A random model."""
    torch.manual_seed(seed)
    return GPT2LMHeadModel(GPT2Config(**SIZES | {"vocab_size": vocabulary, "eos_token_id": 0}))


def plain(student: GPT2LMHeadModel, batch: Packed) -> torch.Tensor:
    """Cross-entropy of transformers' own."""
    found: torch.Tensor = student(batch.inputs["input_ids"], labels=batch.inputs["input_ids"]).loss
    return found


def chunks(student: GPT2LMHeadModel, batch: Packed) -> torch.Tensor:
    """Cross-entropy from chunks."""
    found: torch.Tensor = CausalLanguage(student)(batch)["clm"]
    return found


def distilled(student: GPT2LMHeadModel, batch: Packed) -> torch.Tensor:
    """Attar's loss: KL, cross-entropy and cosine."""
    vocabulary = student.config.vocab_size
    teacher = Live(model(vocabulary, 1), vocab=vocabulary, beta=0.0, temperature=2.0, precision="fp32")
    return torch.stack(list(LanguageDistiller(student, teacher)(batch).values())).sum()


WAYS: dict[str, Callable[[GPT2LMHeadModel, Packed], torch.Tensor]] = {
    "plain cross-entropy": plain,
    "cross-entropy in chunks": chunks,
    "distill_lm": distilled,
}


def measure(way: str, tokens: int, vocabulary: int) -> int:
    """Bytes that a step needs beyond what is held before it (the student and its batch)."""
    student = model(vocabulary, 0)
    ids = np.random.default_rng(0).integers(1, vocabulary, size=tokens + 1).astype(np.int32)
    batch = next(iter(Blocks(Tokens(ids, np.array([0])), size=512, batch_size=tokens // 512)))
    before = _status("VmRSS")
    WAYS[way](student, batch).backward()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def main(options: argparse.Namespace, work: Path) -> Result:
    tokens, vocabulary = (QUICK_TOKENS, QUICK_VOCABULARY) if options.quick else (TOKENS, SIZES["vocab_size"])
    found = {
        way: remembered(work / f"{way}.json", partial(_apart, way, tokens, vocabulary, options.threads))
        for way in WAYS
    }
    base = found["plain cross-entropy"]
    table = Table("one step", "peak, GiB", "over plain cross-entropy", box=None)
    for way, size in found.items():
        table.add_row(way, f"{size / 2**30:.2f}", f"{size / base:.2f}")
    Console(width=100).print(table)
    figures = {
        "distill_lm over plain cross-entropy": figure(found["distill_lm"] / base, TARGET, at_least=False)
    }
    figures |= {f"{way}, GiB": figure(size / 2**30) for way, size in found.items()}
    settings: dict[str, Any] = {"tokens": tokens, **SIZES, "vocab_size": vocabulary}
    return Result(figures, settings)


def _apart(way: str, tokens: int, vocabulary: int, threads: int) -> int:
    job = "import torch, lm_memory\n"
    job += f"torch.set_num_threads({threads})\nprint(lm_memory.measure({way!r}, {tokens}, {vocabulary}))"
    command, here = [sys.executable, "-c", job], Path(__file__).parent
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=here)
    return int(done.stdout.split()[-1])


if __name__ == "__main__":
    benchmark(main, __doc__, quick="1,024 tokens, 20,000 logits", threads=1)
