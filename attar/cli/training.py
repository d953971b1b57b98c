"""Commands that train a model, or make texts to train on."""

from pathlib import Path
from typing import Annotated, Any

import typer

from attar.cli.frame import (
    ColumnNames,
    Length,
    Model,
    Out,
    Overwrite,
    Seed,
    Stride,
    Table,
    TaskLength,
    columns_of,
    console,
    put,
    settings_of,
    show,
    verb,
)

SampleBy = Annotated[str, typer.Option(help="What a text is in a file: line, paragraph or document.")]


@verb
def finetune(
    model: Model,
    data: Annotated[str, typer.Option(help="Training table with labels.")],
    out: Out,
    dev: Table = None,
    columns: ColumnNames = None,
    epochs: int = 3,
    lr: float = 3e-5,
    batch_size: int = 32,
    max_length: TaskLength = None,
    doc_stride: Stride = 128,
    patience: Annotated[int, typer.Option(help="Stop after so many epochs without a better dev metric.")] = 2,
    metric: Annotated[
        str | None,
        typer.Option(help="Decides which epoch is best: f1, matthews, …; the task's own if left out."),
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Fine-tune an encoder: labels or a score of a text or a pair, tags of words, or answers in a context."""
    import attar

    options: dict[str, Any] = {
        "epochs": epochs,
        "lr": lr,
        "batch_size": batch_size,
        "max_length": max_length,
        "doc_stride": doc_stride,
        "patience": patience,
        "metric": metric,
        "seed": seed,
    }
    show(
        attar.finetune(
            model, data, dev=dev, out=out, columns=columns_of(columns), overwrite=overwrite, **options
        )
    )


@verb
def pretrain(
    model: Model,
    texts: Annotated[
        list[str], typer.Option(help="Plain text, one text a line; may be given several times.")
    ],
    out: Out,
    dev: Annotated[
        str | None, typer.Option(help="Texts to measure on; a part is held out if left out.")
    ] = None,
    epochs: int = 1,
    lr: float = 5e-5,
    batch_size: int = 32,
    max_length: Length = 128,
    mask: Annotated[float, typer.Option(help="Share of the tokens to hide (encoders).")] = 0.15,
    whole_word: Annotated[bool, typer.Option(help="Hide words with all their pieces (encoders).")] = False,
    nsp: Annotated[
        bool,
        typer.Option(help="Predict next sentences too: a sentence a line, blank lines between documents."),
    ] = False,
    fresh: Annotated[bool, typer.Option(help="Begin with random weights.")] = False,
    sample_by: SampleBy = "line",
    streaming: Annotated[bool, typer.Option(help="Read lines as they are needed.")] = False,
    steps: Annotated[int, typer.Option(help="Batches of an epoch when streaming.")] = 1000,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Train a language model on plain text: an encoder to tell hidden words, a decoder to tell the next."""
    import attar

    options: dict[str, Any] = {
        "epochs": epochs,
        "lr": lr,
        "batch_size": batch_size,
        "max_length": max_length,
        "mask": mask,
        "whole_word": whole_word,
        "nsp": nsp,
        "fresh": fresh,
        "sample_by": sample_by,
        "streaming": streaming,
        "steps": steps,
        "seed": seed,
    }
    files = [Path(name) for name in texts]  # a name that is no file would be taken for a sentence
    show(attar.pretrain(model, files, dev=dev, out=out, overwrite=overwrite, **options))


@verb
def distill(
    model: Annotated[
        str, typer.Argument(help="The fine-tuned teacher: directory or hub name.", metavar="MODEL")
    ],
    out: Out,
    texts: Annotated[
        str | None, typer.Option(help="Texts of the task, one a line; labels are not needed.")
    ] = None,
    data: Table = None,
    dev: Table = None,
    test: Table = None,
    columns: ColumnNames = None,
    layers: Annotated[
        int | None, typer.Option(help="Layers of the student; the teacher's where left out.")
    ] = None,
    hidden: Annotated[int | None, typer.Option(help="Hidden size.")] = None,
    heads: Annotated[int | None, typer.Option(help="Attention heads.")] = None,
    ffn: Annotated[int | None, typer.Option(help="Inner size of the feed-forward layers.")] = None,
    embedding: Annotated[int | None, typer.Option(help="Size of a factorised embedding.")] = None,
    init: Annotated[str, typer.Option(help="Start: project, layers or random.")] = "project",
    copies: Annotated[int, typer.Option(help="Augmented copies of each text; 0 for none.")] = 0,
    general: Annotated[str | None, typer.Option(help="Plain text for the general stage.")] = None,
    student: Annotated[
        str | None, typer.Option(help="A student that exists already, instead of sizes.")
    ] = None,
    mapping: Annotated[
        str, typer.Option(help="Teacher layer of each student layer: uniform, top, bottom, or 3,6,9,12.")
    ] = "uniform",
    attention: Annotated[
        str, typer.Option(help="Compare attention by scores, relations, none, or auto.")
    ] = "auto",
    cache: Annotated[bool, typer.Option(help="Run the teacher once and keep its outputs on disk.")] = True,
    max_length: TaskLength = None,
    doc_stride: Stride = 128,
    seed: Seed = 0,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any other option: intermediate.epochs=6.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Distil a fine-tuned model into a smaller one, as TinyBERT does."""
    import attar

    sizes = {"layers": layers, "hidden": hidden, "heads": heads, "ffn": ffn, "embedding": embedding}
    shape: Any = (
        {**{k: v for k, v in sizes.items() if v is not None}, "init": init} if student is None else student
    )
    options: dict[str, Any] = {
        "student": shape,
        "augment": {"copies": copies} if copies else None,
        "general": {"texts": general} if general else None,
        "mapping": [int(n) for n in mapping.split(",")] if mapping[:1].isdigit() else mapping,
        "attention": attention,
        "cache": cache,
        "max_length": max_length,
        "doc_stride": doc_stride,
        "seed": seed,
    }
    for key, value in settings_of(settings).items():
        put(options, key.split("."), value)
    tables: dict[str, Any] = {"texts": texts, "data": data, "dev": dev, "test": test}
    show(attar.distill(model, out=out, columns=columns_of(columns), overwrite=overwrite, **tables, **options))


@verb
def distill_lm(
    model: Annotated[str, typer.Argument(help="The teacher, a language model.", metavar="MODEL")],
    texts: Annotated[list[str], typer.Option(help="Plain text; may be given several times.")],
    out: Out,
    dev: Annotated[
        str | None, typer.Option(help="Texts to measure on; a part is held out if left out.")
    ] = None,
    layers: Annotated[
        int | None, typer.Option(help="Layers of the student; half of the teacher's where no size is named.")
    ] = None,
    hidden: Annotated[int | None, typer.Option(help="Hidden size.")] = None,
    heads: Annotated[int | None, typer.Option(help="Attention heads.")] = None,
    ffn: Annotated[int | None, typer.Option(help="Inner size of the feed-forward layers.")] = None,
    init: Annotated[str, typer.Option(help="Start: layers (copied), project or random.")] = "layers",
    family: Annotated[
        str | None, typer.Option(help="distilbert: a stock DistilBERT from a BERT-like teacher.")
    ] = None,
    student: Annotated[
        str | None, typer.Option(help="A student that exists already, instead of sizes.")
    ] = None,
    mapping: Annotated[
        str, typer.Option(help="Teacher layer of each student layer: uniform, top, bottom, or 1,3,5.")
    ] = "uniform",
    kl: Annotated[float, typer.Option(help="Weight of the divergence from the teacher.")] = 5.0,
    ce: Annotated[float, typer.Option(help="Weight of the loss on the text itself.")] = 2.0,
    cosine: Annotated[float, typer.Option(help="Weight of the angle between last hidden states.")] = 1.0,
    beta: Annotated[float, typer.Option(help="0 forward KL, 1 reverse KL, between: Jensen-Shannon.")] = 0.0,
    temperature: Annotated[float, typer.Option(help="Flattens both distributions.")] = 2.0,
    top_k: Annotated[
        int | None, typer.Option(help="Keep the teacher's k likeliest tokens on disk; run it once.")
    ] = None,
    tail: Annotated[
        int, typer.Option(help="Tokens drawn from the others at each position; 0: one class together.")
    ] = 32,
    cache: Annotated[Path | None, typer.Option(help="Directory to keep them in.")] = None,
    epochs: int = 3,
    lr: float = 5e-4,
    batch_size: int = 32,
    max_length: Length = 128,
    sample_by: SampleBy = "line",
    streaming: Annotated[bool, typer.Option(help="Read lines as they are needed.")] = False,
    steps: Annotated[int, typer.Option(help="Batches of an epoch when streaming.")] = 1000,
    seed: Seed = 0,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any other option: mask=0.3.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Distil a language model, masked or causal, on plain text, as DistilBERT and DistilGPT2 were."""
    import attar

    sizes = {"layers": layers, "hidden": hidden, "heads": heads, "ffn": ffn, "family": family}
    shape: Any = (
        {**{k: v for k, v in sizes.items() if v is not None}, "init": init} if student is None else student
    )
    options: dict[str, Any] = {
        "student": shape,
        "mapping": [int(n) for n in mapping.split(",")] if mapping[:1].isdigit() else mapping,
        "kl": kl,
        "ce": ce,
        "cosine": cosine,
        "beta": beta,
        "temperature": temperature,
        "top_k": top_k,
        "tail": tail,
        "cache": cache,
        "epochs": epochs,
        "lr": lr,
        "batch_size": batch_size,
        "max_length": max_length,
        "sample_by": sample_by,
        "streaming": streaming,
        "steps": steps,
        "seed": seed,
    }
    for key, value in settings_of(settings).items():
        put(options, key.split("."), value)
    files = [Path(name) for name in texts]  # a name that is no file would be taken for a sentence
    show(attar.distill_lm(model, files, dev=dev, out=out, overwrite=overwrite, **options))


@verb
def augment(
    data: Annotated[str, typer.Argument(help="Table or text file.", metavar="DATA")],
    out: Annotated[Path, typer.Option(help="File to write: .csv, .jsonl or .parquet.")],
    model: Annotated[
        str, typer.Option(help="Model whose embeddings (or masked-language-model head) give the words.")
    ],
    source: Annotated[
        str, typer.Option(help="embeddings, a masked language model, or a file of word vectors.")
    ] = "embeddings",
    columns: ColumnNames = None,
    copies: Annotated[int, typer.Option(help="Copies of each text (N_a).")] = 20,
    probability: Annotated[float, typer.Option(help="Of replacing each word (p_t).")] = 0.4,
    k: Annotated[int, typer.Option(help="Candidates for each word (K).")] = 15,
    seed: Seed = 0,
) -> None:
    """Write augmented copies of a table's texts."""
    from attar import verbs

    options: dict[str, Any] = {"copies": copies, "probability": probability, "k": k, "seed": seed}
    rows = verbs.augment_file(
        data, out=out, model=model, source=source, columns=columns_of(columns), **options
    )
    console.print(f"{rows} rows in {out}")
