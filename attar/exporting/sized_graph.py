"""The graph that a model of a form is exported as, without such a model: a small one's, layer by layer in other sizes.

What an export takes on disk and in ONNX Runtime depends on its operators and their sizes, not on what its weights are.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
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
# Attributes of operators that are numbers of heads.
HEADS = {"num_heads", "kv_num_heads"}
# What tells the layers of a family apart beside their sizes: two of one kind have the same operators.
Kind = tuple[Any, ...]


@dataclass(frozen=True)
class Sized:
    """A tensor of a graph: its shape in the template, the layer there that has it, and the layer that gets it."""

    itemsize: int
    shape: tuple[int, ...]
    template: int | None
    place: int | None


class SizedGraph:
    """Graphs of forms, made of the graph of a small model whose sizes are all different numbers.

    Sizes that are the same in all layers of the small model have to be so in the forms as well: numbers that all
    layers read are then such sizes.

    Args:
        program: fp32 or int8 graph of the small model, whose weights are random, so that none is found twice. Its
            operators are named by their weights (`int8.name_nodes`).
        form: of the small model.
        kinds: of its layers. Where it has one layer of a kind, what that alone reads is part of the layer.
        layers: path of the layers, such as `encoder.layer`.
        numbers: all that a graph has for a layer: products and parts of its sizes.
        shared: whether the layers are one layer that runs several times.

    Raises:
        ExportError: layers that cannot be told apart in the graph.
    """

    def __init__(
        self,
        program: Any,
        form: Form,
        kinds: Sequence[Kind],
        layers: str,
        numbers: Callable[[LayerForm], list[int]],
        *,
        shared: bool = False,
    ) -> None:
        self.template, self.form, self.numbers = program, form, numbers
        self.places = {kind: n for n, kind in enumerate(kinds)}
        count = len(form.layers)
        own = _own(program, layers, shared=shared)
        if set(own.values()) != set(range(count)):
            raise _untold(f"weights of layers {sorted(set(own.values()))} of {count}")
        ranks = _ranks(program, own, count)
        self.parts = [[node for node in program.graph if ranks[node] == n] for n in range(count)]
        self.reads = [_crossing(program, ranks, n) for n in range(count + 1)]
        self.own_constants = {
            value for node in program.graph for value in _weights(node)
            if len({ranks[use.node] for use in value.uses()}) == 1 and ranks[node] in range(count)
        }  # fmt: skip
        self.alike = [len(set(sizes)) == 1 for sizes in zip(*map(numbers, form.layers), strict=True)]
        self._check_outside(ranks)
        self.tensors = lru_cache(maxsize=64)(self._tensors)

    def bytes(self, form: Form, kinds: Sequence[Kind]) -> int:
        """Size of the file."""
        around, tensors = self.tensors(self._pattern(kinds))
        return around + sum(one.itemsize * prod(self._shape(one, form)) for one in tensors)

    def of(self, form: Form, kinds: Sequence[Kind]) -> Any:
        """The graph (an `onnx_ir.Model`) of a form; its weights mean nothing."""
        return self._made(form, self._pattern(kinds))[0]

    def _pattern(self, kinds: Sequence[Kind]) -> tuple[int, ...]:
        """The layer of the template for each layer."""
        if missing := set(kinds) - set(self.places):
            raise _untold(f"no layer of the kind {missing.pop()}")
        pattern = tuple(self.places[kind] for kind in kinds)
        gives = [len(self.reads[0]), *(len(self.reads[n + 1]) for n in pattern)]
        takes = [*(len(self.reads[n]) for n in pattern), len(self.reads[-1])]
        if gives != takes:
            raise _untold(f"layers that read {takes} values where {gives} are given")
        return pattern

    def _check_outside(self, ranks: Mapping[Any, int | None]) -> None:
        """Refuse sizes of a single layer that stand outside of it."""
        of_one = {
            size
            for layer in self.form.layers
            for size, alike in zip(self.numbers(layer), self.alike, strict=True)
            if not alike
        } - set(_outside(self.form))
        for node, rank in ranks.items():
            for value in _weights(node) if rank is None else ():
                few = value.const_value.numpy()
                if few.dtype == np.int64 and few.size <= FEW and of_one & set(few.reshape(-1).tolist()):
                    raise _untold(f"{value.name} is a size of one layer")

    def _tensors(self, pattern: tuple[int, ...]) -> tuple[int, tuple[Sized, ...]]:
        """Bytes of the graph without its tensors, and these."""
        own = self.form
        same = Form(own.hidden, own.embedding, own.vocab, tuple(own.layers[n] for n in pattern))
        program, tensors = self._made(same, pattern)
        whole = ir.to_proto(program).ByteSize()
        return whole - sum(one.itemsize * prod(one.shape) for one in tensors), tuple(tensors)

    def _shape(self, one: Sized, form: Form) -> tuple[int, ...]:
        sizes = self._sizes(form, one.template, one.place)
        return tuple(sizes.get(size, size) for size in one.shape)

    def _sizes(self, form: Form, template: int | None, place: int | None) -> dict[int, int]:
        """Size in the template -> size in a form."""
        found = dict(zip(_outside(self.form), _outside(form), strict=True))
        of_all = template is None or place is None
        ours, theirs = self.form.layers[template or 0], form.layers[place or 0]
        for before, after, alike in zip(self.numbers(ours), self.numbers(theirs), self.alike, strict=True):
            if (alike or not of_all) and found.setdefault(before, after) != after:
                raise _untold(f"{before} is two sizes, {found[before]} and {after}")
        return found

    def _made(self, form: Form, pattern: tuple[int, ...]) -> tuple[Any, list[Sized]]:
        model = self.template.clone()
        graph, random = model.graph, np.random.default_rng(0)
        values = {output.name: output for node in graph for output in node.outputs}
        values |= {value.name: value for value in (*graph.inputs, *graph.initializers.values())}
        tensors: dict[Any, Sized] = {}
        read = [values[value.name] for value in self.reads[0]]
        for place, n in enumerate(pattern):
            inside = {old.name: new for old, new in zip(self.reads[n], read, strict=True)}
            sizes = self._sizes(form, n, place)
            for node in self.parts[n]:
                inputs = []
                for value in node.inputs:
                    if value in self.own_constants and value.name not in inside and _differs(value, sizes):
                        inside[value.name] = new = _constant(
                            graph, f"{value.name}_{place}", value, sizes, random
                        )
                        tensors[new] = Sized(_item(value), tuple(value.const_value.shape), n, place)
                    inputs.append(None if value is None else inside.get(value.name, values.get(value.name)))
                attributes = dict(node.attributes)
                for name in HEADS & set(attributes):
                    heads = attributes[name].as_int()
                    attributes[name] = ir.AttrInt64(name, sizes.get(heads, heads))
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
            read = [inside[value.name] for value in self.reads[n + 1]]
        for old, new in zip(self.reads[-1], read, strict=True):
            values[old.name].replace_all_uses_with(new, replace_graph_outputs=True)
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
                _resize(value, value, outside, random)
        return model, [tensors[value] for value in graph.initializers.values()]


def _own(program: Any, layers: str, *, shared: bool) -> dict[Any, int]:
    """The layer of each operator that reads weights of one, by their names; of two the later.

    Of layers that are one, the first operator with a weight is in the first, and so on.
    """
    numbered = re.compile(rf"(?:^|\.){re.escape(layers)}\.(\d+)\.")
    found: dict[Any, int] = {}
    seen: Counter[str] = Counter()
    for node in program.graph:
        if shared:
            times = []
            if numbered.search(node.name or ""):
                again = re.search(r"#(\d+)", node.name)
                times.append(int(again[1]) - 1 if again else 0)
            for name in {value.name for value in _weights(node) if numbered.search(value.name)}:
                times.append(seen[name])
                seen[name] += 1
        else:
            names = [node.name or "", *(value.name for value in _weights(node))]
            times = [int(n) for name in names for n in numbered.findall(name)]
        if times:
            found[node] = max(times)
    return found


def _ranks(program: Any, own: Mapping[Any, int], count: int) -> dict[Any, int | None]:
    """The layer of each operator: -1 before all of them, `count` after them, None for what several read.

    What goes through the layers is where its weights are, else as late as it is read: what is added and normalized
    between two layers belongs to the second, whatever else was made one operator with it. What does not go through
    them, as masks and angles, is in the layer that alone reads it.
    """
    nodes = list(program.graph)
    through: set[Any] = set()
    after: set[Any] = set()
    ranks: dict[Any, int | None] = {}
    for node in nodes:
        before = {value.producer() for value in node.inputs if value is not None}
        matrix = any(len(value.const_value.shape) > 1 for value in _learned(node))
        # What is made of weights alone, as a table in fp32 from int8, goes nowhere.
        given = any(value is not None and value.const_value is None for value in node.inputs)
        if before & through or (matrix and given):
            through.add(node)
        if node in own or before & after:
            after.add(node)
        if node in own:
            ranks[node] = own[node]
        elif node in through and any(_learned(node)):
            ranks[node] = count if node in after else -1
    for node in reversed(nodes):
        if node not in ranks:
            found = {ranks[use.node] for output in node.outputs for use in output.uses()}
            if node in through:
                ranks[node] = min((n for n in found if n is not None), default=count)
            else:
                ranks[node] = found.pop() if len(found) == 1 else None
    return ranks


def _crossing(program: Any, ranks: Mapping[Any, int | None], n: int) -> list[Any]:
    """What layer n reads of the layer before it, in the order of reading.

    Raises:
        ExportError: of one still before that.
    """
    found: dict[Any, None] = {}
    for node in program.graph:
        for value in node.inputs if ranks[node] == n else ():
            maker = None if value is None else value.producer()
            rank = None if maker is None else ranks[maker]
            if rank is not None and rank < n:
                if rank != n - 1:
                    raise _untold(f"layer {n} reads {value.name} of layer {rank}")
                found[value] = None
    return list(found)


def _shape(value: Any, sizes: dict[int, int]) -> Any:
    if value.shape is None:
        return None
    return ir.Shape([sizes.get(n, n) if isinstance(n, int) else n for n in value.shape])


def _outside(form: Form) -> list[int]:
    return [form.hidden, form.embedding, form.vocab]


def _weights(node: Any) -> Iterator[Any]:
    """Constants that an operator reads."""
    return (value for value in node.inputs if value is not None and value.const_value is not None)


def _learned(node: Any) -> Iterator[Any]:
    """Weights among them: more numbers than scales and shapes have."""
    return (
        value for value in _weights(node) if value.dtype != ir.DataType.INT64 and value.const_value.size > FEW
    )


def _item(value: Any) -> int:
    return int(value.const_value.dtype.itemsize)


def _differs(value: Any, sizes: dict[int, int]) -> bool:
    """Whether a layer has a constant of its own: weights, and numbers that are its sizes."""
    array = value.const_value.numpy()
    return array.dtype != np.int64 or not sizes.keys().isdisjoint(array.reshape(-1)[:FEW].tolist())


def _constant(graph: Any, name: str, like: Any, sizes: dict[int, int], random: np.random.Generator) -> Any:
    value = ir.Value(name=name)
    _resize(value, like, sizes, random)
    graph.register_initializer(value)
    return value


def _resize(value: Any, like: Any, sizes: dict[int, int], random: np.random.Generator) -> None:
    """Give a constant the values of another in other sizes; numbers in it that are sizes, too."""
    array = like.const_value.numpy()
    if array.dtype == np.int64:
        if array.size <= FEW:
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
