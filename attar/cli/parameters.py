"""Commands made from the verbs: an argument of a verb is an argument or option of its command."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
import yaml

from attar.errors import RecipeError
from attar.options.signature import (
    Argument,
    arguments,
    choices,
    fields,
    is_group,
    is_list,
    members,
    parsed,
)

Verb = Callable[..., Any]
# What stands for a type in a help text.
METAVARS = {int: "INT", float: "NUMBER", str: "TEXT", Path: "PATH", bool: "BOOL"}


class Parameter:
    """One argument or option of a command.

    Args:
        argument: of the verb, or a field of one of its groups of options.
        group: the name of the verb's argument that the field belongs to.
        first: whether it is the verb's first argument, which is given without a name.
    """

    def __init__(self, argument: Argument, group: str | None = None, *, first: bool = False) -> None:
        self.argument, self.group, self.first = argument, group, first
        self.name = argument.name if group is None else f"{group}_{argument.name}"
        self.kinds = [kind for kind in members(argument.type) if kind is not NoneType and not is_group(kind)]

    @property
    def path(self) -> list[str]:
        """The place of its value among the values of the verb."""
        return [self.argument.name] if self.group is None else [self.group, self.argument.name]

    @property
    def is_flag(self) -> bool:
        """Whether it is on or off."""
        return bool in self.kinds

    @property
    def is_pairs(self) -> bool:
        """Whether it is given as KEY=VALUE; what may also be a name (a recipe) is given by name."""
        named = self.is_several or str in self.kinds
        return any(get_origin(kind) is Mapping for kind in self.kinds) and not named

    @property
    def is_several(self) -> bool:
        """Whether it may be given several times."""
        scalar = [kind for kind in self.kinds if not is_list(kind) and get_origin(kind) is not Mapping]
        return any(map(is_list, self.kinds)) and (not scalar or Path in scalar)

    def signature(self) -> inspect.Parameter:
        """The parameter as typer reads it; an option that is not given is None."""
        argument = self.argument
        kind: Any = bool if self.is_flag else list[str] if self.is_several or self.is_pairs else str
        if self.first:
            metavar = argument.name.upper() + ("..." if self.is_several else "")
            info: Any = typer.Argument(help=self.help, metavar=metavar, show_default=False)
        else:
            flag = f"{self.flag}/--no-{self.flag[2:]}" if argument.default is True else self.flag
            metavar = " " if self.is_flag else self.metavar
            panel = argument.flag.panel or "Options"
            info = typer.Option(
                flag,
                help=self.help,
                metavar=metavar,
                rich_help_panel=panel,
                show_default=False,
                autocompletion=self.complete,
            )
        default = inspect.Parameter.empty if argument.required else None
        kind = kind if argument.required else kind | None
        annotation: Any = Annotated[kind, info]
        keyword = inspect.Parameter.KEYWORD_ONLY
        return inspect.Parameter(self.name, keyword, default=default, annotation=annotation)

    @property
    def help(self) -> str:
        """The line of the docstring, with the default."""
        text = self.argument.help.replace("`", "")
        default = self.argument.default
        if default in (None, (), inspect.Parameter.empty) or self.is_pairs or is_group(type(default)):
            return text
        if isinstance(default, bool):
            return text if not default else f"{text} [dim](on)[/dim]"
        value = ", ".join(map(str, default)) if isinstance(default, tuple) else default
        return f"{text} [dim]({value})[/dim]"

    @property
    def metavar(self) -> str:
        """What stands for the value in a help text."""
        if self.is_pairs:
            return "KEY=VALUE"
        names = choices(self.argument.type)
        if names and len(shown := "|".join(map(str, names))) < 16:
            return shown
        scalars = [kind for kind in self.kinds if get_origin(kind) is not Literal]
        for kind in (Path, str, int, float):
            if kind in scalars or any(kind in get_args(item) for item in scalars):
                return METAVARS[kind]
        return "NAME" if names else "VALUE"

    def complete(self, incomplete: str) -> list[str]:
        """The names that the shell proposes for a value."""
        return [name for name in map(str, choices(self.argument.type)) if name.startswith(incomplete)]

    def value(self, given: Any) -> Any:
        """What was given, as the verb takes it; the verb checks types and limits itself."""
        if self.is_flag:
            return given
        if self.is_pairs:
            strings = any(get_args(kind)[1:] == (str,) for kind in self.kinds)
            return pairs(given, self.flag, text=strings)
        if self.is_several:
            names = any(Path in (kind, *get_args(kind)) or str in get_args(kind) for kind in self.kinds)
            found = given if names else [part.strip() for item in given for part in item.split(",")]
            found = [Path(item) if self._files else item for item in found]
            return found[0] if len(found) == 1 and str in self.kinds else found
        if NoneType in members(self.argument.type) and given.lower() in ("none", "null"):
            return None
        if any(map(is_list, self.kinds)) and ("," in given or given[:1].isdigit()):
            return [part.strip() for part in given.split(",")]
        return Path(given) if self._files else given

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return self.argument.flag.name or "--" + self.argument.name.replace("_", "-")

    @property
    def _files(self) -> bool:
        return self.argument.input is not None and self.argument.input.files


def parameters(verb: Verb) -> Iterator[Parameter]:
    """The parameters of a verb's command, those of its groups of options behind the others."""
    known = [argument for argument in arguments(verb) if argument.type is not None]
    for number, argument in enumerate(known):
        parameter = Parameter(argument, first=number == 0)
        if parameter.kinds:
            yield parameter
    for argument in known:
        for field in fields(argument.group) if argument.group else ():
            # Where the whole group is left out by default, its defaults are not those of the command.
            yield Parameter(
                replace(field, default=None) if argument.default is None else field, argument.name
            )


