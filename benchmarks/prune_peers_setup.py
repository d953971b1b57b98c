"""What every tool of `benchmarks/prune_peers.py` prunes: a fine-tuned model, and sentences of each seed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

from datasets import Dataset

from attar.anatomy.form import Form, LayerForm, form_of
from attar.data.batches import Batches, encode
from attar.data.model_task import task_of
from attar.model.checkpoint import load
from attar.pruning.cost import Parameters

# What TextPruner is asked to leave, heads and FFN units a layer on average; the budgets of all.
SIZES = {"70%": (8, 1100), "50%": (6, 768)}
AXES: dict[str, tuple[str, ...]] = {
    "heads+ffn": ("heads", "ffn"),
    "all axes": ("hidden", "heads", "key", "value", "ffn"),
}
SETTINGS: dict[str, Any] = {
    "scoring_rows": 512,
    "batch": 32,
    "max_length": 64,
    "textpruner_iterations": 4,
    "alphas": {
        "steps": 56,
        "lr": 0.02,
    },  # and PROBES batches for gamma: as many passes as TextPruner's 4 x 16
    "recovery": {"steps": 60, "lr": 5e-5},
    "dev_rows": 400,
    "test_rows": 1000,
    "sizes": list(SIZES),
    "ways": ["schubert distill", "taylor"],
}
QUICK: dict[str, Any] = SETTINGS | {
    "scoring_rows": 64,
    "batch": 8,
    "max_length": 24,
    "textpruner_iterations": 1,
    "alphas": {"steps": 2, "lr": 0.02},
    "recovery": {"steps": 2, "lr": 5e-5},
    "dev_rows": 16,
    "test_rows": 32,
    "sizes": ["50%"],
    "ways": ["schubert distill", "taylor"],
}


@dataclass(frozen=True)
class Setting:
    """One way of one tool to cut."""

    tool: str
    axes: str
    way: str

    @property
    def name(self) -> str:
        """For files."""
        return f"{self.tool}-{self.axes}-{self.way}".replace(" ", "-").replace("+", "-")


THEIRS = (
    Setting("TextPruner", "heads+ffn", "uneven"),
    *(Setting("Torch-Pruning", axes, way) for axes in AXES for way in ("uniform", "isomorphic")),
)


class Goal(TypedDict):
    """Sizes that a peer is asked to leave.

    Attributes:
        hidden: that of the whole model where it is not cut.
        heads, ffn: of a layer; where layers may differ, on average.
        ratio: part of the FFN units, and of the hidden size where that is cut, that goes.
    """

    hidden: int
    heads: int
    ffn: int
    ratio: float


class Setup:
    """The fine-tuned model, and the sentences of each seed.

    Args:
        tables: of the task that `teacher` is fine-tuned on; `train` is scored on.
    """

    def __init__(
        self, work: Path, settings: Mapping[str, Any], teacher: Path, tables: Mapping[str, Dataset]
    ) -> None:
        self.work, self.settings, self.teacher, self.tables = work, settings, teacher, tables
        self.whole = load(teacher)
        self.model = self.whole.model
        self.task = task_of(self.model.config)
        self.form, self.cost = form_of(self.model.config), Parameters(self.model)
        self.budgets = {
            size: self.cost(self.form_with(LayerForm(heads, 32, 32, ffn)))
            for size, (heads, ffn) in SIZES.items()
            if size in settings["sizes"]
        }
        self._drawn: dict[int, Dataset] = {}

    def batches(self, table: Dataset, **options: Any) -> Batches:
        """A table as batches."""
        encoded = encode(table, self.whole.tokenizer, max_length=self.settings["max_length"])
        size = self.settings["batch"]
        return Batches(encoded, self.whole.tokenizer, **{"batch_size": size, **options})

    def form_with(self, layer: LayerForm) -> Form:
        """The whole model with all layers of one form."""
        return replace(self.form, layers=(layer,) * len(self.form.layers))

    def sentences(self, seed: int, *, scoring: bool) -> Batches:
        """The scoring sentences of a seed, or those of its recovery, of which they are the first."""
        if seed not in self._drawn:
            self._drawn[seed] = self.tables["train"].shuffle(seed=seed)
        recovery = self.settings["recovery"]["steps"] * self.settings["batch"]
        count = self.settings["scoring_rows"] if scoring else recovery
        table = self._drawn[seed].select(range(min(count, len(self._drawn[seed]))))
        return self.batches(table, shuffle=True, seed=seed)

    def goals(self, setting: Setting) -> dict[str, Goal]:
        """The sizes that a peer is asked for, for each budget."""
        asked = self._alike if setting.axes == "all axes" else self._narrower
        return {size: asked(size) for size in self.budgets}

    def _alike(self, size: str) -> Goal:
        """What one ratio for hidden, heads and FFN leaves within the budget."""
        layer, whole = self.form.layers[0], self.form.hidden
        for thousandth in range(1, 1000):
            ratio = thousandth / 1000
            hidden, ffn = (int(n * (1 - ratio)) for n in (whole, layer.ffn))
            heads = max(1, round(layer.heads * (1 - ratio)))
            form = replace(
                self.form_with(LayerForm(heads, layer.key, layer.value, ffn)), hidden=hidden, embedding=hidden
            )
            if self.cost(form) <= self.budgets[size]:
                return Goal(hidden=hidden, ffn=ffn, heads=heads, ratio=ratio)
        raise AssertionError("a budget below one unit of everything")

    def _narrower(self, size: str) -> Goal:
        heads, ffn = SIZES[size]
        # A hundredth of a unit over, so that the peer's int() of it is not one less.
        ratio = 1 - (ffn + 0.01) / self.form.layers[0].ffn
        return Goal(hidden=self.form.hidden, ffn=ffn, heads=heads, ratio=ratio)
