"""The signature of a verb as a schema: types, defaults and limits from its annotations, help from its docstring.

A verb's function is the only place where its options are written. The command line, the recipe schema and the checks
of the library are made from it here.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from inspect import Parameter, cleandoc, signature
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError, create_model

from attar.options.base import Flag, Input, Options
from attar.options.explaining import explain

Verb = Callable[..., Any]
# What a recipe and a command line can hold; values of other types come from Python only.
PLAIN = (str, Path, int, float, bool, NoneType, Mapping, list, tuple)


@dataclass(frozen=True)
class Argument:
    """One argument of a verb, or one field of a group of options.

    Attributes:
        name: as in the signature.
        type: what a recipe may give, with its limits; None where only Python can give a value.
        default: `Parameter.empty` where the argument is required.
        flag: how it stands on the command line.
        input: of the model or the data, which is no option of a stage; None for an option.
        objects: whether Python may give an object (a model, a plan) that no recipe can hold.
        help: its line of the docstring.
    """

    name: str
    type: Any
    default: Any
    flag: Flag
    input: Input | None
    objects: bool
    help: str

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is Parameter.empty

    @property
    def group(self) -> type[Options] | None:
        """The group of options that this argument is, where it is one."""
        return next((kind for kind in members(self.type) if is_group(kind)), None)


@lru_cache(maxsize=64)
def arguments(verb: Verb) -> tuple[Argument, ...]:
    """The arguments of a verb in the order of its signature.

    Raises:
        TypeError: an argument without an annotation or without a line in the docstring.
    """
    helps = help_of(verb)
    found = []
    for parameter in signature(verb).parameters.values():
        if parameter.kind is Parameter.VAR_KEYWORD:
            continue
        name, annotation = parameter.name, parameter.annotation
        if annotation is Parameter.empty or name not in helps:
            lacking = "annotation" if annotation is Parameter.empty else "line in the docstring"
            raise TypeError(f"argument {name} of {verb.__name__} has no {lacking}")
        markers = list(_markers(annotation))
        kind = _plain(annotation)
        found.append(
            Argument(
                name,
                kind,
                parameter.default,
                next((item for item in markers if isinstance(item, Flag)), Flag()),
                next((item for item in markers if isinstance(item, Input)), None),
                Any in _parts(annotation),
                helps[name],
            )
        )
    return tuple(found)


def fields(group: type[Options]) -> Iterator[Argument]:
    """The fields of a group of options, as the arguments that they are on the command line."""
    helps = help_of(group)
    for name, field in group.model_fields.items():
        flag = next((item for item in field.metadata if isinstance(item, Flag)), None)
        if flag is not None:
            default = Parameter.empty if field.is_required() else field.default
            yield Argument(name, field.annotation, default, flag, None, False, helps[name])


@lru_cache(maxsize=64)
def options_model(verb: Verb) -> type[Options]:
    """The options of a verb as a pydantic model: what a stage of a recipe may say."""
    made: dict[str, Any] = {}
    for argument in arguments(verb):
        if argument.input or argument.type is None:
            continue
        default = ... if argument.required else argument.default
        # A group made from a verb has the flags that the verb names.
        kind = Annotated[argument.type, argument.flag] if argument.flag.name else argument.type
        made[argument.name] = (kind, default)
    name = "".join(part.capitalize() for part in verb.__name__.split("_")) + "Options"
    return create_model(name, __base__=Options, __doc__=verb.__doc__, **made)


def options_of(verb: Verb, values: Mapping[str, Any]) -> Options:
    """The checked options among the values that a caller gave to a verb: `options_of(distill, locals())`.

    Objects of Python (a model, a plan) pass as they are where the signature allows them.

    Raises:
        RecipeError: a value of another type or outside its limits.
    """
    model = options_model(verb)
    given = {name: value for name, value in values.items() if name in model.model_fields}
    objects = {
        argument.name: given[argument.name]
        for argument in arguments(verb)
        if argument.objects and not isinstance(given.get(argument.name), (*PLAIN, Options))
    }
    plain = {name: _dumped(value) for name, value in given.items() if name not in objects}
    try:
        checked = model.model_validate(plain)
    except ValidationError as error:
        raise explain(error, plain, model, f"attar.{verb.__name__}") from None
    return checked.model_copy(update=objects) if objects else checked


@lru_cache(maxsize=256)
def help_of(owner: Any) -> dict[str, str]:
    """The lines of a function's `Args:` or of a class's `Attributes:`, by name.

    A class has those of its bases too, and a verb those of the one that it shares options with.
    """
    found: dict[str, str] = {}
    shared = getattr(owner, "shares", None)
    for base in reversed(owner.__mro__) if isinstance(owner, type) else filter(None, (shared, owner)):
        if base in (object, Options) or not base.__doc__:
            continue
        for item in parsed(base.__doc__).params:
            found |= {
                name.strip(): " ".join((item.description or "").split()) for name in item.arg_name.split(",")
            }
    return found


@lru_cache(maxsize=64)
def parsed(text: str) -> Any:
    """A docstring in Google's style, taken apart."""
    from docstring_parser import DocstringStyle, parse

    return parse(cleandoc(text), style=DocstringStyle.GOOGLE)


