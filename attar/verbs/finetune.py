"""`attar.finetune`: an encoder learns a task from a table with labels."""

from typing import TYPE_CHECKING, Annotated, Literal

from attar.options.base import (
    DATA,
    TRAINING,
    BatchSize,
    ColumnNames,
    Count,
    ModelSource,
    OutputPath,
    Overwrite,
    Pooling,
    Precision,
    Rate,
    Seed,
    Stride,
    TableSource,
    TaskLength,
    Tokenizer,
)
from attar.options.registry import verb
from attar.options.signature import options_of

if TYPE_CHECKING:
    from attar.report.report import Report


@verb(stage=True)
def finetune(
    model: ModelSource,
    data: TableSource,
    *,
    out: OutputPath,
    dev: TableSource | None = None,
    columns: ColumnNames = None,
    problem_type: Annotated[
        Literal["single_label_classification", "multi_label_classification", "regression"] | None, DATA
    ] = None,
    tokenizer: Tokenizer = None,
    pooling: Pooling = None,
    epochs: Count = 3,
    lr: Rate = 3e-5,
    batch_size: BatchSize = 32,
    max_length: TaskLength = None,
    doc_stride: Stride = 128,
    patience: Annotated[Count | None, TRAINING] = 2,
    metric: Annotated[str | None, TRAINING] = None,
    seed: Seed = 0,
    precision: Precision = "auto",
    overwrite: Overwrite = False,
) -> "Report":
    """Fine-tune an encoder: labels or a score of a text or a pair, tags of words, or answers in a context.

    An embedding model learns from pairs that belong together (text and text_pair, or anchor, positive and maybe
    negative: MultipleNegativesRankingLoss) or from pairs with scores (CoSENTLoss), by sentence-transformers' trainer;
    its encoder gets a head for other labels, and for pairs with `problem_type` (regression makes a reranker).

    Args:
        model: Model directory or hub name, or a model (then with its `tokenizer`).
        data: Training table with labels: .csv, .tsv, .jsonl, .parquet; SQuAD's .json; CoNLL columns.
        out: Directory to write; it appears whole or not at all.
        dev: Table that decides the best epoch; a tenth of the training table where left out.
        columns: Which column is what: text=sentence (also label, text_pair; tokens, tags; question, context, answers).
        problem_type: What labels of whole texts are: one class, any number of labels, or a score; told from the labels
            where left out.
        tokenizer: Of a model that is given as an object.
        pooling: Makes an embedding model of an encoder alone; others say it themselves.
        epochs: Passes over the table.
        lr: Peak learning rate.
        batch_size: Texts in a step.
        max_length: Longest text in tokens; 128 where left out, 384 of questions with contexts.
        doc_stride: Tokens that windows of a long context or sentence share.
        patience: Epochs without a better dev metric before training stops; none never stops early.
        metric: Decides which epoch is best: f1 or matthews where one label is rare; the task's own where left out.
        seed: Seed of every random choice.
        precision: Arithmetic of the training: bf16 where the machine has it (auto), fp32 or bf16.
        overwrite: Replace what attar wrote there before.

    Returns:
        A report with the dev metrics and the training curve.

    Raises:
        DataError: a metric that the task does not have.
        ModelError, OutputError, TrainingError: see the functions that this one calls.

    Examples:
        attar finetune bert-base-uncased --data train.csv --dev dev.csv --out teacher
    """
    from attar.training.finetuning import finetune as work

    options = options_of(finetune, locals())
    return work(
        model,
        data,
        out=out,
        dev=dev,
        columns=columns,
        tokenizer=tokenizer,
        options=options,
        precision=precision,
        overwrite=overwrite,
    )
