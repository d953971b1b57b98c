"""The one place that asks transformers for what is in a directory or on the hub: no code that comes with it is run."""

from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from safetensors import SafetensorError

from attar.errors import ModelError
from attar.model.remote_code import refused
from attar.model.sentence_modules import encoder_folder
from attar.progress import say

FAULTS = (OSError, ValueError, KeyError, EOFError, SafetensorError, UnpicklingError, RuntimeError)
WHAT = {"AutoConfig": "a config", "AutoTokenizer": "a tokenizer"}


def from_pretrained(loader: Any, source: str | Path, **options: Any) -> Any:
    """`loader.from_pretrained(source, …)`, by classes of transformers and of attar alone.

    Where the source brings code for a family that transformers has, transformers' class is taken, a line says so, and
    the code is not named in what is saved from it.

    Args:
        loader: an Auto class, or the class of a config, model or tokenizer.
        source: a directory or a hub name; of sentence-transformers' older layout, in which the encoder has a folder of
            its own, too.
        options: of `from_pretrained`.

    Raises:
        ModelError: there is nothing that transformers can load, or it needs its own code.
    """
    what, place = WHAT.get(loader.__name__, "a model"), Path(source)
    local = place.exists() or str(source).count("/") > 1 or str(source).startswith((".", "/"))
    if local and not place.is_dir():
        found = "a file" if place.exists() else "no such directory"
        raise ModelError(expected=f"a model directory at {source}", found=found, fix="check the path")
    try:
        if folder := encoder_folder(source):
            options = {"subfolder": folder} | options
        # Left out, transformers asks on the terminal, and waits for the answer.
        loaded = loader.from_pretrained(source, trust_remote_code=False, **options)
    except FAULTS as error:
        if "trust_remote_code" in str(error):
            raise refused(source, what) from None
        raise ModelError(
            expected=f"{what} that transformers can load at {source}",
            found=f"{type(error).__name__}: {(str(error) or 'no more to read').splitlines()[0][:200]}",
            fix="check the name or directory; a damaged file has to be fetched or saved again",
        ) from error
    if _without_code(loaded[0] if isinstance(loaded, tuple) else loaded):
        _say_unused(str(source))
    return loaded


def _without_code(loaded: Any) -> bool:
    """Take the names of its own code out of a config, model or tokenizer; whether it was another's than attar's."""
    if hasattr(loaded, "init_kwargs"):
        return loaded.init_kwargs.pop("auto_map", None) is not None
    config = getattr(loaded, "config", loaded)
    brought = "auto_map" in vars(config)
    if brought:
        del config.auto_map
    return brought and not config.model_type.startswith("slim-")


@cache
def _say_unused(source: str) -> None:
    say(f"{source} brings Python code of its own, which is not run: transformers' own class is used")
