"""Peak memory of one model, in a process of its own: `python -m attar.evaluation.memory`, with what `peak` is given."""

import json
import os
import subprocess
import sys
from pathlib import Path

from attar.errors import ModelError
from attar.model.onnx import OnnxModel, is_onnx


def peak(path: str | Path, *, batch_size: int, length: int, threads: int, pooling: str | None = None) -> int:
    """Bytes that loading a saved model and running it once add to a fresh process, at their peak.

    What the interpreter and the libraries take before the model is loaded is left out: it is the same for every model
    of a runtime. Read from Linux's own record of the process (VmHWM).

    Raises:
        ModelError: the process failed, or the system keeps no such record.
    """
    command = [
        sys.executable,
        "-m",
        "attar.evaluation.memory",
        str(path),
        str(batch_size),
        str(length),
        str(threads),
        *([pooling] if pooling else []),
    ]
    limits = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **limits}, check=False)
    if done.returncode:
        raise ModelError(
            expected=f"{path} to load and run in a process of its own",
            found=(done.stderr.strip().splitlines() or ["no message"])[-1][:200],
            fix="check that the directory can be loaded; memory can be left out: memory=False",
        )
    return int(json.loads(done.stdout.strip().splitlines()[-1]))


def resident(field: str) -> int:
    """Bytes of this process's memory by a field of the kernel's: VmRSS now, VmHWM at most since it began."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {field} in /proc/self/status")


def _main(path: str, batch_size: int, length: int, threads: int, pooling: str | None) -> int:
    import numpy as np

    ids = np.full((batch_size, length), 7, dtype=np.int64)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    if is_onnx(path):
        import onnxruntime  # noqa: F401

        before = resident("VmRSS")
        OnnxModel(path, threads=threads)(inputs)
    else:
        import torch

        from attar.model import checkpoint

        torch.set_num_threads(threads)
        torch.nn.Linear(2, 2)(torch.zeros(1, 2))
        before = resident("VmRSS")
        model = checkpoint.load(path, pooling=pooling).model
        with torch.inference_mode():
            model(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    return max(0, resident("VmHWM") - before)


if __name__ == "__main__":
    path, size, length, threads, *pooling = sys.argv[1:]
    shape = int(size), int(length), int(threads)
    sys.stdout.write(json.dumps(_main(path, *shape, pooling[0] if pooling else None)) + "\n")
