"""What can be found wrong with the files of a recipe by looking at their first bytes."""

import csv
import io
import json
from collections.abc import Iterator, Set
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from attar.anatomy.families import FAMILIES
from attar.data.folders import texts_in
from attar.errors import DataError, ModelError, PlanError
from attar.model.remote_code import refused
from attar.recipes.schema import Columns

# What no plan is without.
PLAN = ("digest", "family", "sizes", "hidden", "vocab", "layers")
COLUMN_FILES = (".txt", ".conll", ".iob", ".iob2", ".bio", ".bioes")
TABLES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", *COLUMN_FILES)
# A header or first line is in here; no more is read.
HEAD_BYTES = 1 << 20


def check_model(name: str, config: dict[str, Any]) -> Iterator[ModelError]:
    """Report what is wrong with the model's directory, and put its config's keys into `config`."""
    directory = Path(name).expanduser()
    if directory.is_dir():
        yield from _check_weights(directory)
        file: Path | None = directory / "config.json"
    elif directory.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        found = "a file" if directory.exists() else "no such directory"
        yield ModelError(expected=f"a model directory at {name}", found=found, fix="check the path")
        return
    else:
        file = _cached_config(name)
    if file is None or not file.is_file():
        return
    try:
        config.update(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        yield ModelError(
            expected=f"JSON in {file}",
            found=f"damage: {error}",
            fix="copy the model again from where it came",
        )
        return
    family = str(config.get("model_type", "none")).removeprefix("slim-")
    config["model_type"] = family
    if family not in FAMILIES and "auto_map" in config:
        yield refused(name)
        config.clear()
    elif family not in FAMILIES:
        nearest = get_close_matches(family, FAMILIES, 1, 0.0)[0]
        yield ModelError(
            expected=f"a model of the families {', '.join(FAMILIES)}",
            found=f"{family} in {name} (nearest: {nearest})",
            fix='choose another model, or see "add a family" in CONTRIBUTING.md',
        )
        config.clear()


def _check_weights(directory: Path) -> Iterator[ModelError]:
    files = {file.name for file in directory.iterdir()}
    weights = [directory / name for name in sorted(files) if name.endswith((".safetensors", ".bin"))]
    lacking = "config.json" if "config.json" not in files else "" if weights else "model.safetensors"
    if lacking:
        yield ModelError(
            expected=f"{lacking} in {directory}",
            found=", ".join(sorted(files)[:8]) or "an empty directory",
            fix="name the directory that save_pretrained wrote",
        )
    for file in weights:
        size = file.stat().st_size
        wanted = _safetensors_size(file) if file.suffix == ".safetensors" else max(size, 1)
        if size != wanted:
            yield ModelError(
                expected=f"{wanted or 'at least 8'} bytes in {file}",
                found=f"{size}: the file is truncated",
                fix="copy the model again from where it came",
            )


def _safetensors_size(file: Path) -> int:
    """Bytes that the header of a safetensors file speaks of; 0 where the header itself is damaged."""
    with file.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if not 0 < length < file.stat().st_size:
            return 8 + length
        try:
            header = json.loads(handle.read(length))
        except ValueError:
            return 0
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return 8 + length + max(ends, default=0)


def _cached_config(name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def check_texts(texts: str | tuple[str, ...] | None) -> Iterator[DataError]:
    """Report which files of plain text are missing or empty, or that a folder has none."""
    for name in (texts,) if isinstance(texts, str) else texts or ():
        path = Path(name).expanduser()
        if path.is_dir() and name == texts:
            try:
                texts_in(path)
            except DataError as error:
                yield error
        elif not path.is_file():
            yield DataError(
                expected=f"a file of text at {name}",
                found="a folder in a list" if path.is_dir() else "no such file",
                fix="name one folder alone, or files" if path.is_dir() else "check the path",
            )
        elif path.stat().st_size == 0:
            yield DataError(
                expected=f"at least one line of text in {name}", found="an empty file", fix="check the file"
            )


def check_plan(name: str, config: dict[str, Any]) -> Iterator[PlanError]:
    """Report whether a plan's file is missing, is no plan, or is for a model of another family or other sizes."""
    path = Path(name).expanduser()
    if not path.is_file():
        yield PlanError(expected=f"a plan at {name}", found="no such file", fix="check the path")
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        yield PlanError(expected=f"JSON in {name}", found=str(error), fix="make the plan again (attar plan)")
        return
    lacking = [key for key in PLAN if not (isinstance(found, dict) and found.get(key))]
    if lacking:
        yield PlanError(
            expected=f"a plan in {name}",
            found=f"JSON without {', '.join(lacking)}",
            fix="name a file that attar plan wrote",
        )
        return
    family = config.get("model_type", found["family"])
    if family != found["family"]:
        yield PlanError(
            expected=f"a plan for a {family} model",
            found=f"one for {found['family']} in {name}",
            fix="make a plan for this model (attar plan)",
        )


def check_table(path: Path, columns: Columns, labelled: bool) -> Iterator[DataError]:
    """Report what is wrong with a table: missing, empty, in another encoding, or without a column it needs."""
    if not path.is_file():
        yield DataError(expected=f"a table at {path}", found="no such file", fix="check the path")
        return
    if path.suffix not in TABLES:
        yield DataError(
            expected=f"one of {', '.join(TABLES)}", found=path.name, fix="convert it to one of them"
        )
        return
    roles = columns.model_dump(exclude_none=True)
    if {"tokens", "tags"} & roles.keys() and path.suffix in COLUMN_FILES:
        return  # its columns have numbers
    try:
        names = _header(path)
    except ValueError as error:  # also what UnicodeDecodeError and JSONDecodeError are
        yield DataError(
            expected=f"{path.suffix[1:]} in UTF-8 in {path}", found=str(error), fix="convert the file"
        )
        return
    if names is None:
        return
    if not names:
        yield DataError(
            expected=f"a header or a first row in {path}", found="an empty file", fix="check the file"
        )
        return
    needed, target = _roles({*roles, *names})
    wanted = {role: role for role in (*needed, *([target] if labelled else []))} | roles
    for role, name in wanted.items():
        if name not in names:
            nearest = get_close_matches(name, names, 1, 0.0)[0]
            yield DataError(
                expected=f"a column {name!r} for the {role} in {path}",
                found=f"the columns {', '.join(names)}",
                fix=f"set data.columns.{role}={nearest}",
            )


def _roles(known: Set[str]) -> tuple[tuple[str, ...], str]:
    """The columns that a table must have, and that of its labels, by what is named of it."""
    if {"tokens", "tags"} & known:
        return ("tokens",), "tags"
    if {"question", "context"} <= known:
        return ("question", "context"), "answers"
    return ("text",), "label"


def _header(path: Path) -> list[str] | None:
    """Names of a table's columns; None where only loading it would show them."""
    if path.suffix in {".parquet", ".json", *COLUMN_FILES[1:]}:
        return None
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    # The cut may fall inside a letter: what is after the last whole line is left out.
    whole = head if len(head) < HEAD_BYTES else head[: head.rfind(b"\n") + 1]
    text = whole.decode("utf-8-sig")
    if path.suffix == ".txt":
        return ["text"] if text.strip() else []
    if path.suffix == ".jsonl":
        first = next((line for line in text.splitlines() if line.strip()), "{}")
        return list(json.loads(first))
    dialect: Any = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if path.suffix == ".tsv" else {}
    return next(csv.reader(io.StringIO(text, newline=""), **dialect), [])
