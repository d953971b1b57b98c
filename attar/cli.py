"""The command line: one verb a public function, the same words as in the library."""

import logging
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.text import Text

from attar import progress
from attar.errors import AttarError, RecipeError

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)
console = Console()
errors = Console(stderr=True)

START = """[bold]attar[/bold] makes Hugging Face language models small and fast.

  see it work, in ten minutes      [bold]attar demo[/bold]
  distil your fine-tuned model     [bold]attar distill MODEL --texts texts.txt --out small[/bold]
  compare quality, size and speed  [bold]attar compare MODEL small --data test.csv[/bold]

All commands: attar --help"""

Model = Annotated[str, typer.Argument(help="Model directory or hub name.", metavar="MODEL")]
Out = Annotated[Path, typer.Option(help="Directory to write; it appears whole or not at all.")]
Table = Annotated[
    str | None, typer.Option(help="Table: .csv, .tsv, .jsonl, .parquet, or .txt with one text a line.")
]
ColumnNames = Annotated[
    list[str] | None,
    typer.Option("--columns", help="Which column is what: text=sentence (also label=…, text_pair=…)."),
]
Overwrite = Annotated[bool, typer.Option(help="Replace what attar wrote there before.")]
Length = Annotated[int, typer.Option(help="Longest text in tokens.")]
Seed = Annotated[int, typer.Option(help="Seed of every random choice.")]


def verb(work: Callable[..., Any]) -> Callable[..., Any]:
    """Register a function as a command: progress on the console, an error as three lines and exit code 1."""

    @wraps(work)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        progress.attach(console)
        _quiet()
        try:
            work(*args, **kwargs)
        except AttarError as error:
            _complain(error)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            errors.print("\nstopped; the same command goes on from the last checkpoint")
            raise typer.Exit(130) from None

    return app.command()(wrapped)


@app.callback(invoke_without_command=True)
def start(context: typer.Context) -> None:
    """Make Hugging Face language models small and fast, and prove what they keep."""
    if context.invoked_subcommand is None:
        console.print(START, highlight=False)


@verb
def demo(
    out: Out = Path("out/demo"),
    quick: Annotated[
        bool,
        typer.Option(help="A small part of the data, under two minutes: shows the way, not the quality."),
    ] = False,
    seed: Seed = 0,
) -> None:
    """The main job on real data: teacher, student, baselines, export, report. About ten minutes on 2 cores."""
    from attar.demo import demo as work

    work(out, quick=quick, seed=seed, console=console)


@verb
def run(
    recipe: Annotated[
        str, typer.Argument(help="A YAML file, or a recipe that comes with attar: tinybert4, tinybert6.")
    ],
    out: Out,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Put a value over the recipe's: data.train=train.csv.")
    ] = None,
) -> None:
    """Run a recipe's stages in order; what is done is not done again."""
    from attar.recipe import run as work

    _show(work(recipe, out=out, **_settings(settings)))


@verb
def check(
    recipe: Annotated[str, typer.Argument(help="A YAML file or the name of a recipe.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Put a value over the recipe's.")
    ] = None,
) -> None:
    """Find what is wrong with a recipe, in under a second and without training."""
    from attar.schema import check as find
    from attar.schema import load_recipe

    problems = find(load_recipe(recipe, _settings(settings)))
    for problem in problems:
        errors.print(f"[bold]{problem.where}[/bold]", highlight=False)
        _complain(problem.error)
    if problems:
        raise typer.Exit(1)
    console.print("nothing wrong that can be found without training")


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
    max_length: Length = 128,
    patience: Annotated[int, typer.Option(help="Stop after so many epochs without a better dev metric.")] = 2,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Fine-tune an encoder: one label or several, sentences or pairs, or a score."""
    import attar

    options: dict[str, Any] = {
        "epochs": epochs,
        "lr": lr,
        "batch_size": batch_size,
        "max_length": max_length,
        "patience": patience,
        "seed": seed,
    }
    _show(
        attar.finetune(
            model, data, dev=dev, out=out, columns=_columns(columns), overwrite=overwrite, **options
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
    mask: Annotated[float, typer.Option(help="Share of the tokens to hide.")] = 0.15,
    whole_word: Annotated[bool, typer.Option(help="Hide words with all their pieces.")] = False,
    nsp: Annotated[
        bool,
        typer.Option(help="Predict next sentences too: a sentence a line, blank lines between documents."),
    ] = False,
    fresh: Annotated[bool, typer.Option(help="Begin with random weights.")] = False,
    streaming: Annotated[bool, typer.Option(help="Read lines as they are needed.")] = False,
    steps: Annotated[int, typer.Option(help="Batches of an epoch when streaming.")] = 1000,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Train an encoder on plain text to tell hidden words; one without that head gets it."""
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
        "streaming": streaming,
        "steps": steps,
        "seed": seed,
    }
    files = [Path(name) for name in texts]  # a name that is no file would be taken for a sentence
    _show(attar.pretrain(model, files, dev=dev, out=out, overwrite=overwrite, **options))


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
    max_length: Length = 128,
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
        "seed": seed,
    }
    for key, value in _settings(settings).items():
        _put(options, key.split("."), value)
    tables: dict[str, Any] = {"texts": texts, "data": data, "dev": dev, "test": test}
    _show(attar.distill(model, out=out, columns=_columns(columns), overwrite=overwrite, **tables, **options))


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
    rows = verbs.augment_file(data, out=out, model=model, source=source, columns=_columns(columns), **options)
    console.print(f"{rows} rows in {out}")


