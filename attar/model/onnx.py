"""A model that was exported to ONNX, run by ONNX Runtime: called with a batch, it gives logits like a torch model."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attar.errors import MissingExtraError, ModelError

FILE = "model.onnx"
REPORT = "export.json"
SPAN = ("start_logits", "end_logits")


def require(*packages: str) -> None:
    """Raise MissingExtraError where one of the packages of the extra `onnx` is not installed."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            expected=f"{', '.join(packages)} for ONNX models",
            found=f"no {', '.join(missing)}",
            fix='pip install "attar[onnx]"',
        )


class OnnxModel:
    """An exported model, opened on the processor with all of ONNX Runtime's graph optimizations.

    Args:
        path: the directory that `attar.export` wrote, or the .onnx file in it.
        threads: that compute one call; ONNX Runtime's choice (one per core) where None.

    Attributes:
        path: the .onnx file.
        threads: as asked for.
        inputs: names of the tensors it reads.
        outputs: names of the tensors it gives.

    Raises:
        ModelError: there is no such file, or it is damaged.
        MissingExtraError: onnxruntime is not installed.
    """

    def __init__(self, path: str | Path, *, threads: int | None = None) -> None:
        require("onnxruntime")
        import onnxruntime

        self.path = Path(path) / FILE if Path(path).is_dir() else Path(path)
        if not self.path.is_file():
            raise ModelError(
                expected=f"a directory with {FILE} at {path}",
                found="none",
                fix="export the model: attar export MODEL",
            )
        self.threads = threads
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(self.path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's exceptions have no common base but this one
            raise ModelError(
                expected=f"an ONNX model that ONNX Runtime can open at {self.path}",
                found=str(error).splitlines()[0][:200],
                fix="export it again; a copy may have been cut short",
            ) from error
        self.inputs: tuple[str, ...] = tuple(item.name for item in self._session.get_inputs())
        self.outputs: tuple[str, ...] = tuple(item.name for item in self._session.get_outputs())

    def __call__(self, inputs: Mapping[str, Any]) -> NDArray[np.float32]:
        """Logits (B, C) of `input_ids`, `attention_mask` and `token_type_ids` (B, T), arrays or tensors.

        (B, T, C) of a model that is asked for tokens; of one that answers questions C is 2, a start and an end.

        What the graph does not read is left out; token types that are not given are zero.

        Raises:
            ModelError: an input that the graph reads is not given.
        """
        feed = {}
        for name in self.inputs:
            if name in inputs:
                feed[name] = np.ascontiguousarray(inputs[name], dtype=np.int64)
            elif name == "token_type_ids" and "input_ids" in inputs:
                feed[name] = np.zeros(inputs["input_ids"].shape, dtype=np.int64)
            else:
                raise ModelError(
                    expected=f"the inputs {', '.join(self.inputs)}",
                    found=", ".join(inputs),
                    fix=f"give {name} as well",
                )
        found = self._session.run(SPAN if set(SPAN) <= set(self.outputs) else self.outputs[:1], feed)
        logits: NDArray[np.float32] = found[0] if len(found) == 1 else np.stack(found, axis=-1)
        return logits

    @property
    def bytes(self) -> int:
        """Size of the graph and its weights on disk."""
        return sum(file.stat().st_size for file in self.path.parent.glob(f"{self.path.name}*"))


def is_onnx(path: str | Path) -> bool:
    """Whether `path` is an exported model: a directory with `model.onnx`, or an .onnx file."""
    path = Path(path)
    return (path / FILE).is_file() or (path.is_file() and path.suffix == ".onnx")


def packed(logits: NDArray[Any], inputs: Mapping[str, Any]) -> NDArray[Any]:
    """Logits (B, C) as they are; of (B, T, C) those of the N real tokens, (N, C)."""
    return logits if logits.ndim < 3 else logits[np.asarray(inputs["attention_mask"]).astype(bool)]
