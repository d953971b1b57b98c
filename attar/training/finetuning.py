"""Fine-tune an encoder on labelled texts: the teacher of a distillation, and its undistilled baselines."""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoConfig, PreTrainedModel

from attar.data.batches import Batches
from attar.data.columns import Columns
from attar.data.model_task import task_of
from attar.data.tables import has_scores, part, read_table
from attar.data.tasks import Supervised, Task
from attar.errors import DataError, ModelError
from attar.evaluation.quality import Evaluation
from attar.evaluation.table import TableEvaluator
from attar.model.checkpoint import digest, load, save, versions
from attar.model.embedding import SentenceEncoder, embedding_head
from attar.model.pretrained import from_pretrained
from attar.options.base import Options
from attar.progress import say, track
from attar.report.report import Point, Report, Row
from attar.storage.writing import check_free
from attar.training import resuming
from attar.training.embedding_finetuning import belong_together, finetune_embeddings, teaches_embeddings
from attar.training.loop import Precision, Step, broadcast, fit, is_main, processes
from attar.training.used_embeddings import used_rows


def finetune(
    model: str | Path | PreTrainedModel,
    data: str | Path | Dataset,
    *,
    out: str | Path,
    dev: str | Path | Dataset | None,
    columns: Columns | None,
    tokenizer: Any,
    options: Options,
    precision: Precision,
    overwrite: bool,
) -> Report:
    """Fine-tune an encoder on a table with labels; see `attar.finetune`."""
    check_free(out, overwrite=overwrite)
    pooling = options.pooling
    embeds = not isinstance(model, PreTrainedModel) and embedding_head(model, pooling) is not None
    if isinstance(model, SentenceEncoder) or (
        embeds and teaches_embeddings(data, columns, options.problem_type)
    ):
        given: dict[str, Any] = {"columns": columns, "options": options, "precision": precision}
        return finetune_embeddings(model, data, out=out, dev=dev, overwrite=overwrite, **given)
    if pooling is not None:
        raise DataError(
            expected="pairs or triplets, for an embedding model",
            found=f"pooling {pooling}, and labels of another kind",
            fix="leave pooling out",
        )
    if belong_together(data, columns):
        raise ModelError(
            expected="an embedding model, for pairs of which nothing is said but that they belong together",
            found=f"{model if isinstance(model, str | Path) else type(model).__name__}, which is none",
            fix="pooling='mean' (--pooling mean) makes one of an encoder; a label for each pair teaches a classifier",
        )
    problem_type = options.problem_type
    if problem_type is None and _gives_one_score(model) and has_scores(data, columns):
        say(
            "the model gives one score (a reranker, or a regression), so labels are scores: problem_type regression"
        )
        problem_type = "regression"
    table, task = read_table(data, columns=columns, problem_type=problem_type, require_label=True)
    assert task is not None  # a table with labels always has one
    table, held = _held_out(table, dev, columns, task, options.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)  # a new head is drawn
        loaded = load(
            model,
            tokenizer=tokenizer,
            head=task.head,
            fresh_head=True,
            num_labels=len(task.labels),
        )
    if loaded.model.config.num_labels != len(task.labels):  # a model that came loaded has the head it has
        raise ModelError(
            expected=f"a model of {len(task.labels)} outputs, for {', '.join(task.labels[:8])}",
            found=str(loaded.model.config.num_labels),
            fix=f"load it with num_labels={len(task.labels)}, or pass its name",
        )
    task.configure(loaded.model.config)
    _check_head(loaded.model, task)
    settings = options.settings() | {
        "max_length": task.window(loaded.model, options.max_length),
        "precision": precision,
    }
    training = {name: value for name, value in settings.items() if name not in ("problem_type", "pooling")}
    with resuming.work_directory(out) as place:
        evaluation, curve = supervise(
            loaded.model, loaded.tokenizer, table, held, task, place=place, **training
        )
        lineage = {
            "stage": "finetune",
            "parent": loaded.name,
            "options": settings,
            "metrics": evaluation.metrics,
        }
        if is_main():
            save(loaded.model, loaded.tokenizer, out, lineage=lineage, overwrite=overwrite)
    row = Row(
        Path(out).name,
        "teacher",
        metrics=evaluation.metrics,
        parameters=loaded.model.num_parameters(),
        directory=str(out),
    )
    return Report(
        f"fine-tuned {Path(loaded.name).name}",
        evaluation.main,
        (row,),
        {"fine-tuning": curve},
        settings=settings,
        versions=versions(),
    )


