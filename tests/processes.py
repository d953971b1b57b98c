"""What the tests of scale and resume run in processes of their own: verbs that train, on tiny models.

python processes.py run OUT     all verbs; under torchrun, on its processes
python processes.py kill OUT    all verbs, killed (SIGKILL) and started again, and never interrupted
"""

import os
import signal
import sys
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

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


def live(verb: str, out: Path, steps: int) -> int:
    """Run a verb in a child that kills itself when it begins one more than `steps` optimizer steps; its exit code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    inner, done = train._step, [0]

    def counted(*arguments):
        done[0] += 1
        if done[0] == steps + 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(*arguments)

    if steps:
        train._step = counted
    try:
        run(verb, out, dropout=0.3)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def kill(place: Path) -> None:
    """Each verb once in one piece and once in three."""
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
    if sys.argv[1] == "kill":
        kill(Path(sys.argv[2]))
    else:
        keep_caches(Path(sys.argv[2]) / "caches.txt")
        for verb in LIVES:
            run(verb, Path(sys.argv[2]) / verb)
