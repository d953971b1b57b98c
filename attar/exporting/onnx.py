"""ONNX export: traced by transformers, mended for ONNX Runtime, compared with torch, measured, then written whole."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from attar.data.batches import positions
from attar.data.model_task import task_of
from attar.data.tables import read_table
from attar.data.tasks import Task
from attar.errors import DataError, ExportError
from attar.exporting.comparison import Comparison, Exported, quiet, random_batch, torch_logits
from attar.exporting.language_comparison import ReadingComparison
from attar.model import checkpoint
from attar.model.embedding import SentenceEncoder
from attar.model.onnx import FILE, REPORT, require
from attar.model.slim import travelling
from attar.progress import say
from attar.storage.writing import check_free, new_directory

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

    from attar.exporting.int8 import Precision

Array = NDArray[Any]
# Largest difference of fp32 logits from torch's, for logits of size 1: kernels add in another order, no more.
TOLERANCE = 1e-4
# How the classes are called whose outputs answer a task.
ANSWERING = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "SentenceEncoder")
# What sentence-transformers calls the output of an embedding model.
EMBEDDING = "sentence_embedding"
LANGUAGE = ("ForMaskedLM", "ForCausalLM", "LMHeadModel")


def export(
    source: "str | Path | PreTrainedModel",
    out: str | Path,
    *,
    tokenizer: Any = None,
    precision: "Precision" = "fp32",
    data: "str | Path | Dataset | Sequence[Mapping[str, Any]] | None" = None,
    columns: Mapping[str, str] | None = None,
    calibration: "str | Path | Dataset | Sequence[Mapping[str, Any]] | None" = None,
    keep_fp32: Sequence[str] | Literal["auto"] = (),
    max_drop: float = 0.01,
    max_length: int | None = None,
    pooling: str | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a model of a task, or a language model, as an ONNX directory for onnxruntime and tokenizers alone.

    A language model gives (B, T, V) logits, without a cache of keys and values; its `data` is plain text, on which the
    accuracy on hidden or next tokens is measured. Batch size and length are free. Logits are compared with torch's on
    padded batches of several shapes and on `data`.

    Args:
        source: a model directory, a hub name, or a loaded model (then `tokenizer` is needed).
        out: the directory to make.
        precision: `fp32`; `int8` (scales of activations found while it runs); `int8-static` (fixed beforehand).
        data: texts, best with labels, on which the loss of int8 is measured; required for int8.
        columns: the names of its columns; see `read_table`.
        calibration: texts that fix the scales of `int8-static`; `data` where None.
        keep_fp32: layers that stay in fp32, such as `layer.0` or `embeddings`; "auto" for the matrices that int8 hurts
            most, as few as bring the loss below `max_drop`, none where all in int8 lose less.
        max_drop: of the metric (of the agreement with torch, where there are no labels) that int8 may cost.
        max_length: tokens to cut texts to (or of a window), and the longest shape that is compared; the task's own
            where None.
        pooling: makes an embedding model of an encoder alone.
        overwrite: replace an earlier export.

    Raises:
        ExportError: the graph gives other logits than torch, int8 loses more than `max_drop`, or `keep_fp32` names
            no layer. Nothing is left behind.
        DataError: int8 without data.
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
    """
    require("onnx", "onnxscript", "onnxruntime")
    if precision != "fp32" and data is None:
        raise DataError(
            expected="data to measure what int8 costs",
            found="none",
            fix="give texts, with labels if you have them: data=… (--data FILE)",
        )
    check_free(out, overwrite=overwrite)
    loaded = checkpoint.load(source, tokenizer=tokenizer, pooling=pooling)
    work: Comparison | ReadingComparison
    if type(loaded.model).__name__.endswith(LANGUAGE):
        max_length = min(max_length or Task.max_length, positions(loaded.model))
        work, rows = ReadingComparison(loaded.model, loaded.tokenizer, data, max_length), None
    else:
        if not type(loaded.model).__name__.endswith(
            ANSWERING
        ):  # of such a checkpoint this says what is missing
            loaded = checkpoint.load(source, tokenizer=tokenizer, head="sequence-classification")
        task = task_of(loaded.model)
        max_length = min(max_length or task.max_length, positions(loaded.model))
        table = None if data is None else read_table(data, columns=columns, task=task)[0]
        work = Comparison(loaded.model, loaded.tokenizer, task, table, max_length)
        rows = table if calibration is None else read_table(calibration, columns=columns, task=task)[0]
    with quiet():
        fp32 = _traced(loaded.model, loaded.tokenizer, max_length)
    program, kept = fp32, () if keep_fp32 == "auto" else tuple(keep_fp32)
    if precision != "fp32":
        say("int8: quantize the weights, then measure what that costs on the data")
        make = partial(_quantized, fp32, loaded.model, precision, work.calibration(rows, precision))
        program = make(kept)
    with new_directory(out, overwrite=overwrite) as place:
        save_program(program, place / FILE)
        for name, code in travelling(loaded.model).items():
            (place / name).write_text(code, encoding="utf-8")
        loaded.model.config.architectures = [type(loaded.model).__name__]
        loaded.model.config.save_pretrained(place)
        loaded.tokenizer.save_pretrained(place)
        if isinstance(loaded.model, SentenceEncoder):  # sentence-transformers pools hidden states itself
            loaded.model.save_head(place)
        record = work.compare(place / FILE, Path(out), precision, kept)
        if (
            keep_fp32 == "auto"
            and precision != "fp32"
            and not _within(record, max_drop)
            and isinstance(work, Comparison)
        ):
            kept = tuple(work.enough(record, max_drop, fp32, make, matrices=True)[0])
            save_program(make(kept), place / FILE)
            record = work.compare(place / FILE, Path(out), precision, kept)
        if precision == "fp32":
            _check_fp32(record.difference, work.scale)
        elif not _within(record, max_drop):
            raise work.too_much(record, max_drop, fp32, make)
        text = json.dumps({**dataclasses.asdict(record), "versions": checkpoint.versions()}, indent=2)
        (place / REPORT).write_text(text + "\n", encoding="utf-8")
    return record


