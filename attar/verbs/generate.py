"""`attar.generate`: language models continue one prompt, side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from attar.options.base import Count, Input, PreTrainedModel, Seed, Tokenizer
from attar.options.registry import verb
from attar.options.signature import options_of

if TYPE_CHECKING:
    from attar.evaluation.generation import Generated


@verb()
def generate(
    models: Annotated[str | Path | PreTrainedModel | Sequence[str | Path | PreTrainedModel], Input()],
    prompt: Annotated[str, Input()],
    *,
    length: Count = 50,
    temperature: Annotated[float, Field(gt=0)] | None = None,
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0,
    seed: Seed = 0,
    tokenizer: Tokenizer = None,
) -> "Generated":
    """Let causal language models continue the same prompt, side by side, each from the same seed.

    Args:
        models: Model directories or hub names: teacher, student; or models (then with the `tokenizer` they share).
        prompt: Text to continue.
        length: New tokens at most; a model stops at its end-of-text token.
        temperature: Sample from softmax(z / t); the likeliest token each time where left out.
        top_p: Sample from the likeliest tokens of this total probability; needs a temperature.
        seed: Seed of every random choice.
        tokenizer: Of models that are given as objects.

    Returns:
        The texts. Their seconds are one run's on this machine: for a comparison see `attar bench`.

    Raises:
        ModelError: a model that cannot continue a text, such as a masked language model.
        DataError: an empty prompt, one that leaves no room for `length` tokens, options that contradict each other.

    Examples:
        attar generate gpt2 small-gpt --prompt "The film"
    """
    from attar.evaluation.generation import generate as work

    return work(models, prompt, options=options_of(generate, locals()), tokenizer=tokenizer)
