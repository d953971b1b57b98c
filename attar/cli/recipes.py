"""Commands that do the whole way: the demo, and recipes."""

from pathlib import Path
from typing import Annotated

import typer

from attar.cli.frame import (
    Out,
    Seed,
    app,
    complain,
    console,
    errors,
    settings_of,
    show,
    verb,
)

START = """[bold]attar[/bold] makes Hugging Face language models small and fast.

  see it work, in ten minutes      [bold]attar demo[/bold]
  distil your fine-tuned model     [bold]attar distill MODEL --texts texts.txt --out small[/bold]
  compare quality, size and speed  [bold]attar compare MODEL small --data test.csv[/bold]

All commands: attar --help"""


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
    from attar.demo.run import demo as work

    work(out, quick=quick, seed=seed, console=console)


@verb
def run(
    recipe: Annotated[
        str, typer.Argument(help="A YAML file, or a recipe that comes with attar: tinybert4, schubert-99m, …")
    ],
    out: Out,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Put a value over the recipe's: data.train=train.csv.")
    ] = None,
) -> None:
    """Run a recipe's stages in order; what is done is not done again."""
    from attar.recipes.running import run as work

    show(work(recipe, out=out, **settings_of(settings)))


@verb
def check(
    recipe: Annotated[str, typer.Argument(help="A YAML file or the name of a recipe.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Put a value over the recipe's.")
    ] = None,
) -> None:
    """Find what is wrong with a recipe, in under a second and without training."""
    from attar.recipes import check as find
    from attar.recipes import load_recipe

    problems = find(load_recipe(recipe, settings_of(settings)))
    for problem in problems:
        errors.print(f"[bold]{problem.where}[/bold]", highlight=False)
        complain(problem.error)
    if problems:
        raise typer.Exit(1)
    console.print("nothing wrong that can be found without training")
