"""`attar.temperature`: a language model's likeliest tokens at several temperatures."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from attar.options.base import Count, Input, ModelSource, OutputPath, Tokenizer
from attar.options.registry import verb
from attar.options.signature import options_of

if TYPE_CHECKING:
    from attar.report.temperature import Temperatures


@verb()
def temperature(
    model: ModelSource,
    text: Annotated[str, Input()],
    *,
    temperatures: Annotated[
        Sequence[Annotated[float, Field(gt=0, allow_inf_nan=False)]], Field(min_length=1)
    ] = (1, 2, 3, 6),
    top: Count = 10,
    out: OutputPath | None = None,
    tokenizer: Tokenizer = None,
) -> "Temperatures":
    """Show a language model's likeliest tokens at several temperatures, and the entropy of each.

    A student that learns from a teacher at t = 1 sees little but the likeliest token. A higher temperature flattens
    the distribution: the second and third best tokens get a share, in the same order (1503.02531, section 2).

    Args:
        model: A masked or causal language model: a directory, a hub name, or a model (then with its `tokenizer`).
        text: With one [MASK] for a masked model; of a causal model the token after the text is shown.
        temperatures: Temperatures t of softmax(z / t).
        top: Tokens to show.
        out: Picture to write: .html or .svg.
        tokenizer: Of a model that is given as an object.

    Returns:
        Tokens and probabilities, with `table()` for a terminal, `svg()`, and `write("picture.html")`.

    Raises:
        ModelError: a model without a language-model head.
        DataError: no text, no mask or several, more tokens than the model has positions for.

    Examples:
        attar temperature bert-base-uncased --text "it was a [MASK] film"
    """
    from attar.evaluation.temperature import temperature as work

    options = options_of(temperature, locals())
    found = work(model, text, temperatures=options.temperatures, top=options.top, tokenizer=tokenizer)
    if out is not None:
        found.write(out)
    return found
