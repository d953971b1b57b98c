"""Run a recipe: its stages in order, each from the model that the one before it wrote.

A `distill` stage right after a `prune` or `share` stage recovers: the model before it teaches the one that it made.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attar.data.tables import read_table
from attar.errors import DataError, OutputError, RecipeError
from attar.model.checkpoint import digest
from attar.options.registry import STAGES
from attar.progress import say
from attar.recipes.checking import RECOVERED
from attar.recipes.reading import load_recipe
from attar.recipes.schema import OneStage, Recipe, is_default
from attar.report.report import Report
from attar.storage.writing import make_directory, write_atomic
from attar.training.loop import is_main

RECORD = "stages.json"
# Stages whose model the next one goes on from.
MODELS = ("pretrain", "finetune", "prune", "share", "distill", "distill_lm", "compress")


def run(
    recipe: str | Path | Mapping[str, Any] | Recipe, *, out: str | Path, settings: Mapping[str, Any]
) -> Report:
    """Run a recipe's stages in order; see `attar.run`."""
    found = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, settings)
    out = Path(out)
    make_directory(out)
    record = out / RECORD
    done: dict[str, str] = json.loads(record.read_text()) if record.is_file() else {}
    model, key, report = found.model, digest(found.model, found.data.model_dump(mode="json")), None
    before: str | None = None  # the pruning or sharing, where the stage before was one
    for number, stage in enumerate(found.stages, start=1):
        place = out / f"{number}-{stage.verb}"
        key = digest(key, stage.verb, stage.options.settings())
        if done.get(place.name, key) != key:
            raise OutputError(
                expected=f"{place} to be of this recipe",
                found="a stage with other options",
                fix="name another directory",
            )
        if place.name in done:
            say(f"{stage.verb}: done before, in {place}")
            report = Report.from_json((place / "report.json").read_text())
        else:
            recovers = before if stage.verb == "distill" else None
            student = model if recovers else None
            report = _stage(stage, recovers or model, found, place, student)
            if is_main():
                report.write(place)
                done[place.name] = key
                write_atomic(record, json.dumps(done, indent=2))
        before = model if stage.verb in RECOVERED else None
        if stage.verb in MODELS:
            model = str(place)
    assert report is not None  # the schema wants at least one stage
    return report


def _stage(stage: OneStage, model: str, recipe: Recipe, place: Path, student: str | None) -> Report:
    """Run one stage: the recipe's model and data are the verb's inputs."""
    name, data = stage.verb, recipe.data
    verb, given = STAGES[name], stage.options.model_dump()
    if data.train is None and name in {"finetune", "distill"} and (name == "finetune" or data.texts is None):
        raise DataError(
            expected="data.train in the recipe", found="none", fix="add it, or --set data.train=train.csv"
        )
    columns = _present(recipe, data.train or data.dev or data.test)
    report: Report
    if name in {"pretrain", "distill_lm"}:
        report = verb(model, _texts(data.texts), out=place, **given)
    elif name == "share":
        report = verb(model, texts=_texts_to_share(recipe, given), out=place, **given)
    elif name == "finetune":
        report = verb(model, data.train, dev=data.dev, out=place, columns=columns, **given)
    elif name == "distill":
        if given["general"] is not None and given["general"]["texts"] is None:
            given["general"]["texts"] = data.texts
        if student is not None:
            given["student"] = _recovered(stage, student)
        tables = {"data": data.train, "texts": None if data.train else data.texts}
        splits = {"dev": data.dev, "test": data.test}
        report = verb(model, out=place, columns=columns, **tables, **splits, **given)
    elif name == "compress":
        texts = None if data.train else _texts(data.texts)
        splits = {"dev": data.dev, "test": data.test}
        report = verb(model, out=place, data=data.train, texts=texts, columns=columns, **splits, **given)
    elif name == "prune":
        texts = None if data.train or data.texts is None else _texts(data.texts)
        report = verb(model, data=data.train, texts=texts, dev=data.dev, out=place, columns=columns, **given)
    elif name == "export":
        report = verb(model, out=place, data=data.dev or data.train, columns=columns, **given)
    else:
        report = verb(model, _needed(data.test or data.dev), columns=columns, **given)
    return report


def _texts_to_share(recipe: Recipe, given: Mapping[str, Any]) -> Any:
    data = recipe.data
    if data.texts is not None:
        return _texts(data.texts)
    if data.train is None or given["embedding"] is None:
        return None
    return read_table(data.train, columns=_present(recipe, data.train), labels=False)[0]


def _recovered(stage: OneStage, student: str) -> str:
    """The pruned or shared model as the student, of which the stage must not say another shape."""
    if not is_default(stage, "student"):
        raise RecipeError(
            expected="no student in a distill stage right after prune or share: the model that it made is the student",
            found=str(stage.options.settings()["student"]),
            fix="leave student out, or put another stage between the two",
        )
    return student


def _texts(texts: str | tuple[str, ...] | None) -> list[Path]:
    if texts is None:
        raise DataError(
            expected="data.texts in the recipe", found="none", fix="add it, or --set data.texts=texts.txt"
        )
    # Of a list, a name that is no file would be taken for a sentence.
    return [Path(name) for name in ([texts] if isinstance(texts, str) else texts)]


def _present(recipe: Recipe, table: str | None) -> dict[str, str]:
    """The named columns; the default name of a label that a table does not have is not a demand for it."""
    columns = recipe.data.columns.model_dump(exclude_none=True)
    return {role: name for role, name in columns.items() if table is None or role != name}


def _needed(table: str | None) -> str:
    if table is None:
        raise DataError(expected="data.test or data.dev in the recipe", found="neither", fix="add one")
    return table
