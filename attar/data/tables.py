"""Tables of texts, read and checked: what is wrong with a file is said before anything is learned from it."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from datasets import ClassLabel, Dataset, IterableDataset, load_dataset
from datasets.exceptions import DatasetGenerationError

from attar.data import question_tables, tagging_tables
from attar.data.columns import Columns, choose, name_of, reject_rows
from attar.data.files import TABLES, open_table, unreadable
from attar.data.folders import texts_in
from attar.data.tasks import KINDS, Task, names
from attar.errors import DataError

SampleBy = Literal["line", "paragraph", "document"]
TABLE_COLUMNS = ("text", "text_pair", "label")
LABEL_SEPARATOR = "|"
# Rows that are held out at most: they tell a share of 95% to within 1.4 points, and more teach more.
HELD = 1000


def read_table(
    source: str | Path | Dataset | Sequence[Mapping[str, Any]],
    *,
    columns: Columns | None = None,
    task: Task | None = None,
    problem_type: str | None = None,
    require_label: bool = False,
    labels: bool = True,
    encoding: str = "utf-8-sig",
) -> tuple[Dataset, Task | None]:
    """Read a table of texts, of tagged sentences or of questions, and of labels where there are any.

    Sentences of tokens (`tagging_tables.read`) and questions with contexts (`question_tables.read`) are known by the
    task, by what `columns` names, by their columns (`tokens`; `question` and `context`), and files by their form
    (CoNLL columns; SQuAD's JSON).

    Args:
        source: a .csv, .tsv, .json, .jsonl, .parquet, .txt (one text a line) or .conll file, a `Dataset`, or a list
            of rows.
        columns: which column holds `text`, `text_pair` and `label`; their own names where None.
        task: the task whose label names the labels must be of; found from the labels where None: numbers with a
            fraction mean regression, lists of labels or labels joined by `|` mean multi-label.
        problem_type: which of these three they are, as a Hugging Face config names it, where the labels leave it open.
        require_label: whether a table without labels is an error.
        labels: False leaves labels out, whatever they are: for texts whose labels nobody asks for.
        encoding: of a text file.

    Returns:
        A table with the columns `text`, `text_pair` where named, and `label` where present (class number, list of
        zeros and ones, or score), and the task, None where there are neither labels nor a task.

    Raises:
        DataError: the file is missing, empty or in another encoding; a named column is not there; a text is empty;
            a label is unknown to the task; all rows have the same class; labels that are not of the `problem_type`.
    """
    table = open_table(source, encoding)
    common: dict[str, Any] = {"columns": columns, "task": task, "require": require_label, "labels": labels}
    tagged = tagging_tables.recognises(table, columns, task)
    asks = not tagged and question_tables.recognises(table, columns, task)
    if problem_type is not None and (tagged or asks):
        raise DataError(
            expected=f"labels of whole texts, for problem_type {problem_type}",
            found=f"{'tagged words' if tagged else 'questions'} in {name_of(source)}",
            fix="leave problem_type out",
        )
    if tagged:
        return tagging_tables.read(table, name_of(source), **common)
    if asks:
        return question_tables.read(table, name_of(source), **common)
    needed = ("text", "label") if require_label else ("text",)
    table = choose(table, columns, TABLE_COLUMNS, needed)
    if len(table) == 0:
        raise DataError(expected="at least one row", found=f"none in {name_of(source)}", fix="check the file")
    _reject_empty(table, name_of(source))
    if "label" not in table.column_names:
        return table, task
    if not labels:
        return table.remove_columns("label"), task
    if task is not None and task.kind == "embedding" and "text_pair" not in table.column_names:
        return table.remove_columns("label"), task  # a label of one text says nothing of how like two are
    feature = table.features["label"]
    values = table["label"][:]
    if isinstance(feature, ClassLabel):
        # -1 is how datasets write "no label".
        values = [None if value is None or value < 0 else feature.int2str(value) for value in values]
        if problem_type != "regression":
            task = task or Task(KINDS.get(problem_type or "", "single_label"), tuple(feature.names))
    missing = [i for i, value in enumerate(values) if value is None]
    if not missing and task is None:
        task = _infer(values, problem_type, name_of(source))
    if task is None or task.kind != "multi_label":  # which may have rows of no label
        missing = [
            i
            for i, value in enumerate(values)
            if value is None or (isinstance(value, str) and not value.strip())
        ]
    reject_rows(missing, len(values), name_of(source), "label")
    assert task is not None
    encoded = _encode_labels(values, task, name_of(source))
    return table.remove_columns("label").add_column("label", encoded), task


def has_scores(source: Any, columns: Columns | None = None) -> bool:
    """Whether a table has labels that can be read as scores: numbers, which are no names of classes."""
    table = open_table(source, "utf-8-sig")
    label = (columns or {}).get("label", "label")
    if label not in table.column_names or isinstance(table.features[label], ClassLabel):
        return False
    try:
        read_table(table, columns=columns, problem_type="regression")
    except DataError:  # what else is wrong with the table is said where it is read to be learned from
        return False
    return True


def read_texts(
    source: str | Path | Sequence[str | Path] | Dataset | IterableDataset,
    *,
    streaming: bool = False,
    sample_by: SampleBy | None = None,
) -> Dataset | IterableDataset:
    """Read plain text, one text a line, as a dataset with the one column `text`; empty texts are skipped.

    Args:
        source: a file, several files, a folder (of .txt, .text, .md and .rst files, those of folders in it too), a
            list of sentences, or a dataset or a table's file that has a column `text`.
        streaming: read lines as they are needed, for text that does not fit in memory (files of plain text only).
        sample_by: what a text is in a file of plain text: a line, a paragraph (up to a blank line), or the whole file
            ("document"); a line where None, and a paragraph of a folder's files.

    Raises:
        DataError: a file is missing or binary, a folder without texts, a table without that column, or there is no
            text.
    """
    if isinstance(source, IterableDataset):
        return source
    if isinstance(source, Dataset):
        return read_table(source)[0].select_columns(["text"])
    if is_folder(source):
        source, sample_by = texts_in(Path(str(source))), sample_by or "paragraph"
    items = [source] if isinstance(source, str | Path) else list(source)
    files = [Path(item) for item in items if isinstance(item, Path) or is_file(item)]
    if not files and not isinstance(source, str | Path):
        return Dataset.from_dict({"text": [str(text) for text in items if str(text).strip()]})
    for item in items:
        if not is_file(item):
            raise DataError(
                expected=f"a text file or a folder at {item}", found="no such file", fix="check the path"
            )
    if any(path.suffix in TABLES for path in files):
        texts = Dataset.from_dict({"text": [text for path in files for text in _column(path)]})
        return texts.to_iterable_dataset() if streaming else texts
    paths = [str(path) for path in files]
    for path in paths:
        _reject_binary(Path(path))
    try:
        texts = load_dataset(
            "text",
            data_files=paths,
            split="train",
            streaming=streaming,
            encoding="utf-8-sig",
            sample_by=sample_by or "line",
        )
        texts = texts.filter(_not_blank)
    except (DatasetGenerationError, UnicodeDecodeError, OSError) as error:
        raise unreadable(", ".join(paths), error) from error
    if not streaming and len(texts) == 0:
        raise DataError(
            expected="at least one line of text", found=f"none in {', '.join(paths)}", fix="check the file"
        )
    return texts


def _column(path: Path) -> list[str]:
    """The column `text` of a table's file; after the title in BEIR's layout (`_id`, `title`, `text`)."""
    if path.suffix not in TABLES:
        raise DataError(
            expected="files of plain text, or tables", found=f"both: {path} is no table", fix="give one kind"
        )
    table = open_table(path, "utf-8-sig")
    if "text" not in table.column_names:
        raise DataError(
            expected=f"a column 'text' in {path}, to read texts from",
            found=f"the columns {', '.join(table.column_names)}",
            fix="rename the column, or give the table as data=… (--data), where columns can be named",
        )
    texts = titled_texts(table) if "_id" in table.column_names else table["text"]
    found = [str(text) for text in texts if text is not None and str(text).strip()]
    if not found:
        raise DataError(expected="at least one text", found=f"none in {path}", fix="check the column 'text'")
    return found


def titled_texts(table: Dataset) -> list[str]:
    """(N,) texts as they are embedded for search: after the title, where there is one (BEIR's layout)."""
    titles = table["title"] if "title" in table.column_names else [""] * len(table)
    return [f"{title or ''} {text or ''}".strip() for title, text in zip(titles, table["text"], strict=True)]


def hold_out(table: Dataset, *, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Part a table in the rows to learn from and those to measure on: a tenth, at least 1 and at most `HELD`.

    Raises:
        DataError: fewer than two rows.
    """
    if len(table) < 2:
        raise DataError(
            expected="at least two texts, to hold one out",
            found=str(len(table)),
            fix="give more texts, or dev=…",
        )
    return part(table, min(HELD, max(1, len(table) // 10)), seed=seed)


def part(table: Dataset, size: int, *, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Part a table in the rows to learn from and `size` rows to measure on, drawn at random.

    Passages of queries (pairs with half as many first texts as rows, or fewer) are parted by queries, about `size`
    rows: none is then in both parts, and those that are held out can be ranked.
    """
    texts = table["text"][:] if "text_pair" in table.column_names else []
    if 1 < (distinct := len(set(texts))) <= len(texts) // 2:
        from sklearn.model_selection import GroupShuffleSplit

        queries = GroupShuffleSplit(1, test_size=max(1, distinct * size // len(table)), random_state=seed)
        (rows,) = queries.split(texts, groups=texts)
        return table.select(rows[0]), table.select(rows[1])
    parts = table.train_test_split(test_size=size, seed=seed)
    return parts["train"], parts["test"]


def _reject_binary(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(2**16)
    if b"\0" in head:  # which no text has, UTF-16 aside
        raise DataError(
            expected=f"text in UTF-8 in {path}",
            found=f"a zero byte at offset {head.index(0)}: a binary file, or UTF-16",
            fix="name a text file, or convert it: iconv -f utf-16 -t utf-8",
        )


def is_file(item: str | Path) -> bool:
    """Whether this names a file; a sentence may be too long for a name."""
    try:
        return Path(item).is_file()
    except (OSError, ValueError):
        return False


def is_folder(source: Any) -> bool:
    """Whether this names a folder."""
    try:
        return isinstance(source, str | Path) and Path(source).is_dir()
    except (OSError, ValueError):
        return False


def _reject_empty(table: Dataset, name: str) -> None:
    for column in ("text", "text_pair"):
        if column not in table.column_names:
            continue
        bad = [i for i, text in enumerate(table[column]) if not isinstance(text, str) or not text.strip()]
        reject_rows(bad, len(table), name, column)


def _infer(values: Sequence[Any], problem_type: str | None, name: str) -> Task:
    """What labels ask for: what `problem_type` says, else what their form shows."""
    kind = KINDS.get(problem_type or "")
    listed = next((row for row, value in enumerate(values) if isinstance(value, list | tuple)), None)
    joined = any(isinstance(value, str) and LABEL_SEPARATOR in value for value in values)
    if kind == "multi_label" or (kind is None and (listed is not None or joined)):
        return Task("multi_label", _several(values, name))
    if listed is not None:
        raise DataError(
            expected=f"one label a row, for problem_type {problem_type}",
            found=f"a list in row {listed + 1} of {name}",
            fix="leave problem_type out, or name another label column",
        )
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        numbers = []
    written_as_fraction = any(isinstance(v, float) or (isinstance(v, str) and "." in v) for v in values)
    fractions = written_as_fraction and any(not number.is_integer() for number in numbers)
    if kind == "regression" or (kind is None and fractions):
        return Task("regression", ("score",))
    return Task("single_label", names([int(n) for n in numbers] if numbers and not fractions else values))


def _several(values: Sequence[Any], name: str) -> tuple[str, ...]:
    """The names of labels of which a row may have any number; of rows of zeros and ones the columns' numbers."""
    rows = [_present(value) for value in values]
    sizes, entries = {len(row) for row in rows}, {label for row in rows for label in row}
    if not entries:
        raise DataError(
            expected=f"a label in some row of {name}", found="none", fix="name the column that has them"
        )
    if len(sizes) == 1 and all(isinstance(label, float) and label in (0.0, 1.0) for label in entries):
        return tuple(map(str, range(sizes.pop())))
    return names([*entries])


def _present(value: Any) -> Sequence[Any]:
    """The labels of a row of a multi-label table: a list, or text in which `|` is between them."""
    if isinstance(value, list | tuple):
        return value
    text = value if isinstance(value, str) else _whole(value)
    return [label for label in text.split(LABEL_SEPARATOR) if label]


def _encode_labels(values: Sequence[Any], task: Task, name: str) -> list[Any]:
    if task.kind in ("regression", "embedding"):
        return [_number(value, row, name) for row, value in enumerate(values)]
    ids = {label: i for i, label in enumerate(task.labels)}
    if task.kind == "multi_label":
        rows = []
        for row, value in enumerate(values):
            present = _present(value)
            if len(present) == len(ids) and all(isinstance(v, float) for v in present):
                rows.append([float(v) for v in present])
                continue
            chosen = {_class(v, ids, row, name) for v in present}
            rows.append([float(i in chosen) for i in range(len(ids))])
        return rows
    encoded = [_class(value, ids, row, name) for row, value in enumerate(values)]
    if len(set(encoded)) == 1 and len(encoded) > 1:
        raise DataError(
            expected="at least two classes",
            found=f"only {task.labels[encoded[0]]!r} in all {len(encoded)} rows of {name}",
            fix="check the label column, or shuffle before you split",
        )
    return encoded


def _class(value: Any, ids: Mapping[str, int], row: int, name: str) -> int:
    key = _whole(value)
    if str(value) in ids or key in ids:
        return ids.get(str(value), ids.get(key, -1))
    # A model that names its classes is often trained from a table that numbers them.
    if key.isdigit() and int(key) < len(ids) and not any(label.isdigit() for label in ids):
        return int(key)
    raise DataError(
        expected=f"one of the model's labels: {', '.join(list(ids)[:20])}",
        found=f"{value!r} in row {row + 1} of {name}",
        fix="rename that label, or fine-tune a model that knows it",
    )


def _whole(value: Any) -> str:
    """A label as text, whole numbers without a fraction: a column of 1, 1.0, "1.0" or true names one class."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    return str(int(number)) if number.is_integer() else str(value)


def _number(value: Any, row: int, name: str) -> float:
    try:
        number = float(value)
        if not math.isfinite(number):
            raise ValueError
        return number
    except (TypeError, ValueError):
        raise DataError(
            expected="a number as label, since the model predicts a score",
            found=f"{value!r} in row {row + 1} of {name}",
            fix="mend that row, or name another label column",
        ) from None


def _not_blank(row: dict[str, Any]) -> bool:
    return bool(row["text"].strip())
