"""Four tasks of GLUE as the studies use them: rows to learn from, some of these to choose by, and dev to read."""

from pathlib import Path
from typing import NamedTuple

from datasets import Dataset

from attar.data.tables import read_table
from attar.demo.data import reviews
from texts import SHARED


class Task(NamedTuple):
    """A task's metric, the most rows to learn from, epochs, and its longest text in tokens."""

    metric: str
    rows: int
    epochs: int
    length: int


TASKS = {
    "SST-2": Task("accuracy", 20_000, 3, 48),
    "CoLA": Task("matthews", 9000, 3, 32),
    "RTE": Task("accuracy", 2500, 4, 96),
    "STS-B": Task("spearman", 6000, 5, 64),
}
# Of the training rows, to choose epochs and rates by.
CHOOSE = 0.1
COLUMNS = {
    "SST-2": {"text": "sentence"},
    "RTE": {"text": "sentence1", "text_pair": "sentence2"},
    "STS-B": {"text": "sentence1", "text_pair": "sentence2", "label": "score"},
}
Tables = dict[str, Dataset]


def glue(quick: bool) -> dict[str, Tables]:
    """`train`, `choose` and `test` of each task; a quick run has two small ones, of the demo's reviews."""
    if quick:
        rows = reviews()["train"].select(range(60))
        scored = [
            {"text": text, "text_pair": other, "label": 0.5 + 0.3 * (n % 9)}
            for n, (text, other) in enumerate(zip(rows["text"][:], rows["text"][::-1], strict=True))
        ]
        return {
            "SST-2": _parts(rows, rows),
            "STS-B": _parts(Dataset.from_list(scored), Dataset.from_list(scored)),
        }
    found = {}
    for name, task in TASKS.items():
        train, test = (_cola("train"), _cola("dev")) if name == "CoLA" else _tables(name)
        found[name] = _parts(train.shuffle(seed=0).select(range(min(task.rows, len(train)))), test)
    return found


def texts_of(tables: dict[str, Tables]) -> list[str]:
    """The texts that the tasks are learned from."""
    return [
        text
        for parts in tables.values()
        for name in ("text", "text_pair")
        if name in parts["train"].column_names
        for text in parts["train"][name]
    ]


def _parts(train: Dataset, test: Dataset) -> Tables:
    parted = train.train_test_split(test_size=CHOOSE, seed=0)
    return {"train": parted["train"], "choose": parted["test"], "test": test}


def _tables(name: str) -> tuple[Dataset, Dataset]:
    place: Path = SHARED / f"glue_{name.lower().replace('-', '')}"
    train, task = read_table(place / "train.tsv", columns=COLUMNS[name], require_label=True)
    return train, read_table(place / "dev.tsv", columns=COLUMNS[name], task=task, require_label=True)[0]


def _cola(part: str) -> Dataset:
    # The source, the label, the author's mark and the sentence, without a header.
    lines = (SHARED / "glue_cola" / f"{part}.tsv").read_text(encoding="utf-8").strip("\n").split("\n")
    rows = [line.split("\t") for line in lines]
    return Dataset.from_dict({"text": [row[3] for row in rows], "label": [int(row[1]) for row in rows]})
