"""An exported model beside the torch model: logits on padded batches, the metric on the user's data, and its causes."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from attar.errors import ExportError
from attar.measure import evaluate
from attar.model.data import Batches, encode
from attar.model.onnx import OnnxModel
from attar.model.tasks import Task
from attar.progress import say

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

Array = NDArray[Any]
# Rows that calibrate static scales, and rows that the search for damaging layers looks at.
CALIBRATION_ROWS = 128
SEARCH_ROWS = 128
BATCH = 32


@dataclass(frozen=True)
class Exported:
    """What was written, and how far it is from the torch model.

    Attributes:
        directory: holds model.onnx, config.json, the tokenizer and this record as export.json.
        precision: of the weights and products.
        bytes: size of model.onnx.
        parameters: of the torch model; what torch ties is counted once.
        difference: largest absolute difference of a logit from torch's on the compared batches.
        rows: of the user's data that were compared.
        metric: what `torch` and `onnx` measure on those rows; None without data.
        torch: the metric of the torch model (1 where it is the agreement with it).
        onnx: the metric of the exported model.
        keep_fp32: layers that were kept in fp32.
    """

    directory: str
    precision: str
    bytes: int
    parameters: int
    difference: float
    rows: int
    metric: str | None
    torch: float | None
    onnx: float | None
    keep_fp32: tuple[str, ...]

    @property
    def drop(self) -> float | None:
        """How much of the metric the export cost."""
        return None if self.torch is None or self.onnx is None else self.torch - self.onnx


class Comparison:
    """One model and its data: torch's logits are computed once and compared with those of each try."""

    def __init__(
        self, model: "PreTrainedModel", tokenizer: Any, task: Task, table: "Dataset | None", length: int
    ) -> None:
        self.model, self.task, self._tokenizer, self._length = model, task, tokenizer, length
        self.batches = self._batches(table)
        self.labels: Array | None = None
        if isinstance(self.batches, Batches):
            self._logits = evaluate.predict(model, self.batches)
            self.labels = None if self.batches.labels is None else self.batches.labels.numpy()
        else:
            self._logits = np.concatenate([torch_logits(model, batch) for batch in self.batches])

    def _batches(self, table: "Dataset | None") -> Any:
        if table is not None:
            encoded = encode(table, self._tokenizer, max_length=self._length)
            return Batches(encoded, self._tokenizer, batch_size=BATCH)
        return [random_batch(self.model, self._tokenizer, 8, min(self._length, 48))]

    @property
    def scale(self) -> float:
        """The size of the logits, at least 1."""
        return max(1.0, float(np.abs(self._logits).max()))

    def calibration(self, table: "Dataset | None", precision: str) -> list[dict[str, torch.Tensor]]:
        """Inputs of the first rows of a table, for static scales."""
        if precision != "int8-static" or table is None:
            return []
        return [
            batch.inputs for batch in self._batches(table.select(range(min(CALIBRATION_ROWS, len(table)))))
        ]

    def judge(self, logits: Array) -> evaluate.Evaluation:
        """The metric of logits: against labels, or against torch's where there are none."""
        teacher = self._logits if self.labels is None else None
        return evaluate.judge(self.task, logits, self.labels, teacher_logits=teacher)

    def compare(self, path: Path, out: Path, precision: str, keep: tuple[str, ...]) -> Exported:
        """Run the written model beside torch."""
        onnx = OnnxModel(path)
        real = isinstance(self.batches, Batches)
        logits = (
            evaluate.predict(onnx, self.batches) if real else np.concatenate([onnx(b) for b in self.batches])
        )
        found = self.judge(logits) if real else None
        return Exported(
            directory=out.name,
            precision=precision,
            bytes=onnx.bytes,
            parameters=sum(weight.numel() for weight in self.model.parameters()),
            difference=float(np.abs(logits - self._logits).max()),
            rows=len(logits) if real else 0,
            metric=found.main if found else None,
            torch=self.judge(self._logits).value if found else None,
            onnx=found.value if found else None,
            keep_fp32=keep,
        )

    def too_much(self, record: Exported, max_drop: float, fp32: Any, make: Any) -> ExportError:
        """The error of an int8 model that lost too much: which layers to keep in fp32, found by trying."""
        from attar.export import int8

        say("int8 lost too much; finding the layers that it hurts most")
        rows = np.linspace(0, len(self._logits) - 1, min(SEARCH_ROWS, len(self._logits))).astype(int)
        few = [self.batches.rows(part).inputs for part in np.array_split(rows, -(-len(rows) // BATCH))]
        layers = int8.name_nodes(fp32.clone(), self.model).values()
        with quiet():
            order = int8.damaging_layers(layers, make, few, self._logits[rows])
            order = [layer for layer in order if layer not in record.keep_fp32]
            keep, enough = self._enough(order, record, max_drop, make)
        named = ", ".join(repr(layer) for layer in keep)
        advice = f"keep_fp32=({named},) (--keep-fp32 {','.join(keep)}), " + (
            f"with which the drop is {enough:.4f}"
            if enough is not None
            else "and allow a larger max_drop (--max-drop)"
        )
        return ExportError(
            expected=f"{record.precision} to cost at most {max_drop:g} of {record.metric} on {record.rows} rows",
            found=f"{record.onnx:.4f} instead of {record.torch:.4f}, a drop of {record.drop:.4f}",
            fix=f"keep the most damaged layers in fp32: {advice}; nothing was written",
        )

    def _enough(
        self, order: Sequence[str], record: Exported, max_drop: float, make: Any
    ) -> tuple[list[str], float | None]:
        """The first layers of `order` that are enough to keep, and the drop then; three of them where none are."""
        from attar.export import int8

        batches = list(self.batches)
        index = np.concatenate([batch.index.numpy() for batch in batches])
        count = 1
        while count <= len(order):
            keep = [*record.keep_fp32, *order[:count]]
            logits = int8.run(make(keep), [batch.inputs for batch in batches])[np.argsort(index)]
            drop = (record.torch or 0.0) - self.judge(logits).value
            if drop <= max_drop:
                return keep, drop
            count *= 2
        return [*record.keep_fp32, *order[:3]], None


def random_batch(model: "PreTrainedModel", tokenizer: Any, size: int, length: int) -> dict[str, torch.Tensor]:
    """Random tokens (size, length) from a fixed seed, every row but the first padded at its end."""
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(5, model.config.vocab_size, (size, length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(1, size):
        mask[row, max(1, length * row // (size + 1)) :] = 0
    ids[mask == 0] = tokenizer.pad_token_id or 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    if "token_type_ids" in tokenizer.model_input_names:
        kinds = getattr(model.config, "type_vocab_size", 1)
        inputs["token_type_ids"] = (
            (torch.arange(length) > length // 2).long().expand(size, -1) * int(kinds > 1) * mask
        )
    return inputs


@torch.inference_mode()
def torch_logits(model: "PreTrainedModel", batch: Mapping[str, torch.Tensor]) -> Array:
    """Logits (B, C) of one batch."""
    output = model(**{name: tensor.to(model.device) for name, tensor in batch.items()})
    return np.asarray(output.logits.float().cpu().numpy())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence for the time: torch prints each step, ONNX Runtime logs advice, both warn of themselves."""
    level = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(level)
