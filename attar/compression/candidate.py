"""What `attar.compress` tries: architectures that learn, and the candidates that are made of them to be shipped."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from attar.anatomy.form import Form, LayerForm
from attar.anatomy.resolve import Bound
from attar.model.checkpoint import digest

Way = Literal["distil", "drop", "prune"]
Precision = Literal["fp32", "int8"]
SAID: dict[str, str] = {"distil": "distilled", "drop": "layers dropped", "prune": "pruned"}


@dataclass(frozen=True)
class Architecture:
    """A smaller model that learns from the teacher; what it is before it learns follows from these numbers alone.

    Attributes:
        way: a student of these sizes whose weights are the teacher's, projected ("distil"); the teacher without some of
            its layers ("drop"); or the teacher without some of its units, where those that stay are fitted to those
            that went ("prune").
        layers, hidden, heads, ffn, embedding: sizes of a student; of the teacher where layers are dropped or units are
            pruned, but for the number of layers.
        axes: what is pruned; none for the other ways.
        budget: part of the parameters that stays, of a pruned model.
    """

    way: Way
    layers: int
    hidden: int
    heads: int
    ffn: int
    embedding: int
    axes: str = ""
    budget: float = 0.0

    @property
    def key(self) -> str:
        """A name for its directory."""
        return f"{self.way}-{digest(asdict(self))[:12]}"

    def __str__(self) -> str:
        if self.way == "prune":
            return f"pruned to {self.budget:.0%} ({self.axes})"
        if self.way == "drop":
            return f"{self.layers} layers of the teacher"
        narrow = f", embedding {self.embedding}" if self.embedding != self.hidden else ""
        return f"{self.layers} x {self.hidden}, FFN {self.ffn}, {self.heads} heads{narrow}"

    def student_form(self, teacher: Bound, vocab: int) -> Form:
        """The form of a student, or of the teacher with fewer layers."""
        key = value = self.hidden // self.heads
        if self.way == "drop" or teacher.shape.own_head_dim:
            _, key, value, _ = teacher.shape.layer(1)
        layer = LayerForm(self.heads, key, value, self.ffn)
        return Form(self.hidden, self.embedding, vocab, (layer,) * self.layers)


@dataclass(frozen=True)
class Candidate:
    """A model to ship: an architecture, the tokens that it keeps, and the numbers that it computes in.

    Attributes:
        architecture: what learns; candidates that differ in the rest learn together.
        vocabulary: all tokens of the teacher, or those that the texts use.
        precision: of the export.
    """

    architecture: Architecture
    vocabulary: Literal["all", "used"] = "all"
    precision: Precision = "fp32"

    def __str__(self) -> str:
        used = ", vocabulary of the texts" if self.vocabulary == "used" else ""
        return f"{self.architecture}{used}, {self.precision}"

    @property
    def settings(self) -> dict[str, Any]:
        """What it is, as JSON has it."""
        return {**asdict(self.architecture), "vocabulary": self.vocabulary, "precision": self.precision}

    @classmethod
    def of(cls, settings: dict[str, Any]) -> "Candidate":
        """The candidate of `settings`."""
        inner = dict(settings)
        vocabulary, precision = inner.pop("vocabulary"), inner.pop("precision")
        return cls(Architecture(**inner), vocabulary, precision)

    def but(self, **changes: Any) -> "Candidate":
        """The candidate with other values."""
        return replace(self, **changes)


def teacher_architecture(bound: Bound) -> Architecture:
    """The teacher's own sizes, for exports of the teacher itself."""
    shape = bound.shape
    return Architecture("drop", shape.layers, shape.hidden, shape.heads, shape.ffn, shape.embedding)
