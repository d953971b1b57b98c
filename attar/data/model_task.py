"""The task that a model was trained for: the one place that knows every kind of task."""

from typing import Any

from transformers import PreTrainedModel

from attar.data.embedding_task import Embedding
from attar.data.question_answering import Answering
from attar.data.tasks import Task
from attar.data.token_classification import Tagging
from attar.errors import ModelError
from attar.model.embedding import SentenceEncoder


def embedding_task_of(model: Any) -> Embedding:
    """The task of an embedding model.

    Raises:
        ModelError: it is none.
    """
    task = task_of(model) if isinstance(model, SentenceEncoder) else None
    if not isinstance(task, Embedding):
        raise ModelError(
            expected="an embedding model",
            found=type(model).__name__,
            fix="name a sentence-transformers directory, or say how its tokens are pooled: pooling=… (--pooling)",
        )
    return task


def task_of(source: Any) -> Task:
    """Read the task from a model, or from a Hugging Face config and the architecture that it names.

    Args:
        source: a model, or its config; one without a known head is read as a classifier of whole texts.

    Raises:
        ModelError: `problem_type` is none of the three that transformers knows.
    """
    model = isinstance(source, PreTrainedModel)
    config = source.config if model else source
    name = type(source).__name__ if model else (config.architectures or [""])[0]
    if name.endswith("ForTokenClassification"):
        return Tagging.of_config(config)
    if name.endswith("ForQuestionAnswering"):
        return Answering.of_config(config)
    if name == SentenceEncoder.__name__:
        return Embedding.of_config(config)
    return Task.of_config(config)