def _within(record: Exported, max_drop: float) -> bool:
    return record.drop is not None and record.drop <= max_drop


def trace(model: "PreTrainedModel", tokenizer: Any, *, max_length: int = 128) -> Any:
    """The fp32 graph (an `onnx_ir.Model`) with free batch size and length, its logits compared with torch's.

    Raises:
        ExportError: the logits differ at some shape.
    """
    from transformers.exporters import OnnxConfig, OnnxExporter

    from attar.exporting import graph_rewrites

    longest = min(max_length, positions(model))
    shapes = [(1, 2), (1, 9), (3, 17), (2, max(3, longest))]
    batches = [random_batch(model, tokenizer, size, length) for size, length in shapes]
    with _eager(model), _linear(model):
        config = OnnxConfig(dynamic=True, ort_fusions="cpu")
        program = OnnxExporter().export(model, dict(batches[2]), config=config).program
    if isinstance(model, SentenceEncoder):
        program.graph.outputs[0].name = EMBEDDING
    expected = [torch_logits(model, batch) for batch in batches]
    graph_rewrites.drop_cache(program)
    graph_rewrites.join_projections(program)
    graph_rewrites.split_skip_normalization(program)
    graph_rewrites.drop_origins(program)
    mended = program.clone()
    if graph_rewrites.mask_by_padding(mended) and _difference(mended, batches, expected) <= TOLERANCE:
        return mended
    if (found := _difference(program, batches, expected)) > TOLERANCE:
        _check_fp32(found, 1.0)
    return program


# The last graph, by what it was made from: tracing takes most of an export, and fp32 is followed by int8 as a rule.
_last: dict[str, bytes] = {}
_KEPT_BYTES = 2**28


def _traced(model: "PreTrainedModel", tokenizer: Any, max_length: int) -> Any:
    import onnx
    import onnx_ir

    key = checkpoint.digest(model, model.config.to_dict(), tokenizer.model_input_names, max_length)
    if key in _last:
        return onnx_ir.from_proto(onnx.load_from_string(_last[key]))
    say("trace the model into an ONNX graph, and compare its logits with torch's at several shapes")
    program = trace(model, tokenizer, max_length=max_length)
    _last.clear()
    if sum(weight.nbytes for weight in model.state_dict().values()) <= _KEPT_BYTES:
        _last[key] = onnx_ir.to_proto(program).SerializeToString()
    return program


def _quantized(fp32: Any, model: Any, precision: Any, calibration: Any, keep: Sequence[str]) -> Any:
    from attar.exporting import int8

    with quiet():
        return int8.quantize(fp32, model, precision, keep_fp32=keep, calibration=calibration)


def _check_fp32(difference: float, scale: float) -> None:
    if not difference <= TOLERANCE * scale:
        raise ExportError(
            expected=f"logits within {TOLERANCE * scale:.1g} of torch's",
            found=f"a difference of {difference:.2g}",
            fix="report this as a bug of attar with the model's config.json and the versions; nothing was written",
        )


def _difference(program: Any, batches: Sequence[Mapping[str, Any]], expected: Sequence[Array]) -> float:
    """Largest difference over batches that share one session, relative to logits of size 1 and above."""
    from attar.exporting import int8

    found = int8.run(program, batches)
    wanted = np.concatenate(expected)
    return float(np.abs(found - wanted).max() / max(1.0, np.abs(wanted).max()))


def save_program(program: Any, path: Path) -> None:
    """Write a graph, its weights in a file beside it where they are too large for one."""
    import onnx_ir

    weights = sum(
        v.const_value.nbytes for v in program.graph.initializers.values() if v.const_value is not None
    )
    # One protobuf holds at most 2 GB; larger weights go to a file beside it, which ONNX Runtime finds by itself, and
    # optimum and transformers.js under this name only.
    onnx_ir.save(program, path, external_data=f"{path.name}_data" if weights > 1.5 * 2**30 else None)


@contextlib.contextmanager
def _linear(model: "PreTrainedModel") -> Iterator[None]:
    """GPT-2's transposed matrices as linear layers for the time: as they are, their trace has no free batch size."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    found = [(name, module) for name, module in model.named_modules() if isinstance(module, Conv1D)]
    for name, module in found:
        rows, columns = module.weight.shape
        plain = nn.Linear(rows, columns, device="meta")
        plain.weight, plain.bias = nn.Parameter(module.weight.detach().T.contiguous()), module.bias
        model.set_submodule(name, plain)
    try:
        yield
    finally:
        for name, module in found:
            model.set_submodule(name, module)


@contextlib.contextmanager
def _eager(model: "PreTrainedModel") -> Iterator[None]:
    """Plain attention for the time: from it the fusions find one `Attention` per layer, from SDPA they do not."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)
