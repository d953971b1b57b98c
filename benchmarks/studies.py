"""How studies measure: loss on held-out text paired by text, rates by dev, collapsed runs, settled signs, and hours.

Arms of a study differ by less than downstream accuracies of a few hundred rows can show. So the loss on the same
held-out text comes first, with what two arms lose on the same texts subtracted text by text, and a study stops adding
seeds once the sign of what it asks is settled.
"""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from matplotlib.figure import Figure as Drawing
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F
from transformers import PreTrainedModel

from attar import progress
from attar.data.language_modeling import reading
from attar.data.masking import MaskedLanguage
from attar.evaluation.opening import open_model
from attar.evaluation.quality import Evaluation
from attar.evaluation.table import TableEvaluator
from attar.maths.statistics import Interval, Ratio, bootstrap, seed_interval
from attar.training.loop import autocast
from common import machine

Array = NDArray[Any]
# A student that says one class of this share of the rows, or whose scores spread this little of the labels' spread.
SAME, FLAT = 0.98, 0.05


@dataclass(frozen=True, eq=False)
class TextLoss:
    """What a masked language model loses on held-out texts: nats (N,) over masked tokens (N,), text by text."""

    nats: Array
    tokens: Array

    @property
    def mean(self) -> float:
        """Nats a masked token."""
        return float(self.nats.sum() / self.tokens.sum())


@torch.no_grad()
def masked_loss(
    model: PreTrainedModel, texts: Sequence[str], tokenizer: Any, *, max_length: int = 128
) -> TextLoss:
    """The loss of each text; every model of one tokenizer is asked for the same masked tokens."""
    batches = reading(model.eval(), max_length=max_length).batches(texts, tokenizer)
    nats, tokens = np.zeros(len(texts)), np.zeros(len(texts))
    for batch in progress.track(batches.epoch(0), "held-out loss", len(batches)):
        logits, wanted, _ = MaskedLanguage(model).predictions(batch)
        lost = F.cross_entropy(logits.float(), wanted, reduction="none").numpy()
        rows = batch.index.numpy()[np.nonzero((batch.labels != -100).numpy())[0]]  # type: ignore[union-attr]
        np.add.at(nats, rows, lost)
        np.add.at(tokens, rows, 1.0)
    return TextLoss(nats, tokens)


def loss_apart(ours: Sequence[TextLoss], theirs: Sequence[TextLoss], *, confidence: float = 0.95) -> Interval:
    """Nats a token that `ours` lose more than `theirs`, seed by seed on the same texts: over new texts and seeds."""
    apart = [a.nats - b.nats for a, b in zip(ours, theirs, strict=True)]
    return bootstrap(Ratio(lambda nats, tokens: (nats, tokens)), apart, ours[0].tokens, confidence=confidence)


def right(place: Path, table: Dataset) -> Array:
    """(N,) 1 where a classifier, a directory or an export, says a row's label, else 0."""
    opened = open_model(place)
    read = TableEvaluator(opened.task, table, opened.tokenizer, batch_size=64)
    found = read.evaluate(opened.model)
    return np.asarray(found.predictions == found.labels, dtype=float)


def collapsed(found: Evaluation) -> bool:
    """Whether a model says the same of nearly every row: a margin over it would say nothing of the method."""
    said = np.asarray(found.predictions)
    if found.task.kind == "regression":
        assert found.labels is not None
        return not np.std(said) > FLAT * np.std(found.labels)
    return float(np.unique(said, return_counts=True)[1].max()) > SAME * len(said)


@functools.cache
def nominal_level(looks: tuple[int, ...], level: float = 0.05) -> float:
    """The level of each look at a sum that grows, so that all looks together err in `level` of the cases.

    Pocock's boundary (1977) for any numbers of observations: the looks' z statistics are normal with correlations
    sqrt(n_i / n_j). With few observations the same level is that of t tests (Jennison and Turnbull 2000, "Group
    Sequential Methods", section 4.4).

    Args:
        looks: observations at each look, growing.
        level: of all looks together, two-sided.
    """
    from scipy.optimize import brentq
    from scipy.stats import multivariate_normal, norm

    if len(looks) == 1:
        return level
    count = np.asarray(looks, dtype=float)
    between = np.sqrt(np.minimum.outer(count, count) / np.maximum.outer(count, count))
    normal = multivariate_normal(np.zeros(len(count)), between, allow_singular=True, seed=0)

    def errs(bound: float) -> float:
        box = np.full(len(count), bound)
        return 1 - float(normal.cdf(box, lower_limit=-box)) - level

    return float(2 * norm.sf(brentq(errs, norm.isf(level / 2), norm.isf(level / 2 / len(count)), xtol=1e-3)))