def _gives_one_score(model: str | Path | PreTrainedModel) -> bool:
    """Whether a model is a reranker, or another that gives one number of a text or a pair."""
    source = model if isinstance(model, PreTrainedModel) else from_pretrained(AutoConfig, model)
    return task_of(source).kind == "regression"


def supervise(
    model: PreTrainedModel,
    tokenizer: Any,
    train: Dataset,
    dev: Dataset,
    task: Task,
    *,
    place: Path,
    epochs: int,
    lr: float,
    batch_size: int,
    max_length: int,
    patience: int | None,
    seed: int,
    metric: str | None = None,
    doc_stride: int = 128,
    precision: Precision = "auto",
) -> tuple[Evaluation, tuple[Point, ...]]:
    """Train `model` in place on labels, keep its best epoch, and return its dev evaluation and the training curve.

    `place` keeps what a killed run goes on from, in a directory named by a digest of all that decides the result.
    """
    rank, world = processes()
    batches = Batches(
        task.encode(train, tokenizer, max_length=max_length, stride=doc_stride),
        tokenizer,
        batch_size=batch_size,
        shuffle=True,
        seed=seed,
        rank=rank,
        world=world,
    )
    evaluator = TableEvaluator(
        task, dev, tokenizer, batch_size=batch_size, max_length=max_length, stride=doc_stride
    )
    if metric is not None:
        evaluator.evaluate(model).chosen(metric)  # an unknown one is found before training
    options = (epochs, lr, batch_size, patience, metric, seed, precision)
    key = digest(model, *batches.content, *evaluator.batches.content, options)
    place = place / f"finetune-{key}"
    place.mkdir(parents=True, exist_ok=True)
    best = resuming.BestEpoch(place, patience)
    learner = Supervised(model, task)
    with used_rows(model, batches, evaluator.batches):
        steps = fit(
            learner, batches, epochs=epochs, lr=lr, precision=precision, seed=seed, checkpoint=place / "state"
        )
        curve = resuming.TrainingCurve(place / "curve.json")
        for step in track(steps, "fine-tune", epochs * len(batches), done=Step.done):
            curve.add(step)
            if step.last_of_epoch:
                name, value = evaluator.evaluate(model).chosen(metric)
                best.add(step.epoch, broadcast(value), model)
                say(f"epoch {step.epoch + 1}: dev {name} {value:.4f}, loss {curve.recent():.4f}")
                if best.exhausted:
                    say(f"no better for {patience} epochs: stopping")
                    break
        best.restore(model)
    return evaluator.evaluate(model), curve.points()


def _check_head(model: PreTrainedModel, task: Task) -> None:
    """Refuse a model that came loaded with a head of another task."""
    if type(task_of(model)) is not type(task):
        raise ModelError(
            expected=f"a model with a {task.head} head",
            found=type(model).__name__,
            fix="pass its name, so that it is loaded with a new head",
        )


def _held_out(
    table: Dataset, dev: str | Path | Dataset | None, columns: Columns | None, task: Task, seed: int
) -> tuple[Dataset, Dataset]:
    if dev is not None:
        return table, read_table(dev, columns=columns, task=task, require_label=True)[0]
    if len(table) < 10:
        raise DataError(
            expected="at least 10 rows, to hold a tenth out for dev",
            found=str(len(table)),
            fix="give a dev table",
        )
    train, held = part(table, -(-len(table) // 10), seed=seed)
    say(f"no dev table: {len(held)} of {len(table)} rows are held out to choose the best epoch")
    return train, held
