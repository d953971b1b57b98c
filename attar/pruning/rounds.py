"""Rounds of pruning: learn, cut and recover, until the budget holds; a killed run goes on from its last step."""

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import nn
from transformers import PreTrainedModel

from attar.anatomy.form import form_of
from attar.data.masking import MaskedLanguage
from attar.data.tasks import Supervised, Task
from attar.model.checkpoint import digest
from attar.progress import say, track
from attar.pruning.apply import apply
from attar.pruning.fisher import SampledLikelihood
from attar.pruning.plan_parts import indexes, ranges
from attar.pruning.reconstruction import reconstruct
from attar.pruning.round import ALPHAS, Way, check, choose
from attar.pruning.schubert import Limited
from attar.pruning.selection import Cost
from attar.pruning.self_distillation import SelfDistillation
from attar.pruning.units import Kept, KeptLayer, everything
from attar.report.report import Point
from attar.storage.writing import save_tensors, write_atomic
from attar.training import resuming
from attar.training.loop import Precision, Source, Step, fit, is_main, wait

Loss = Literal["distill", "task", "mlm"]


class Texts(Protocol):
    """The texts, as a loss wants them: masked for "mlm", with labels for "task"."""

    def __call__(self, loss: Loss, alike: bool = False, /) -> Source:
        """Their batches: of several processes each gets its own, or all the same where `alike`."""
        ...


@dataclass(frozen=True)
class Recovery:
    """What follows a cut: least squares, then `steps` of the pruning loss, or of staying close to the model before."""

    loss: Loss | None = "distill"
    steps: int = 200
    lr: float = 5e-5
    precision: Precision = "auto"
    seed: int = 0
    reconstruct: bool = True


@dataclass
class Pruned:
    """What rounds of pruning gave: the model, what stays of the first one in its own numbers, and training curves."""

    model: PreTrainedModel
    kept: Kept
    curves: dict[str, tuple[Point, ...]] = field(default_factory=dict)


def learner(
    kind: Loss,
    model: PreTrainedModel,
    *,
    teacher: PreTrainedModel,
    hidden: tuple[int, ...] | None,
    task: Task | None,
) -> nn.Module:
    """A model with the loss of a name."""
    if kind == "mlm":
        return MaskedLanguage(model)
    if kind == "task":
        assert task is not None
        return Supervised(model, task)
    return SelfDistillation(model, teacher, hidden=hidden, task=task)


def rounds(
    model: PreTrainedModel,
    way: Way,
    cost: Cost,
    budget: float,
    *,
    count: int = 1,
    loss: Loss = "distill",
    task: Task | None = None,
    batches: Texts | None = None,
    recovery: Recovery | None = None,
    place: Path,
) -> Pruned:
    """Prune in `count` rounds, each by an equal part of what has to go (2005.06628, algorithm 1).

    Args:
        model: is left as it is.
        budget: the cost to reach, in the unit of `cost`.
        loss: that teaches the alphas.
        batches: the texts.
        recovery: after each cut; None for none.
        place: a directory to go on from.
    """
    teacher, current = model, copy.deepcopy(model)
    total = everything(form_of(model.config))
    first = cost(form_of(model.config))
    check(model, way, cost, budget)
    curves: dict[str, tuple[Point, ...]] = {}
    texts = batches(loss, way.method not in ALPHAS) if batches is not None else None
    content = texts.content if texts is not None else ()
    key = digest(model, vars(way), budget, count, loss, vars(recovery) if recovery else None, *content)
    for number in range(1, count + 1):
        goal = first - number / count * (first - budget)
        here = place / f"round-{number}-{key}"
        if (here / "done.json").is_file():
            say(f"round {number} of {count}: done before, read from disk")
            total = _read(here / "done.json")
            current = apply(teacher, total)
            current.load_state_dict(torch.load(here / "done.pt", weights_only=True))
            continue
        here.mkdir(parents=True, exist_ok=True)
        learns = way.method in ALPHAS or way.method == "taylor"
        hidden = None if len(total.hidden) == form_of(teacher.config).hidden else total.hidden
        pulled: nn.Module | None = None
        if way.method == "taylor" and loss == "distill":  # whose distance from itself has no gradient
            pulled = SampledLikelihood(current, task=task, seed=way.seed).eval()
        elif learns:
            pulled = learner(loss, current, teacher=teacher, hidden=hidden, task=task).eval()
        state = here / "alphas"
        kept, whole = choose(current, way, cost, goal, loss=pulled, batches=texts, checkpoint=state)
        total = kept.after(total)
        current = apply(whole, kept)
        say(f"round {number} of {count}: {cost(kept.form) / first:.1%} of the cost stays")
        if recovery is not None and batches is not None:
            # To the model of this round: what folding and the rounds before it changed is meant to stay.
            if recovery.reconstruct:
                fitted(current, whole, kept, batches)
            if recovery.loss is not None and recovery.steps:
                name = f"recover {number}" if count > 1 else "recover"
                dealt = batches(recovery.loss)
                curves[name] = recover(
                    current, recovery, dealt, teacher=teacher, kept=total, task=task, place=here
                )
        if is_main():
            save_tensors(current.state_dict(), here / "done.pt")
            write_atomic(here / "done.json", _written(total))
        wait()
    return Pruned(current.eval(), total, curves)


def fitted(small: PreTrainedModel, model: PreTrainedModel, kept: Kept, batches: Texts) -> None:
    """Fit a cut model to the one it was cut from, in place; the texts are the same for all processes."""
    if reconstruct(small, model, kept, batches("distill", True).epoch()):
        say("what stays was fitted by least squares to what went")


def recover(
    model: PreTrainedModel,
    recovery: Recovery,
    batches: Source,
    *,
    teacher: PreTrainedModel,
    kept: Kept,
    task: Task | None,
    place: Path,
) -> tuple[Point, ...]:
    """Train a cut model in place; the training curve."""
    assert recovery.loss is not None
    learning = learner(recovery.loss, model, teacher=teacher, hidden=kept.hidden, task=task)
    curve = resuming.TrainingCurve(place / "recover.json")
    steps = fit(
        learning,
        Limited(batches, recovery.steps),
        epochs=1,
        lr=recovery.lr,
        precision=recovery.precision,
        seed=recovery.seed,
        checkpoint=place / "recover",
    )
    for step in track(steps, "recover", recovery.steps, done=Step.done):
        curve.add(step)
    say(f"recovered by {recovery.loss}: loss {curve.recent():.4f}")
    return curve.points()


def _written(kept: Kept) -> str:
    names = ("heads", "key", "value", "ffn")
    layers = [{"layer": x.layer} | {n: ranges(getattr(x, n)) for n in names} for x in kept.layers]
    shared = {n: ranges(getattr(kept, n)) for n in ("hidden", "embedding", "vocab")}
    return json.dumps({**shared, "layers": layers})


def _read(path: Path) -> Kept:
    found = json.loads(path.read_text())
    layers = tuple(
        KeptLayer(x["layer"], *(indexes(x[n]) for n in ("heads", "key", "value", "ffn")))
        for x in found["layers"]
    )
    hidden, embedding, vocab = (indexes(found[n]) for n in ("hidden", "embedding", "vocab"))
    return Kept(hidden, embedding, vocab, layers)
