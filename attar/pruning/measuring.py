"""What a pruned model keeps of the one before it, on texts that nothing was learned from."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel

from attar.data.language_modeling import reading
from attar.data.model_task import task_of
from attar.data.tables import hold_out, read_table
from attar.data.tasks import Task
from attar.evaluation import language_model
from attar.evaluation.comparison import measure
from attar.evaluation.opening import open_model
from attar.pruning.pruner import Pruner
from attar.report.report import Role, Row

ANSWERING = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "SentenceEncoder")
LANGUAGE = ("ForMaskedLM", "ForPreTraining")
# The split is the same for every seed: what a plan did not see is what `attar.prune` measures on.
SEED = 0


def answering_task(model: PreTrainedModel) -> Task | None:
    """The task of a model that answers about texts, words or questions; None for models of other heads."""
    return task_of(model) if type(model).__name__.endswith(ANSWERING) else None


def parted(texts: Dataset) -> tuple[Dataset, Dataset | None]:
    """The texts that are learned from, and those held out to measure on; of a single text none is."""
    if len(texts) < 2:
        return texts, None
    return hold_out(texts, seed=SEED)


def plain(texts: Dataset) -> Dataset:
    """A table of words or of questions as texts; one of texts as it is."""
    if "tokens" in texts.column_names:
        return Dataset.from_dict({"text": [" ".join(words) for words in texts["tokens"]]})
    if "question" in texts.column_names:
        return Dataset.from_dict({"text": texts["question"][:], "text_pair": texts["context"][:]})
    return texts


def measured(
    found: Pruner, small: PreTrainedModel, tokenizer: Any, held: Dataset | None, out: str | Path, what: str
) -> tuple[tuple[Row, Row], str, str]:
    """The model before and after on some texts, the metric that counts, and a line that says what the texts are.

    Sizes alone where there are no texts, or no head whose answers could be compared.

    Args:
        held: the texts.
        what: they are, for people.
    """
    task, kind = answering_task(found.model), type(found.model).__name__
    reads = kind.endswith(LANGUAGE)
    if held is not None and task is not None and task.kind == "tags" and "tokens" not in held.column_names:
        held = read_table(held, task=task)[0]  # the words of a plain text are those between spaces
    questions = held is not None and task is not None and task.kind == "answer"
    rows, main, missing = None, "accuracy", ""
    if held is None:
        missing = "there are no texts to measure on"
    elif questions and "question" not in held.column_names:
        missing = "questions and their contexts are needed to measure (data or dev)"
    elif task is not None:
        rows, main = _answers(found, small, tokenizer, held, Path(out).name, task)
    elif reads:
        rows, main = _tokens(found, small, tokenizer, held, Path(out).name)
    else:
        missing = f"a {kind} has no head whose answers could be compared"
    if rows is None:
        before, after = (model.num_parameters() for model in (found.model, small))
        rows = (
            Row("before", "teacher", parameters=before),
            Row(Path(out).name, "student", parameters=after),
        )
        return _at(rows, out), main, f"sizes alone: {missing}"
    assert held is not None
    return _at(rows, out), main, f"measured on {len(held)} texts{what}"


def _at(rows: tuple[Row, Row], out: str | Path) -> tuple[Row, Row]:
    return rows[0], replace(rows[1], directory=str(out))


def _answers(
    found: Pruner, small: PreTrainedModel, tokenizer: Any, held: Dataset, name: str, task: Task
) -> tuple[tuple[Row, Row], str]:
    pair: Any = (
        ("teacher", open_model(found.model, name="before", tokenizer=found.tokenizer)),
        ("student", open_model(small, name=name, tokenizer=tokenizer)),
    )
    rows, said = measure(pair, held, max_length=task.window(found.model, found.max_length))
    return (rows[0], rows[1]), next(iter(said.values()))[1].main


def _tokens(
    found: Pruner, small: PreTrainedModel, tokenizer: Any, held: Dataset, name: str
) -> tuple[tuple[Row, Row], str]:
    """What both models know of hidden tokens."""
    texts = plain(held).select_columns(["text"])

    def row(title: str, role: Role, model: PreTrainedModel, own: Any) -> Row:
        batches = reading(model, max_length=found.max_length).batches(texts, own)
        metrics = language_model.measure(model, batches)
        return Row(title, role, metrics=metrics, parameters=model.num_parameters())

    before = row("before", "teacher", found.model, found.tokenizer)
    return (before, row(name, "student", small, tokenizer)), language_model.MAIN[False]