def members(kind: Any) -> tuple[Any, ...]:
    """The members of a union, or the one type, without limits."""
    return tuple(_bare(part) for part in _parts(kind))


def is_group(kind: Any) -> bool:
    """Whether a type is a group of options."""
    return isinstance(kind, type) and issubclass(kind, Options)


def is_list(kind: Any) -> bool:
    """Whether a type is of several values."""
    return get_origin(kind) in (tuple, list, Sequence)


def choices(kind: Any) -> tuple[Any, ...]:
    """The values of the literals in a type."""
    return tuple(value for part in members(kind) if get_origin(part) is Literal for value in get_args(part))


def _markers(annotation: Any) -> Iterator[Any]:
    """What `Flag` and `Input` stand in an annotation, the outermost first."""
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        yield from (item for item in metadata if isinstance(item, Flag | Input))
        yield from _markers(inner)
    elif get_origin(annotation) in (Union, UnionType):
        for part in get_args(annotation):
            yield from _markers(part)


def _parts(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, each with its limits and without markers; nested unions are laid open."""
    if get_origin(annotation) in (Union, UnionType):
        return tuple(inner for part in get_args(annotation) for inner in _parts(part))
    if get_origin(annotation) is not Annotated:
        return (annotation,)
    kind, *metadata = get_args(annotation)
    limits = [item for item in metadata if not isinstance(item, Flag | Input)]
    return tuple(Annotated[(part, *limits)] if limits else part for part in _parts(kind))


def _bare(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _plain(annotation: Any) -> Any:
    """The part of a type that a recipe or a command line can give; None where there is none.

    `Any` in a union stands for objects of Python, and a mapping beside a group of options for its fields.
    """
    parts = [part for part in _parts(annotation) if part is not Any]
    if any(is_group(part) for part in parts):
        parts = [part for part in parts if get_origin(part) is not Mapping]
    if all(part is NoneType for part in parts):
        return None
    return Union[tuple(_sequence(part) for part in parts)]  # noqa: UP007  # members are only known here


def _sequence(kind: Any) -> Any:
    """A sequence as a tuple, which is a value that does not change."""
    if get_origin(kind) is Annotated:
        inner, *limits = get_args(kind)
        return Annotated[(_sequence(inner), *limits)]
    if get_origin(kind) is not Sequence:
        return kind
    item: Any = get_args(kind)[0]
    return tuple.__class_getitem__((item, ...))


def _dumped(value: Any) -> Any:
    """Sequences as tuples, and what was made of `Options` as it was given."""
    if isinstance(value, list):
        return tuple(value)
    return value.model_dump(exclude_unset=True) if isinstance(value, Options) else value
