"""What the student is asked to match: which losses over which parts of teacher and student."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from attar.anatomy.resolve import Shape
from attar.data.batches import Batch
from attar.data.tasks import Kind
from attar.errors import RecipeError
from attar.maths import losses
from attar.model.views import Need, View

Attention = Literal["auto", "scores", "relations", "none"]
Projection = Literal["per-layer", "shared"]
Relations = Literal["similarities", "distances"]
# How much it counts which other texts a text is like; how many of these are the nearest, and among how many.
NEIGHBOURS, NEAREST, SEARCHED = 3.0, 512, 32_768
RELATIONS = {"similarities": losses.similarity_divergence, "distances": losses.distance_error}


@dataclass(frozen=True)
class Match:
    """What of the transformer layers is compared, resolved for two shapes.

    Attributes:
        layers: student layer m = 1 … M -> teacher layer g(m).
        attention: "scores" (equal head counts), "relations" (any), or "none".
        relation_heads: number of regrouped heads of the relations.
        hidden, embedding: whether hidden states and the embedding are compared.
    """

    layers: tuple[int, ...]
    attention: Literal["scores", "relations", "none"]
    relation_heads: int
    hidden: bool
    embedding: bool

    @property
    def student(self) -> Need:
        """What is read of the student."""
        return self._need(tuple(range(1, len(self.layers) + 1)))

    @property
    def teacher(self) -> Need:
        """What is read of the teacher."""
        return self._need(self.layers)

    def _need(self, layers: tuple[int, ...]) -> Need:
        hidden = (layers if self.hidden else ()) + ((0,) if self.embedding else ())
        # MiniLMv2 compares one layer; more say the same thing again at M times the cost.
        relations = layers[-1:] if self.attention == "relations" else ()
        scores = layers if self.attention == "scores" else ()
        return Need(
            hidden=frozenset(hidden),
            scores=frozenset(scores),
            relations=frozenset(relations),
            relation_heads=self.relation_heads if relations else 0,
        )


def match(
    student: Shape,
    teacher: Shape,
    layers: tuple[int, ...],
    *,
    attention: Attention = "auto",
    hidden: bool = True,
    embedding: bool = True,
    relation_heads: int | None = None,
) -> Match:
    """Settle what is compared between two shapes.

    Args:
        attention: "scores" compares q kᵀ head by head, as TinyBERT does; "relations" regroups queries, keys and
            values of the last layer into `relation_heads` heads, as MiniLMv2 does; "none" compares neither; "auto"
            takes scores where the head counts of all layers that are compared agree, else relations where these can be
            regrouped, else none.
        relation_heads: the largest number that divides all widths and is at most the teacher's heads, where None.

    Raises:
        RecipeError: scores of unequal head counts; a number of relation heads that does not divide the widths.
    """
    pairs = [(student.layer(m), teacher.layer(n)) for m, n in enumerate(layers, start=1)]
    # A slim model's queries and values may be of other widths than its hidden states.
    widths = list(dict.fromkeys(a * size for side in pairs[-1] for a, size in (side[:2], side[::2])))
    fitting = [n for n in range(1, pairs[-1][1][0] + 1) if all(width % n == 0 for width in widths)]
    uneven = [(ours[0], theirs[0]) for ours, theirs in pairs if ours[0] != theirs[0]]
    if attention == "auto" and uneven:
        attention = "relations" if len(fitting) > 1 or not (hidden or embedding) else "none"
    elif attention == "auto":
        attention = "scores"
    if attention == "scores" and uneven:
        raise RecipeError(
            expected=f"{uneven[0][1]} heads in the student, to compare attention scores head by head",
            found=str(uneven[0][0]),
            fix='give the student as many heads, or attention="relations" (--attention relations)',
        )
    if attention == "none" and not hidden and not embedding:
        raise RecipeError(
            expected="something to compare in the intermediate phases",
            found="attention none, and neither hidden states nor embedding",
            fix="turn one of them on, or leave the phase out (intermediate: null)",
        )
    heads = relation_heads or fitting[-1]
    if any(width % heads for width in widths):
        raise RecipeError(
            expected=f"a number of relation heads that divides {' and '.join(map(str, widths))}",
            found=str(heads),
            fix=f"one of {', '.join(map(str, fitting))}",
        )
    return Match(layers, attention, heads, hidden, embedding)


class Intermediate(nn.Module):
    """TinyBERT's intermediate losses (1909.10351 eq. 7 to 9), with the projections they learn.

    Args:
        match: what is compared.
        student, teacher: the shapes; a projection is (d, D).
        projection: one W for each layer and one for the embedding, as the paper writes them, or one "shared" by all, as
            the authors' code has it.
        start: student layer (0 the embedding) -> W to start at; random, by `seed`, where there is none.
    """

    def __init__(
        self,
        match: Match,
        student: Shape,
        teacher: Shape,
        *,
        projection: Projection = "per-layer",
        start: Mapping[int, Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.match, self.shared = match, projection == "shared"
        compared = sorted(match.student.hidden)
        names = ["shared"] if self.shared else [str(m) for m in compared]
        self.projections = nn.ParameterDict()
        generator = torch.Generator().manual_seed(seed)
        for name, m in zip(names, compared, strict=False):
            weight = torch.randn(student.hidden, teacher.hidden, generator=generator) * student.hidden**-0.5
            given = (start or {}).get(m)
            self.projections[name] = nn.Parameter(weight if given is None else given.detach().clone().float())

    def forward(self, student: View, teacher: View, batch: Batch) -> dict[str, Tensor]:
        """The sums over layers: `embedding`, `hidden` and `attention`, those that are compared."""
        parts: dict[str, list[Tensor]] = {}
        counts = batch.counts
        for m, n in self._pairs():
            weight = self.projections["shared" if self.shared else str(m)]
            error = losses.hidden_error(student.hidden[m], teacher.hidden[n], weight, count=counts.tokens)
            parts.setdefault("hidden" if m else "embedding", []).append(error)
        for m, n in enumerate(self.match.layers, start=1):
            if m in student.scores:
                error = losses.attention_error(
                    student.scores[m], teacher.scores[n], student.mask, count=counts.pairs
                )
                parts.setdefault("attention", []).append(error)
            if m in student.queries:
                parts.setdefault("attention", []).extend(
                    self._relations(student, teacher, m, n, counts.tokens)
                )
        return {name: torch.stack(values).sum() for name, values in parts.items()}

    def weights(self) -> dict[int, Tensor]:
        """The learned W of each compared student layer."""
        name = {m: "shared" if self.shared else str(m) for m in self.match.student.hidden}
        return {m: self.projections[key].detach().clone() for m, key in name.items()}

    def _pairs(self) -> list[tuple[int, int]]:
        pairs = [(0, 0)] if self.match.embedding else []
        return pairs + (list(enumerate(self.match.layers, start=1)) if self.match.hidden else [])

    def _relations(self, student: View, teacher: View, m: int, n: int, count: float) -> list[Tensor]:
        heads = self.match.relation_heads
        ours = [losses.relation(x[m], heads=heads) for x in (student.queries, student.keys, student.values)]
        theirs = teacher.relations.get(n) or [
            losses.relation(x[n], heads=heads) for x in (teacher.queries, teacher.keys, teacher.values)
        ]
        return [
            losses.relation_kl(*pair, mask=student.mask, count=count)
            for pair in zip(ours, theirs, strict=True)
        ]


@dataclass(frozen=True, eq=False)
class EmbeddingMatch:
    """How a student's embeddings are held against its teacher's.

    Attributes:
        space: (E, d) leads from the teacher's embeddings to the student's own space, where that is another; without it
            such a student learns the relations of texts alone.
        dimensions: numbers of leading dimensions that are taught by themselves, too (Matryoshka, 2205.13147 eq. 1), so
            that embeddings can be cut.
        relations: what of the texts of a batch is compared: which are alike (KL), or how far apart they are (RKD).
        others: (N, E) unit vectors, the teacher's embeddings of texts: which of these a text is like is compared, too,
            where the student is in its teacher's space and relations are similarities.
    """

    space: Tensor | None = None
    dimensions: tuple[int, ...] = ()
    relations: Relations = "similarities"
    others: Tensor | None = None

    def __call__(self, student: Tensor, teacher: Tensor, *, count: float) -> Tensor:
        """The loss of embeddings (B, d) beside (B, E), averaged over `count` texts."""
        target = teacher if self.space is None else teacher.float() @ self.space.to(teacher.device)
        related = RELATIONS[self.relations]
        total = related(student, teacher, count=count)
        if target.shape == student.shape:
            total = total + losses.embedding_error(student, target, count=count)
            if self.others is not None and self.relations == "similarities":
                others = self._near(teacher).to(student.device)
                own = others if self.space is None else others @ self.space.to(others)
                apart = losses.neighbour_divergence(student, teacher, own, others, count=count)
                total = total + NEIGHBOURS * apart
        for width in self.dimensions:
            total = total + related(student[:, :width], teacher, count=count)
        return total

    def _near(self, teacher: Tensor) -> Tensor:
        """(n, E) those of `others` that are nearest to the middle of a batch (B, E), and as many anywhere."""
        assert self.others is not None
        step = -(-len(self.others) // SEARCHED)
        some = self.others[int(torch.randint(step, ())) :: step]
        middle = functional.normalize(teacher.detach().float(), dim=-1).mean(0).to(some)
        nearest = (some @ middle).topk(min(NEAREST, len(some))).indices
        return some[torch.cat([nearest, torch.randint(len(some), (len(nearest),))])]


def prediction(student: Tensor, teacher: Tensor, kind: Kind, *, temperature: float, count: float) -> Tensor:
    """The prediction loss of a task: soft cross-entropy (TinyBERT eq. 10), its yes/no form, or the score's error.

    Args:
        student, teacher: logits, (B, C); of a task that asks tokens, those of its choices (`Task.decisions`).
            Of embeddings (B, E) each.
        kind: of the task; a regression student learns the teacher's score, not the label.
        count: choices (or scores) to average over.
    """
    if kind == "regression":
        return losses.score_error(student, teacher, count=count)
    if kind == "embedding":
        return EmbeddingMatch()(student, teacher, count=count)
    if kind == "multi_label":
        return losses.binary_kl(student, teacher, temperature=temperature, count=count)
    return losses.soft_cross_entropy(student, teacher, temperature=temperature, count=count)
