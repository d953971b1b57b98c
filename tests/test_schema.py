"""Laws of recipes: every mistake is named with its cure, and reading one needs no torch."""

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import AutoModelForMaskedLM, AutoModelForPreTraining, BertConfig, GPT2Config

from attar.distillation.distilbert import to_distilbert
from attar.distillation.student import student
from attar.errors import RecipeError
from attar.options.base import Options
from attar.options.registry import STAGES
from attar.options.signature import members, options_model
from attar.recipes import load_recipe, parse
from attar.recipes.reading import RECIPES
from attar.recipes.schema import Recipe, Stage
from attar.verbs.distill import Intermediate, Prediction

PACKAGED = sorted(path.stem for path in RECIPES.glob("*.yaml"))
RECIPE = {"name": "small", "model": "some/model", "stages": [{"distill": {"student": {"layers": 2}}}]}


def groups(model=Recipe, where=()):
    """Every group of options that a recipe may hold, with its place."""
    yield model, where
    for name, field in model.model_fields.items():
        inner = next((kind for kind in members(field.annotation) if is_group(kind)), None)
        if name == "stages":
            yield Stage, ("stages",)
            inner = None
            for verb in STAGES:
                yield from groups(options_model(STAGES[verb]), ("stages", verb))
        if inner is not None:
            yield from groups(inner, (*where, name))


def is_group(kind):
    return isinstance(kind, type) and issubclass(kind, Options)


# Reading


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_recipes_are_read_by_name(name):
    assert load_recipe(name) == load_recipe(RECIPES / f"{name}.yaml") == load_recipe(f"{name}.yaml")
    assert load_recipe(name).name == name


def test_tinybert_recipes_have_the_papers_figures():
    for name, shape in {"tinybert4": (4, 312, 12, 1200), "tinybert6": (6, 768, 12, 3072)}.items():
        distill = next(stage.options for stage in load_recipe(name).stages if stage.verb == "distill")
        student = distill.student
        assert (student.layers, student.hidden, student.heads, student.ffn) == shape
        assert (distill.general.epochs, distill.general.max_length) == (3, 128)
        assert (distill.augment.probability, distill.augment.copies, distill.augment.k) == (0.4, 20, 15)
        assert distill.intermediate == Intermediate(epochs=20, batch_size=32, lr=5e-5)
        assert distill.prediction == Prediction(epochs=3, batch_size=32, lr=3e-5, temperature=1.0)
        assert (distill.mapping, distill.max_length) == ("uniform", 64)


@pytest.mark.parametrize(
    ("name", "config", "layers", "millions"),
    [
        ("distilbert", BertConfig(), (1, 3, 5, 8, 10, 12), 66),
        ("distilgpt2", GPT2Config(), (1, 3, 5, 8, 10, 12), 82),
        ("distilkobert", BertConfig(vocab_size=8002), (1, 5, 9), 28),
    ],
)
def test_recipes_of_language_models_have_the_published_figures(name, config, layers, millions):
    stage = load_recipe(name).stages[0].options
    assert (stage.kl, stage.ce, stage.cosine, stage.temperature, stage.mask) == (5.0, 2.0, 1.0, 2.0, 0.15)
    assert stage.mapping == layers
    with torch.device("meta"):
        teacher = AutoModelForPreTraining.from_config(config).eval()
        if stage.student.family:
            made = to_distilbert(AutoModelForMaskedLM.from_config(config), stage.mapping)
        else:
            made = student(teacher, layers=stage.student.layers, init="layers", mapping=stage.mapping).model
    # The base model, as the papers count; GPT-2's head is its embedding.
    assert made.base_model.num_parameters() == pytest.approx(millions * 1e6, rel=0.01)


def test_stages_keep_their_order_and_a_bare_verb_means_defaults():
    recipe = parse({**RECIPE, "stages": ["evaluate", {"finetune": None}, {"distill": {}}, {"export": {}}]})
    assert [stage.verb for stage in recipe.stages] == ["evaluate", "finetune", "distill", "export"]
    assert [stage.options for stage in recipe.stages] == [
        options_model(STAGES[verb])() for verb in ("evaluate", "finetune", "distill", "export")
    ]


def test_overrides_reach_every_depth_and_change_nothing_else():
    changed = load_recipe(
        "tinybert4",
        {"model": "my/bert", "data.train": "t.csv", "data.columns.text": "s", "distill.student.layers": 3,
         "distill.general": None},
    )  # fmt: skip
    plain = load_recipe("tinybert4").model_dump()
    plain["model"] = "my/bert"
    plain["data"]["train"], plain["data"]["columns"]["text"] = "t.csv", "s"
    plain["stages"][1]["distill"]["student"]["layers"] = 3
    plain["stages"][1]["distill"]["general"] = None
    assert changed.model_dump() == plain


