"""`attar.distill_lm`: a smaller language model that learns its teacher's distribution over every token."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from attar.options.base import (
    DATA,
    TRAINING,
    BatchSize,
    Count,
    Flag,
    MaxLength,
    ModelSource,
    OutputPath,
    Overwrite,
    Precision,
    PreTrainedModel,
    Rate,
    SampleBy,
    Seed,
    TextSource,
    Tokenizer,
    Weight,
)
from attar.options.registry import verb
from attar.options.signature import options_of
from attar.verbs.distill import SIZES, StudentSizes

if TYPE_CHECKING:
    from attar.report.report import Report

LOSSES = Flag(panel="Losses")
TEACHER = Flag(panel="Teacher's logits on disk")


class LanguageStudent(StudentSizes):
    """Sizes of a language model's student and where its weights start.

    Where no size is named, it has half of the teacher's layers.

    Attributes:
        init: Start: layers (chosen layers of the teacher copied), project (the teacher's weights projected), or random.
        family: Set to distilbert for a stock DistilBERT of a BERT-like teacher (no token types, no pooler).
    """

    init: Annotated[Literal["random", "layers", "project"], SIZES] = "layers"
    family: Annotated[Literal["distilbert"] | None, SIZES] = None


@verb(stage=True)
def distill_lm(
    teacher: ModelSource,
    texts: TextSource,
    *,
    out: OutputPath,
    dev: Annotated[TextSource | None, DATA] = None,
    tokenizer: Tokenizer = None,
    student: Annotated[
        LanguageStudent | Mapping[str, Any] | str | Path | PreTrainedModel | None, SIZES
    ] = LanguageStudent(),
    mapping: Annotated[Literal["uniform", "top", "bottom"] | Sequence[Count], SIZES] = "uniform",
    kl: Annotated[Weight, LOSSES] = 5.0,
    ce: Annotated[Weight, LOSSES] = 2.0,
    cosine: Annotated[Weight, LOSSES] = 1.0,
    beta: Annotated[float, Field(ge=0, le=1), LOSSES] = 0.0,
    temperature: Annotated[float, Field(gt=0), LOSSES] = 2.0,
    top_k: Annotated[Count | None, TEACHER] = None,
    tail: Annotated[int, Field(ge=0), TEACHER] = 32,
    cache: Annotated[str | Path | None, TEACHER] = None,
    epochs: Count = 3,
    lr: Annotated[Rate, TRAINING] = 5e-4,
    batch_size: BatchSize = 32,
    max_length: MaxLength = 128,
    dropout: Annotated[bool, TRAINING] = True,
    mask: Annotated[Rate, LOSSES] = 0.15,
    whole_word: Annotated[bool, LOSSES] = False,
    sample_by: SampleBy = "line",
    streaming: Annotated[bool, DATA] = False,
    steps: Annotated[Count, DATA] = 1000,
    seed: Seed = 0,
    precision: Precision = "auto",
    overwrite: Overwrite = False,
) -> "Report":
    """Distil a language model, masked or causal, on plain text, as DistilBERT and DistilGPT2 were.

    The loss is `kl` times the KL divergence of student and teacher over every token's distribution (times t²,
    1503.02531), `ce` times the student's own loss on the text, and `cosine` times 1 - cos of the last hidden states
    (1910.01108, section 3, whose weights are the defaults). The best epoch by the student's loss on dev is kept.

    Args:
        teacher: The teacher, a language model: a directory, a hub name, or a model (then with its `tokenizer`).
        texts: Plain text, one text a line; may be given several times.
        out: Directory to write; it appears whole or not at all.
        dev: Texts to measure on; a twentieth of the texts is held out where left out.
        tokenizer: Of a teacher that is given as a model.
        student: A student that exists already (with the teacher's tokenizer) instead of sizes and start.
        mapping: Teacher layer of each student layer: uniform, top, bottom, or a list such as 1,3,5.
        kl: Weight of the KL divergence from the teacher.
        ce: Weight of the cross-entropy on the text itself.
        cosine: Weight of the cosine loss of the last hidden states; none where the hidden sizes differ.
        beta: 0 for the forward KL, 1 for the reverse KL, between them the generalised Jensen-Shannon divergence.
        temperature: Divides the logits of both in the KL divergence.
        top_k: Causal teachers: run once, keep the k likeliest tokens of each position on disk, and learn from these.
        tail: With top-k, tokens drawn from the others at each position (2503.16870); 0 takes them as one class.
        cache: Directory to keep them in and share; where left out they are gone in the end.
        epochs: Passes over the texts.
        lr: Peak learning rate.
        batch_size: Texts, or blocks of a causal model, in a step.
        max_length: Tokens of a text, or of a causal model's packed blocks.
        dropout: Dropout in the student, as in the paper.
        mask: Share of the tokens that are masked (encoders).
        whole_word: Mask words with all their pieces (encoders).
        sample_by: What a text is in a file: a line, a paragraph (up to a blank line), or the whole document.
        streaming: Read lines as they are needed, for text that does not fit in memory.
        steps: Batches of an epoch when streaming.
        seed: Seed of every random choice.
        precision: Arithmetic of the training: bf16 where the machine has it (auto), fp32 or bf16.
        overwrite: Replace what attar wrote there before.

    Returns:
        A report with teacher and student on the dev texts, and the training curves.

    Raises:
        RecipeError: an option that the schema does not know.
        ModelError: no language-model head, another tokenizer, sizes that no class expresses.
        DataError: no text, k above the vocabulary, a cache of another teacher.
        OutputError, TrainingError: see the functions that this one calls.

    Examples:
        attar distill-lm gpt2 --texts texts.txt --layers 6 --out small-gpt

        attar distill-lm bert-base-uncased --texts texts.txt --layers 6 --family distilbert --out distilbert
    """
    from attar.distillation.language_model import distill_lm as work

    student = LanguageStudent() if student is None else student
    options = options_of(distill_lm, locals())
    return work(
        teacher,
        texts,
        out=out,
        dev=dev,
        tokenizer=tokenizer,
        options=options,
        precision=precision,
        overwrite=overwrite,
    )
