"""What candidates' exports take on disk and in ONNX Runtime, found on graphs of their sizes before they are built."""

import dataclasses
import json
import math
import tempfile
from collections.abc import Callable
from functools import cached_property, lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from attar.anatomy.form import Form, LayerForm
from attar.anatomy.parts import Anatomy
from attar.anatomy.resolve import family, resolve
from attar.compression.candidate import Architecture, Candidate
from attar.compression.learning import Learning
from attar.distillation.student import head_of
from attar.distillation.student_config import config_of, shape_for
from attar.errors import AttarError, ExportError
from attar.evaluation.machine import machine
from attar.evaluation.timing import Clock, interleaved
from attar.exporting.comparison import quiet, random_batch
from attar.maths.mapping import layer_map
from attar.model.checkpoint import HEADS, digest
from attar.model.onnx import FILE, OnnxModel
from attar.model.slim import class_for, config_for
from attar.progress import say
from attar.storage.writing import write_atomic

if TYPE_CHECKING:
    from attar.exporting.sized_graph import Kind

# Sizes of the small models whose graphs others are made of: no number is any other, nor one that a graph has anyway.
# Matrices that layers share have more than 8192 numbers: smaller ones are folded one by one, and shared no more.
HIDDEN, EMBEDDING = 101, 59
HEADS_OF, FFN_OF = (7, 5, 9, 6, 11), (151, 163, 167, 173, 179)
KEYS, VALUES = (17, 19, 23, 29), (13, 14, 25, 15, 26)
OWN_HIDDEN = 11  # by head, where heads have a size of their own
ROTARY_KEY = 24  # of all layers, and of whole eights, without which grouped attention is not fused
# Heads, their size and FFN of the reference of one layer that every call is timed beside; whole groups of heads.
REFERENCE = (8, 64, 2048)
# Words in a config that no graph depends on.
NOT_TRAITS = ("_name_or_path", "transformers_version", "dtype")
# Rows of the embedding that is timed: a call reads few of them. Rounds of timing.
ROWS, REPEATS = 2048, 25


