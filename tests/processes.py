"""What the tests of scale and resume run in processes of their own: verbs that train, on tiny models.

python processes.py OUT

OUT/two: all verbs, each on two processes. OUT/killed: all verbs, killed (SIGKILL) and started again, and never
interrupted. Every process is a fork of this one, which imports everything first: that takes longer than to train.
"""

import os
import pkgutil
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

import torch
from torch.distributed import TCPStore
from transformers.utils.logging import disable_progress_bar

import attar
import tiny
from attar import distill, distill_lm, finetune, pretrain, prune
from attar.training import loop as train
from attar.training import resuming

ROWS, BATCH = 24, 5
# Optimizer steps of each life; of 15, of 10 and 10 in distillation's two phases, and of 2 rounds of 4 and 4 in pruning.
# 0 is: to the end.
LIVES = {
    "finetune": (7, 0),
    "pretrain": (8, 0),
    "distill": (7, 7, 0),
    "distill_lm": (5, 0),
    "prune": (5, 9, 0),
}


def run(verb: str, out: Path, *, dropout: float = 0.0) -> None:
    """Fine-tune or distil; every global batch is of 5 rows, which two processes share unevenly."""
    drop = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    options = {"out": out, "precision": "fp32", "max_length": 24, "seed": 3, "tokenizer": tiny.tokenizer()}
    data, dev = tiny.table(ROWS, seed=1), tiny.table(12, seed=2)
    if verb == "finetune":
        finetune(
            tiny.model(**drop), data, dev=dev, epochs=3, lr=1e-3, batch_size=BATCH, patience=None, **options
        )
        return
    if verb == "pretrain":
        texts, held = data["text"][:], dev["text"][:]
        base = tiny.model(head="masked-lm", **drop)
        pretrain(base, texts, dev=held, epochs=3, lr=1e-3, batch_size=BATCH, whole_word=True, **options)
        return
    if verb == "distill_lm":
        drop = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
        options |= {"max_length": 8, "tokenizer": tiny.decoder_tokenizer()}
        teacher, texts, held = tiny.model("gpt2", "causal-lm", **drop), data["text"][:], dev["text"][:]
        student = {"layers": 1, "init": "random"}
        distill_lm(
            teacher, texts, dev=held, student=student, top_k=9, epochs=2, lr=1e-3, batch_size=BATCH, **options
        )
        return
    if verb == "prune":
        rounds = {"rounds": 2, "steps": 4, "recover_steps": 4, "recover_lr": 1e-3}
        prune(tiny.model(**drop), budget=0.6, data=data, dev=dev, batch_size=BATCH, **rounds, **options)
        return
    distill(
        tiny.model(seed=1, **drop),
        data=data,
        dev=dev,
        student={"layers": 1, "hidden": 16, "ffn": 20, "init": "random"},
        intermediate={"epochs": 2, "lr": 1e-3, "batch_size": BATCH},
        prediction={"epochs": 2, "lr": 1e-3, "batch_size": BATCH},
        dropout=dropout > 0,
        cache=True,
        **options,
    )


def keep_caches(into: Path) -> None:
    """Note the files of the teacher's caches before the work directory goes."""
    import shutil

    remove = shutil.rmtree

    def noted(place, *arguments, **options):
        names = sorted(path.name for path in Path(place).glob("teacher-*/states-*"))
        if names:
            into.write_text("\n".join(names))
        remove(place, *arguments, **options)

    resuming.shutil.rmtree = noted


def fork(work: Callable[[], object]) -> int:
    """Start `work` in a child; its process id."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def exit_code(child: int) -> int:
    """Wait for a child."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def member(rank: int, port: int, place: Path) -> None:
    """One of two processes that train together, told so as torchrun does."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE="True")
    keep_caches(place / "caches.txt")
    for verb in LIVES:
        run(verb, place / verb)
    torch.distributed.destroy_process_group()


def two(place: Path) -> None:
    """Each verb on two processes."""
    place.mkdir()
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # 0: a port that is free
    members = [fork(partial(member, rank, store.port, place)) for rank in range(2)]
    assert [exit_code(child) for child in members] == [0, 0]


def live(verb: str, out: Path, steps: int) -> int:
    """Run a verb in a child that kills itself when it begins one more than `steps` optimizer steps; its exit code."""
    inner, done = train._step, [0]

    def counted(*arguments):
        done[0] += 1
        if done[0] == steps + 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(*arguments)

    def work():
        if steps:
            train._step = counted
        run(verb, out, dropout=0.3)

    return exit_code(fork(work))


def kill(place: Path) -> None:
    """Each verb once in one piece and once in three."""
    place.mkdir()
    for verb, lives in LIVES.items():
        assert live(verb, place / f"{verb}-whole", 0) == 0
        out = place / f"{verb}-killed"
        for steps in lives:
            expected = -signal.SIGKILL if steps else 0
            assert live(verb, out, steps) == expected, (verb, steps)
            assert out.exists() == (steps == 0)  # whole or not at all


if __name__ == "__main__":
    torch.set_num_threads(1)
    disable_progress_bar()
    for name in (
        "sklearn.metrics",
        *(module.name for module in pkgutil.walk_packages(attar.__path__, "attar.")),
    ):
        import_module(name)
    two(Path(sys.argv[1]) / "two")
    kill(Path(sys.argv[1]) / "killed")
