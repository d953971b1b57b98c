"""Tiny tagged sentences and questions that can be learned, for the tests of tasks that ask single tokens."""

import json
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModelForQuestionAnswering, AutoModelForTokenClassification, PreTrainedModel

import tiny

TAGS = ("B-BAD", "B-GOOD", "I-BAD", "I-GOOD", "O")
HEADS = {"tags": AutoModelForTokenClassification, "answer": AutoModelForQuestionAnswering}


def sentences(rows: int = 40, seed: int = 0, longest: int = 9, tags: bool = True) -> Dataset:
    """Runs of good words and of bad words are entities; the rest is outside."""
    tokens = [text.split() for text in tiny.texts(rows, seed, longest)]
    if not tags:
        return Dataset.from_dict({"tokens": tokens})
    return Dataset.from_dict({"tokens": tokens, "tags": [tags_of(row) for row in tokens]})


def tags_of(tokens: list[str]) -> list[str]:
    kinds = ["GOOD" if t in tiny.GOOD else "BAD" if t in tiny.BAD else "" for t in tokens]
    return [
        "O" if not kind else ("I-" if i and kinds[i - 1] == kind else "B-") + kind
        for i, kind in enumerate(kinds)
    ]


def write_conll(path: Path, rows: Dataset) -> Path:
    """A CoNLL file of four columns, as the shared task of 2003 has it."""
    lines = ["-DOCSTART- -X- -X- O", ""]
    for row in rows:
        lines += [f"{token} NN I-NP {tag}" for token, tag in zip(row["tokens"], row["tags"], strict=True)]
        lines.append("")
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def squad(rows: int = 40, seed: int = 0, *, longest: int = 12, impossible: float = 0.0) -> dict:
    """SQuAD's JSON: the answer is the one good word of the context; without one there is no answer."""
    rng = np.random.default_rng(seed)
    paragraphs = []
    for number in range(rows):
        words = list(rng.choice([*tiny.PLAIN, *tiny.BAD], size=rng.integers(2, longest + 1)))
        place = int(rng.integers(len(words)))
        none = bool(rng.random() < impossible)
        if not none:
            words[place] = str(rng.choice(tiny.GOOD))
        start = len(" ".join([*words[:place], ""]))
        answers = [] if none else [{"text": words[place], "answer_start": start}]
        item = {"id": f"q{number}", "question": "it is good ?", "answers": answers}
        if impossible:
            item["is_impossible"] = none
        paragraphs.append({"context": " ".join(words), "qas": [item]})
    return {"version": "2.0" if impossible else "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]}


def write_squad(path: Path, *args: int, **options: object) -> Path:
    path.write_text(json.dumps(squad(*args, **options)), encoding="utf-8")
    return path


def model(kind: str, family: str = "bert", seed: int = 0, **changes: object) -> PreTrainedModel:
    """A random model with the head of a task, the same for the same seed."""
    if kind == "tags":
        changes = {"num_labels": len(TAGS), "id2label": dict(enumerate(TAGS)), **changes}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = HEADS[kind].from_config(tiny.config(family, **changes))
    made.config.architectures = [type(made).__name__]
    return made.eval()
