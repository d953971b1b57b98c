"""What a teacher is asked decides how its texts are read."""

from typing import Any

from attar.compression.budget import seconds_of
from attar.compression.data import GLANCED, LOOKED, SHORT, Texts, split
from attar.compression.task_texts import TaskTexts
from attar.data.model_task import task_of
from attar.model.checkpoint import Loaded
from attar.options.base import Options


def read_for(loaded: Loaded, options: Options, **given: Any) -> Texts:
    """The texts of a teacher.

    Args:
        options: of `attar.compress`.
        given: `data`, `texts`, `dev`, `test` and `columns`.
    """
    o = options
    rows = LOOKED if seconds_of(o.time) > SHORT else GLANCED
    tables = split(task_of(loaded.model), **given, sample_by=o.sample_by, seed=o.seed, rows=rows)
    return TaskTexts(loaded, tables, max_length=o.max_length, stride=o.doc_stride, seed=o.seed)
