"""`attar.probe`: the importance of each head, attention, feed-forward network and layer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from attar.options.base import (
    MEASURING,
    ColumnNames,
    Count,
    Dataset,
    Input,
    MaxLength,
    ModelSource,
    OutputPath,
    Seed,
    Tokenizer,
)
from attar.options.registry import verb
from attar.options.signature import options_of

if TYPE_CHECKING:
    from attar.report.report import Report


@verb()
def probe(
    model: ModelSource,
    data: Annotated[str | Path | Dataset | Sequence[Mapping[str, Any]], Input()],
    *,
    columns: ColumnNames = None,
    tokenizer: Tokenizer = None,
    out: OutputPath | None = None,
    max_rows: Count | None = 500,
    batch_size: Annotated[Count, MEASURING] = 32,
    max_length: MaxLength = 128,
    seed: Seed = 0,
) -> "Report":
    """Switch off each head, attention, FFN and layer in turn, retrain nothing, and show the change of the metric.

    Parts that the model is better without are named where the texts show it.

    Args:
        model: A fine-tuned classifier or regressor: a directory, a hub name, or a model (then with its `tokenizer`).
        data: Table to measure on, best with labels and not trained on; without labels agreement is measured.
        columns: Which column is what: text=sentence (also label, text_pair).
        tokenizer: Of a model that is given as an object.
        out: Directory for report.html and report.json.
        max_rows: Texts, drawn at random where there are more; none for all.
        batch_size: Texts in a forward pass.
        max_length: Longest text in tokens.
        seed: Seed of every random choice.

    Returns:
        A report whose `heat` has a row a layer and a column a part, and whose `notes` name parts, with intervals.

    Raises:
        ModelError: an unknown family, or a model without a task.
        DataError: see `read_table`; fewer than two texts.

    Examples:
        attar probe teacher --data dev.csv --out probe
    """
    from attar.pruning.probing import probe as work
    from attar.storage.writing import check_directory

    options = options_of(probe, locals())
    if out is not None:
        check_directory(out)
    report = work(model, data, columns=columns, tokenizer=tokenizer, options=options)
    if out is not None:
        report.write(out)
    return report