@verb
def export(
    model: Model,
    out: Out,
    data: Table = None,
    columns: ColumnNames = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="fp32, int8, int8-static; the first two where left out."),
    ] = None,
    keep_fp32: Annotated[list[str] | None, typer.Option(help="A layer that int8 leaves alone.")] = None,
    max_drop: Annotated[float, typer.Option(help="Largest loss of the task metric in int8.")] = 0.01,
    max_length: Length = 128,
    overwrite: Overwrite = False,
) -> None:
    """Export to ONNX, fp32 and int8, and hold the result against the model."""
    import attar

    chosen: Any = tuple(formats) if formats else ("fp32", "int8")
    options: dict[str, Any] = {
        "keep_fp32": tuple(keep_fp32 or ()),
        "max_drop": max_drop,
        "max_length": max_length,
    }
    _show(
        attar.export(
            model,
            out=out,
            data=data,
            columns=_columns(columns),
            formats=chosen,
            overwrite=overwrite,
            **options,
        )
    )


@verb
def evaluate(
    model: Model,
    data: Annotated[str, typer.Option(help="Table to measure on.")],
    teacher: Annotated[str | None, typer.Option(help="Measure agreement with this model, too.")] = None,
    columns: ColumnNames = None,
    batch_size: int = 32,
    max_length: Length = 128,
) -> None:
    """Measure a model on a table: against its labels, or against a teacher."""
    import attar

    options: dict[str, Any] = {"batch_size": batch_size, "max_length": max_length}
    _show(attar.evaluate(model, data, teacher=teacher, columns=_columns(columns), **options))


@verb
def bench(
    models: Annotated[
        list[str], typer.Argument(help="Model directories or exports; the first is the reference.")
    ],
    batch_size: Annotated[list[int] | None, typer.Option(help="Batch sizes; 1 where left out.")] = None,
    length: Annotated[list[int] | None, typer.Option(help="Lengths in tokens; 128 where left out.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of each model.")] = None,
) -> None:
    """Measure size and speed of models, in turns in one run."""
    import attar

    _show(
        attar.bench(
            models, batch_sizes=tuple(batch_size or (1,)), lengths=tuple(length or (128,)), threads=threads
        )
    )


@verb
def compare(
    models: Annotated[
        list[str], typer.Argument(help="Model directories or exports; the first is the teacher.")
    ],
    data: Annotated[str, typer.Option(help="Table to measure on.")],
    columns: ColumnNames = None,
    out: Annotated[Path | None, typer.Option(help="Directory for report.html and report.json.")] = None,
    max_length: Length = 128,
) -> None:
    """Quality, size and latency of models side by side, with intervals."""
    import attar

    report = attar.compare(models, data, columns=_columns(columns), max_length=max_length)
    _show(report)
    if out is not None:
        console.print(f"report: {report.write(out)}")


@verb
def anatomy(model: Model) -> None:
    """Show what attar knows of a model: family, shape, where its parts are."""
    from attar import verbs

    console.print(verbs.anatomy(model))


def _show(report: Any) -> None:
    console.print(report.table(width=console.width))
    console.print(report.headline(), style="bold", markup=False, highlight=False)


def _complain(error: AttarError) -> None:
    for word, text in (("expected", error.expected), ("found", error.found), ("do this", error.fix)):
        errors.print(
            Text(f"{word:>9}  ", style="bold red" if word == "found" else "bold").append(
                text, style="not bold default"
            )
        )


def _columns(pairs: list[str] | None) -> dict[str, str] | None:
    if not pairs:
        return None
    found = {}
    for pair in (part for entry in pairs for part in entry.split(",")):
        role, mark, name = pair.partition("=")
        if not mark:
            raise RecipeError(
                expected="--columns text=NAME",
                found=pair,
                fix="name what the column is, such as text=sentence",
            )
        found[role.strip()] = name.strip()
    return found


def _settings(pairs: list[str] | None) -> dict[str, Any]:
    found = {}
    for pair in pairs or []:
        key, mark, value = pair.partition("=")
        if not mark:
            raise RecipeError(
                expected="--set key=value", found=pair, fix="write the key, an equals sign and the value"
            )
        found[key.strip()] = yaml.safe_load(value)
    return found


def _put(options: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        options[key] = dict(options.get(key) or {})
        options = options[key]
    options[keys[-1]] = value


def _quiet() -> None:
    """Other libraries' bars and notes would bury our own lines."""
    if "torch" not in sys.modules:
        import os

        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("accelerate").setLevel(logging.ERROR)


def main() -> None:
    """The `attar` command."""
    app()
