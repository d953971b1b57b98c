"""What candidates cost, by the names of the limits: counted exactly, or predicted."""

from collections.abc import Collection, Mapping
from functools import cached_property, lru_cache
from types import MappingProxyType

import torch
from transformers import PreTrainedModel

from attar.anatomy.form import Form
from attar.compression.candidate import Architecture, Candidate
from attar.compression.export_costs import ExportCosts, PredictedLatency
from attar.compression.learning import Learning
from attar.distillation.student import head_of
from attar.model.checkpoint import HEADS
from attar.pruning.cost import Operations

# About what is beside the weights, where the graph itself was not made; and the record that lies beside it.
GRAPH_BYTES, RECORD_BYTES = 20_000, 500


class CandidateCosts:
    """Costs of candidates of a teacher.

    Args:
        learning: which knows the forms.
        exports: bytes and seconds of exports.
        exact: costs that have a limit, or are minimised: size and latency then are of the graphs of the candidates.
        memory: peak megabytes of the teacher's exports over their size, by precision; none where memory has no limit.
        vocabularies: tokens that stay, by name.
        tokenizer_bytes: files of the tokenizer, by name of the vocabulary.
    """

    def __init__(
        self,
        learning: Learning,
        exports: ExportCosts,
        *,
        exact: Collection[str],
        vocabularies: dict[str, int],
        tokenizer_bytes: dict[str, int],
        memory: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self.learning, self.exports, self.exact, self.memory = learning, exports, exact, memory
        self.vocabularies, self.tokenizer_bytes = vocabularies, tokenizer_bytes
        self.length, self.batch = exports.call["length"], exports.call["batch"]
        self.latency = PredictedLatency(self.flops, rows=learning.bound.anatomy.causal)
        self.counted = lru_cache(maxsize=4096)(self._counted)

    def __call__(self, candidate: Candidate) -> dict[str, float]:
        """Parameters, operations of a call, megabytes on disk and, where it has a limit, in memory, milliseconds."""
        form = self.form(candidate)
        parameters = self.counted(candidate.architecture, form.vocab)
        graph = self.exports.bytes(candidate, form) if {"size", "memory"} & set(self.exact) else None
        if graph is None:
            graph = round(4 * parameters * (0.26 if candidate.precision == "int8" else 1.0)) + GRAPH_BYTES
        size = (graph + self.tokenizer_bytes[candidate.vocabulary] + RECORD_BYTES) / 1e6
        return {
            "parameters": float(parameters),
            "flops": self.flops(form),
            "size": size,
            "latency": 1e3 * self.latency(form, candidate.precision),
            **({"memory": size * self.memory[candidate.precision]} if self.memory else {}),
        }

    def measure(self, candidate: Candidate) -> bool:
        """Time what a candidate will be exported as, which corrects what is predicted of others; False where known."""
        form = self.form(candidate)
        if "latency" not in self.exact or self.latency.knows(form, candidate.precision):
            return False
        seconds = self.exports.seconds(candidate, form)
        if seconds is not None:
            self.latency.learn(form, candidate.precision, seconds)
        return seconds is not None

    def form(self, candidate: Candidate) -> Form:
        """The sizes of a candidate."""
        form = self.learning.form(candidate.architecture)
        return Form(form.hidden, form.embedding, self.vocabularies[candidate.vocabulary], form.layers)

    @cached_property
    def _operations(self) -> Operations:
        return Operations(self.learning.bound.model, self.length)

    def flops(self, form: Form) -> float:
        """Operations of one call; what reads a factorised embedding is counted where the teacher has none, too."""
        if self.learning.bound.anatomy.causal:
            return 2 * self.batch * operations(form, self.length)
        factorised = form.embedding != form.hidden and not self.learning.bound.anatomy.sizes.embedding
        inner = 2 * self.length * form.embedding * form.hidden if factorised else 0
        return self.batch * (self._operations(form) + inner)

    def _counted(self, architecture: Architecture, tokens: int) -> int:
        if architecture.way == "prune":
            form = self.learning.form(architecture)
            smaller = Form(form.hidden, form.embedding, tokens, form.layers)
            return self.learning.pruned.cost()(smaller)
        bound = self.learning.bound
        with torch.device("meta"):
            empty: PreTrainedModel = HEADS[head_of(bound.model)].from_config(
                self.exports.config(architecture)
            )
        whole = bound.shape.vocab
        ends = (empty.get_input_embeddings(), empty.get_output_embeddings())
        by_token = {id(w): w for end in ends if end is not None for w in end.parameters()}
        each: int = sum(weight.numel() // weight.shape[0] for weight in by_token.values())
        return int(empty.num_parameters()) - (whole - tokens) * each


def operations(form: Form, length: int) -> float:
    """About the multiply-adds of a causal model that gives the logits of so many tokens: latency goes with them.

    Groups of keys and values and a third matrix of the FFN are not told apart: they are in all models of a family.
    """
    h = form.hidden
    layers = sum(4 * h * x.heads * x.key + 2 * h * x.ffn + 2 * length * x.heads * x.key for x in form.layers)
    return float(length * (layers + h * form.vocab))
