"""Run a recipe: its stages in order, each from the model that the one before it wrote.

A `distill` stage right after a `prune` or `share` stage recovers: the model before it teaches the one that it made.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attar import verbs
from attar.data.tables import read_table
from attar.distillation.language_model import distill_lm
from attar.distillation.pipeline import distill
from attar.errors import DataError, OutputError, RecipeError
from attar.model.checkpoint import digest
from attar.progress import say
from attar.pruning.pipeline import prune
from attar.recipes import Options, Recipe, Student, load_recipe
from attar.recipes.checking import RECOVERED
from attar.report.report import Report
from attar.sharing.run import share
from attar.storage.writing import write_atomic
from attar.training.finetuning import finetune
from attar.training.loop import is_main
from attar.training.pretraining import pretrain

STAGES = "stages.json"


def run(recipe: str | Path | Mapping[str, Any] | Recipe, *, out: str | Path, **overrides: Any) -> Report:
    """Run a recipe's stages in order; a stage that is done with the same options is not run again.

    Args:
        recipe: a YAML file, the name of one that comes with attar ("tinybert4"), its content, or a `Recipe`.
        out: a directory that gets one directory a stage, numbered, and `report.html` at the end.
        overrides: values to put over the recipe's, by dotted name (`**{"data.train": "train.csv"}`).

    Returns:
        The report of the last stage that has one.

    Raises:
        RecipeError: see `load_recipe`. OutputError: `out` holds stages of another recipe. And what the stages raise.
    """
    found = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    record = out / STAGES
    done: dict[str, str] = json.loads(record.read_text()) if record.is_file() else {}
    model, key, report = found.model, digest(found.model, found.data.model_dump(mode="json")), None
    before: str | None = None  # the pruning or sharing, where the stage before was one
    for number, stage in enumerate(found.stages, start=1):
        place = out / f"{number}-{stage.verb}"
        key = digest(key, stage.verb, stage.options.model_dump(mode="json"))
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
            report = _stage(stage.verb, stage.options, recovers or model, found, place, student)
            if is_main():
                report.write(place)
                done[place.name] = key
                write_atomic(record, json.dumps(done, indent=2))
        before = model if stage.verb in RECOVERED else None
        if stage.verb in {"pretrain", "finetune", "prune", "share", "distill", "distill_lm"}:
            model = str(place)
    assert report is not None  # the schema wants at least one stage
    return report


def _stage(
    verb: str, options: Options, model: str, recipe: Recipe, place: Path, student: str | None = None
) -> Report:
    given = options.model_dump()
    data, columns = recipe.data, recipe.data.columns.model_dump(exclude_none=True)
    if data.train is None and verb in {"finetune", "distill"} and (verb == "finetune" or data.texts is None):
        raise DataError(
            expected="data.train in the recipe", found="none", fix="add it, or --set data.train=train.csv"
        )
    columns = _present(columns, data.train or data.dev or data.test)
    if verb in {"pretrain", "distill_lm", "share"}:
        return _on_texts(verb, model, recipe, place, given)
    if verb == "finetune":
        return finetune(model, data.train or "", dev=data.dev, out=place, columns=columns, **given)
    if verb == "distill":
        if given["general"] is not None and given["general"]["texts"] is None:
            given["general"]["texts"] = data.texts
        tables: dict[str, Any] = {
            "data": data.train,
            "texts": None if data.train else data.texts,
            "dev": data.dev,
            "test": data.test,
        }
        if student is not None:
            given["student"] = _unsaid(options, student)
        return distill(model, out=place, columns=columns, **tables, **given)
    if verb == "prune":
        texts = None if data.train or data.texts is None else _texts(data.texts)
        return prune(model, data=data.train, texts=texts, dev=data.dev, out=place, columns=columns, **given)
    test = data.test or data.dev
    if verb == "export":
        return verbs.export(model, out=place, data=data.dev or data.train, columns=columns, **given)
    return verbs.evaluate(model, _needed(test), columns=columns, **given)


def _on_texts(verb: str, model: str, recipe: Recipe, place: Path, given: dict[str, Any]) -> Report:
    data = recipe.data
    texts: Any = None
    if verb != "share":
        learn: Callable[..., Report] = pretrain if verb == "pretrain" else distill_lm
        return learn(model, _texts(data.texts), out=place, **given)
    if data.texts is not None:
        texts = _texts(data.texts)
    elif data.train is not None and given["embedding"] is not None:
        columns = _present(data.columns.model_dump(exclude_none=True), data.train)
        texts = read_table(data.train, columns=columns, labels=False)[0]
    return share(model, texts=texts, out=place, **given)


def _unsaid(options: Any, student: str) -> str:
    """The pruned or shared model as the student, of which the stage must not say another shape."""
    if options.student != Student():
        raise RecipeError(
            expected="no student in a distill stage right after prune or share: the model that it made is the student",
            found=str(options.student.model_dump(exclude_defaults=True)),
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


def _present(columns: dict[str, str], table: str | None) -> dict[str, str]:
    """The named columns; the default name of a label that a table does not have is not a demand for it."""
    if table is None:
        return columns
    return {role: name for role, name in columns.items() if role != name}


def _needed(table: str | None) -> str:
    if table is None:
        raise DataError(expected="data.test or data.dev in the recipe", found="neither", fix="add one")
    return table
