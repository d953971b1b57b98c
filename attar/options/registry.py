"""The verbs: public functions that the command line and recipes are made from."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any, ParamSpec, TypeVar

from attar.progress import quiet_libraries
from attar.storage.locking import locked

P = ParamSpec("P")
R = TypeVar("R")

VERBS: dict[str, Callable[..., Any]] = {}
# Those that may be stages of a recipe.
STAGES: dict[str, Callable[..., Any]] = {}


def verb(
    *, stage: bool = False, shares: Callable[..., Any] | None = None, light: bool = False
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Register a public function.

    While it runs, other libraries' progress bars are off, and no other run writes what it names as `out`.

    Args:
        stage: whether it may be a stage of a recipe.
        shares: another verb, whose other arguments this one takes as keyword arguments (`**rest`).
        light: whether it needs none of these libraries, which take a second to import.
    """

    def register(function: Callable[P, R]) -> Callable[P, R]:
        shown = signature(function) if shares is None else _joined(function, shares)

        @wraps(function)
        def quietly(*args: P.args, **kwargs: P.kwargs) -> R:
            if shares is not None:
                shown.bind(*args, **kwargs)  # a TypeError names an argument that neither verb has
            out: Any = kwargs.get("out")  # given by name in every verb
            with locked(out), nullcontext() if light else quiet_libraries():
                return function(*args, **kwargs)

        quietly.__signature__ = shown  # type: ignore[attr-defined]  # what `inspect.signature` shows
        quietly.shares = shares  # type: ignore[attr-defined]
        quietly.light = light  # type: ignore[attr-defined]
        VERBS[function.__name__] = quietly
        if stage:
            STAGES[function.__name__] = quietly
        return quietly

    return register


def _joined(function: Callable[..., Any], shares: Callable[..., Any]) -> Signature:
    """The function's signature with the other verb's arguments in place of its `**rest`."""
    shown = signature(function)
    own = [item for item in shown.parameters.values() if item.kind is not Parameter.VAR_KEYWORD]
    names = {item.name for item in own}
    more = [
        item.replace(kind=Parameter.KEYWORD_ONLY)
        for item in signature(shares).parameters.values()
        if item.name not in names
    ]
    return shown.replace(parameters=[*own, *more])
