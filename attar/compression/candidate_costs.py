"""What candidates cost, by the names of the limits: counted exactly, or predicted."""

from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import Any

import torch
from transformers import PreTrainedModel

from attar.anatomy.form import Form
from attar.anatomy.resolve import resolve
from attar.compression.candidate import Architecture, Candidate
from attar.compression.learning import Learning
from attar.distillation.student import head_of
from attar.distillation.student_config import config_of, shape_for
from attar.maths.mapping import layer_map
from attar.model.checkpoint import HEADS
from attar.pruning.cost import Operations

# The graph of an export and its records, beside weights and tokenizer.
GRAPH_BYTES = 60_000


class CandidateCosts:
    """Costs of candidates of a teacher.

    Args:
        learning: which knows the forms.
        latency: seconds of one call of a form in a precision.
        vocabularies: tokens that stay, by name.
        tokenizer_bytes: files of the tokenizer, by name of the vocabulary.
    """

    def __init__(
        self,
        learning: Learning,
        latency: Callable[[Form, str], float],
        *,
        vocabularies: dict[str, int],
        tokenizer_bytes: dict[str, int],
        length: int,
        batch: int,
    ) -> None:
        self.learning, self.latency = learning, latency
        self.vocabularies, self.tokenizer_bytes = vocabularies, tokenizer_bytes
        self.length, self.batch = length, batch
        self.counted = lru_cache(maxsize=4096)(self._counted)

    def __call__(self, candidate: Candidate) -> dict[str, float]:
        """Parameters, operations of a call, megabytes, milliseconds."""
        architecture, tokens = candidate.architecture, self.vocabularies[candidate.vocabulary]
        form = self.form(candidate)
        parameters = self.counted(architecture, tokens)
        quarter = 0.26 if candidate.precision == "int8" else 1.0
        size = 4 * parameters * quarter + self.tokenizer_bytes[candidate.vocabulary] + GRAPH_BYTES
        return {
            "parameters": float(parameters),
            "flops": self.flops(form),
            "size": size / 1e6,
            "latency": 1e3 * self.latency(form, candidate.precision),
        }

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
        empty = _empty(self.learning, architecture)
        whole = self.learning.bound.shape.vocab
        ends = (empty.get_input_embeddings(), empty.get_output_embeddings())
        by_token = {id(w): w for end in ends if end is not None for w in end.parameters()}
        each: int = sum(weight.numel() // weight.shape[0] for weight in by_token.values())
        return int(empty.num_parameters()) - (whole - tokens) * each


def _empty(learning: Learning, architecture: Architecture) -> PreTrainedModel:
    """A student without weights."""
    bound = resolve(learning.texts.loaded.model)
    a = architecture
    shape = shape_for(bound, a.layers, a.hidden, a.heads, a.ffn, a.embedding)
    config: Any = config_of(bound, shape, layer_map(a.layers, bound.shape.layers, "uniform"))
    with torch.device("meta"):
        made: PreTrainedModel = HEADS[head_of(bound.model)].from_config(config)
    return made


def operations(form: Form, length: int) -> float:
    """About the multiply-adds of a causal model that gives the logits of so many tokens: latency goes with them.

    Groups of keys and values and a third matrix of the FFN are not told apart: they are in all models of a family.
    """
    h = form.hidden
    layers = sum(4 * h * x.heads * x.key + 2 * h * x.ffn + 2 * length * x.heads * x.key for x in form.layers)
    return float(length * (layers + h * form.vocab))
