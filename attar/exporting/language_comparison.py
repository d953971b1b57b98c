"""An exported language model beside the torch model: logits on padded batches, and accuracy on the user's texts."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from attar.data.batches import Batch, Batches, encode, positions
from attar.data.language_modeling import causal_head, reading
from attar.data.masking import IGNORED
from attar.data.tables import read_texts
from attar.errors import ExportError
from attar.evaluation.language_model import MAIN
from attar.exporting.comparison import CALIBRATION_ROWS, Exported, random_batch, torch_logits
from attar.model.onnx import OnnxModel, packed

Array = NDArray[Any]
BATCH = 8


class ReadingComparison:
    """What `Comparison` is for tasks, for language models: the metric is the share of tokens that are predicted right.

    Args:
        texts: as for `read_texts`; masked tokens of a masked model, next tokens of a causal one. None compares logits
            on random tokens only.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Any, texts: Any, length: int) -> None:
        self.model, self.causal = model, causal_head(model)
        self._batch = random_batch(model, tokenizer, 8, min(length, 48))
        self._logits = torch_logits(model, self._batch)
        self.rows, self.batches = 0, []
        if texts is not None:
            table = read_texts(texts)
            self.rows = len(table)
            self.batches = list(self._batches(table, tokenizer, length))
            self._torch = self._accuracy(self._run)

    @property
    def scale(self) -> float:
        """The size of the logits, at least 1."""
        return max(1.0, float(np.abs(self._logits).max()))

    def _batches(self, table: Any, tokenizer: Any, length: int) -> Iterator[Batch]:
        if not self.causal:
            yield from (
                reading(self.model, max_length=length, batch_size=BATCH).batches(table, tokenizer).epoch(0)
            )
            return
        for batch in Batches(encode(table, tokenizer, max_length=length), tokenizer, batch_size=BATCH):
            ids = batch.inputs["input_ids"]
            labels = torch.full_like(ids, IGNORED)
            labels[:, :-1] = torch.where(batch.mask[:, 1:], ids[:, 1:], IGNORED)
            yield Batch(batch.inputs, labels, batch.index, batch.counts)

    def calibration(self, texts: Any, precision: str) -> list[dict[str, torch.Tensor]]:
        """Inputs of the first texts, for static scales."""
        few = self.batches[: CALIBRATION_ROWS // BATCH] if precision == "int8-static" else []
        return [batch.inputs for batch in few]

    def _run(self, inputs: Mapping[str, torch.Tensor]) -> Array:
        with torch.inference_mode():
            return self.model(**inputs).logits.float().numpy()  # type: ignore[no-any-return]

    def _accuracy(self, run: Any) -> float:
        """The share of the asked tokens that a model finds the likeliest."""
        right = total = 0
        for batch in self.batches:
            assert batch.labels is not None
            labels = batch.labels.numpy()
            asked = labels != IGNORED
            right += int((run(batch.inputs).argmax(-1)[asked] == labels[asked]).sum())
            total += int(asked.sum())
        return right / max(1, total)

    def compare(self, path: Path, out: Path, precision: str, keep: tuple[str, ...]) -> Exported:
        """Run the written model beside torch."""
        onnx = OnnxModel(path)
        logits = packed(onnx(self._batch), self._batch)
        return Exported(
            directory=out.name,
            precision=precision,
            bytes=onnx.bytes,
            parameters=self.model.num_parameters(),
            positions=positions(self.model),
            difference=float(np.abs(logits - self._logits).max()),
            rows=self.rows,
            metric=MAIN[self.causal] if self.batches else None,
            torch=self._torch if self.batches else None,
            onnx=self._accuracy(onnx) if self.batches else None,
            keep_fp32=keep,
        )

    def too_much(self, record: Exported, max_drop: float, fp32: Any, make: Any) -> ExportError:
        """The error of an int8 model that lost too much."""
        from attar.exporting import int8

        layers: Sequence[str] = sorted(set(int8.name_nodes(fp32.clone(), self.model).values()))
        return ExportError(
            expected=f"{record.precision} to cost at most {max_drop:g} of {record.metric} on {record.rows} texts",
            found=f"{record.onnx:.4f} instead of {record.torch:.4f}, a drop of {record.drop:.4f}",
            fix=f"keep layers in fp32 (--keep-fp32), of {', '.join(layers[:6])}…, or allow more (--max-drop); "
            "nothing was written",
        )
