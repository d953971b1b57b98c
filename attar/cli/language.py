"""Commands of a language: its tokenizer."""

from pathlib import Path
from typing import Annotated

import typer

from attar.cli.frame import Out, Overwrite, console, verb


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
    from attar.tokenizer import letters_per_token

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
