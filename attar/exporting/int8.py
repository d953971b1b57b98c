"""int8 weights and activations: which nodes of the graph, how, and which layers cost the most where they are int8."""

import hashlib
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from attar.errors import ExportError
from attar.exporting import graph_rewrites
from attar.model.onnx import OnnxModel, packed
from attar.progress import track

Array = NDArray[Any]
Precision = Literal["fp32", "int8", "int8-static"]
# The matrix products of layers, and the rows of the embeddings. The head stays, a `Gemm` where it reads one vector a
# text, and named here where it reads one a token: nothing to gain, much to lose.
OPERATORS = ("MatMul", "Attention", "Gather")
HEADS = ("classifier", "qa_outputs")


def name_nodes(model: Any, module: torch.nn.Module) -> dict[str, str]:
    """Name the nodes that can be int8 by the torch module whose weight they hold, which is found by its values.

    An `Attention` and a joined projection of query, key and value have the name of their query. Weights that several
    nodes share make names with `#2`, `#3`.

    Returns:
        The layer of each node name: `bert.encoder.layer.0` of `bert.encoder.layer.0.output.dense`, or, outside of
        the layers, the module itself.
    """
    known = {
        (array.shape[1], _digest(array)): name.rpartition(".")[0]
        for name, weight in module.named_parameters()
        if weight.ndim == 2
        for array in (weight.detach().cpu().numpy(), weight.detach().cpu().numpy().T)
    }
    found: dict[str, str] = {}
    for node in model.graph:
        if node.op_type not in OPERATORS:
            continue
        weights = [value.const_value.numpy() for value in node.inputs[:2] if value.const_value is not None]
        for weight in weights:
            if weight.ndim != 2 or weight.dtype != np.float32 or not (base := _holder(weight, known)):
                continue
            if base in HEADS:
                continue
            name = base
            number = 1
            while name in found:
                number += 1
                name = f"{base}#{number}"
            node.name, found[name] = name, layer_of(base)
    return found


def layer_of(module: str) -> str:
    """`bert.encoder.layer.0` of `bert.encoder.layer.0.output.dense`; the name itself where no layer has a number."""
    numbered = re.match(r"(.*?\.\d+)(\.|$)", module)
    return numbered.group(1) if numbered else module


def kept_nodes(layers: Mapping[str, str], keep_fp32: Sequence[str]) -> list[str]:
    """Names of the nodes that `keep_fp32` means: whole steps of the dotted name, such as `layer.0` or `embeddings`.

    Raises:
        ExportError: an entry matches no node.
    """
    kept = []
    for entry in keep_fp32:
        hit = [name for name in layers if f".{entry}." in f".{name.partition('#')[0]}."]
        if not hit:
            raise ExportError(
                expected=f"keep_fp32 to name layers of the model: {', '.join(dict.fromkeys(layers.values()))}",
                found=repr(entry),
                fix="use the end or the whole of one of those names",
            )
        kept += hit
    return list(dict.fromkeys(kept))


def quantize(
    model: Any,
    module: torch.nn.Module,
    precision: Precision,
    *,
    keep_fp32: Sequence[str] = (),
    calibration: Iterable[Mapping[str, Any]] = (),
) -> Any:
    """A copy of an fp32 graph with int8 weights, one scale per output channel.

    `int8` finds the scales of activations while it runs, for each batch anew. `int8-static` fixes them beforehand from
    the range they had on `calibration` (batches of inputs, (B, T) each): smaller code paths on devices that want it,
    more to lose, and on processors not faster.
    """
    from onnxruntime.quantization import QuantType
    from transformers.exporters import OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer, OnnxRuntimeStaticConfig
    from transformers.exporters.configs import ExportFormat

    model = model.clone()
    if precision == "int8-static":
        graph_rewrites.split_attention(model)
        # Fusions name a scale's shape () where its value has (1,): ONNX's shape inference refuses that.
        for value in model.graph.initializers.values():
            if value.const_value is not None:
                value.shape = value.const_value.shape
    layers = name_nodes(model, module)
    kept = kept_nodes(layers, keep_fp32)
    common: dict[str, Any] = {
        "op_types_to_quantize": list(OPERATORS),
        "nodes_to_quantize": [name for name in layers if name not in kept],
        "per_channel": True,
        "weight_type": QuantType.QInt8,
    }
    if not common["nodes_to_quantize"]:  # an empty list would mean: all
        return model
    batches = [dict(batch) for batch in calibration]
    sample = batches[0] if batches else {}
    if precision == "int8":
        return OnnxRuntimeQuantizer(OnnxRuntimeDynamicConfig(**common)).quantize(
            model, sample, ExportFormat.ONNX
        )
    # Products stay fp32 at their outputs: residuals and norms then see what they see in fp32.
    options = {"OpTypesToExcludeOutputQuantization": ["MatMul"], "MatMulConstBOnly": True}
    static = OnnxRuntimeStaticConfig(**common, activation_type=QuantType.QUInt8, extra_options=options)
    try:
        return OnnxRuntimeQuantizer(static, calibration_dataset=batches).quantize(
            model, sample, ExportFormat.ONNX
        )
    except Exception as error:  # onnx's and ONNX Runtime's shape inference, each with exceptions of its own
        raise ExportError(
            expected="a graph that ONNX Runtime can quantize with fixed scales",
            found=str(error).splitlines()[0][:200],
            fix='use precision="int8", whose scales are found while it runs',
        ) from error


def damaging_layers(
    layers: Iterable[str],
    quantized: Callable[[Sequence[str]], Any],
    batches: Sequence[Mapping[str, Any]],
    truth: Array,
) -> list[str]:
    """Layers in the order of what keeping each of them in fp32 mends, the most damaging first.

    Args:
        layers: their names.
        quantized: makes the int8 graph that keeps the layers it is given in fp32.
        batches: inputs of N rows together.
        truth: logits (N, C) of the fp32 model on them, or on their tokens.
    """
    error = {}
    for layer in track(list(dict.fromkeys(layers)), "which layers int8 hurts"):
        error[layer] = float(np.square(run(quantized([layer]), batches) - truth).mean())
    return sorted(error, key=error.__getitem__)


def run(model: Any, batches: Iterable[Mapping[str, Any]]) -> Array:
    """Logits (N, C) of a graph in memory, of the real tokens where it is asked for those."""
    with opened(model) as session:
        return np.concatenate([packed(session(batch), batch) for batch in batches])


@contextmanager
def opened(model: Any) -> Iterator[OnnxModel]:
    """A graph in memory as a model that runs."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "model.onnx"
        ir.save(model, path)
        yield OnnxModel(path)


def _holder(weight: Array, known: Mapping[tuple[int, bytes], str]) -> str:
    """The module of a weight, or of the query that a joined weight begins with; "" where none has it."""
    columns = {width for width, _ in known if width < weight.shape[1]}
    for width in (weight.shape[1], *sorted(columns, reverse=True)):
        if name := known.get((width, _digest(weight[:, :width]))):
            return name
    return ""


def _digest(array: Array) -> bytes:
    return hashlib.sha256(str(array.shape).encode() + np.ascontiguousarray(array).tobytes()).digest()
