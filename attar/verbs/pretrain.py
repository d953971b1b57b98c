"""`attar.pretrain`: a language model learns from plain text."""

from typing import TYPE_CHECKING, Annotated

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
    Rate,
    SampleBy,
    Seed,
    TextSource,
    Tokenizer,
)
from attar.options.registry import verb
from attar.options.signature import options_of

if TYPE_CHECKING:
    from attar.report.report import Report

OBJECTIVE = Flag(panel="Objective")


@verb(stage=True)
def pretrain(
    model: ModelSource,
    texts: TextSource,
    *,
    out: OutputPath,
    dev: TextSource | None = None,
    tokenizer: Tokenizer = None,
    epochs: Count = 1,
    lr: Rate = 5e-5,
    batch_size: BatchSize = 32,
    max_length: MaxLength = 128,
    mask: Annotated[Rate, OBJECTIVE] = 0.15,
    whole_word: Annotated[bool, OBJECTIVE] = False,
    nsp: Annotated[bool, OBJECTIVE] = False,
    fresh: Annotated[bool, TRAINING] = False,
    sample_by: SampleBy = "line",
    streaming: Annotated[bool, DATA] = False,
    steps: Annotated[Count, DATA] = 1000,
    seed: Seed = 0,
    precision: Precision = "auto",
    overwrite: Overwrite = False,
) -> "Report":
    """Train a language model on plain text: an encoder on masked tokens, a decoder on next tokens.

    Tokens are masked anew in every epoch (1810.04805, section 3.1); an encoder that was saved without a
    masked-language-model head (MiniLM) gets one. A decoder reads blocks of `max_length` tokens, packed with documents
    that do not attend to each other. The best epoch by the loss on dev is kept.

    Args:
        model: Model directory or hub name, or a model with its head (then with its `tokenizer`).
        texts: Plain text, one text a line; may be given several times.
        out: Directory to write; it appears whole or not at all.
        dev: Texts to measure on; a twentieth is held out where left out, of a stream its first thousand lines.
        tokenizer: Of a model that is given as an object.
        epochs: Passes over the texts.
        lr: Peak learning rate.
        batch_size: Texts, or blocks of a decoder, in a step.
        max_length: Tokens of a text, or of a decoder's packed blocks.
        mask: Share of the tokens that are masked (encoders).
        whole_word: Mask words with all their pieces (encoders).
        nsp: Next-sentence prediction too (BERT): one sentence a line, blank lines between documents.
        fresh: Start from random weights; only the config and the tokenizer of the model are read.
        sample_by: What a text is in a file: a line, a paragraph (up to a blank line), or the whole document.
        streaming: Read lines as they are needed, for text that does not fit in memory.
        steps: Batches of an epoch when streaming.
        seed: Seed of every random choice.
        precision: Arithmetic of the training: bf16 where the machine has it (auto), fp32 or bf16.
        overwrite: Replace what attar wrote there before.

    Returns:
        A report with the dev metrics, before and after, and the training curve; for the metrics see
        `attar.evaluation.language_model.measure`.

    Raises:
        ModelError: a family without this head, a tokenizer without the special tokens that the task needs.
        DataError: no text, or too little.
        OutputError, TrainingError: see the functions that this one calls.

    Examples:
        attar pretrain bert-base-uncased --texts texts.txt --out domain

        attar pretrain gpt2 --texts texts.txt --sample-by document --out domain-gpt
    """
    from attar.training.pretraining import pretrain as work

    options = options_of(pretrain, locals())
    return work(
        model,
        texts,
        out=out,
        dev=dev,
        tokenizer=tokenizer,
        options=options,
        precision=precision,
        overwrite=overwrite,
    )
