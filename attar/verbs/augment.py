"""`attar.augment`: copies of texts with words replaced."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from attar.options.base import (
    RUNNING,
    ColumnNames,
    Count,
    Flag,
    Input,
    ModelSource,
    Options,
    OutputPath,
    Seed,
    TableSource,
    Tokenizer,
)
from attar.options.registry import verb
from attar.options.signature import options_model, options_of

if TYPE_CHECKING:
    from datasets import Dataset

WORDS = Flag(panel="Words")


@verb()
def augment(
    table: TableSource,
    candidates: Annotated[Any, Input()] = None,
    *,
    out: OutputPath | None = None,
    model: ModelSource | None = None,
    columns: ColumnNames = None,
    tokenizer: Tokenizer = None,
    copies: Annotated[Count, Flag("--copies", "Data")] = 20,
    probability: Annotated[float, Field(gt=0, le=1), WORDS] = 0.4,
    k: Annotated[Count, WORDS] = 15,
    source: Annotated[str, WORDS] = "embeddings",
    vectors: Annotated[str, WORDS] = "embeddings",
    masks: Annotated[Literal["one", "several", "none"], WORDS] = "one",
    seed: Annotated[Seed, Input()] = 0,
    batch_size: Annotated[Count, Input(), RUNNING] = 128,
) -> "Dataset":
    """Add to each text copies with words replaced (TinyBERT, 1909.10351, Algorithm 1).

    In each copy every word is replaced with the given probability by one of its candidates; a word without candidates
    stays. A copy equal to its original or to another copy of it is dropped.

    Args:
        table: Table or text file.
        candidates: Where replacements come from, as an object; from `source` where None.
        out: File to write: .csv, .jsonl or .parquet.
        model: Model whose embeddings or vocabulary give the words.
        columns: Which column is what: text=sentence (also label, text_pair).
        tokenizer: Of a model that is given as an object.
        copies: Augmented copies of each text (N_a).
        probability: Probability that a word is replaced (p_t).
        k: Candidates for each word (K).
        source: Candidates from the model's embeddings, a file of GloVe or word2vec vectors, a masked language model, or
            any words of the vocabulary, whatever they mean (vocabulary): for distillation without labels.
        vectors: With a masked language model, words of several pieces come from embeddings or a file of vectors.
        masks: Words that the masked language model sees masked at a time: one (the paper's), several, or none.
        seed: Seed of every random choice.
        batch_size: Texts whose words are looked up together.

    Returns:
        The rows of the table, then their copies in order, with a column `source`: the number of the row that a copy is
        of, -1 for the rows themselves.

    Raises:
        DataError: the table cannot be read, a text that is missing, or `out` ends otherwise.
        OutputError: `out` is there already.

    Examples:
        attar augment train.csv --model teacher --copies 8 --out more.csv
    """
    from attar.augmentation.files import augment as work

    options = options_of(augment, locals())
    return work(table, candidates, out, model, columns, tokenizer, options, seed=seed, batch_size=batch_size)


if TYPE_CHECKING:
    Augment = Options
else:
    Augment = options_model(augment)
    Augment.__name__ = "Augment"
