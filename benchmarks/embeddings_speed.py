"""Sentences a second of learning a teacher's embeddings: attar, and sentence-transformers' trainer with its MSELoss.

Both train the same student from the same weights on the same texts, 64 in a batch, on one thread, and take turns; each
runs the teacher over its texts once, as it does by itself. Attar's loss has the error of MSELoss in it, and more.
"""

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from datasets import Dataset
from embeddings_peers import BATCH, READ, mse_trainer
from sentence_transformers import SentenceTransformer

from attar.data.batches import Batches, encode
from attar.data.model_task import task_of
from attar.demo.data import model_directory
from attar.distillation.phases import Distiller, teacher_of
from attar.distillation.student import student as build
from attar.model.checkpoint import Loaded, load, save
from attar.model.views import Need
from attar.training.loop import fit
from attar.training.used_embeddings import used_rows
from common import once, remembered

EPOCHS, ROUNDS, TEXTS, LR = 4, 3, 1280, 1e-3


def rates(study: Any, shape: dict[str, Any]) -> dict[str, float]:
    """Sentences a second of both and their ratio: texts times `EPOCHS` over the seconds of the pass and the epochs.

    The seconds of each part are the middle ones of all turns, of the processor.
    """

    def make() -> dict[str, float]:
        rounds, count = (1, 96) if study.quick else (ROUNDS, TEXTS)
        teacher = load(model_directory())
        start = once(study.work / "speed-student", lambda out: _start(teacher, shape, out))
        turns: dict[str, list[tuple[float, float]]] = {"attar": [], "sentence-transformers": []}
        for number in range(rounds):
            texts = study.texts[number * count : (number + 1) * count]
            for name in list(turns) if number % 2 == 0 else list(turns)[::-1]:
                turns[name].append(
                    _attar(teacher, start, texts) if name == "attar" else _library(start, texts)
                )
        found: dict[str, float] = {}
        for name, each in turns.items():
            passed, learned = np.median(np.array(each), axis=0)
            found[f"{name}, the pass"] = count / passed
            found[f"{name}, an epoch"] = count / learned
            found[name] = count * EPOCHS / (passed + EPOCHS * learned)
        return found | {"ratio": found["attar"] / found["sentence-transformers"]}

    return dict(remembered(study.work / "speed.json", make))


def _start(teacher: Loaded, shape: dict[str, Any], out: Path) -> None:
    made = build(teacher.model, **shape | {"init": "random"})
    save(made.model, teacher.tokenizer, out, lineage={"stage": "start"})


def _attar(teacher: Loaded, start: Path, texts: list[str]) -> tuple[float, float]:
    """Processor seconds of tokenising and the teacher's pass, and of an epoch."""
    student = load(start).model
    began = time.process_time()
    encoded = encode(Dataset.from_dict({"text": texts}), teacher.tokenizer, max_length=READ)
    batches = Batches(encoded, teacher.tokenizer, batch_size=BATCH, shuffle=True)
    with TemporaryDirectory() as cache:
        source = teacher_of(teacher.model, Need(), batches, cache=Path(cache), precision="auto", name="speed")
        passed = time.process_time()
        learner = Distiller(student, source, task=task_of(student.config))
        with used_rows(student, batches):
            for _ in fit(learner, batches, epochs=1, lr=LR):
                pass
        return passed - began, time.process_time() - passed


def _library(start: Path, texts: list[str]) -> tuple[float, float]:
    """Processor seconds of the teacher's pass, and of an epoch."""
    teacher, student = (SentenceTransformer(str(place), device="cpu") for place in (model_directory(), start))
    teacher.max_seq_length = student.max_seq_length = READ
    began = time.process_time()
    vectors = teacher.encode(texts, batch_size=BATCH, show_progress_bar=False)
    passed = time.process_time()
    trainer = mse_trainer(student, texts, vectors, epochs=1, lr=LR, seed=0)
    made = time.process_time()
    trainer.train()
    return passed - began, time.process_time() - made
