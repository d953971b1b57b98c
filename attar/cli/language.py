"""Commands of language models: what a text is made of, and what a model makes of it."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from attar.cli.frame import Model, Out, Overwrite, Seed, console, show, verb
from attar.errors import DataError


@verb
def tokenizer(
    texts: Annotated[list[Path], typer.Argument(help="Plain text, one text a line.", metavar="TEXTS...")],
    out: Out,
    kind: Annotated[str, typer.Option(help="bpe (of bytes), wordpiece or unigram.")] = "bpe",
    style: Annotated[
        str | None,
        typer.Option(help="Special tokens of an encoder or a decoder; a decoder's for bpe if left out."),
    ] = None,
    vocab: Annotated[int, typer.Option(help="Pieces, special tokens included.")] = 32000,
    lowercase: Annotated[bool, typer.Option(help="Read capitals as small letters.")] = False,
    coverage: Annotated[
        float, typer.Option(help="Share of the letters that get a piece, the most frequent first.")
    ] = 1.0,
    overwrite: Overwrite = False,
) -> None:
    """Train a tokenizer on plain text, for a language that has no model yet."""
    import attar
    from attar.training.tokenizer import letters_per_token

    made = attar.tokenizer(
        texts,
        out=out,
        kind=kind,  # type: ignore[arg-type]  # checked there
        style=style,  # type: ignore[arg-type]
        vocab=vocab,
        lowercase=lowercase,
        coverage=coverage,
        overwrite=overwrite,
    )
    console.print(
        f"{len(made)} pieces in {out}; a token is {letters_per_token(made, texts):.2f} letters of the texts"
    )


@verb
def temperature(
    model: Model,
    text: Annotated[str, typer.Option(help="With [MASK] for a masked model; else what comes next is shown.")],
    temperatures: Annotated[str, typer.Option(help="Temperatures t of softmax(z / t).")] = "1,2,3,6",
    top: Annotated[int, typer.Option(help="Tokens to show.")] = 10,
    out: Annotated[Path | None, typer.Option(help="Picture to write: .html or .svg.")] = None,
) -> None:
    """Show a teacher's likeliest tokens at several temperatures, and the entropy of each."""
    import attar

    found = attar.temperature(model, text, temperatures=_numbers(temperatures), top=top)
    console.print(found.table(width=console.width))
    first, last = found.at[0], found.at[-1]
    console.print(
        Text(
            f"softmax(z / t): the teacher is as undecided as among {first.choices:.4g} equal choices at "
            f"t = {first.temperature:g}, {last.choices:.4g} at t = {last.temperature:g}; "
            "bars are drawn against the likeliest token of each t"
        )
    )
    if out is not None:
        console.print(f"picture: {found.write(out)}")


@verb
def generate(
    models: Annotated[
        list[str],
        typer.Argument(help="Model directories or hub names: teacher, student.", metavar="MODELS..."),
    ],
    prompt: Annotated[str, typer.Option(help="Where to go on from.")],
    length: Annotated[int, typer.Option(help="New tokens at most.")] = 50,
    temperature: Annotated[
        float | None,
        typer.Option(help="Draw from softmax(z / t); the likeliest token each time if left out."),
    ] = None,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest tokens of this probability.")] = 1.0,
    seed: Seed = 0,
) -> None:
    """Let causal language models continue the same prompt, side by side."""
    import attar

    options: dict[str, Any] = {"length": length, "temperature": temperature, "top_p": top_p, "seed": seed}
    console.print(attar.generate(models, prompt, **options).table())


@verb
def share(
    model: Model,
    out: Out,
    how: Annotated[
        str, typer.Option(help="all layers one, groups of neighbours, or cycles of layers in turn.")
    ] = "all",
    groups: Annotated[int | None, typer.Option(help="Layers left, for groups and cycles.")] = None,
    embedding: Annotated[
        int | None, typer.Option(help="Size of a factorised embedding; needs --texts.")
    ] = None,
    start: Annotated[
        str, typer.Option(help="A shared layer begins as the last of its layers, or their mean.")
    ] = "last",
    texts: Annotated[
        list[Path] | None, typer.Option(help="Plain text, one text a line, of the kind that the model reads.")
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Store layers once and run them several times, as ALBERT does; then distil, to recover."""
    import attar

    options: dict[str, Any] = {
        "how": how,
        "groups": groups,
        "embedding": embedding,
        "start": start,
        "seed": seed,
    }
    show(attar.share(model, out=out, texts=texts, overwrite=overwrite, **options))


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise DataError(
            expected="--temperatures as numbers, such as 1,2,3,6", found=text, fix="part them by commas"
        ) from None
