"""What `distill` does where its options leave it open: it depends on what the teacher is."""

from typing import Any

from transformers import PreTrainedModel

from attar.errors import RecipeError
from attar.model.embedding import SentenceEncoder
from attar.options.base import Options
from attar.progress import say

# Rows that the intermediate phase passes over where its epochs are not named, and the bounds of the epochs.
ROWS, EPOCHS = 20_000, (3, 20)
# TinyBERT's prediction phase (1909.10351, section 4.2); and that of an embedding model, whose many plain texts are the
# only lesson: the rate and the batch are those of docs/lab-notes.md, "what brings an embedding student nearer".
PREDICTION: dict[str, Any] = {"epochs": 3, "lr": 3e-5, "batch_size": 32}
EMBEDDING: dict[str, Any] = {"lr": 5e-4, "batch_size": 64}
# Of a student that is near its teacher before it learns: 5e-4 throws it back ("the rate of a student that exists").
NEAR = {"lr": 2e-4}
EMBEDDING_ROWS, EMBEDDING_EPOCHS = 400_000, (1, 10)


def settled(options: Options, teacher: PreTrainedModel) -> Options:
    """The options of `attar.distill` with what they leave open, but for epochs that depend on the texts.

    An embedding model has no intermediate phase where its epochs are not named and there is another phase: hidden
    states of as many texts as it learns from take more disk and time than they bring.

    Raises:
        RecipeError: a temperature for embeddings, or dimensions, relations and no Dense layer for logits.
    """
    embeds, o = isinstance(teacher, SentenceEncoder), options
    _check(o, embeds)
    changes: dict[str, Any] = {}
    if embeds and o.prediction is not None and o.intermediate is not None and o.intermediate.epochs is None:
        say(
            "an embedding model learns its embeddings alone; name intermediate.epochs to learn its layers first"
        )
        changes["intermediate"] = None
    if o.prediction is not None:
        made = not isinstance(o.student, Options)
        close = NEAR if made or o.student.init == "layers" else {}
        own = EMBEDDING | close if embeds else PREDICTION
        left = {name: value for name, value in own.items() if getattr(o.prediction, name) is None}
        changes["prediction"] = o.prediction.model_copy(update=left)
    return o.model_copy(update=changes)


def _check(options: Options, embeds: bool) -> None:
    """Refuse what a teacher's outputs have no use for."""
    of_logits = [("prediction", "temperature", 1.0)]
    of_embeddings: list[tuple[str, str, Any]] = [
        ("prediction", "dimensions", ()),
        ("prediction", "relations", "similarities"),
        ("student", "dense", True),
    ]
    for part, name, default in of_logits if embeds else of_embeddings:
        found = getattr(getattr(options, part), name, default)
        if found != default:
            raise RecipeError(
                expected=f"no {part}.{name}: it is of {'logits' if embeds else 'embeddings'}",
                found=f"{found} with a teacher of {'embeddings' if embeds else 'logits'}",
                fix="leave it out",
            )


def intermediate_epochs(wanted: int | None, rows: int) -> int:
    """Passes of the intermediate phase over so many texts and copies; of long texts, windows."""
    return wanted or _bounded(ROWS / rows, EPOCHS)


def prediction_epochs(wanted: int | None, rows: int) -> int:
    """Passes of the prediction phase over so many texts and copies; only an embedding model leaves them open."""
    return wanted or _bounded(EMBEDDING_ROWS / rows, EMBEDDING_EPOCHS)


def _bounded(passes: float, bounds: tuple[int, int]) -> int:
    least, most = bounds
    return max(least, min(most, round(passes)))
