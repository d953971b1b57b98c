"""Tables of texts, read and checked: what is wrong with a file is said before anything is learned from it."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pyarrow
from datasets import ClassLabel, Dataset, IterableDataset, load_dataset
from datasets.exceptions import DatasetGenerationError

from attar.errors import DataError
from attar.model.tasks import Task, names

Columns = Mapping[str, str]
TABLE_COLUMNS = ("text", "text_pair", "label")
LABEL_SEPARATOR = "|"


def read_table(
    source: str | Path | Dataset | Sequence[Mapping[str, Any]],
    *,
    columns: Columns | None = None,
    task: Task | None = None,
    require_label: bool = False,
    labels: bool = True,
    encoding: str = "utf-8-sig",
) -> tuple[Dataset, Task | None]:
    """Read a table of texts, and of labels where there are any.

    Args:
        source: a .csv, .tsv, .jsonl, .parquet or .txt file (one text a line), a `Dataset`, or a list of rows.
        columns: which column holds `text`, `text_pair` and `label`; their own names where None.
        task: the task whose label names the labels must be of; found from the labels where None: numbers with a
            fraction mean regression, labels joined by `|` mean multi-label.
        require_label: whether a table without labels is an error.
        labels: False leaves labels out, whatever they are: for texts whose labels nobody asks for.
        encoding: of a text file.

    Returns:
        A table with the columns `text`, `text_pair` where named, and `label` where present (class number, list of
        zeros and ones, or score), and the task, None where there are neither labels nor a task.

    Raises:
        DataError: the file is missing, empty or in another encoding; a named column is not there; a text is empty;
            a label is unknown to the task; all rows have the same class.
    """
    table = _open(source, encoding)
    table = _rename(table, columns, require_label)
    if len(table) == 0:
        raise DataError(expected="at least one row", found=f"none in {_name(source)}", fix="check the file")
    _reject_empty(table, _name(source))
    if "label" not in table.column_names:
        return table, task
    if not labels:
        return table.remove_columns("label"), task
    feature = table.features["label"]
    values = table["label"][:]
    if isinstance(feature, ClassLabel):
        # -1 is how datasets write "no label".
        values = [None if value is None or value < 0 else feature.int2str(value) for value in values]
        task = task or Task("single_label", tuple(feature.names))
    missing = [i for i, value in enumerate(values) if value is None]
    if not missing and task is None:
        task = _infer(values)
    if task is None or task.kind != "multi_label":  # which may have rows of no label
        missing = [
            i
            for i, value in enumerate(values)
            if value is None or (isinstance(value, str) and not value.strip())
        ]
    _reject_rows(missing, len(values), _name(source), "label")
    assert task is not None
    encoded = _encode_labels(values, task, _name(source))
    return table.remove_columns("label").add_column("label", encoded), task


def read_texts(
    source: str | Path | Sequence[str | Path] | Dataset | IterableDataset, *, streaming: bool = False
) -> Dataset | IterableDataset:
    """Read plain text, one text a line, as a dataset with the one column `text`; empty lines are skipped.

    Args:
        source: a file, several files, a list of sentences, or a dataset that has a column `text`.
        streaming: read lines as they are needed, for text that does not fit in memory (files only).

    Raises:
        DataError: a file is missing, or there is no text.
    """
    if isinstance(source, IterableDataset):
        return source
    if isinstance(source, Dataset):
        return read_table(source)[0].select_columns(["text"])
    items = [source] if isinstance(source, str | Path) else list(source)
    files = [Path(item) for item in items if isinstance(item, Path) or is_file(item)]
    if not files and not isinstance(source, str | Path):
        return Dataset.from_dict({"text": [str(text) for text in items if str(text).strip()]})
    for item in items:
        if not is_file(item):
            raise DataError(expected=f"a text file at {item}", found="no such file", fix="check the path")
    paths = [str(path) for path in files]
    try:
        texts = load_dataset(
            "text", data_files=paths, split="train", streaming=streaming, encoding="utf-8-sig"
        )
        texts = texts.filter(_not_blank)
    except (DatasetGenerationError, UnicodeDecodeError) as error:
        raise _unreadable(", ".join(paths), error) from error
    if not streaming and len(texts) == 0:
        raise DataError(
            expected="at least one line of text", found=f"none in {', '.join(paths)}", fix="check the file"
        )
    return texts


def is_file(item: str | Path) -> bool:
    """Whether this names a file; a sentence may be too long for a name."""
    try:
        return Path(item).is_file()
    except (OSError, ValueError):
        return False


def _open(source: str | Path | Dataset | Sequence[Mapping[str, Any]], encoding: str) -> Dataset:
    if isinstance(source, Dataset):
        return source
    if not isinstance(source, str | Path):
        return Dataset.from_list([dict(row) for row in source])
    path = Path(source)
    if not path.is_file():
        raise DataError(expected=f"a table at {path}", found="no such file", fix="check the path")
    try:
        if path.suffix == ".txt":
            # Not splitlines: that also cuts at characters that stand inside a sentence, such as U+2028.
            lines = path.read_text(encoding=encoding).split("\n")
            return Dataset.from_dict({"text": [line for line in lines if line.strip()]})
        if path.suffix in {".csv", ".tsv"}:
            return _read_separated(path, encoding)
        if path.suffix in {".json", ".jsonl"}:
            return _read_json(path, encoding)
        if path.suffix == ".parquet":
            return Dataset.from_parquet(str(path), keep_in_memory=True)
    except UnicodeDecodeError as error:
        raise _undecodable(str(path), error) from error
    except (csv.Error, DatasetGenerationError, pyarrow.ArrowInvalid, ValueError) as error:
        raise _unreadable(str(path), error) from error
    raise DataError(
        expected="a .csv, .tsv, .jsonl, .parquet or .txt file",
        found=path.name,
        fix="convert it to one of them",
    )


def _read_json(path: Path, encoding: str) -> Dataset:
    """Rows as objects, one a line or in one list."""
    text = path.read_text(encoding=encoding)
    if text.lstrip().startswith("["):
        rows = json.loads(text)
    else:
        rows = []
        for number, line in enumerate(text.split("\n"), start=1):
            try:
                rows += [json.loads(line)] if line.strip() else []
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number}: {error.msg}") from error
    if not rows:
        raise ValueError("nothing in it")
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("rows that are no objects {...}")
    names = dict.fromkeys(name for row in rows for name in row)
    return Dataset.from_dict({name: [row.get(name) for row in rows] for name in names})


def _undecodable(path: str, error: UnicodeDecodeError) -> DataError:
    byte = f"byte 0x{error.object[error.start]:02x} at offset {error.start}"
    return DataError(
        expected=f"{path} to be {error.encoding}",
        found=f"{byte}, which {error.encoding} has no letter for",
        fix='name its encoding (encoding="cp949", say) or convert it to UTF-8',
    )


def _unreadable(path: str, error: Exception) -> DataError:
    cause: BaseException = error
    while (
        isinstance(cause, DatasetGenerationError) and cause.__cause__ is not None
    ):  # which says only that there is one
        cause = cause.__cause__
    if isinstance(cause, UnicodeDecodeError):
        return _undecodable(path, cause)
    return DataError(
        expected=f"{path} to be a {Path(path).suffix or 'text'} file",
        found=f"{type(cause).__name__}: {(str(cause) or 'nothing in it').splitlines()[0][:200]}",
        fix="mend the file or write it again",
    )


def _read_separated(path: Path, encoding: str) -> Dataset:
    with path.open(encoding=encoding, newline="") as file:
        # A tab-separated file has no quoting by custom (GLUE, NSMC): a lone " there is a letter of the text.
        tsv = path.suffix == ".tsv"
        reader = csv.reader(
            file, delimiter="\t" if tsv else ",", quoting=csv.QUOTE_NONE if tsv else csv.QUOTE_MINIMAL
        )
        header = next(reader, None)
        if not header:
            raise DataError(expected=f"a header line in {path}", found="an empty file", fix="check the file")
        if len(set(header)) < len(header):
            twice = next(name for name in header if header.count(name) > 1)
            raise DataError(
                expected=f"columns of different names in {path}", found=f"{twice!r} twice", fix="rename one"
            )
        columns: list[list[str]] = [[] for _ in header]
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise DataError(
                    expected=f"{len(header)} fields ({', '.join(header)}) in every row of {path}",
                    found=f"{len(row)} in line {reader.line_num}",
                    fix="quote fields that hold the separator, or mend that line",
                )
            for column, value in zip(columns, row, strict=True):
                column.append(value)
    return Dataset.from_dict(dict(zip(header, columns, strict=True)))


def _rename(table: Dataset, columns: Columns | None, require_label: bool) -> Dataset:
    wanted = dict(columns or {})
    if unknown := set(wanted) - set(TABLE_COLUMNS):
        raise DataError(
            expected=f"columns to name only {', '.join(TABLE_COLUMNS)}",
            found=", ".join(sorted(unknown)),
            fix="rename the key",
        )
    chosen = {}
    for role in TABLE_COLUMNS:
        name = wanted.get(role, role)
        needed = role in wanted or role == "text" or (role == "label" and require_label)
        if name in table.column_names:
            chosen[role] = name
        elif needed:
            close = get_close_matches(name, table.column_names, n=1)
            nearest = close[0] if close else table.column_names[0] if table.column_names else "?"
            raise DataError(
                expected=f"a column {name!r} for the {role}",
                found=f"the columns {', '.join(table.column_names)}",
                fix=f"name it: columns={{'{role}': '{nearest}'}} (command line: --columns {role}={nearest})",
            )
    return table.select_columns(list(chosen.values())).rename_columns(
        {name: role for role, name in chosen.items()}
    )


def _reject_empty(table: Dataset, name: str) -> None:
    for column in ("text", "text_pair"):
        if column not in table.column_names:
            continue
        bad = [i for i, text in enumerate(table[column]) if not isinstance(text, str) or not text.strip()]
        _reject_rows(bad, len(table), name, column)


def _reject_rows(bad: Sequence[int], rows: int, name: str, column: str) -> None:
    if bad:
        shown = ", ".join(str(i + 1) for i in bad[:5]) + ("…" if len(bad) > 5 else "")
        raise DataError(
            expected=f"a {column} in every row of {name}",
            found=f"{len(bad)} of {rows} rows with an empty {column} (rows {shown})",
            fix="fill or drop those rows",
        )


def _infer(values: Sequence[Any]) -> Task:
    if any(isinstance(value, list | tuple) for value in values):
        return Task("multi_label", names([name for value in values for name in value]))
    if any(isinstance(value, str) and LABEL_SEPARATOR in value for value in values):
        return Task(
            "multi_label",
            names([name for value in values for name in str(value).split(LABEL_SEPARATOR) if name]),
        )
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        return Task("single_label", names(values))
    written_as_fraction = any(isinstance(v, float) or (isinstance(v, str) and "." in v) for v in values)
    if written_as_fraction and any(not number.is_integer() for number in numbers):
        return Task("regression", ("score",))
    return Task("single_label", names([int(number) for number in numbers]))


def _encode_labels(values: Sequence[Any], task: Task, name: str) -> list[Any]:
    if task.kind == "regression":
        return [_number(value, row, name) for row, value in enumerate(values)]
    ids = {label: i for i, label in enumerate(task.labels)}
    if task.kind == "multi_label":
        rows = []
        for row, value in enumerate(values):
            present = (
                value
                if isinstance(value, list | tuple)
                else [v for v in str(value).split(LABEL_SEPARATOR) if v]
            )
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


def _name(source: object) -> str:
    return str(source) if isinstance(source, str | Path) else "the table"