class ExportCosts:
    """Bytes and seconds of the exports of candidates; what was timed is on disk and not timed again.

    A machine that others share has fast hours and slow ones: what is kept is how many times as long as a call of a
    reference, a graph of fixed sizes, timed in turns. The reference is timed anew in each run.

    Args:
        file: of the times, for any model and call on this machine.
        length, batch, threads: of the call.

    Attributes:
        traits: what a graph depends on beside its sizes: what the model's config says in words and switches, and how
            many heads share keys and values.
    """

    def __init__(self, learning: Learning, file: Path, *, length: int, batch: int, threads: int) -> None:
        self.learning, self.file = learning, file
        self.loaded = learning.texts.loaded
        self.call = {"length": length, "batch": batch, "threads": threads}
        self.config = lru_cache(maxsize=4096)(self._config)
        self.graph = lru_cache(maxsize=None)(self._graph)
        self._fp32: dict[Any, Any] = {}
        said = self.loaded.model.config.to_dict().items()
        words = {
            name: value for name, value in said if isinstance(value, (str, bool)) and name not in NOT_TRAITS
        }
        self.traits = [type(self.loaded.model).__name__, learning.bound.shape.group, words]

    def bytes(self, candidate: Candidate, form: Form) -> int | None:
        """Bytes of the graph with its weights and of the config; None where the family's graphs are not known."""
        config = self.config(candidate.architecture)
        found = self._from(config, form, candidate.precision, "bytes")
        return None if found is None else found + len(config.to_json_string())

    def program(self, candidate: Candidate, form: Form) -> Any:
        """The graph (an `onnx_ir.Model`) that a candidate of a form is exported as; None as for `bytes`."""
        return self._from(self.config(candidate.architecture), form, candidate.precision, "of")

    def _from(self, config: Any, form: Form, precision: str, what: str) -> Any:
        """What a graph gives for a form by its method `what`; None where there is none."""
        kinds = self._kinds(config, form)
        name, factorised = type(config).__name__, form.embedding != form.hidden
        graph = self.graph(name, factorised, precision, self._template(config, kinds))
        try:
            return None if graph is None else getattr(graph, what)(form, kinds)
        except ExportError as error:
            say(f"{precision} latency and size go by operations and parameters: found {error.found}")
            return None

    def seconds(self, candidate: Candidate, form: Form) -> float | None:
        """Seconds of a call, p50, as fast as the machine was when this run began; None as for `bytes`."""
        config = self.config(candidate.architecture)
        # A decoder's call gives logits of all tokens; any other reads few rows of the embedding.
        causal = self.learning.bound.anatomy.causal
        few = form if causal else dataclasses.replace(form, vocab=min(form.vocab, ROWS))
        known = json.loads(self.file.read_text()) if self.file.is_file() else {}
        what = (type(config).__name__, dataclasses.asdict(few), candidate.precision, self.call, _here())
        key = digest(*what, self.traits, [kind[0] for kind in self._kinds(config, form)])
        if key not in known:
            program = self.program(candidate, few)
            if program is None or self.reference is None:
                return None
            known[key] = self.times_reference(self._call(program, few))
            write_atomic(self.file, json.dumps(known, indent=1))
        return float(known[key]) * self.reference_seconds

    @cached_property
    def reference(self) -> Callable[[], Any] | None:
        """A call of the reference: of the family, of sizes that are the same whatever the model's are."""
        bound, (heads, size, ffn) = self.learning.bound, REFERENCE
        heads = bound.shape.group * math.ceil(heads / bound.shape.group)
        shape = shape_for(bound, 1, heads * size, heads, ffn, heads * size)
        config = config_of(bound, shape, layer_map(shape.layers, bound.shape.layers, "uniform"))
        layer = LayerForm(shape.heads, shape.head_dim, shape.head_dim, shape.ffn)
        form = Form(shape.hidden, shape.embedding, min(bound.shape.vocab, ROWS), (layer,) * shape.layers)
        program = self._from(config, form, "fp32", "of")
        return None if program is None else self._call(program, form)

    @cached_property
    def reference_seconds(self) -> float:
        """Seconds of a call of the reference in this run."""
        assert self.reference is not None
        calls = interleaved({"": self.reference}, repeats=4 * REPEATS, clock=self._clock)
        return float(np.median(calls[""]))

    def times_reference(self, call: Callable[[], Any]) -> float:
        """How many times as long as the reference a call takes, the median of rounds in turns."""
        assert self.reference is not None
        took = interleaved({"reference": self.reference, "": call}, repeats=REPEATS, clock=self._clock)
        return float(np.median(took[""]) / np.median(took["reference"]))

    @property
    def _clock(self) -> Clock:
        return "cpu" if self.call["threads"] == 1 else "wall"

    def _kinds(self, config: Any, form: Form) -> "tuple[Kind, ...]":
        """Of each layer what it attends to, whether keys and values are of one size, and whether it is first or last.

        The first layer of a pre-norm family reads what is normed already; of a decoder the last one's sum is not fused
        with the norm that follows.
        """
        types = getattr(config, "layer_types", None) or [""] * len(form.layers)
        # Some families are pre-norm by a switch, which the teacher's anatomy knows.
        same = config.model_type == self.loaded.model.config.model_type
        anatomy = self.learning.bound.anatomy if same else family(config.model_type)
        end = len(form.layers) - 1
        return tuple(
            (types[n], layer.key == layer.value, anatomy.pre_norm and n == 0, anatomy.causal and n == end)
            for n, layer in enumerate(form.layers)
        )

    def _template(self, config: Any, kinds: "tuple[Kind, ...]") -> "tuple[Kind, ...]":
        """The layers of a small model: the first, two of each kind that may repeat or attend to the same, the last."""
        first, last = kinds[0], kinds[-1]
        if first[3]:
            return (first,)
        types = dict.fromkeys(getattr(self.loaded.model.config, "layer_types", None) or [first[0]])
        uneven = _uneven(type(config).__name__, family(config.model_type))
        evens = (False, True) if uneven else (first[1],) * 2
        between = tuple((kind, even, False, False) for kind in types for even in evens)
        found = (first, *between) if first[2] else between * 2 if uneven else between
        return (*found, last) if last[3] else found

    def _call(self, program: Any, form: Form) -> Callable[[], Any]:
        """What calls a graph with a random batch."""
        from attar.exporting.onnx import save_program

        own = SimpleNamespace(
            vocab_size=form.vocab, type_vocab_size=getattr(self.loaded.model.config, "type_vocab_size", 1)
        )
        model: Any = SimpleNamespace(config=own)
        inputs = random_batch(model, self.loaded.tokenizer, self.call["batch"], self.call["length"])
        inputs["input_ids"].clamp_(max=form.vocab - 1)
        inputs["attention_mask"][:] = 1
        with tempfile.TemporaryDirectory() as place, quiet():
            save_program(program, Path(place) / FILE)
            opened = OnnxModel(place, threads=self.call["threads"])
        return lambda: opened(inputs)

    def _config(self, architecture: Architecture) -> Any:
        model, bound = self.loaded.model, self.learning.bound
        if architecture.way == "prune":
            return config_for(model.config, self.learning.form(architecture))
        a = architecture
        shape = shape_for(bound, a.layers, a.hidden, a.heads, a.ffn, a.embedding)
        return config_of(bound, shape, layer_map(a.layers, bound.shape.layers, "uniform"))

    def _graph(self, name: str, factorised: bool, precision: str, kinds: "tuple[Kind, ...]") -> Any:
        """The graphs of a class of configs, None where its layers cannot be told apart."""
        from attar.exporting import int8
        from attar.exporting.onnx import trace
        from attar.exporting.sized_graph import SizedGraph

        try:
            key = name, factorised, kinds
            with quiet():
                if key not in self._fp32:
                    model, form = self._small(*key)
                    self._fp32[key] = model, form, trace(model, self.loaded.tokenizer, max_length=16)
                model, form, program = self._fp32[key]
                int8.name_nodes(program, model)
                if precision == "int8":
                    program = int8.quantize(program, model, "int8")
                anatomy = family(model.config.model_type)
                numbers = partial(_numbers, anatomy, self.learning.bound.shape.group)
                return SizedGraph(program, form, kinds, anatomy.layers, numbers, shared=anatomy.shared)
        except AttarError as error:
            say(f"{precision} latency and size go by operations and parameters: found {error.found}")
            return None

    @torch.no_grad()
    def _small(self, name: str, factorised: bool, kinds: "tuple[Kind, ...]") -> tuple[PreTrainedModel, Form]:
        """A small model of a class of configs, with random weights."""
        own, bound = self.loaded.model, self.learning.bound
        form = self._small_form(name, factorised, kinds)
        types = getattr(own.config, "layer_types", None) or [kinds[0][0]]
        chosen = [types.index(kind[0]) for kind in kinds]  # layers of the teacher that attend to the same
        anatomy, first = bound.anatomy, form.layers[0]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            # `config_of` makes an ELECTRA of an ALBERT of other sizes.
            if name.startswith("Slim") or (anatomy.shared and name == type(own.config).__name__):
                config = config_for(own.config, form, chosen)
                model = class_for(own, config)(config)
            else:
                shape = shape_for(bound, len(kinds), form.hidden, first.heads, first.ffn, form.embedding)
                config = config_of(bound, shape, tuple(n + 1 for n in chosen))
                model = HEADS[head_of(own)].from_config(config)
            grouped = family(config.model_type).shared and resolve(model).place(1) != (0, 0)
            if type(config).__name__ != name or grouped:
                raise ExportError(
                    expected=f"layers of a {name} to be told apart in its graph",
                    found="layers in groups that share their weights",
                    fix="export a model of these sizes itself",
                )
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight), alpha=0.02)
        return model.eval(), form

    def _small_form(self, name: str, factorised: bool, kinds: "tuple[Kind, ...]") -> Form:
        """The sizes of a small model."""
        bound = self.learning.bound
        anatomy, group, uneven = bound.anatomy, bound.shape.group, _uneven(name, bound.anatomy)
        # Where heads have a size of their own, students' have it too.
        own = bound.shape.head_dim if bound.shape.own_head_dim or anatomy.query_norm else None
        layers = []
        for n, kind in enumerate(kinds):
            place = n if uneven else 0
            key = own or (ROTARY_KEY if anatomy.rotary else KEYS[place])
            value = key if kind[1] else VALUES[place]
            layers.append(LayerForm(group * HEADS_OF[place], key, value, FFN_OF[place]))
        heads = layers[0].heads
        hidden = HIDDEN if name.startswith("Slim") else heads * (OWN_HIDDEN if own else layers[0].key)
        vocab = self.learning.bound.shape.vocab
        return Form(hidden, EMBEDDING if factorised else hidden, vocab, tuple(layers))


