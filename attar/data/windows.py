"""What tasks share whose texts are read in windows and answered token by token."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attar.errors import DataError, ModelError

Array = NDArray[Any]


def fast(tokenizer: Any) -> None:
    """Raise ModelError for a tokenizer that cannot say which characters a token stands for."""
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            expected="a tokenizer that says which characters its tokens stand for",
            found=f"{type(tokenizer).__name__}, which is written in Python",
            fix="load the fast tokenizer of the family (tokenizer.json)",
        )


def overlap(stride: int, room: int) -> int:
    """Tokens that neighbouring windows share: `stride`, and at most half of a window, so that there is an end of them.

    Args:
        stride: tokens, as asked for.
        room: tokens of text in a window.

    Raises:
        DataError: a window holds no token.
    """
    if room < 2:
        raise DataError(
            expected="windows with room for some tokens of the text",
            found=f"room for {room}",
            fix="raise max_length (--max-length)",
        )
    return max(0, min(stride, room // 2))


def answers_of(values: Iterable[Any]) -> Array:
    """(N,) objects, one a row; numpy would make a matrix of tuples of one length."""
    return np.fromiter(values, dtype=object)
