"""Tables of texts: read, checked, tokenized, and dealt out in batches that do not depend on the number of processes."""

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch
from datasets import ClassLabel, Dataset, IterableDataset, load_dataset
from datasets.exceptions import DatasetGenerationError
from torch import Tensor

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
    encoding: str = "utf-8-sig",
) -> tuple[Dataset, Task | None]:
    """Read a table of texts, and of labels where there are any.

    Args:
        source: a .csv, .tsv, .jsonl, .parquet or .txt file (one text a line), a `Dataset`, or a list of rows.
        columns: which column holds `text`, `text_pair` and `label`; their own names where None.
        task: the task whose label names the labels must be of; found from the labels where None: numbers with a
            fraction mean regression, labels joined by `|` mean multi-label.
        require_label: whether a table without labels is an error.
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
        missing = [i for i, value in enumerate(values) if value is None or (isinstance(value, str) and not value.strip())]
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
    files = [Path(item) for item in items if isinstance(item, Path) or _is_file(item)]
    if not files and not isinstance(source, str | Path):
        return Dataset.from_dict({"text": [str(text) for text in items if str(text).strip()]})
    for item in items:
        if not _is_file(item):
            raise DataError(expected=f"a text file at {item}", found="no such file", fix="check the path")
    paths = [str(path) for path in files]
    try:
        texts = load_dataset("text", data_files=paths, split="train", streaming=streaming, encoding="utf-8-sig")
        texts = texts.filter(_not_blank)
    except (DatasetGenerationError, UnicodeDecodeError) as error:
        raise _unreadable(", ".join(paths), error) from error
    if not streaming and len(texts) == 0:
        raise DataError(expected="at least one line of text", found=f"none in {', '.join(paths)}", fix="check the file")
    return texts


def _is_file(item: str | Path) -> bool:
    try:
        return Path(item).is_file()
    except (OSError, ValueError):  # a sentence, too long for a name
        return False


def encode(table: Dataset, tokenizer: Any, *, max_length: int = 128) -> Dataset:
    """Tokenize `text` (and `text_pair`) to at most `max_length` tokens, special tokens included.

    Returns:
        The columns the tokenizer gives (`input_ids`, and `token_type_ids` where the family has them), `length` in
        tokens and, where the table has labels, `labels`. No padding: batches pad to their own longest row.
    """

    def tokens(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        texts = [rows["text"]] + ([rows["text_pair"]] if "text_pair" in rows else [])
        found = dict(tokenizer(*texts, truncation=True, max_length=max_length, return_attention_mask=False))
        found["length"] = [len(ids) for ids in found["input_ids"]]
        if "label" in rows:
            found["labels"] = rows["label"]
        return found

    return table.map(tokens, batched=True, remove_columns=table.column_names, load_from_cache_file=False)


@dataclass(frozen=True)
class Counts:
    """What a sum over a batch is divided by to give a mean, the same for every split of one optimizer step.

    The numbers are those of the whole step (all accumulated micro-batches of all processes) divided by the number of
    processes, since data-parallel training averages gradients over processes.
    """

    examples: float
    tokens: float
    pairs: float  # sum of squared lengths: entries of the attention matrices

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.examples + other.examples, self.tokens + other.tokens, self.pairs + other.pairs)

    def __truediv__(self, by: float) -> "Counts":
        return Counts(self.examples / by, self.tokens / by, self.pairs / by)

    @classmethod
    def of(cls, lengths: Sequence[int] | np.ndarray) -> "Counts":
        """Of rows of these lengths in tokens."""
        sizes = np.asarray(lengths, dtype=np.float64)
        return cls(float(len(sizes)), float(sizes.sum()), float((sizes**2).sum()))


NOTHING = Counts(float("inf"), float("inf"), float("inf"))


@dataclass(frozen=True)
class Batch:
    """One micro-batch.

    Attributes:
        inputs: the model's keyword arguments, (B, T) each: `input_ids`, `attention_mask`, `token_type_ids`.
        labels: (B,) or (B, C), or None.
        index: (B,) row numbers in the encoded table.
        counts: the denominators of this batch's means; infinite where this process has no row in the batch and only
            keeps step with the others.
        whole: what `counts` would be for a process that has rows in it, to sum over the micro-batches of a step.
    """

    inputs: dict[str, Tensor]
    labels: Tensor | None
    index: Tensor
    counts: Counts
    whole: Counts | None = None

    @property
    def mask(self) -> Tensor:
        """(B, T), True at real tokens."""
        return self.inputs["attention_mask"].bool()

    def to(self, device: torch.device | str) -> "Batch":
        """The batch with its tensors on a device."""
        labels = None if self.labels is None else self.labels.to(device)
        return replace(self, inputs={k: v.to(device) for k, v in self.inputs.items()}, labels=labels)


class Batches:
    """Batches of an encoded table, in an order that a seed and an epoch number fix.

    Sentences of like length go together (`bucket`), so that little is computed on padding: rows are shuffled, cut
    into pools of `POOL` batches, sorted by length inside a pool, and the batches are shuffled again. The global batches
    are the same whatever the number of processes; of each, a process takes the rows whose number leaves its rank as
    remainder, so that a row is always the same process's and it alone needs the teacher's outputs for it.
    """

    POOL = 64

    def __init__(
        self,
        encoded: Dataset,
        tokenizer: Any,
        *,
        batch_size: int = 32,
        shuffle: bool = False,
        seed: int = 0,
        bucket: bool = True,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.batch_size, self.shuffle, self.seed, self.bucket = batch_size, shuffle, seed, bucket
        self.rank, self.world = rank, world
        self.lengths = np.asarray(encoded["length"][:], dtype=np.int64)
        self.labels = _label_tensor(encoded)
        self._starts = np.concatenate([[0], np.cumsum(self.lengths)])
        self._flat = {name: _flatten(encoded, name) for name in ("input_ids", "token_type_ids") if name in encoded.column_names}
        self._pad = {"input_ids": tokenizer.pad_token_id or 0, "token_type_ids": getattr(tokenizer, "pad_token_type_id", 0)}

    def __len__(self) -> int:
        return (len(self.lengths) + self.batch_size - 1) // self.batch_size

    @property
    def token_ids(self) -> np.ndarray:
        """The token numbers of all rows, one after the other, and that of padding."""
        return np.append(self._flat["input_ids"], self._pad["input_ids"])

    @property
    def content(self) -> tuple[np.ndarray, ...]:
        """The token numbers and labels of all rows: what data, tokenizer and maximal length amount to."""
        labels = () if self.labels is None else (self.labels.numpy(),)
        return (self.lengths, *self._flat.values(), *labels)

    def order(self, epoch: int) -> list[np.ndarray]:
        """Row numbers of each global batch of an epoch."""
        generator = np.random.default_rng((self.seed, epoch))
        rows = generator.permutation(len(self.lengths)) if self.shuffle else np.arange(len(self.lengths))
        size = self.batch_size
        if not self.bucket:
            return [rows[i : i + size] for i in range(0, len(rows), size)]
        pool = size * self.POOL if self.shuffle else len(rows)
        batches = []
        for i in range(0, len(rows), pool):
            part = rows[i : i + pool]
            part = part[np.argsort(self.lengths[part], kind="stable")]
            batches += [part[j : j + size] for j in range(0, len(part), size)]
        if self.shuffle:
            generator.shuffle(batches)  # in place
        return batches

    def epoch(self, number: int = 0, *, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from the `start`-th on (to resume)."""
        for rows in self.order(number)[start:]:
            counts = Counts.of(self.lengths[rows]) / self.world
            own = rows[rows % self.world == self.rank]
            if len(own):
                yield self.rows(own, counts)
            else:  # every process must take part in the step: a row of its own, divided by infinity, adds nothing
                yield replace(self.rows(np.array([self.rank]), NOTHING), whole=counts)

    def own(self) -> np.ndarray:
        """The rows of this process, short ones first: the order in which a teacher passes over them fastest."""
        rows = np.arange(self.rank, len(self.lengths), self.world)
        return rows[np.argsort(self.lengths[rows], kind="stable")]

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch(0)

    def rows(self, rows: np.ndarray, counts: Counts | None = None) -> Batch:
        """The batch of given row numbers, padded to its longest row."""
        sizes = self.lengths[rows]
        width = int(sizes.max(initial=1))
        mask = np.arange(width)[None, :] < sizes[:, None]
        take = (self._starts[rows][:, None] + np.arange(width)[None, :])[mask]
        inputs = {}
        for name, flat in self._flat.items():
            padded = np.full((len(rows), width), self._pad[name], dtype=np.int64)
            padded[mask] = flat[take]
            inputs[name] = torch.from_numpy(padded)
        inputs["attention_mask"] = torch.from_numpy(mask.astype(np.int64))
        index = torch.from_numpy(np.ascontiguousarray(rows))
        labels = None if self.labels is None else self.labels[index]
        return Batch(inputs, labels, index, counts or Counts.of(sizes))


