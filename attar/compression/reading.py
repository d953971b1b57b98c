"""What a teacher is asked decides how its texts are read."""

from typing import Any

from attar.anatomy.resolve import family
from attar.compression.budget import seconds_of
from attar.compression.data import GLANCED, LOOKED, SHORT, Texts, split
from attar.compression.language_texts import LanguageTexts, split_plain
from attar.compression.task_texts import TaskTexts
from attar.data.model_task import task_of
from attar.errors import RecipeError
from attar.model.checkpoint import Loaded
from attar.options.base import Options


def read_for(loaded: Loaded, options: Options, **given: Any) -> Texts:
    """The texts of a teacher.

    Args:
        options: of `attar.compress`.
        given: `data`, `texts`, `dev`, `test` and `columns`.

    Raises:
        RecipeError: an option that does not apply to the teacher.
    """
    o = options
    if family(loaded.model.config.model_type).causal and loaded.model.get_output_embeddings() is not None:
        _check_plain(given, o)
        tables = split_plain(
            given["texts"], dev=given["dev"], test=given["test"], sample_by=o.sample_by, seed=o.seed
        )
        return LanguageTexts(loaded, tables, max_length=o.max_length, seed=o.seed)
    rows = LOOKED if seconds_of(o.time) > SHORT else GLANCED
    tables = split(task_of(loaded.model), **given, sample_by=o.sample_by, seed=o.seed, rows=rows)
    return TaskTexts(loaded, tables, max_length=o.max_length, stride=o.doc_stride, seed=o.seed)


def _check_plain(given: dict[str, Any], options: Options) -> None:
    for name in ("data", "columns"):
        if given[name] is not None:
            raise RecipeError(
                expected="plain text for a causal language model, which has no labels",
                found=f"{name}",
                fix="pass texts=… (--texts FILE)",
            )
    if given["texts"] is None:
        raise RecipeError(
            expected="plain text to learn from", found="none", fix="pass texts=… (--texts FILE)"
        )
    if set(options.ways) == {"prune"}:
        raise RecipeError(
            expected="ways that a causal language model has: distil, drop",
            found="prune alone: decoders are not pruned",
            fix="name distil or drop, or leave ways out",
        )
