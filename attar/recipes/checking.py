"""What can be found wrong with a recipe without training: files are looked at, nothing is loaded."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from attar.anatomy.families import FAMILIES
from attar.anatomy.sizes import exceeding
from attar.compression.budget import budget_in, seconds_of
from attar.errors import RecipeError
from attar.maths.mapping import layer_map
from attar.options.base import Options
from attar.recipes.checking_files import check_model, check_table, check_texts
from attar.recipes.checking_pruning import check_prune, check_recovery
from attar.recipes.checking_sharing import check_share
from attar.recipes.problem import Problem, lacking, misfit
from attar.recipes.schema import Recipe, Stage

# Stages whose model a distill stage right after them recovers.
RECOVERED = ("prune", "share")
# Stages whose model has other sizes than the one before.
RESHAPING = (*RECOVERED, "distill", "distill_lm", "compress")
# How files of word vectors end; other names are of models.
VECTORS = (".txt", ".vec")


def check(recipe: Recipe) -> list[Problem]:
    """Find what would stop the recipe: files and columns, the teacher's directory and family, the student's shape.

    Reads the model's `config.json` and the first lines of tables; imports no torch. A model on the hub is looked for
    in the local cache only; one that is not there is taken to be right.
    """
    config: dict[str, Any] = {}
    problems = [Problem("model", error) for error in check_model(recipe.model, config)]
    problems += _check_data(recipe)
    # Of a distillation; what an earlier stage makes is not known before it runs.
    teacher: Mapping[str, Any] = config
    for index, stage in enumerate(recipe.stages):
        where = f"stages[{index}].{stage.verb}"
        if stage.verb == "finetune":
            problems += _check_problem_type(stage.options, recipe, where)
        if stage.verb == "distill":
            pruned = index > 0 and recipe.stages[index - 1].verb in RECOVERED
            problems += check_recovery(recipe, index, where) if pruned else ()
            problems += _check_distill(stage.options, recipe, teacher, where)
        if stage.verb == "distill_lm" and teacher and isinstance(stage.options.student, Options):
            problems += _check_start(stage.options.student, teacher, where)
        if stage.verb == "share":
            problems += check_share(stage.options, recipe, config, where)
        if stage.verb == "prune":
            problems += check_prune(stage.options, recipe, config, where)
        if stage.verb == "compress":
            problems += _check_budget(stage.options, where)
        problems += _check_length(getattr(stage.options, "max_length", None) or 0, config, where)
        if stage.verb in RESHAPING:
            teacher = {}
    return problems


def _check_data(recipe: Recipe) -> Iterator[Problem]:
    data, verbs = recipe.data, [stage.verb for stage in recipe.stages]
    if "pretrain" in verbs and data.texts is None:
        yield lacking("data.texts", "plain text to pre-train on")
    if "distill_lm" in verbs and data.texts is None:
        yield lacking("data.texts", "plain text to distil a language model on")
    if "compress" in verbs and data.train is None and data.texts is None:
        yield lacking("data.texts", "texts of the task, or data.train, to compress on")
    if "finetune" in verbs and data.train is None:
        yield lacking("data.train", "a table with labels to fine-tune on")
    elif "distill" in verbs and data.train is None and data.texts is None:
        yield lacking("data.train", "a table, or data.texts, to distil on")
    if "evaluate" in verbs and data.test is None and data.dev is None:
        yield lacking("data.test", "a table, or data.dev, to evaluate on")
    for split in ("train", "dev", "test"):
        path = getattr(data, split)
        if path is not None:
            labelled = split == "train" and ("finetune" in verbs or any(map(_by_task, recipe.stages)))
            for error in check_table(Path(path).expanduser(), data.columns, labelled):
                yield Problem(f"data.{split}", error)
    for error in check_texts(data.texts):
        yield Problem("data.texts", error)


def _by_task(stage: Stage) -> bool:
    return stage.verb == "prune" and "task" in (stage.options.loss, stage.options.recover)


def _check_distill(
    options: Options, recipe: Recipe, config: Mapping[str, Any], where: str
) -> Iterator[Problem]:
    if options.general is not None:
        if options.general.texts is None and recipe.data.texts is None:
            yield lacking(f"{where}.general.texts", "plain text, or data.texts, for the general stage")
        for error in check_texts(options.general.texts):
            yield Problem(f"{where}.general.texts", error)
        if options.general.teacher is not None:
            for fault in check_model(options.general.teacher, {}):
                yield Problem(f"{where}.general.teacher", fault)
        yield from _check_length(options.general.max_length, config, f"{where}.general")
    if options.augment is not None:
        for key in ("source", "vectors"):
            name = getattr(options.augment, key)
            for error in check_texts(name if Path(name).suffix in VECTORS else None):
                yield Problem(f"{where}.augment.{key}", error)
    if config and isinstance(options.student, Options):
        yield from _check_student(options, config, where)


def _check_budget(options: Options, where: str) -> Iterator[Problem]:
    for name, read in (("to", lambda: budget_in(options)), ("time", lambda: seconds_of(options.time))):
        try:
            read()
        except RecipeError as error:
            yield Problem(f"{where}.{name}", error)


def _check_student(options: Options, config: Mapping[str, Any], where: str) -> Iterator[Problem]:
    student = options.student
    teacher, sizes = _sizes(config), _sizes(config, student)
    layers, hidden, heads = sizes["layers"], sizes["hidden"], sizes["heads"]
    if hidden % heads:
        fitting = min((n for n in range(1, hidden + 1) if hidden % n == 0), key=lambda n: abs(n - heads))
        yield misfit(
            f"{where}.student.heads",
            f"heads that divide hidden = {hidden}",
            str(heads),
            f"set heads to {fitting}",
        )
    if student.embedding and student.embedding > hidden:
        yield misfit(
            f"{where}.student.embedding", f"at most hidden = {hidden}", str(student.embedding), "leave it out"
        )
    if options.attention == "scores" and heads != teacher["heads"]:
        yield misfit(
            f"{where}.attention",
            f"as many heads as the teacher, {teacher['heads']}, to compare scores head by head",
            str(heads),
            "set attention to relations or auto, or give the student the teacher's heads",
        )
    yield from _check_start(student, config, where)
    try:
        layer_map(layers, teacher["layers"], options.mapping)
    except RecipeError as error:
        yield Problem(f"{where}.mapping", error)


def _check_start(student: Options, config: Mapping[str, Any], where: str) -> Iterator[Problem]:
    sizes = _sizes(config, student)
    # A size that a config leaves to its class is not known here.
    teacher = {name: size or sizes[name] for name, size in _sizes(config).items()}
    if larger := exceeding(sizes, teacher):
        yield misfit(
            f"{where}.student",
            "a student of at most the teacher's layers, hidden and ffn",
            ", ".join(larger),
            "set them to less",
        )
    unlike = [
        f"{name} {sizes[name]} (teacher {teacher[name]})"
        for name in ("hidden", "ffn")
        if sizes[name] != teacher[name]
    ]
    if student.init == "layers" and unlike:
        yield misfit(
            f"{where}.student.init",
            "the teacher's widths to copy layers",
            ", ".join(unlike),
            "set init to project",
        )


def _check_problem_type(options: Options, recipe: Recipe, where: str) -> Iterator[Problem]:
    roles = recipe.data.columns.model_fields_set & {"tokens", "tags", "question", "context"}
    if options.problem_type is not None and roles:
        yield misfit(
            f"{where}.problem_type",
            "a table of whole texts, of whose labels it speaks",
            f"data.columns of {', '.join(sorted(roles))}",
            "leave it out",
        )


def _sizes(config: Mapping[str, Any], student: Options | None = None) -> dict[str, int]:
    """The sizes of a config, or of a student of it."""
    keys, names = FAMILIES[config["model_type"]].sizes, ("layers", "hidden", "heads", "ffn")
    found = {name: int(config.get(getattr(keys, name)) or 0) for name in names}
    if student is not None:
        found |= student.model_dump(include=set(names), exclude_none=True)
    return found | {"ffn": found["ffn"] or 4 * found["hidden"]}  # GPT-2 may leave it out


def _check_length(length: int, config: Mapping[str, Any], where: str) -> Iterator[Problem]:
    limit = config.get("max_position_embeddings", length)
    if length > limit:
        yield misfit(
            f"{where}.max_length",
            f"at most the teacher's {limit} positions",
            str(length),
            f"set it to {limit}",
        )
