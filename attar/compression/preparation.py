"""Before the search: what candidates learn from, what they cost, and which there are."""

from dataclasses import dataclass
from pathlib import Path

from attar.compression.budget import SAID
from attar.compression.candidate import Candidate, teacher_architecture
from attar.compression.candidate_costs import CandidateCosts
from attar.compression.data import BATCH
from attar.compression.export_costs import ExportCosts
from attar.compression.exports import Exports
from attar.compression.learning import Learning
from attar.compression.pruned import STEPS, PrunedForms
from attar.compression.search import Clock
from attar.compression.shipping import Shipped
from attar.compression.space import Space
from attar.errors import RecipeError
from attar.options.base import Options
from attar.storage.writing import write_atomic
from attar.training.loop import Precision

# Part of the time for learning what may be pruned.
SCORING = 0.05


@dataclass(frozen=True)
class Prepared:
    """What a search needs.

    Attributes:
        learning: trains candidates.
        space: which there are, within the budget as numbers.
        rate: texts a second that the teacher reads.
    """

    learning: Learning
    space: Space
    rate: float


def prepare(exports: Exports, options: Options, clock: Clock, precision: Precision) -> Prepared:
    """Measure how fast the teacher reads, and make what follows from that and from the teacher's exports.

    Raises:
        RecipeError: a budget that no candidate can meet, or that the teacher meets.
    """
    o, texts, place = options, exports.texts, exports.place
    teacher, training = exports.teacher["fp32"], clock.given > 0
    limits, rate = exports.budget.against(teacher.costs), texts.rate()
    affordable = _readable(place, int(texts.teaching * clock.given * rate)) if training else 0
    table = texts.table(place, affordable) if training else texts.tables.train
    # A step backward takes about two forward.
    alphas = 3 * STEPS * BATCH / rate
    pruned = PrunedForms(
        texts,
        place / "scores",
        learned=training and alphas < SCORING * clock.given,
        precision=precision,
        seed=o.seed,
    )
    learning = Learning(texts, table, place, pruned, precision=precision, seed=o.seed)
    sizes, files = exports.vocabularies.costs()
    wanted = {"auto": ("all", "used"), "all": ("all",), "used": ("used",)}[o.vocabulary]
    free = None
    if exports.budget.keep is not None:
        free = next((name for name in ("latency", "size") if getattr(limits, name) is None), None)
    costs = CandidateCosts(
        learning,
        ExportCosts(learning, place.parent / "call-times.json", **exports.call),
        exact={*limits.limited, free or ""},
        vocabularies=sizes,
        tokenizer_bytes=files,
        memory={
            name: made.costs["memory"] / made.costs["size"]
            for name, made in exports.teacher.items()
            if limits.memory is not None
        },
    )
    for name, made in exports.teacher.items():
        form = costs.form(Candidate(teacher_architecture(exports.bound)))
        costs.latency.learn(form, name, teacher.costs["latency"] / made.costs["speedup"] / 1e3)
    axes = pruned.axes() if "prune" in o.ways else ()
    ways = tuple(way for way in o.ways if way != "prune" or axes)
    space = Space(
        exports.bound,
        costs,
        limits,
        ways,
        axes,
        [name for name in wanted if name in sizes],
        o.formats,
        free,
        costs.measure,
    )
    _check(space, teacher)
    return Prepared(learning, space, rate)


def _readable(place: Path, affordable: int) -> int:
    """How many texts the teacher reads: as many as before, where it could read about as many again.

    Its pace is measured anew by each run; another number of texts would be another record of all its outputs.
    """
    record = place / "teacher-reads"
    known = int(record.read_text()) if record.is_file() else 0
    if not affordable / 2 <= known <= affordable * 2:
        known = affordable
        write_atomic(record, str(known))
    return known


def _check(space: Space, teacher: Shipped) -> None:
    """Refuse a budget that nothing can meet, or that needs nothing."""
    smallest = space.smallest()
    space.measure(smallest)
    if over := space.broken(space.costs(smallest)):
        costs = space.costs(smallest)
        said = ", ".join(f"{SAID[name](float(f'{costs[name]:.3g}'))}" for name in over)
        raise RecipeError(
            expected=f"a budget that some model can meet: at least {said} ({smallest})",
            found=str(space.budget),
            fix="raise that limit",
        )
    # In int8 alone the teacher itself is a candidate.
    if space.free is None and "fp32" in space.precisions and not space.broken(teacher.costs):
        said = ", ".join(SAID[name](float(f"{teacher.costs[name]:.3g}")) for name in space.budget.limited)
        raise RecipeError(
            expected=f"a budget below what the model costs as it is: {said}",
            found=str(space.budget),
            fix="there is nothing to do; pass formats=['int8'] (--format int8) for int8 alone, or a smaller budget",
        )