def _uneven(name: str, anatomy: Anatomy) -> bool:
    """Whether layers of a class of configs may differ in their sizes."""
    return name.startswith("Slim") and not anatomy.shared


def _numbers(anatomy: Anatomy, group: int, layer: LayerForm) -> list[int]:
    """All that a graph has for a layer: its sizes, and products and parts of them.

    Args:
        group: query heads that share one head of keys and values.
    """
    query, value = layer.heads * layer.key, layer.heads * layer.value
    found = [layer.heads, layer.key, layer.value, query, value, 2 * query + value, layer.ffn]
    found.append(2 * layer.ffn)  # where a gate is in one matrix with what it gates
    if group > 1:
        found += [layer.heads // group, query // group, query + 2 * query // group]
    if anatomy.rotary:
        found.append(layer.key // 2)
    return found


class PredictedLatency:
    """Seconds of a call of a form: as it was timed, else by its operations and what others took for theirs.

    Args:
        operations: of one call of a form.
        rows: whether the size of the vocabulary counts, as it does where there is a logit for each token; else a call
            reads few rows of the embedding, whatever their number.
    """

    def __init__(self, operations: Callable[[Form], float], *, rows: bool = False) -> None:
        self.operations, self.rows = operations, rows
        self.known: dict[tuple[Form, str], float] = {}

    def learn(self, form: Form, precision: str, seconds: float) -> None:
        """What a form takes, as timed."""
        self.known[self._read(form), precision] = seconds

    def knows(self, form: Form, precision: str) -> bool:
        """Whether the form was timed."""
        return (self._read(form), precision) in self.known

    def __call__(self, form: Form, precision: str) -> float:
        """Seconds of one call."""
        form = self._read(form)
        if (form, precision) in self.known:
            return self.known[form, precision]
        others = [(timed, seconds) for (timed, other), seconds in self.known.items() if other == precision]
        near = np.array([_logarithms(timed) for timed, _ in others]) - _logarithms(form)
        weights = 1 / ((near**2).sum(axis=1) + 1e-4) ** 2
        paces = [math.log(seconds / self.operations(timed)) for timed, seconds in others]
        return self.operations(form) * math.exp(float(np.average(paces, weights=weights)))

    def _read(self, form: Form) -> Form:
        return form if self.rows else dataclasses.replace(form, vocab=1)


def _logarithms(form: Form) -> NDArray[np.float64]:
    layers = form.layers
    attention = sum(x.heads * (x.key + x.value) for x in layers) / len(layers)
    ffn = sum(x.ffn for x in layers) / len(layers)
    heads = sum(x.heads for x in layers) / len(layers)
    return np.log([form.hidden, form.embedding, form.vocab, len(layers), attention, ffn, heads])


def _here() -> str:
    libraries = ("onnxruntime", "torch", "transformers", "onnxscript")
    return ", ".join([machine()["processor"], *(f"{name} {version(name)}" for name in libraries)])