def values(verb: Verb, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a verb from what its command was given."""
    found: dict[str, Any] = {}
    for parameter in parameters(verb):
        value = given.get(parameter.name)
        if value is not None:
            put(found, parameter.path, parameter.value(value), parameter.flag)
    for key, value in pairs(given.get("set_") or [], "--set").items():
        put(found, key.split("."), value, f"--set {key}")
    return found


def pairs(entries: list[str], flag: str, *, text: bool = False) -> dict[str, Any]:
    """What `--set key=value` says; values as YAML has them, or as text.

    Raises:
        RecipeError: an entry without an equals sign.
    """
    found = {}
    for entry in (part for item in entries for part in (item.split(",") if text else [item])):
        key, mark, value = entry.partition("=")
        if not mark:
            example = "text=sentence" if text else "key=value"
            raise RecipeError(
                expected=f"{flag} {example}", found=entry, fix="write the name, an equals sign and the value"
            )
        found[key.strip()] = value.strip() if text else yaml.safe_load(value)
    return found


def put(options: dict[str, Any], keys: list[str], value: Any, flag: str) -> None:
    """Put a value into nested options, in place.

    Raises:
        RecipeError: one option says the whole, another a part of it.
    """
    for key in keys[:-1]:
        inner = options.setdefault(key, {})
        if not isinstance(inner, dict):
            raise RecipeError(
                expected=f"either --{key} or its parts",
                found=f"--{key} {inner} and {flag}",
                fix="leave one out",
            )
        options = inner
    options[keys[-1]] = value


def help_text(verb: Verb) -> str:
    """The help of a command: the docstring's description."""
    text = parsed(verb.__doc__ or "")
    parts = [text.short_description or "", " ".join((text.long_description or "").split())]
    return "\n\n".join(part.replace("`", "") for part in parts if part)


def examples(verb: Verb) -> str | None:
    """The examples of the docstring, each a line."""
    text = parsed(verb.__doc__ or "")
    lines = [
        line.strip()
        for item in text.examples
        for line in (item.description or item.snippet or "").splitlines()
        if line.strip()
    ]
    return "[bold]Examples[/bold]\n\n" + "\n\n".join(lines) if lines else None
