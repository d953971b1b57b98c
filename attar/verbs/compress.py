"""`attar.compress`: the best model that fits a budget, found and trained in a given time."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from attar.options.base import (
    DATA,
    ColumnNames,
    Count,
    Flag,
    ModelSource,
    OutputPath,
    Overwrite,
    Pooling,
    Precision,
    SampleBy,
    Seed,
    Stride,
    TableSource,
    TaskLength,
    TextSource,
    Tokenizer,
)
from attar.options.registry import verb
from attar.options.signature import options_of

if TYPE_CHECKING:
    from attar.report.report import Report

BUDGET = Flag(panel="Budget")
SEARCH = Flag(panel="Search")
CALL = Flag(panel="The call that is timed")
Limit = Annotated[float | str | None, BUDGET]


@verb(stage=True)
def compress(
    model: ModelSource,
    *,
    out: OutputPath,
    texts: TextSource | None = None,
    data: TableSource | None = None,
    to: str | None = None,
    time: str | float = "30m",
    size: Limit = None,
    latency: Limit = None,
    keep: Limit = None,
    parameters: Limit = None,
    flops: Limit = None,
    memory: Limit = None,
    length: Annotated[Count | Literal["auto"], CALL] = 128,
    batch: Annotated[Count, CALL] = 1,
    threads: Annotated[Count, CALL] = 1,
    dev: Annotated[TableSource | None, DATA] = None,
    test: Annotated[TableSource | None, DATA] = None,
    columns: ColumnNames = None,
    sample_by: SampleBy = "line",
    pooling: Pooling = None,
    max_length: TaskLength = None,
    doc_stride: Stride = 128,
    tokenizer: Tokenizer = None,
    ways: Annotated[Sequence[Literal["distil", "drop", "prune"]], Field(min_length=1), SEARCH] = (
        "distil",
        "prune",
        "drop",
    ),
    formats: Annotated[Sequence[Literal["fp32", "int8"]], Field(min_length=1), Flag("--format", "Search")] = (
        "fp32",
        "int8",
    ),
    vocabulary: Annotated[Literal["auto", "all", "used"], SEARCH] = "auto",
    work: Annotated[str | Path | None, SEARCH] = None,
    seed: Seed = 0,
    precision: Precision = "auto",
    overwrite: Overwrite = False,
) -> "Report":
    """Find the best model that fits a budget, train it in the time given, and prove what it keeps.

    Of a causal language model the texts are plain text, and quality is bits per byte.

    Students, pruned forms of the model and dropped layers are searched over, with int8 and a vocabulary of the texts
    (successive halving, 1810.05934). With ceilings on cost quality is maximised; with `keep` and no ceiling on latency,
    latency is minimised. What is reported of the result is measured on the exported files, its quality on texts that no
    choice has seen. The command's exit status is 3 where the result misses the budget.

    Args:
        model: The fine-tuned or causal language model: a directory, a hub name, or a model (then with its `tokenizer`).
        out: Directory to write: the model, its export in `onnx`, and the report; it appears whole or not at all.
        texts: Texts of the task, one a line; labels are not needed.
        data: Table of the task's texts instead; its labels measure, they do not teach.
        to: The budget in words: "10 MB, 5 ms, keep 98%", "8x smaller, 10x faster", "3M params, 2 GFLOPs".
        time: How long it may take: 30m, 2h, 90s; 0 for no training.
        size: Megabytes on disk of the export with its tokenizer, or a text with a unit: "800 kB".
        latency: Milliseconds of one call, p50; of one thread by the processor's clock.
        keep: Part of the model's figure to keep, or "98%"; of its answers where there are no labels.
        parameters: How many at most.
        flops: Operations of one call at most.
        memory: Megabytes that loading and running the export takes at most.
        length: Tokens of the timed text; auto for the length that 95% of the texts stay under.
        batch: Texts in a timed call.
        threads: Threads of a timed call.
        dev: Table that choices are made by; held out of the texts where left out.
        test: Table that the report measures on, once; held out of the texts where left out.
        columns: Which column is what: text=sentence (also label, text_pair; tokens, tags; question, context, answers).
        sample_by: What a text is in a file: a line, a paragraph (up to a blank line), or the whole document.
        pooling: Makes an embedding model of an encoder alone; others say it themselves.
        max_length: Longest text in tokens; 128 where left out, 384 of questions with contexts.
        doc_stride: Tokens that windows of a long context or sentence share.
        tokenizer: Of a model that is given as an object.
        ways: How smaller models come about: distil (students), prune, drop (layers).
        formats: Numbers that the export may compute in: fp32, int8 (scales found while it runs, or fixed: the better).
        vocabulary: Tokens of the export: all, those that the texts use, or what is better (auto).
        work: Directory that keeps what was tried and trained, for another budget or another sitting.
        seed: Seed of every random choice.
        precision: Arithmetic of the training: bf16 where the machine has it (auto), fp32 or bf16.
        overwrite: Replace what attar wrote there before.

    Returns:
        A report with the model, the result, baselines, and every candidate that was tried.

    Raises:
        RecipeError: a budget that contradicts itself, or that no candidate can meet.
        ModelError, DataError, OutputError: see the functions that this one calls.

    Examples:
        attar compress my-bert --texts texts.txt --to "10 MB, 5 ms, keep 98%" --time 30m --out small

        attar compress my-bert --data train.csv --to "8x smaller, 10x faster" --out small

        attar compress my-bert --texts texts.txt --to "keep 97%" --time 2h --work tried --out small

        attar compress gpt --texts books.txt --to "20 MB, 10 ms" --time 10m --out small
    """
    from attar.compression.pipeline import compress as run

    return run(
        model,
        out=out,
        texts=texts,
        data=data,
        dev=dev,
        test=test,
        columns=columns,
        tokenizer=tokenizer,
        options=options_of(compress, locals()),
        precision=precision,
        overwrite=overwrite,
    )
