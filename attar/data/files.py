"""Files of tables, opened: what a file is that cannot be read is said before anything is learned from it."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
from datasets import Dataset, config
from datasets.exceptions import DatasetGenerationError

from attar.data import conll, squad
from attar.errors import AttarError, DataError, OutputError
from attar.storage.faults import is_write_error, write_error
from attar.storage.writing import new_file

# Tables, in which texts are a column.
TABLES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
WRITERS = {".csv": "to_csv", ".jsonl": "to_json", ".parquet": "to_parquet"}


def open_table(source: str | Path | Dataset | Sequence[Mapping[str, Any]], encoding: str) -> Dataset:
    """The rows of a file as they stand in it, or of a list.

    Raises:
        DataError: the file is missing, empty, damaged, of another encoding, or of a form that is not known.
    """
    if isinstance(source, Dataset):
        return source
    if not isinstance(source, str | Path):
        return Dataset.from_list([{"text": row} if isinstance(row, str) else dict(row) for row in source])
    path = Path(source)
    if not path.is_file():
        there, advice = path.is_dir(), "check the path"
        if there:
            advice = "name a file in it; a collection in BEIR's layout is for evaluate, compare, mine and dimensions"
        found = "a directory" if there else "no such file"
        raise DataError(expected=f"a table at {path}", found=found, fix=advice)
    reader = _READERS.get(path.suffix)
    if reader is None:
        raise DataError(
            expected="a .csv, .tsv, .json, .jsonl, .parquet, .txt or .conll file",
            found=path.name,
            fix="convert it to one of them",
        )
    try:
        return reader(path, encoding)
    except UnicodeDecodeError as error:
        raise undecodable(str(path), error) from error
    except (csv.Error, DatasetGenerationError, pyarrow.ArrowInvalid, ValueError) as error:
        raise unreadable(str(path), error) from error


def check_table(out: str | Path) -> None:
    """Raise where no table can be written at `out`: before the work, not after it.

    Raises:
        DataError: its name does not say how: .csv, .jsonl or .parquet.
        OutputError: it is there already.
    """
    out = Path(out)
    if out.suffix not in WRITERS:
        raise DataError(expected="a .csv, .jsonl or .parquet file to write", found=out.name, fix="name one")
    if out.exists():
        raise OutputError(expected=f"{out} to be new", found="a file", fix="name another file or remove it")


def write_table(table: Dataset, out: str | Path) -> None:
    """Write a table whole or not at all, as its name says; see `check_table`."""
    out = Path(out)
    with new_file(out) as part:
        getattr(table, WRITERS[out.suffix])(str(part))


def _read_lines(path: Path, encoding: str) -> Dataset:
    """Texts, one a line, or tagged tokens where that is what they look like."""
    # Not splitlines: that also cuts at characters that stand inside a sentence, such as U+2028.
    lines = path.read_text(encoding=encoding).split("\n")
    if path.suffix in conll.SUFFIXES or conll.tagged(lines):
        return conll.read(lines, str(path))
    return Dataset.from_dict({"text": [line for line in lines if line.strip()]})


def _read_parquet(path: Path, _: str) -> Dataset:
    return Dataset.from_parquet(str(path), keep_in_memory=True)


def _read_json(path: Path, encoding: str) -> Dataset:
    """Rows as objects, one a line or in one list, or SQuAD's questions."""
    text = path.read_text(encoding=encoding)
    if squad.written(text):
        return squad.read(json.loads(text), str(path))
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


def undecodable(path: str, error: UnicodeDecodeError) -> DataError:
    """The error of a text file that is of another encoding."""
    byte = f"byte 0x{error.object[error.start]:02x} at offset {error.start}"
    return DataError(
        expected=f"{path} to be {error.encoding}",
        found=f"{byte}, which {error.encoding} has no letter for",
        fix='name its encoding (encoding="cp949", say) or convert it to UTF-8',
    )


def unreadable(path: str, error: Exception) -> AttarError:
    """The error of a file that cannot be read, with the first cause of it."""
    cause: BaseException = error
    while (
        isinstance(cause, DatasetGenerationError) and cause.__cause__ is not None
    ):  # which says only that there is one
        cause = cause.__cause__
    if isinstance(cause, UnicodeDecodeError):
        return undecodable(path, cause)
    if is_write_error(cause):  # datasets keeps a copy of what it reads
        return write_error(Path(config.HF_DATASETS_CACHE), cause)
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


_READERS: dict[str, Callable[[Path, str], Dataset]] = {
    ".csv": _read_separated,
    ".tsv": _read_separated,
    ".json": _read_json,
    ".jsonl": _read_json,
    ".parquet": _read_parquet,
    ".txt": _read_lines,
    **dict.fromkeys(conll.SUFFIXES, _read_lines),
}