def settled(differences: Sequence[float], seeds: int) -> bool:
    """Whether the sign of a mean over seeds is sure, with a look after every seed from the second to the `seeds`-th."""
    if len(differences) < 2:
        return False
    looks = tuple(range(2, max(seeds, len(differences)) + 1))
    around = seed_interval(list(differences), confidence=1 - nominal_level(looks))
    return around.low > 0 or around.high < 0


def arms(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The option of a study of several arms: one process a core makes some of them, all in one `--work`."""
    told = "arms to make and to report; several processes may share a --work"
    return {"--arms": {"nargs": "+", "default": list(names), "choices": list(names), "help": told}}


def by_seed(
    arms: Sequence[str],
    seeds: Sequence[int],
    measure: Callable[[str, int], float],
    pairs: Sequence[tuple[str, str]] = (),
) -> dict[str, list[float]]:
    """Measure every arm seed by seed, until the sign of every pair's difference is settled or the seeds are through."""
    found: dict[str, list[float]] = {arm: [] for arm in arms}
    asked = [(a, b) for a, b in pairs if a in found and b in found]
    for number, seed in enumerate(seeds, 1):
        for arm in arms:
            found[arm].append(measure(arm, seed))
            progress.say(f"seed {seed}, {arm}: {found[arm][-1]:.4g}")
        apart = [[a - b for a, b in zip(found[ours], found[theirs], strict=True)] for ours, theirs in asked]
        if number < len(seeds) and apart and all(settled(one, len(seeds)) for one in apart):
            progress.say(
                f"every sign is settled after {number} of {len(seeds)} seeds: the others are left out"
            )
            break
    return found


def verdict(around: Interval) -> str:
    """What an interval says of a claim that something is ahead."""
    return "holds" if around.low > 0 else "does not" if around.high < 0 else "not settled"


def seconds_a_token(model: PreTrainedModel, *, rows: int, length: int, train: bool) -> float:
    """Processor seconds that a token of a step, or of a forward pass, takes here: the middle of three after a first."""
    vocabulary = model.config.vocab_size
    took = []
    for _ in range(4):
        ids = torch.randint(vocabulary, (rows, length))
        began = time.process_time()
        with torch.set_grad_enabled(train), autocast("auto"):
            loss = model(input_ids=ids).logits.float().mean()
        if train:
            loss.backward()
            model.zero_grad()
        took.append(time.process_time() - began)
    return float(np.median(took[1:])) / (rows * length)


def say_hours(
    seconds: Mapping[str, float], rate: str = "at the rate of steps that were timed just now"
) -> float:
    """Say how long a study will take before it starts, part by part; the hours of all of them.

    Args:
        seconds: of one core, of each part that is not made yet.
        rate: where they come from.
    """
    hours = sum(seconds.values()) / 3600
    table = Table("to be made", "hours of one core", box=None)
    for name, each in seconds.items():
        table.add_row(name, f"{each / 3600:.2f}")
    table.add_row("all of it", f"{hours:.2f}")
    console = Console(width=110)
    console.print(table)
    console.print(f"{rate} on {machine()['cpu']}\n", highlight=False)
    return hours


def draw(
    title: str, found: Mapping[str, Interval], label: str, *, papers: Mapping[str, float] | None = None
) -> str:
    """A figure with its interval an arm, and a diamond where the paper has it, as SVG."""
    drawing = Drawing(figsize=(7, 0.9 + 0.38 * len(found)), layout="constrained")
    axes = drawing.subplots()
    for row, (name, around) in enumerate(found.items()):
        axes.plot([around.low, around.high], [row, row], color="#3b6fb6", linewidth=1.6)
        axes.plot([around.value], [row], "o", color="#3b6fb6", markersize=6)
        if papers and name in papers:
            axes.plot([papers[name]], [row], "D", color="#b0413e", markersize=5)
    axes.set_yticks(range(len(found)), list(found))
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    text = StringIO()
    drawing.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
