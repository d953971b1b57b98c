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

from attar.data.batches import positions
from attar.data.tasks import Task
from attar.errors import ExportError
from attar.evaluation.quality import Evaluation
from attar.evaluation.table import TableEvaluator, rows_of
from attar.model.onnx import OnnxModel, packed
from attar.model.views import outputs
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
        positions: tokens of the longest text that it can read.
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
    positions: int
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
        self.evaluator = None if table is None else self._evaluator(table)
        if self.evaluator is not None:
            self._logits = self.evaluator.logits(model)
            self._torch = self.evaluator.evaluate_teacher(self._logits)
        else:
            self._batch = random_batch(model, tokenizer, 8, min(length, 48))
            self._logits = torch_logits(model, self._batch)

    def _evaluator(self, table: "Dataset") -> TableEvaluator:
        return TableEvaluator(self.task, table, self._tokenizer, batch_size=BATCH, max_length=self._length)

    @property
    def scale(self) -> float:
        """The size of the logits, at least 1."""
        return max(1.0, float(np.abs(self._logits).max()))

    def calibration(self, table: "Dataset | None", precision: str) -> list[dict[str, torch.Tensor]]:
        """Inputs of the first rows of a table, for static scales."""
        if precision != "int8-static" or table is None:
            return []
        few = table.select(range(min(CALIBRATION_ROWS, len(table))))
        return [batch.inputs for batch in self._evaluator(few).batches]

    def judge(self, evaluator: TableEvaluator, logits: Array) -> Evaluation:
        """The metric of logits: against labels, or against torch's where there are none."""
        return evaluator.evaluate_logits(logits, self._torch if evaluator.truth is None else None)

    def compare(self, path: Path, out: Path, precision: str, keep: tuple[str, ...]) -> Exported:
        """Run the written model beside torch."""
        onnx, evaluator = OnnxModel(path), self.evaluator
        logits = packed(onnx(self._batch), self._batch) if evaluator is None else evaluator.logits(onnx)
        found = None if evaluator is None else self.judge(evaluator, logits)
        torch_found = None if evaluator is None else self.judge(evaluator, self._logits)
        return Exported(
            directory=out.name,
            precision=precision,
            bytes=onnx.bytes,
            parameters=sum(weight.numel() for weight in self.model.parameters()),
            positions=positions(self.model),
            difference=float(np.abs(logits - self._logits).max()),
            rows=0 if evaluator is None else len(evaluator.table),
            metric=found.main if found else None,
            torch=torch_found.value if torch_found else None,
            onnx=found.value if found else None,
            keep_fp32=keep,
        )

    def too_much(self, record: Exported, max_drop: float, fp32: Any, make: Any) -> ExportError:
        """The error of an int8 model that lost too much: which layers to keep in fp32, found by trying."""
        keep, enough = self.enough(record, max_drop, fp32, make)
        named = ", ".join(repr(layer) for layer in keep)
        advice = f"keep_fp32=({named},) (--keep-fp32 {','.join(keep)}), " + (
            f"with which the drop is {enough:.4f}"
            if enough is not None
            else "and allow a larger max_drop (--max-drop)"
        )
        return ExportError(
            expected=f"{record.precision} to cost at most {max_drop:g} of {record.metric} on {record.rows} rows",
            found=f"{record.onnx:.4f} instead of {record.torch:.4f}, a drop of {record.drop:.4f}",
            fix=f"keep the most damaged layers in fp32: {advice}, or the few matrices that it takes: keep_fp32='auto' "
            "(--keep-fp32 auto); nothing was written",
        )

    def enough(
        self, record: Exported, max_drop: float, fp32: Any, make: Any, *, matrices: bool = False
    ) -> tuple[list[str], float | None]:
        """What to keep in fp32 so that int8 loses no more than `max_drop`, the most damaged first, and the drop then.

        Args:
            matrices: whether single matrices are kept, else whole layers.
        """
        from attar.exporting import int8

        say(
            "int8 lost too much; finding the "
            + ("matrices" if matrices else "layers")
            + " that it hurts most"
        )
        assert self.evaluator is not None  # what was lost was measured on data
        batches = self.evaluator.batches
        count = len(batches.lengths)
        rows = np.linspace(0, count - 1, min(SEARCH_ROWS, count)).astype(int)
        few = [batches.rows(part).inputs for part in np.array_split(rows, -(-len(rows) // BATCH))]
        truth = rows_of(self._logits, batches, rows, per_token=self.task.per_token)
        named = int8.name_nodes(fp32.clone(), self.model)
        parts = [name.partition("#")[0] for name in named] if matrices else list(named.values())
        with quiet():
            order = int8.damaging_layers(parts, make, few, truth)
            order = [part for part in order if part not in record.keep_fp32]
            return self._enough(self.evaluator, order, record, max_drop, make)

    def _enough(
        self, evaluator: TableEvaluator, order: Sequence[str], record: Exported, max_drop: float, make: Any
    ) -> tuple[list[str], float | None]:
        """The first layers of `order` that are enough to keep, and the drop then; three of them where none are."""
        from attar.exporting import int8

        count = 1
        while count <= len(order):
            keep = [*record.keep_fp32, *order[:count]]
            with int8.opened(make(keep)) as model:
                drop = (record.torch or 0.0) - self.judge(evaluator, evaluator.logits(model)).value
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
    """Logits (B, C) of one batch, or (N, C) of its real tokens where the model is asked for those."""
    output = model(**{name: tensor.to(model.device) for name, tensor in batch.items()})
    return packed(outputs(output).float().cpu().numpy(), batch)


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
