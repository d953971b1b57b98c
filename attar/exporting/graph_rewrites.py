"""Rewrites of an exported ONNX graph for ONNX Runtime on a processor; each computes what it replaces.

transformers' fusions leave one `Attention` per layer (from "eager" attention; from SDPA they leave a dozen reshapes).
What is mended here, each found by profiling (4 layers x 312, batch 1, 128 tokens, one thread):

- `SkipLayerNormalization` took several times as long as the additions and the `LayerNormalization` it stands for
  (3.0 against 1.0 ms); without it fp32 took 14 % and int8 22 % less time. Why was not looked up in its source.
- `Attention` takes the padding mask itself. As an additive bias it needs twenty small nodes, and keeps the int8
  `QAttention`, which has no such input, from being used.
- The weights of q, k and v are joined when the session starts: then the quantizer does not see a constant.
"""

from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

MICROSOFT = "com.microsoft"
# What torch's masks hold where a token must not be seen.
HIDDEN = float(np.finfo(np.float32).min)


def drop_cache(model: Any) -> None:
    """Give no keys and values, which a decoder's trace has as outputs beside its logits: nobody reads them here.

    They are traced all the same, since transformers fuses grouped attention only where they are.
    """
    outputs = model.graph.outputs
    outputs[:] = [value for value in outputs if not value.name.startswith("past_key_values")]
    RemoveUnusedNodesPass()(model)


def join_projections(model: Any) -> None:
    """Make the joined weight (H, 3H) of each `Attention` a constant; equal sizes of q, k and v need no attribute.

    Layers that share their weights share the constant.
    """
    joined: dict[Any, Any] = {}
    for node in _nodes(model, "Attention"):
        concat = node.inputs[1].producer()
        if concat is not None and concat.op_type == "Concat":
            parts = [value.const_value for value in concat.inputs]
            if any(part is None for part in parts):
                continue
            if concat not in joined:
                weight = np.concatenate(
                    [part.numpy() for part in parts], axis=concat.attributes.get_int("axis")
                )
                joined[concat] = _constant(model, f"{node.inputs[1].name}_joined", weight)
            node.replace_input_with(1, joined[concat])
        sizes = node.attributes.get_ints("qkv_hidden_sizes", None)
        if sizes and len(set(sizes)) == 1:
            node.attributes.pop("qkv_hidden_sizes")
    RemoveUnusedNodesPass()(model)


def mask_by_padding(model: Any) -> bool:
    """Give each `Attention` the model's `attention_mask` (B, T) in place of an additive bias made from it.

    Whether the bias was made from the padding alone cannot be read from the graph with certainty: the caller compares
    the logits on padded batches, and takes the graph without this rewrite where they differ.

    Returns:
        Whether anything changed.
    """
    mask = next((value for value in model.graph.inputs if value.name == "attention_mask"), None)
    nodes = [n for n in _nodes(model, "Attention") if len(n.inputs) == 6 and n.inputs[5] is not None]
    nodes = [node for node in nodes if node.inputs[3] is None and node.inputs[4] is None]
    if mask is None or not nodes:
        return False
    cast = ir.node("Cast", [mask], attributes={"to": ir.DataType.INT32.value})
    cast.outputs[0].name, cast.outputs[0].shape, cast.outputs[0].dtype = (
        "padding_mask",
        mask.shape,
        ir.DataType.INT32,
    )
    model.graph.insert_before(model.graph[0], cast)
    for node in nodes:
        node.replace_input_with(3, cast.outputs[0])
        node.resize_inputs(4)
        node.attributes["mask_filter_value"] = ir.AttrFloat32("mask_filter_value", HIDDEN)
    RemoveUnusedNodesPass()(model)
    return True


def split_skip_normalization(model: Any) -> None:
    """`SkipLayerNormalization` as additions and a `LayerNormalization`.

    The residual goes through `Sum`, not `Add`, which ONNX Runtime would fuse back when it opens the model.
    """
    for node in _nodes(model, "SkipLayerNormalization"):
        x, skip, gamma, beta = node.inputs[:4]
        if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
            continue
        if len(node.inputs) > 4 and node.inputs[4] is not None:
            x = _insert(node, "Add", [x, node.inputs[4]])
        total = _insert(node, "Sum", [x, skip])
        epsilon = node.attributes.get_float("epsilon", 1e-12)
        normal = _insert(node, "LayerNormalization", [total, gamma, beta], {"axis": -1, "epsilon": epsilon})
        _replace(node, normal)


def drop_origins(model: Any) -> None:
    """Leave out which line of Python each operator comes from: a tenth of a megabyte, and paths of this machine."""
    for part in (model.graph, *model.graph, *model.graph.initializers.values()):
        part.metadata_props.clear()
    for node in model.graph:
        for output in node.outputs:
            output.metadata_props.clear()


def split_attention(model: Any) -> None:
    """`Attention` as the joined projection and a `MultiHeadAttention`, for static quantization.

    ONNX Runtime has no int8 `Attention` with scales known beforehand; the projection is then a MatMul like the others.
    """
    for node in _nodes(model, "Attention"):
        x, weight, bias = node.inputs[:3]
        if weight.const_value is None or "qkv_hidden_sizes" in node.attributes:
            continue
        width = weight.const_value.shape[1] // 3
        joined = _insert(node, "Add", [_insert(node, "MatMul", [x, weight], name=f"{node.name}_qkv"), bias])
        sizes = _constant(model, f"{node.name}_sizes", np.array([width] * 3, dtype=np.int64))
        parts = ir.node("Split", [joined, sizes], attributes={"axis": -1}, num_outputs=3)
        node.graph.insert_before(node, parts)
        mask, past, seen = (*node.inputs[3:], None, None, None)[:3]
        if past is not None:
            continue
        kept = {
            name: node.attributes[name]
            for name in ("num_heads", "mask_filter_value")
            if name in node.attributes
        }
        heads = ir.Node(
            MICROSOFT, "MultiHeadAttention", [*parts.outputs, None, mask, seen], list(kept.values())
        )
        node.graph.insert_before(node, heads)
        _replace(node, heads.outputs[0])
    RemoveUnusedNodesPass()(model)


def _nodes(model: Any, kind: str) -> list[Any]:
    return [node for node in model.graph if node.op_type == kind]


def _constant(model: Any, name: str, array: Any) -> Any:
    value = ir.Value(name=name, const_value=ir.tensor(np.ascontiguousarray(array)))
    value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
    model.graph.register_initializer(value)
    return value


def _insert(
    before: Any, kind: str, inputs: list[Any], attributes: Any = None, name: str | None = None
) -> Any:
    """The output (B, T, ·) of a new node before `before`."""
    node = ir.node(kind, inputs, attributes=attributes, name=name)
    node.outputs[0].dtype = inputs[0].dtype
    before.graph.insert_before(before, node)
    return node.outputs[0]


def _replace(node: Any, value: Any) -> None:
    old = node.outputs[0]
    value.shape, value.dtype = old.shape, old.dtype
    if value.name is None or old.is_graph_output():
        old.name, value.name = f"{old.name}_before", old.name
    old.replace_all_uses_with(value, replace_graph_outputs=True)
    node.graph.remove(node, safe=True)