def test_a_recipe_written_and_read_again_is_the_same(tmp_path):
    recipe = load_recipe("tinybert4")
    path = tmp_path / "again.yaml"
    content = recipe.model_dump(mode="json", exclude_unset=True)
    path.write_text(yaml.safe_dump(content))
    assert load_recipe(path) == load_recipe(content) == recipe


def test_options_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        load_recipe("tinybert4").name = "other"


# Mistakes


@given(data=st.data())
def test_every_misspelled_key_names_the_nearest(data):
    group, where = data.draw(st.sampled_from(list(groups())))
    key = data.draw(st.sampled_from([key for key in group.model_fields if len(key) > 3]))
    place = data.draw(st.integers(1, len(key) - 1))
    wrong = key[:place] + key[place + 1 :]
    if wrong in group.model_fields:
        return
    content = {wrong: 1} if where != ("stages",) else [{wrong: {}}]
    for name in reversed(where):
        content = {name: content if name != "stages" or isinstance(content, list) else [content]}
    content = RECIPE | content
    with pytest.raises(RecipeError) as caught:
        parse(content)
    assert wrong in caught.value.found
    assert key in caught.value.expected.replace(",", " ").split()
    assert caught.value.fix.endswith(f"instead of {wrong}")


def test_a_mistake_names_its_line(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: x\nmodel: m\nstages:\n  - distill:\n      intermediate:\n        epoch: 3\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert "stages[0].distill.intermediate" in caught.value.expected
    assert caught.value.found == "epoch (mine.yaml, line 6)"
    assert caught.value.fix == "write epochs instead of epoch"


@pytest.mark.parametrize(
    ("change", "expected", "fix"),
    [
        ({"distill.mapping": "unifrom"}, "stages[0].distill.mapping", "write uniform"),
        ({"distill.mapping": [0, 2]}, "stages[0].distill.mapping[0]: greater than or equal to 1", None),
        ({"distill.augment.probability": 1.5}, "less than or equal to 1", None),
        ({"distill.intermediate.lr": "fast"}, "stages[0].distill.intermediate.lr: a valid number", None),
        ({"distill.student.layers": 0}, "greater than or equal to 1", None),
        ({"stages": []}, "stages: at least one", None),
        ({"stages": 3}, "stages: a list", None),
        ({"stages": [{"finetune": {}, "export": {}}]}, "one verb an entry", None),
        ({"stages": [{"prune": {"budget": 0}}]}, "stages[0].prune.budget: greater than 0", None),
        ({"stages": [{"prune": {"axes": "hiden"}}]}, "stages[0].prune.axes", "write hidden"),
        ({"stages": [{"prune": {"axes": ["fn"]}}]}, "stages[0].prune.axes[0]", "write ffn"),
        ({"stages": [{"prune": {"method": "magnitud"}}]}, "stages[0].prune.method", "write magnitude"),
        ({"stages": [{"prune": {"shape": "schubert-98m"}}]}, "stages[0].prune.shape", "write schubert-99m"),
        ({"stages": [{"prune": {"rounding": "atuo"}}]}, "stages[0].prune.rounding", None),
        ({"data": "train.csv"}, "data: keys and values", None),
        ({"model": None}, "model: text", None),
    ],
)
def test_a_wrong_value_names_its_place(change, expected, fix):
    with pytest.raises(RecipeError) as caught:
        parse(RECIPE, change)
    assert expected in caught.value.expected
    assert fix is None or caught.value.fix == fix


def test_a_missing_key_is_named():
    with pytest.raises(RecipeError, match="expected model at the top"):
        parse({"name": "x", "stages": ["evaluate"]})


@pytest.mark.parametrize("text", ["", "- a\n", "name: [", "a: \x00", "just words"])
def test_what_is_no_recipe_is_an_error(text, tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"broken\.yaml"):
        load_recipe(path)


def test_a_key_that_comes_twice_is_an_error(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("name: x\nmodel: a\nmodel: b\nstages: [evaluate]\n")
    with pytest.raises(RecipeError, match=r"model again in line 3 of twice\.yaml"):
        load_recipe(path)


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(RecipeError, match="did you mean tinybert4"):
        load_recipe("tinybert44")


def test_an_override_for_a_stage_that_is_not_there_is_an_error():
    with pytest.raises(RecipeError, match=r"one stage finetune, for finetune\.lr"):
        parse(RECIPE, {"finetune.lr": 1e-4})
