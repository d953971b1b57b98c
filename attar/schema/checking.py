"""What can be found wrong with a recipe without training: files are looked at, nothing is loaded."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from attar.anatomy.families import FAMILIES
from attar.errors import AttarError, DataError, ModelError, RecipeError
from attar.maths.mapping import layer_map
from attar.schema.options import Columns, Distill, Recipe, Student

TABLES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt")
# A header or first line is in here; no more is read.
HEAD_BYTES = 1 << 20


class Problem(NamedTuple):
    """A place in the recipe (dotted) and the error that running it would end in."""

    where: str
    error: AttarError


def check(recipe: Recipe) -> list[Problem]:
    """Find what would stop the recipe: files and columns, the teacher's directory and family, the student's shape.

    Reads the model's `config.json` and the first lines of tables; imports no torch. A model on the hub is looked for
    in the local cache only; one that is not there is taken to be right.
    """
    config: dict[str, Any] = {}
    problems = [Problem("model", error) for error in _check_model(recipe.model, config)]
    problems += _check_data(recipe)
    for index, stage in enumerate(recipe.stages):
        where = f"stages[{index}].{stage.verb}"
        if isinstance(stage.options, Distill):
            problems += _check_distill(stage.options, recipe, config, where)
        problems += _check_length(getattr(stage.options, "max_length", 0), config, where)
    return problems


def _check_model(name: str, config: dict[str, Any]) -> Iterator[ModelError]:
    """Tell what is wrong with the model's directory, and put its config's keys into `config`."""
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
    family = str(config.get("model_type", "none"))
    if family not in FAMILIES:
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


def _check_data(recipe: Recipe) -> Iterator[Problem]:
    data, verbs = recipe.data, [stage.verb for stage in recipe.stages]
    if "finetune" in verbs and data.train is None:
        yield _lacking("data.train", "a table with labels to fine-tune on")
    elif "distill" in verbs and data.train is None and data.texts is None:
        yield _lacking("data.train", "a table, or data.texts, to distil on")
    if "evaluate" in verbs and data.test is None and data.dev is None:
        yield _lacking("data.test", "a table, or data.dev, to evaluate on")
    for split in ("train", "dev", "test"):
        path = getattr(data, split)
        if path is not None:
            labelled = split == "train" and "finetune" in verbs
            for error in _check_table(Path(path).expanduser(), data.columns, labelled):
                yield Problem(f"data.{split}", error)
    for error in _check_texts(data.texts):
        yield Problem("data.texts", error)


def _lacking(where: str, what: str) -> Problem:
    return Problem(where, RecipeError(expected=what, found="none", fix=f"set {where}"))


def _check_texts(texts: str | tuple[str, ...] | None) -> Iterator[DataError]:
    for name in (texts,) if isinstance(texts, str) else texts or ():
        path = Path(name).expanduser()
        if not path.is_file():
            yield DataError(expected=f"a text file at {name}", found="no such file", fix="check the path")
        elif path.stat().st_size == 0:
            yield DataError(
                expected=f"at least one line of text in {name}", found="an empty file", fix="check the file"
            )


def _check_table(path: Path, columns: Columns, labelled: bool) -> Iterator[DataError]:
    if not path.is_file():
        yield DataError(expected=f"a table at {path}", found="no such file", fix="check the path")
        return
    if path.suffix not in TABLES:
        yield DataError(
            expected=f"one of {', '.join(TABLES)}", found=path.name, fix="convert it to one of them"
        )
        return
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
    wanted = (
        {"text": "text"} | ({"label": "label"} if labelled else {}) | columns.model_dump(exclude_none=True)
    )
    for role, name in wanted.items():
        if name not in names:
            nearest = get_close_matches(name, names, 1, 0.0)[0]
            yield DataError(
                expected=f"a column {name!r} for the {role} in {path}",
                found=f"the columns {', '.join(names)}",
                fix=f"set data.columns.{role}={nearest}",
            )


def _header(path: Path) -> list[str] | None:
    """Names of a table's columns; None where only loading it would tell."""
    if path.suffix in {".parquet", ".json"}:
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


def _check_distill(
    options: Distill, recipe: Recipe, config: Mapping[str, Any], where: str
) -> Iterator[Problem]:
    if options.general is not None:
        if options.general.texts is None and recipe.data.texts is None:
            yield _lacking(f"{where}.general.texts", "plain text, or data.texts, for the general stage")
        for error in _check_texts(options.general.texts):
            yield Problem(f"{where}.general.texts", error)
        yield from _check_length(options.general.max_length, config, f"{where}.general")
    if config:
        yield from _check_student(options, config, where)


def _check_student(options: Distill, config: Mapping[str, Any], where: str) -> Iterator[Problem]:
    teacher, student = _sizes(config), options.student
    sizes = teacher | student.model_dump(exclude={"init", "embedding"}, exclude_none=True)
    layers, hidden, heads = sizes["layers"], sizes["hidden"], sizes["heads"]
    if hidden % heads:
        fitting = min((n for n in range(1, hidden + 1) if hidden % n == 0), key=lambda n: abs(n - heads))
        yield _misfit(
            f"{where}.student.heads",
            f"heads that divide hidden = {hidden}",
            str(heads),
            f"set heads to {fitting}",
        )
    if student.embedding and student.embedding > hidden:
        yield _misfit(
            f"{where}.student.embedding", f"at most hidden = {hidden}", str(student.embedding), "leave it out"
        )
    if options.attention == "scores" and heads != teacher["heads"]:
        yield _misfit(
            f"{where}.attention",
            f"as many heads as the teacher, {teacher['heads']}, to compare scores head by head",
            str(heads),
            "set attention to relations or auto, or give the student the teacher's heads",
        )
    yield from _check_start(student, sizes, teacher, where)
    try:
        layer_map(layers, teacher["layers"], options.mapping)
    except RecipeError as error:
        yield Problem(f"{where}.mapping", error)


def _check_start(
    student: Student, sizes: Mapping[str, int], teacher: Mapping[str, int], where: str
) -> Iterator[Problem]:
    if student.init == "project" and sizes["hidden"] > teacher["hidden"]:
        yield _misfit(
            f"{where}.student.init",
            f"hidden of at most the teacher's {teacher['hidden']} to project its weights",
            str(sizes["hidden"]),
            "set init to random, or hidden to less",
        )
    unlike = [
        f"{name} {sizes[name]} (teacher {teacher[name]})"
        for name in ("hidden", "ffn")
        if sizes[name] != teacher[name]
    ]
    if student.init == "layers" and unlike:
        yield _misfit(
            f"{where}.student.init",
            "the teacher's widths to copy layers",
            ", ".join(unlike),
            "set init to project",
        )
    if student.init == "layers" and sizes["layers"] > teacher["layers"]:
        yield _misfit(
            f"{where}.student.init",
            f"at most {teacher['layers']} layers to copy",
            str(sizes["layers"]),
            "set init to project",
        )


def _misfit(where: str, expected: str, found: str, fix: str) -> Problem:
    return Problem(where, RecipeError(expected=expected, found=found, fix=fix))


def _sizes(config: Mapping[str, Any]) -> dict[str, int]:
    keys = FAMILIES[config["model_type"]].sizes
    return {name: int(config.get(getattr(keys, name), 0)) for name in ("layers", "hidden", "heads", "ffn")}


def _check_length(length: int, config: Mapping[str, Any], where: str) -> Iterator[Problem]:
    limit = config.get("max_position_embeddings", length)
    if length > limit:
        yield _misfit(
            f"{where}.max_length",
            f"at most the teacher's {limit} positions",
            str(length),
            f"set it to {limit}",
        )
