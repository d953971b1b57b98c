"""How well a language model knows a text: perplexity by a sliding window, and what it loses to its teacher."""

from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedModel

from attar.errors import ModelError
from attar.measure.language import MAIN, Surprise, measure, pseudo_bits_per_byte, ratio, surprise
from attar.measure.report import Report, Role, Row
from attar.model.checkpoint import Loaded, load, saved_head, versions
from attar.model.corpus import Texts
from attar.model.data import positions
from attar.model.language import causal_head, reading, same_vocabulary
from attar.model.tables import SampleBy, read_texts


def is_language_model(source: Any) -> bool:
    """Whether what is named was saved as a language model; what cannot be read is none."""
    if isinstance(source, PreTrainedModel):
        return source.get_output_embeddings() is not None
    if not isinstance(source, str | Path) or not (Path(source) / "config.json").is_file():
        return False
    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError, KeyError):
        return False
    return saved_head(config) in {"masked-lm", "causal-lm"}


def read(
    model: str | Path | PreTrainedModel,
    texts: Texts,
    *,
    teacher: str | Path | PreTrainedModel | None = None,
    tokenizer: Any = None,
    batch_size: int = 32,
    max_length: int | None = None,
    sample_by: SampleBy = "line",
) -> Report:
    """Measure a language model on texts, and beside a teacher where one is named.

    A causal model reads every text through a window of `max_length` tokens (as many as it has positions for, at most
    1024, where None) that moves by half of it, and every token is told once: `perplexity`, `bits_per_byte` and
    `word_perplexity`, of which the last two compare across tokenizers. A masked model tells 15% of the tokens of texts
    cut to `max_length` (128), the same for every model: `pseudo_perplexity`, `masked_accuracy`, and
    `pseudo_bits_per_byte`, which compares across tokenizers better than the other two.

    Raises:
        ModelError: no language-model head; a masked teacher with another tokenizer. DataError: no text.
    """
    table = read_texts(texts, sample_by=sample_by)
    lines = [row["text"] for row in table]
    sources: list[tuple[Role, Any]] = [("student", model)]
    if teacher is not None:
        sources.insert(0, ("teacher", teacher))
    opened = [(role, load(source, tokenizer=tokenizer, head="language")) for role, source in sources]
    kinds = {causal_head(loaded.model) for _, loaded in opened}
    if len(kinds) > 1:
        raise ModelError(
            expected="a teacher that is asked what the student is asked: hidden tokens, or the next",
            found=" and ".join(type(loaded.model).__name__ for _, loaded in opened),
            fix="name a teacher of the same kind",
        )
    causal = kinds.pop()
    options = {"batch_size": batch_size, "max_length": max_length or (1024 if causal else 128)}
    rows: list[Row] = []
    notes: tuple[str, ...] = ()
    if causal:
        found = {role: _surprise(loaded, lines, **options) for role, loaded in opened}
        rows = [_row(role, loaded, found[role].metrics) for role, loaded in opened]
        notes = _beside(opened, found)
    else:
        if len(opened) > 1:
            same_vocabulary(opened[0][1].tokenizer, opened[1][1].tokenizer, opened[1][1].name)
        for role, loaded in opened:
            batches = reading(loaded.model, **options).batches(lines, loaded.tokenizer)
            metrics = measure(loaded.model, batches)
            metrics["pseudo_bits_per_byte"] = pseudo_bits_per_byte(
                metrics["mlm_loss"], lines, loaded.tokenizer
            )
            rows.append(_row(role, loaded, metrics))
    name = opened[-1][1].name
    return Report(
        f"{name} on {len(lines)} texts", MAIN[causal], tuple(rows), notes=notes, versions=versions()
    )


def _surprise(loaded: Loaded, lines: list[str], *, batch_size: int, max_length: int) -> Surprise:
    window = min(max_length, positions(loaded.model))
    return surprise(loaded.model, lines, loaded.tokenizer, max_length=window, batch_size=batch_size)


def _beside(opened: list[tuple[Role, Loaded]], found: dict[Role, Surprise]) -> tuple[str, ...]:
    """The ratio of the perplexities, where both models cut the texts into the same tokens."""
    if len(opened) < 2 or opened[0][1].tokenizer.get_vocab() != opened[1][1].tokenizer.get_vocab():
        return ()
    apart = ratio(found["student"], found["teacher"])
    return (f"Perplexity over the teacher's: {apart.value:.3f} ({apart.low:.3f} to {apart.high:.3f}, 95%).",)


def _row(role: Role, loaded: Loaded, metrics: dict[str, float]) -> Row:
    size = loaded.model.num_parameters()
    directory = loaded.name if Path(loaded.name).is_dir() else None
    return Row(Path(loaded.name).name, role, metrics=metrics, parameters=size, directory=directory)
