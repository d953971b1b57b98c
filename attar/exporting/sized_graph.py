"""The graph that a model of a form is exported as, without such a model: a small one's, layer by layer in other sizes.

What an export takes on disk and in ONNX Runtime depends on its operators and their sizes, not on what its weights are.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from attar.anatomy.form import Form, LayerForm
from attar.errors import ExportError

# Constants of so many numbers or fewer are shapes and numbers of heads; those of whole sequences are not.
FEW = 6


@dataclass(frozen=True)
class Sized:
    """A tensor of a graph: its shape in the template, the layer there that has it, and the layer that gets it."""

    itemsize: int
    shape: tuple[int, ...]
    template: int | None
    place: int | None


class SizedGraph:
    """Graphs of forms, made of the graph of a small model whose sizes are all different numbers.

    Args:
        program: fp32 or int8 graph of the small model, whose weights are random, so that none is found twice.
        form: of the small model. Of each kind of layer it has two, of different sizes: what both read stands outside.
        layers: path of the layers, such as `encoder.layer`.

    Raises:
        ExportError: layers that cannot be told apart in the graph, as where all share their weights.
    """

    def __init__(self, program: Any, form: Form, layers: str) -> None:
        self.template, self.form = program, form
        numbered = re.compile(rf"(?:^|\.){re.escape(layers)}\.(\d+)\.")
        nodes = list(program.graph)
        names = {node: [node.name or "", *(value.name for value in _weights(node))] for node in nodes}
        found = {node: [int(n) for name in names[node] for n in numbered.findall(name)] for node in nodes}
        self._own = {node: numbers[0] for node, numbers in found.items() if numbers}
        if set(self._own.values()) != set(range(len(form.layers))):
            raise _untold(f"weights of layers {sorted(set(self._own.values()))} of {len(form.layers)}")
        # Where a layer ends: its last operator with weights normalizes what it gives.
        last = {
            n: max(i for i, node in enumerate(nodes) if self._own.get(node) == n)
            for n in range(len(form.layers))
        }
        self.ends = {n: nodes[i].outputs[0] for n, i in last.items()}
        first = min(i for i, node in enumerate(nodes) if self._own.get(node) == 0)
        self.ends[-1] = next(
            node for node in reversed(nodes[:first]) if any(map(_learned, _weights(node)))
        ).outputs[0]
        self.parts = {n: self._between(nodes, n) for n in self.kinds().values()}
        self.tensors = lru_cache(maxsize=64)(self._tensors)

    def kinds(self) -> dict[bool, int]:
        """The layer of the template, its second of that kind, for layers whose key and value are of one size or two."""
        found: dict[bool, int] = {}
        for n, layer in enumerate(self.form.layers):
            if n > 0 and n >= len(self.form.layers) // 2:
                found.setdefault(layer.key == layer.value, n)
        return found

    def bytes(self, form: Form) -> int:
        """Size of the file."""
        around, tensors = self.tensors(self._pattern(form))
        return around + sum(one.itemsize * prod(self._shape(one, form)) for one in tensors)

    def of(self, form: Form) -> Any:
        """The graph (an `onnx_ir.Model`) of a form; its weights mean nothing."""
        return self._made(form)[0]

    def _pattern(self, form: Form) -> tuple[int, ...]:
        kinds = self.kinds()
        try:
            return tuple(kinds[layer.key == layer.value] for layer in form.layers)
        except KeyError:
            raise _untold("no layer with keys and values of two sizes") from None

    def _tensors(self, pattern: tuple[int, ...]) -> tuple[int, tuple[Sized, ...]]:
        """Bytes of the graph without its tensors, and these."""
        own = self.form
        same = Form(own.hidden, own.embedding, own.vocab, tuple(own.layers[n] for n in pattern))
        program, tensors = self._made(same)
        whole = ir.to_proto(program).ByteSize()
        return whole - sum(one.itemsize * prod(one.shape) for one in tensors), tuple(tensors)

    def _shape(self, one: Sized, form: Form) -> tuple[int, ...]:
        sizes = self._sizes(form, one.template, one.place)
        return tuple(sizes.get(size, size) for size in one.shape)

    def _sizes(self, form: Form, template: int | None, place: int | None) -> dict[int, int]:
        """Size in the template -> size in a form."""
        found = dict(zip(_outside(self.form), _outside(form), strict=True))
        if template is not None and place is not None:
            layers = self.form.layers[template], form.layers[place]
            found |= dict(zip(*map(_inside, layers), strict=True))
        return found

    def _between(self, nodes: list[Any], n: int) -> list[Any]:
        """The operators of a layer, in order."""
        before, until = _upstream(self.ends[n - 1]), _upstream(self.ends[n])
        inside = [node for node in nodes if node in until and node not in before]
        made = {output for node in inside for output in node.outputs}
        for value in {value for node in inside for value in node.inputs if value is not None} - made:
            if value is not self.ends[n - 1] and any(node in self._own for node in _upstream(value)):
                raise _untold(f"layer {n} reads {value.name} of another")
        numbers = set(_inside(self.form.layers[n])) - set(_outside(self.form))
        for node in before:
            for value in _weights(node):
                few = value.const_value.numpy()
                if self._own.get(node) is None and few.dtype == np.int64 and few.size <= FEW:
                    if numbers & set(few.reshape(-1).tolist()):
                        raise _untold(f"{value.name} is a size of all layers")
        return inside

    def _made(self, form: Form) -> tuple[Any, list[Sized]]:
        model = self.template.clone()
        graph, random = model.graph, np.random.default_rng(0)
        values = {output.name: output for node in graph for output in node.outputs}
        values |= {value.name: value for value in (*graph.inputs, *graph.initializers.values())}
        tensors: dict[Any, Sized] = {}
        read = values[self.ends[-1].name]
        for place, n in enumerate(self._pattern(form)):
            inside = {self.ends[n - 1].name: read}
            sizes = self._sizes(form, n, place)
            for node in self.parts[n]:
                inputs = []
                for value in node.inputs:
                    if value is not None and value.name not in inside and _differs(value, sizes):
                        inside[value.name] = new = _constant(
                            graph, f"{value.name}_{place}", value, sizes, random
                        )
                        tensors[new] = Sized(_item(value), tuple(value.const_value.shape), n, place)
                    inputs.append(None if value is None else inside.get(value.name, values.get(value.name)))
                attributes = dict(node.attributes)
                if "num_heads" in attributes:
                    attributes["num_heads"] = ir.AttrInt64("num_heads", form.layers[place].heads)
                new = ir.Node(
                    node.domain, node.op_type, inputs, list(attributes.values()), num_outputs=len(node.outputs),
                    name=f"{node.name}_{place}",
                )  # fmt: skip
                for old, output in zip(node.outputs, new.outputs, strict=True):
                    output.name, output.type, output.shape = (
                        f"{old.name}_{place}",
                        old.type,
                        _shape(old, sizes),
                    )
                    inside[old.name] = output
                graph.append(new)
            read = inside[self.ends[n].name]
        values[self.ends[len(self.form.layers) - 1].name].replace_all_uses_with(
            read, replace_graph_outputs=True
        )
        graph.sort()
        while RemoveUnusedNodesPass()(model).modified:
            pass
        outside = self._sizes(form, None, None)
        for value in values.values():
            if value.const_value is None:
                value.shape = _shape(value, outside)
        for value in list(graph.initializers.values()):
            if value not in tensors:
                tensors[value] = Sized(_item(value), tuple(value.const_value.shape), None, None)
                _resize(value, value, outside, random, numbers=False)
        return model, [tensors[value] for value in graph.initializers.values()]


def _shape(value: Any, sizes: dict[int, int]) -> Any:
    if value.shape is None:
        return None
    return ir.Shape([sizes.get(n, n) if isinstance(n, int) else n for n in value.shape])


def _outside(form: Form) -> list[int]:
    return [form.hidden, form.embedding, form.vocab]


def _inside(layer: LayerForm) -> list[int]:
    query, value = layer.heads * layer.key, layer.heads * layer.value
    return [layer.heads, layer.key, layer.value, query, value, 2 * query + value, layer.ffn]


def _weights(node: Any) -> Iterator[Any]:
    """Constants that an operator reads."""
    return (value for value in node.inputs if value is not None and value.const_value is not None)


def _learned(value: Any) -> bool:
    return value.dtype != ir.DataType.INT64 and len(value.const_value.shape) > 0


def _upstream(value: Any) -> set[Any]:
    """All operators that a value comes from."""
    found: set[Any] = set()
    waiting = [value.producer()]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting += [one.producer() for one in node.inputs if one is not None]
    return found


def _item(value: Any) -> int:
    return int(value.const_value.dtype.itemsize)


def _differs(value: Any, sizes: dict[int, int]) -> bool:
    """Whether a layer has a constant of its own: weights, and numbers that are its sizes."""
    if value.const_value is None:
        return False
    array = value.const_value.numpy()
    return array.dtype != np.int64 or not sizes.keys().isdisjoint(array.reshape(-1)[:FEW].tolist())


def _constant(graph: Any, name: str, like: Any, sizes: dict[int, int], random: np.random.Generator) -> Any:
    value = ir.Value(name=name)
    _resize(value, like, sizes, random, numbers=True)
    graph.register_initializer(value)
    return value


def _resize(
    value: Any, like: Any, sizes: dict[int, int], random: np.random.Generator, *, numbers: bool
) -> None:
    """Give a constant the values of another in other sizes; numbers in it that are sizes, too."""
    array = like.const_value.numpy()
    if array.dtype == np.int64:
        if numbers and array.size <= FEW:
            array = np.array([sizes.get(n, n) for n in array.reshape(-1).tolist()], np.int64).reshape(
                array.shape
            )
    else:
        shape = tuple(sizes.get(n, n) for n in array.shape)
        # Weights that are alike in all layers, or in rows, take less time than others do, by up to a tenth.
        drawn = random.standard_normal(shape, dtype=np.float32) * array.std() if len(shape) > 1 else array
        array = np.resize(drawn, shape).astype(array.dtype)
    value.const_value = ir.tensor(array)
    value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)


def _untold(found: str) -> ExportError:
    return ExportError(
        expected="layers that can be told apart in the exported graph",
        found=found,
        fix="export a model of these sizes itself",
    )
