"""How well language models know a text: perplexity by a sliding window, and what a student loses to its teacher."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedModel

from attar.anatomy.resolve import family
from attar.data.corpus import Texts
from attar.data.language_modeling import Reading, same_vocabulary
from attar.data.tables import SampleBy, read_texts
from attar.errors import ModelError
from attar.evaluation.comparison import call_in_words, timed
from attar.evaluation.language_model import (
    MAIN,
    DocumentLoss,
    kept_bits,
    measure,
    pseudo_bits_per_byte,
    ratio,
    sliding_window_loss,
    whole_logits,
)
from attar.evaluation.machine import machine
from attar.evaluation.opening import Reader, Source, open_reader
from attar.evaluation.timing import Clock
from attar.model.checkpoint import saved_head, versions
from attar.model.embedding import embedding_head
from attar.model.onnx import OnnxModel
from attar.model.pretrained import from_pretrained
from attar.progress import say
from attar.report.report import Report, Role, Row


def is_language_model(source: Any) -> bool:
    """Whether what is named was saved, or exported, as a language model; what cannot be read is none.

    An embedding model is none, though its encoder may have been saved under a language model's name.
    """
    if isinstance(source, PreTrainedModel):
        return source.get_output_embeddings() is not None
    if not isinstance(source, str | Path):
        return False
    place = Path(source).parent if Path(source).is_file() else source
    try:
        head = saved_head(from_pretrained(AutoConfig, place))
        return head in {"masked-lm", "causal-lm"} and embedding_head(place, None) is None
    except ModelError:
        return False


def read(
    model: Source,
    texts: Texts,
    *,
    teacher: Source | None = None,
    tokenizer: Any = None,
    batch_size: int = 32,
    max_length: int | None = None,
    sample_by: SampleBy = "line",
) -> Report:
    """Measure a language model, or an export of one, on texts, and beside a teacher where one is named.

    A causal model reads every text through a window of `max_length` tokens (as many as every model has positions for,
    at most 1024, where None) that moves by half of it, and every token is predicted once: `perplexity`, `bits_per_byte`
    and `word_perplexity`, of which the last two compare across tokenizers. A masked model predicts 15% of the tokens of
    texts cut to `max_length` (128), the same for every model: `pseudo_perplexity`, `masked_accuracy`, and
    `pseudo_bits_per_byte`, which compares across tokenizers better than the other two.

    Raises:
        ModelError: no language-model head; a masked teacher with another tokenizer. DataError: no text.
    """
    lines = _lines(texts, sample_by)
    opened: list[tuple[Role, Reader]] = [("student", open_reader(model, tokenizer=tokenizer))]
    if teacher is not None:
        opened.insert(0, ("teacher", open_reader(teacher, tokenizer=tokenizer)))
    length = _window([reader for _, reader in opened], max_length)
    rows, notes, main = _measured(opened, lines, batch_size=batch_size, length=length)
    title = f"{opened[-1][1].name} on {len(lines)} texts"
    settings = {"texts": len(lines), "max_length": length}
    return Report(title, main, rows, settings=settings, notes=notes, versions=versions())


def beside(
    opened: Sequence[Reader],
    texts: Texts,
    *,
    batch_size: int = 32,
    max_length: int | None = None,
    sample_by: SampleBy = "line",
    latency_batch: int = 1,
    latency_length: int = 128,
    threads: int | None = None,
) -> Report:
    """Language models and exports of them side by side: what they know of texts (see `read`), size and latency.

    The first is the teacher. Raises what `read` raises.
    """
    lines = _lines(texts, sample_by)
    pairs: list[tuple[Role, Reader]] = [("student" if n else "teacher", one) for n, one in enumerate(opened)]
    length = _window(opened, max_length)
    rows, notes, main = _measured(pairs, lines, batch_size=batch_size, length=length)
    rows = timed(rows, opened, batch=latency_batch, length=latency_length, threads=threads)
    settings = {
        "latency": f"batch {latency_batch}, {latency_length} tokens",
        "texts": len(lines),
        "max_length": length,
    }
    title = f"{len(opened)} models on {len(lines)} texts"
    return Report(title, main, rows, settings=settings, notes=notes, versions=versions(), machine=machine())


def against_teacher(
    models: Sequence[tuple[Role, Reader]],
    lines: list[str],
    *,
    title: str,
    length: int,
    batch_size: int = 32,
    latency_batch: int = 1,
    latency_length: int = 128,
    threads: int | None = None,
    clock: Clock = "wall",
) -> Report:
    """Causal models side by side, and what part of the teacher's bits per byte each keeps; the teacher is the first.

    Args:
        length: tokens of the window.
        clock: see `bench`.
    """
    _causal([reader for _, reader in models])
    found = _windows_of(models, lines, length=length, batch_size=batch_size)
    rows = [
        replace(
            _row(role, reader, one.metrics), retained=None if role == "teacher" else kept_bits(one, found[0])
        )
        for (role, reader), one in zip(models, found, strict=True)
    ]
    call: dict[str, Any] = {
        "batch": latency_batch,
        "length": latency_length,
        "threads": threads,
        "clock": clock,
    }
    settings = {
        "latency": call_in_words(latency_batch, latency_length, clock),
        "texts": len(lines),
        "max_length": length,
    }
    timed_rows = timed(rows, [reader for _, reader in models], **call)
    return Report(
        title, "bits_per_byte", timed_rows, settings=settings, versions=versions(), machine=machine()
    )


def _windows_of(
    models: Sequence[tuple[Role, Reader]], lines: list[str], *, length: int, batch_size: int
) -> list[DocumentLoss]:
    """What causal models know of texts."""
    options = {"max_length": length, "batch_size": batch_size}
    return [sliding_window_loss(one.model, lines, one.tokenizer, **options) for _, one in models]


def _lines(texts: Texts, sample_by: SampleBy) -> list[str]:
    return [row["text"] for row in read_texts(texts, sample_by=sample_by)]


def _causal(opened: Sequence[Reader]) -> bool:
    """Whether the models predict next tokens.

    Raises:
        ModelError: some do and some do not.
    """
    kinds = {family(reader.config.model_type).causal for reader in opened}
    if len(kinds) > 1:
        raise ModelError(
            expected="models that are asked the same: masked tokens, or the next",
            found=" and ".join(reader.config.model_type for reader in opened),
            fix="name models of one kind",
        )
    return kinds.pop()


def _window(opened: Sequence[Reader], asked: int | None) -> int:
    """Tokens that all models read at once: masked tokens are drawn by it, and a longer window would know more."""
    wanted = asked or (1024 if _causal(opened) else 128)
    length = min([wanted, *(reader.positions for reader in opened)])
    if asked and length < asked:
        say(f"texts are read {length} tokens at a time: a model has positions for no more")
    return length


def _measured(
    opened: Sequence[tuple[Role, Reader]], lines: list[str], *, batch_size: int, length: int
) -> tuple[tuple[Row, ...], tuple[str, ...], str]:
    """A row a model, the students' perplexities over the teacher's, and the figure that counts."""
    causal = _causal([reader for _, reader in opened])
    first, *others = (reader for _, reader in opened)
    if causal:
        found = _windows_of(opened, lines, length=length, batch_size=batch_size)
        rows = [_row(*pair, run.metrics) for pair, run in zip(opened, found, strict=True)]
        return tuple(rows), _ratios(first, found[0], list(zip(others, found[1:], strict=True))), MAIN[True]
    for reader in others:
        same_vocabulary(first.tokenizer, reader.tokenizer, reader.name)
    if any(isinstance(reader.model, OnnxModel) for _, reader in opened):
        batch_size = whole_logits(batch_size, length, first.tokenizer)
    batches = Reading(False, length, batch_size=batch_size).batches(lines, first.tokenizer)
    rows = []
    for role, reader in opened:
        metrics = measure(reader.model, batches)
        bits = pseudo_bits_per_byte(metrics["mlm_loss"], lines, reader.tokenizer)
        rows.append(_row(role, reader, metrics | {"pseudo_bits_per_byte": bits}))
    return tuple(rows), (), MAIN[False]


def _ratios(
    teacher: Reader, known: DocumentLoss, students: Sequence[tuple[Reader, DocumentLoss]]
) -> tuple[str, ...]:
    """The ratios of the perplexities, where both models cut the texts into the same tokens."""
    vocabulary, notes = teacher.tokenizer.get_vocab(), []
    for reader, found in students:
        if reader.tokenizer.get_vocab() != vocabulary:
            continue
        apart = ratio(found, known)
        subject = "Perplexity" if len(students) == 1 else f"Perplexity of {reader.name}"
        ends = apart.missing or f"{apart.low:.3f} to {apart.high:.3f}, 95%"
        notes.append(f"{subject} over the teacher's: {apart.value:.3f} ({ends}).")
    return tuple(notes)


def _row(role: Role, reader: Reader, metrics: dict[str, float]) -> Row:
    return Row(
        reader.name,
        role,
        reader.runtime,
        metrics=metrics,
        parameters=reader.parameters,
        bytes=reader.bytes,
        directory=reader.directory,
    )
