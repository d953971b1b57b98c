"""Models that bring Python code of their own, which attar does not run."""

from pathlib import Path

from attar.errors import ModelError


def refused(source: str | Path, what: str = "a model") -> ModelError:
    """The error of a model, or a tokenizer, that needs its own code."""
    return ModelError(
        expected=f"{what} of a class that transformers has, at {source}",
        found="one that brings Python code of its own (auto_map in its config), which attar does not run",
        fix="name a model whose family transformers knows; of code that you trust, load it yourself "
        "(trust_remote_code=True) and pass the object from Python",
    )
