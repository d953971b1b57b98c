"""What candidates' exports take on disk and in ONNX Runtime, found on graphs of their sizes before they are built."""

import dataclasses
import json
import math
import tempfile
from collections.abc import Callable
from functools import cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from attar.anatomy.form import Form, LayerForm
from attar.anatomy.resolve import family
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

# Sizes of the small models whose graphs others are made of: no number is any other, nor one that a graph has anyway.
HIDDEN, EMBEDDING, STUDENT = 101, 59, 77
EVEN = (LayerForm(7, 11, 11, 151),) * 2
UNEVEN = (
    LayerForm(7, 11, 13, 151),
    LayerForm(5, 17, 17, 163),
    LayerForm(9, 19, 23, 167),
    LayerForm(6, 29, 29, 173),
)
# Layers, hidden size, heads, FFN and embedding size of the reference that every call is timed beside.
REFERENCE = (1, 512, 8, 2048, 512)
# Rows of the embedding that is timed: a call reads few of them. Rounds of timing.
ROWS, REPEATS = 2048, 25


class ExportCosts:
    """Bytes and seconds of the exports of candidates; what was timed is on disk and not timed again.

    A machine that others share has fast hours and slow ones: what is kept is how many times as long as a call of a
    reference, a graph of fixed sizes, timed in turns. The reference is timed anew in each run.

    Args:
        file: of the times, for any model and call on this machine.
        length, batch, threads: of the call.
    """

    def __init__(self, learning: Learning, file: Path, *, length: int, batch: int, threads: int) -> None:
        self.learning, self.file = learning, file
        self.loaded = learning.texts.loaded
        self.call = {"length": length, "batch": batch, "threads": threads}
        self.config = lru_cache(maxsize=4096)(self._config)
        self.graph = lru_cache(maxsize=None)(self._graph)
        self._fp32: dict[Any, Any] = {}

    def bytes(self, candidate: Candidate, form: Form) -> int | None:
        """Bytes of the graph with its weights and of the config; None where the family's graphs are not known."""
        config = self.config(candidate.architecture)
        graph = self._of(config, form, candidate.precision)
        return None if graph is None else graph.bytes(form) + len(config.to_json_string())

    def seconds(self, candidate: Candidate, form: Form) -> float | None:
        """Seconds of a call, p50, as fast as the machine was when this run began; None as for `bytes`."""
        config = self.config(candidate.architecture)
        few = dataclasses.replace(form, vocab=min(form.vocab, ROWS))
        known = json.loads(self.file.read_text()) if self.file.is_file() else {}
        key = digest(type(config).__name__, dataclasses.asdict(few), candidate.precision, self.call, _here())
        if key not in known:
            graph = self._of(config, form, candidate.precision)
            if graph is None or self.reference is None:
                return None
            known[key] = self.times_reference(self._call(graph.of(few), few))
            write_atomic(self.file, json.dumps(known, indent=1))
        return float(known[key]) * self.reference_seconds

    @cached_property
    def reference(self) -> Callable[[], Any] | None:
        """A call of the reference: of the family, of sizes that are the same whatever the model."""
        bound = self.learning.bound
        shape = shape_for(bound, *REFERENCE)
        config = config_of(bound, shape, layer_map(shape.layers, bound.shape.layers, "uniform"))
        layer = LayerForm(shape.heads, shape.hidden // shape.heads, shape.hidden // shape.heads, shape.ffn)
        form = Form(shape.hidden, shape.embedding, min(bound.shape.vocab, ROWS), (layer,) * shape.layers)
        graph = self._of(config, form, "fp32")
        return None if graph is None else self._call(graph.of(form), form)

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

    def _of(self, config: Any, form: Form, precision: str) -> Any:
        return self.graph(type(config).__name__, form.embedding != form.hidden, precision)

    def _call(self, program: Any, form: Form) -> Callable[[], Any]:
        """What calls a graph with a random batch."""
        import onnx_ir

        own = SimpleNamespace(
            vocab_size=form.vocab, type_vocab_size=getattr(self.loaded.model.config, "type_vocab_size", 1)
        )
        model: Any = SimpleNamespace(config=own)
        inputs = random_batch(model, self.loaded.tokenizer, self.call["batch"], self.call["length"])
        inputs["input_ids"].clamp_(max=form.vocab - 1)
        inputs["attention_mask"][:] = 1
        with tempfile.TemporaryDirectory() as place, quiet():
            onnx_ir.save(program, Path(place) / FILE)
            opened = OnnxModel(place, threads=self.call["threads"])
        return lambda: opened(inputs)

    def _config(self, architecture: Architecture) -> Any:
        model, bound = self.loaded.model, self.learning.bound
        if architecture.way == "prune":
            return config_for(model.config, self.learning.form(architecture))
        a = architecture
        shape = shape_for(bound, a.layers, a.hidden, a.heads, a.ffn, a.embedding)
        return config_of(bound, shape, layer_map(a.layers, bound.shape.layers, "uniform"))

    def _graph(self, kind: str, factorised: bool, precision: str) -> Any:
        """The graphs of a class of configs, None where its layers cannot be told apart."""
        from attar.exporting import int8
        from attar.exporting.onnx import trace
        from attar.exporting.sized_graph import SizedGraph

        if self.learning.bound.anatomy.causal or self.learning.bound.anatomy.pre_norm:
            return None
        try:
            model, form = self._small(kind, factorised)
            layers = family(model.config.model_type).layers
            with quiet():
                if (kind, factorised) not in self._fp32:
                    self._fp32[kind, factorised] = model, trace(model, self.loaded.tokenizer, max_length=16)
                model, program = self._fp32[kind, factorised]
                int8.name_nodes(program, model)
                if precision == "int8":
                    program = int8.quantize(program, model, "int8")
                return SizedGraph(program, form, layers)
        except AttarError as error:
            say(f"{precision} latency and size go by operations and parameters: found {error.found}")
            return None

    @torch.no_grad()
    def _small(self, kind: str, factorised: bool) -> tuple[PreTrainedModel, Form]:
        """A small model of a class of configs, with random weights."""
        own, bound = self.loaded.model, self.learning.bound
        vocab = bound.shape.vocab
        form = Form(HIDDEN, EMBEDDING if factorised else HIDDEN, vocab, UNEVEN)
        config = config_for(own.config, form)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            if kind == type(config).__name__:
                model = class_for(own, config)(config)
            else:
                form = Form(STUDENT, EMBEDDING if factorised else STUDENT, vocab, EVEN)
                first = EVEN[0]
                shape = shape_for(bound, len(EVEN), form.hidden, first.heads, first.ffn, form.embedding)
                config = config_of(bound, shape, layer_map(len(EVEN), bound.shape.layers, "uniform"))
                model = HEADS[head_of(own)].from_config(config)
            if type(config).__name__ != kind:
                raise ExportError(
                    expected=f"layers of a {kind} to be told apart in its graph",
                    found="layers that share their weights",
                    fix="export a model of these sizes itself",
                )
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight), alpha=0.02)
        return model.eval(), form


