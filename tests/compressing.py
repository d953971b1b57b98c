"""What the tests of compression share: costs without models, a space of candidates, a clock, and a teacher."""

import itertools

import tiny
from attar import finetune
from attar.anatomy.resolve import resolve
from attar.compression import finalists, pipeline
from attar.compression.budget import budget_of
from attar.compression.exports import Exports
from attar.compression.learning import Learning
from attar.compression.search import Clock
from attar.compression.space import Space


def costs(candidate):
    """Something that rises with every size, as real costs do."""
    a = candidate.architecture
    part = a.budget if a.way == "prune" else 1.0
    layer = 4 * a.hidden * a.hidden + 2 * a.hidden * a.ffn
    parameters = part * (a.layers * layer + a.embedding * (60 if candidate.vocabulary == "used" else 100))
    return {
        "parameters": parameters,
        "size": parameters * (1 if candidate.precision == "int8" else 4) / 1e6,
        "latency": parameters / 1e4,
    }


def space(budget, **changes):
    bound = resolve(tiny.model(hidden_size=64, num_hidden_layers=4, intermediate_size=128))
    options = {
        "ways": ("distil", "prune", "drop"),
        "axes": ("all", "heads, FFN"),
        "vocabularies": ("all", "used"),
        "precisions": ("fp32", "int8"),
    }
    return Space(bound, costs, budget_of(budget), **{**options, **changes})


class Ticks(Clock):
    """A clock on which every look is a second."""

    def __init__(self, given, record=None):
        super().__init__(given, record)
        self.ticks = itertools.count()

    @property
    def used(self):
        return float(next(self.ticks))


def teacher_in(place):
    """A teacher that tells good from bad, saved in a directory, and its texts."""
    rows = tiny.sentiment(260)
    model = tiny.model(hidden_size=64, num_hidden_layers=2, intermediate_size=128, initializer_range=0.05)
    finetune(
        model, rows, dev=rows, tokenizer=tiny.tokenizer(), out=place / "teacher", epochs=8, lr=1e-3, patience=None,
        precision="fp32",
    )  # fmt: skip
    return place / "teacher", rows


def without_time(monkeypatch):
    """A clock of looks and a pace that is given: no test waits for the time."""
    monkeypatch.setattr(pipeline, "Clock", Ticks)
    monkeypatch.setattr(Learning, "pace", lambda self, architecture: 0.2)
    monkeypatch.setattr(Learning, "probed", lambda self, learner, batches: 0.2)
    monkeypatch.setattr(Exports, "ending", lambda self, given, rate: 5.0)
    monkeypatch.setattr(finalists, "FINALISTS", 1)
