"""Tables of sentences whose words have tags: CoNLL columns, or lists of tokens and of tags."""

from collections.abc import Sequence
from itertools import chain

from datasets import ClassLabel, Dataset

from attar.data.columns import Columns, choose, reject_rows
from attar.data.tasks import Task, names
from attar.data.token_classification import Tagging
from attar.errors import DataError

ROLES = ("tokens", "tags")


def recognises(table: Dataset, columns: Columns | None, task: Task | None) -> bool:
    """Whether a table is one of tagged sentences."""
    if task is not None:
        return isinstance(task, Tagging)
    return bool(set(ROLES) & {*(columns or {}), *table.column_names}) or _numbered(table)


def read(
    table: Dataset,
    name: str,
    *,
    columns: Columns | None = None,
    task: Task | None = None,
    require: bool = False,
    labels: bool = True,
) -> tuple[Dataset, Tagging | None]:
    """Sentences of tokens, with their tags as numbers where there are any.

    Args:
        table: columns `tokens` and `tags`, lists of strings (or class numbers) in each row; or the numbered columns of
            a CoNLL file, of which the first has the tokens and the last the tags where `columns` does not say
            otherwise; or `text`, whose words are those between spaces.
        name: of the table, for errors.
        columns, require, labels: see `read_table`.
        task: whose tags they must be; found from the tags where None.

    Raises:
        DataError: a sentence without tokens, or with more or fewer tags than tokens; a tag that the task does not know;
            the same tag everywhere.
    """
    if _numbered(table):
        numbers = {"tokens": "1"} | ({"tags": table.column_names[-1]} if len(table.column_names) > 1 else {})
        columns = numbers | dict(columns or {})
    elif "tokens" not in table.column_names and "text" in table.column_names and not columns:
        table = table.select_columns(["text"])
        table = table.map(lambda row: {"tokens": row["text"].split()}, remove_columns=["text"])
    table = choose(table, columns, ROLES, ROLES if require else ROLES[:1])
    tokens = [[] if row is None else [str(token) for token in row] for row in table["tokens"]]
    reject_rows(
        [i for i, row in enumerate(tokens) if not any(map(str.strip, row))], len(tokens), name, "tokens"
    )
    found = Dataset.from_dict({"tokens": tokens})
    if "tags" not in table.column_names or not labels:
        return found, task if isinstance(task, Tagging) else None
    tags = _named(table)
    _check_sizes(tokens, tags, name)
    if task is None:
        task = Tagging("tags", _tag_names(table, tags))
    assert isinstance(task, Tagging)
    numbers_of = _encode(tags, task, name)
    if require:
        _reject_one_tag(task, numbers_of, name)
    return found.add_column("tags", numbers_of), task


def _numbered(table: Dataset) -> bool:
    """Whether the columns are those of `conll.read`."""
    return table.column_names[:1] == ["1"] and hasattr(table.features["1"], "feature")


def _named(table: Dataset) -> list[list[str]]:
    feature = getattr(table.features["tags"], "feature", None)
    rows = [[] if row is None else list(row) for row in table["tags"]]
    if isinstance(feature, ClassLabel):
        return [[feature.int2str(tag) for tag in row] for row in rows]
    return [[str(tag) for tag in row] for row in rows]


def _tag_names(table: Dataset, tags: Sequence[Sequence[str]]) -> tuple[str, ...]:
    feature = getattr(table.features["tags"], "feature", None)
    return tuple(feature.names) if isinstance(feature, ClassLabel) else names(list(chain(*tags)))


def _check_sizes(tokens: Sequence[Sequence[str]], tags: Sequence[Sequence[str]], name: str) -> None:
    for row, (ours, theirs) in enumerate(zip(tokens, tags, strict=True), start=1):
        if len(ours) != len(theirs):
            raise DataError(
                expected=f"a tag for each token in every row of {name}",
                found=f"{len(ours)} tokens and {len(theirs)} tags in row {row}",
                fix="mend that row",
            )
        if "" in theirs:
            raise DataError(
                expected=f"a tag for each token in every row of {name}",
                found=f"an empty one in row {row}",
                fix="mend that row",
            )


def _encode(tags: Sequence[Sequence[str]], task: Tagging, name: str) -> list[list[int]]:
    ids = {label: i for i, label in enumerate(task.labels)}
    # A model that names its tags is often trained from a table that numbers them.
    numbered = not any(label.isdigit() for label in ids)
    for row, sentence in enumerate(tags, start=1):
        for place, tag in enumerate(sentence, start=1):
            if tag not in ids and not (numbered and tag.isdigit() and int(tag) < len(ids)):
                raise DataError(
                    expected=f"one of the model's tags: {', '.join(task.labels[:20])}",
                    found=f"{tag!r} at token {place} of sentence {row} of {name}",
                    fix="rename it, name another column (columns={'tags': …}), or fine-tune a model that knows it",
                )
    return [[ids[tag] if tag in ids else int(tag) for tag in sentence] for sentence in tags]


def _reject_one_tag(task: Tagging, tags: Sequence[Sequence[int]], name: str) -> None:
    if len(seen := set(chain(*tags))) < 2:
        raise DataError(
            expected="at least two tags",
            found=f"only {task.labels[seen.pop()]!r} in all {len(tags)} sentences of {name}",
            fix="check the column of the tags",
        )