class PredictedLatency:
    """Seconds of a call of a form: as it was timed, else by its operations and what others took for theirs.

    Args:
        operations: of one call of a form.
    """

    def __init__(self, operations: Callable[[Form], float]) -> None:
        self.operations = operations
        self.known: dict[tuple[Any, str], float] = {}

    def learn(self, form: Form, precision: str, seconds: float) -> None:
        """What a form takes, as timed."""
        self.known[_sizes(form), precision] = seconds

    def knows(self, form: Form, precision: str) -> bool:
        """Whether the form was timed."""
        return (_sizes(form), precision) in self.known

    def __call__(self, form: Form, precision: str) -> float:
        """Seconds of one call."""
        if self.knows(form, precision):
            return self.known[_sizes(form), precision]
        others = [(timed, seconds) for (timed, other), seconds in self.known.items() if other == precision]
        near = np.array([_logarithms(timed) for timed, _ in others]) - _logarithms(_sizes(form))
        weights = 1 / ((near**2).sum(axis=1) + 1e-4) ** 2
        paces = [
            math.log(seconds / self.operations(Form(timed[0], timed[1], form.vocab, timed[2])))
            for timed, seconds in others
        ]
        return self.operations(form) * math.exp(float(np.average(paces, weights=weights)))


def _sizes(form: Form) -> tuple[int, int, tuple[LayerForm, ...]]:
    """What the time depends on: a call reads few rows of the embedding, whatever their number."""
    return form.hidden, form.embedding, form.layers


def _logarithms(sizes: tuple[int, int, tuple[LayerForm, ...]]) -> NDArray[np.float64]:
    hidden, embedding, layers = sizes
    attention = sum(x.heads * (x.key + x.value) for x in layers) / len(layers)
    ffn = sum(x.ffn for x in layers) / len(layers)
    return np.log(
        [hidden, embedding, len(layers), attention, ffn, sum(x.heads for x in layers) / len(layers)]
    )


def _here() -> str:
    libraries = ("onnxruntime", "torch", "transformers", "onnxscript")
    return ", ".join([machine()["processor"], *(f"{name} {version(name)}" for name in libraries)])