class StreamBatches:
    """Batches of a stream of texts that is never held as a whole; an epoch is the next `steps` global batches.

    Texts are tokenized as they come, in pools of `POOL` batches that are shuffled, sorted by length and dealt out as
    `Batches` does; the stream begins anew when it ends. Every process reads the stream and keeps its share of each batch.
    """

    POOL = 64

    def __init__(
        self,
        texts: IterableDataset,
        tokenizer: Any,
        *,
        steps: int,
        batch_size: int = 32,
        max_length: int = 128,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.texts, self.tokenizer, self.steps = texts, tokenizer, steps
        self.batch_size, self.max_length, self.seed = batch_size, max_length, seed
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        return self.steps

    @property
    def content(self) -> tuple[Any, ...]:
        """What names the batches: how they are made, and the stream's first texts (all would have to be read)."""
        first = [row["text"] for row in self.texts.take(self.batch_size)]
        return (self.steps, self.batch_size, self.max_length, self.seed, self.tokenizer(first)["input_ids"])

    def epoch(self, number: int = 0, *, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from the `start`-th on; texts before it are read again and passed over."""
        first = number * self.steps
        pools = self._pools()
        for _ in range(first // self.POOL):
            next(pools)
        batches = (batch for pool in self._tokenized(pools, first // self.POOL) for batch in pool)
        yield from islice(batches, first % self.POOL + start, first % self.POOL + self.steps)

    def _pools(self) -> Iterator[list[str]]:
        size, pool = self.POOL * self.batch_size, []
        while True:
            row = None
            for row in self.texts:
                pool.append(row["text"])
                if len(pool) == size:
                    yield pool
                    pool = []
            if row is None:  # it would be read for ever
                raise DataError(expected="at least one line of text", found="an empty stream", fix="check the files")

    def _tokenized(self, pools: Iterator[list[str]], number: int) -> Iterator[Iterator[Batch]]:
        for index, pool in enumerate(pools, start=number):
            encoded = encode(Dataset.from_dict({"text": pool}), self.tokenizer, max_length=self.max_length)
            batches = Batches(
                encoded,
                self.tokenizer,
                batch_size=self.batch_size,
                shuffle=True,
                seed=self.seed,
                rank=self.rank,
                world=self.world,
            )
            yield batches.epoch(index)


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
        expected="a .csv, .tsv, .jsonl, .parquet or .txt file", found=path.name, fix="convert it to one of them"
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
    while isinstance(cause, DatasetGenerationError) and cause.__cause__ is not None:  # which says only that there is one
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
        reader = csv.reader(file, delimiter="\t" if tsv else ",", quoting=csv.QUOTE_NONE if tsv else csv.QUOTE_MINIMAL)
        header = next(reader, None)
        if not header:
            raise DataError(expected=f"a header line in {path}", found="an empty file", fix="check the file")
        if len(set(header)) < len(header):
            twice = next(name for name in header if header.count(name) > 1)
            raise DataError(expected=f"columns of different names in {path}", found=f"{twice!r} twice", fix="rename one")
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
            expected=f"columns to name only {', '.join(TABLE_COLUMNS)}", found=", ".join(sorted(unknown)), fix="rename the key"
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
    return table.select_columns(list(chosen.values())).rename_columns({name: role for role, name in chosen.items()})


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
        return Task("multi_label", names([name for value in values for name in str(value).split(LABEL_SEPARATOR) if name]))
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
            present = value if isinstance(value, list | tuple) else [v for v in str(value).split(LABEL_SEPARATOR) if v]
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


def _label_tensor(encoded: Dataset) -> Tensor | None:
    return torch.tensor(encoded["labels"][:]) if "labels" in encoded.column_names else None


def _flatten(encoded: Dataset, name: str) -> np.ndarray:
    column = encoded.with_format("arrow")[:].column(name).combine_chunks()
    return np.asarray(column.flatten().to_numpy(zero_copy_only=False), dtype=np.int32)


def _not_blank(row: dict[str, Any]) -> bool:
    return bool(row["text"].strip())


def _name(source: object) -> str:
    return str(source) if isinstance(source, str | Path) else "the table"
