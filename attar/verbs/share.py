"""`attar.share`: an encoder whose layers are stored once and run several times, as ALBERT."""

from typing import TYPE_CHECKING, Literal

from attar.options.base import Count, ModelSource, OutputPath, Overwrite, Seed, TextSource, Tokenizer
from attar.options.registry import verb
from attar.options.signature import options_of

if TYPE_CHECKING:
    from attar.report.report import Report


@verb(stage=True)
def share(
    model: ModelSource,
    *,
    out: OutputPath,
    how: Literal["all", "groups", "cycles"] = "all",
    groups: Count | None = None,
    embedding: Count | None = None,
    start: Literal["last", "mean"] = "last",
    texts: TextSource | None = None,
    tokenizer: Tokenizer = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> "Report":
    """Share the layers of an encoder, and factorise its embedding, into the stock ALBERT class (1909.11942, 3.1).

    Parameters fall; operations do not, since as many layers run as before. Where every layer keeps its own weights
    and the embedding its size, the model is the same; else its outputs change, and distillation brings them back:
    `attar.distill(model, student=out, …)`.

    Args:
        model: BERT, RoBERTa and their kin, ELECTRA, DistilBERT: a directory, a hub name, or a model.
        out: Directory to write; it appears whole or not at all.
        how: One layer in place of all, a layer for each of several groups of neighbours, or cycles of layers in turn.
        groups: Layers left, for groups and cycles.
        embedding: Size of a factorised embedding, under the hidden size; needs texts.
        start: A shared layer starts as the last of its layers, or as their mean.
        texts: Plain text, one text a line, of the kind that the model reads; the first few thousand are used.
        tokenizer: Of a model that is given as an object.
        seed: Seed of every random choice.
        overwrite: Replace what attar wrote there before.

    Returns:
        A report of parameters and operations, before and after.

    Raises:
        ModelError: a model that computes what ALBERT does not, or sizes that do not fit.
        DataError, OutputError: see the functions that this one calls.

    Examples:
        attar share teacher --how groups --groups 3 --out shared
    """
    from attar.sharing.run import share as work

    options = options_of(share, locals())
    return work(model, out=out, texts=texts, tokenizer=tokenizer, options=options, overwrite=overwrite)
