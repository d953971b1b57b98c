"""The commands: one for each verb, made from its signature, and what each prints."""

import inspect
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from attar.cli.frame import app, complain, console, errors, guarded
from attar.cli.parameters import Verb, examples, help_text, parameters, values
from attar.cli.showing import show, show_plan, show_probe, show_temperatures
from attar.errors import RecipeError
from attar.options.registry import VERBS
from attar.progress import quiet_libraries

# The commands in the order of `attar --help`, by what they are for.
PANELS = {
    "Make a model smaller": (
        "compress",
        "distill",
        "distill_lm",
        "plan",
        "prune",
        "share",
        "static",
        "dimensions",
        "export",
    ),
    "Train": ("finetune", "pretrain", "tokenizer", "augment", "mine"),
    "Measure and look": ("evaluate", "compare", "bench", "probe", "temperature", "generate", "anatomy"),
    "Whole runs": ("run", "check"),
}
PLAN_ONLY = inspect.Parameter(
    "plan_only",
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[
        bool, typer.Option("--plan-only", help="Show the plan and stop; nothing is written.")
    ],
)
SETTINGS = inspect.Parameter(
    "set_",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other option, by its dotted name."),
    ],
)


def add(verb: Verb, panel: str, call: Callable[[Mapping[str, Any]], None], *more: inspect.Parameter) -> None:
    """Add the command of a verb; `call` gets what was given on the command line."""

    def command(**given: Any) -> None:
        call(given)

    made = [parameter.signature() for parameter in parameters(verb)]
    if verb.__name__ == "prune":  # which writes nothing for --plan-only
        made = [item.replace(**OPTIONAL) if item.name == "out" else item for item in made]
    command.__signature__ = inspect.Signature([*made, *more])  # type: ignore[attr-defined]
    command.__annotations__ = {item.name: item.annotation for item in (*made, *more)}
    name = verb.__name__.replace("_", "-")
    register = app.command(name, help=help_text(verb), epilog=examples(verb), rich_help_panel=panel)
    register(guarded(command))


def run(verb: Verb, given: Mapping[str, Any]) -> None:
    """Call a verb and print what it returns."""
    asked = values(verb, given)
    with nullcontext() if verb.light else quiet_libraries():  # type: ignore[attr-defined]
        found = verb(**asked)
        printer = PRINTERS.get(verb.__name__, lambda found, asked: show(found))
        printer(found, asked)


def prune(given: Mapping[str, Any]) -> None:
    """`attar prune`, which may stop at the plan."""
    verb, asked = VERBS["prune"], values(VERBS["prune"], given)
    if given["plan_only"]:
        if "plan" in asked:
            from attar.pruning.plan import Plan

            return show_plan(Plan.read(asked["plan"]))
        known = inspect.signature(VERBS["plan"]).parameters
        names = known.keys() - {"out", "overwrite"}
        return show_plan(VERBS["plan"](**{name: value for name, value in asked.items() if name in names}))
    if "out" not in asked:
        raise RecipeError(
            expected="a directory to write", found="no --out", fix="pass --out small, or --plan-only to look"
        )
    report = verb(**asked)
    from attar.pruning.plan import Plan

    show_plan(Plan.read(Path(asked["out"]) / "plan.json"))
    console.print()
    _stage(report, asked)


def _plan(found: Any, asked: Mapping[str, Any]) -> None:
    show_plan(found)
    if "out" in asked:
        console.print(f"plan: {asked['out']}", highlight=False)


def _stage(found: Any, asked: Mapping[str, Any]) -> None:
    """What made a model leaves its report in the model's directory."""
    from attar.training.loop import is_main

    show(found)
    if is_main():
        found.write(asked["out"])
    console.print(f"model: {asked['out']}\nreport: {Path(asked['out']) / 'report.html'}", highlight=False)


def _written(found: Any, asked: Mapping[str, Any]) -> None:
    show(found)
    if "out" in asked:
        console.print(f"report: {Path(asked['out']) / 'report.html'}")


def _compress(found: Any, asked: Mapping[str, Any]) -> None:
    """Prints what was tried, too."""
    console.print(found.frontier.table(), highlight=False)
    console.print()
    _written(found, asked)
    _fits(found)


def _recipe(found: Any, asked: Mapping[str, Any]) -> None:
    show(found)
    _fits(found)


def _fits(found: Any) -> None:
    """The exit status says whether a budget is met, where there was one."""
    if not found.settings.get("fits", True):
        raise typer.Exit(3)


def _probe(found: Any, asked: Mapping[str, Any]) -> None:
    show_probe(found)
    if "out" in asked:
        console.print(f"report: {Path(asked['out']) / 'report.html'}")


def _temperature(found: Any, asked: Mapping[str, Any]) -> None:
    show_temperatures(found)
    if "out" in asked:
        console.print(f"picture: {asked['out']}")


def _tokenizer(found: Any, asked: Mapping[str, Any]) -> None:
    from attar.training.tokenizer import letters_per_token

    letters = letters_per_token(found, asked["texts"])
    console.print(f"{len(found)} tokens in {asked['out']}; a token is {letters:.2f} letters of the texts")


def _table(found: Any, asked: Mapping[str, Any]) -> None:
    console.print(f"{len(found)} rows in {asked['out']}")


def _check(found: Any, asked: Mapping[str, Any]) -> None:
    for problem in found:
        errors.print(f"[bold]{problem.where}[/bold]", highlight=False)
        complain(problem.error)
    if found:
        raise typer.Exit(1)
    console.print("nothing wrong that can be found without training")


OPTIONAL: dict[str, Any] = {"default": None}
PRINTERS: dict[str, Callable[[Any, Mapping[str, Any]], None]] = {
    "plan": _plan,
    **dict.fromkeys(
        ("finetune", "pretrain", "distill", "distill_lm", "share", "static", "dimensions", "export"), _stage
    ),
    "compare": _written,
    "compress": _compress,
    "run": _recipe,
    "probe": _probe,
    "temperature": _temperature,
    "generate": lambda found, asked: console.print(found.table()),
    "anatomy": lambda found, asked: console.print(found),
    "tokenizer": _tokenizer,
    **dict.fromkeys(("augment", "mine"), _table),
    "check": _check,
}


def add_all() -> None:
    """Add the commands of all verbs."""
    for panel, names in PANELS.items():
        for name in names:
            verb = VERBS[name]
            if name == "prune":
                add(verb, panel, prune, PLAN_ONLY)
                continue
            grouped = any(parameter.group for parameter in parameters(verb))
            add(verb, panel, partial(run, verb), *((SETTINGS,) if grouped else ()))
