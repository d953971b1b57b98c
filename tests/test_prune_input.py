"""What cannot be pruned is refused in three lines, before work is done, and nothing half-written is left."""

import json

import pytest
from datasets import Dataset

import attar
import tiny
from attar.errors import DataError, ModelError, OutputError, PlanError, RecipeError, TrainingError

FAST = {"precision": "fp32", "max_length": 16, "batch_size": 8, "steps": 3, "recover_steps": 2}


@pytest.fixture
def cut(tmp_path):
    """Prune a tiny model into a place; whatever it raises, nothing is there afterwards but what was."""

    def cut(model=None, plan=None, *, tokenizer=None, kept=(), **options):
        given = {"texts": tiny.texts(16), **FAST, **options}
        if plan is None and not {"budget", "shape", "method"} & set(options):
            given["budget"] = 0.7
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(attar.AttarError) as error:
            attar.prune(
                model or tiny.model(),
                plan,
                tokenizer=tokenizer or tiny.tokenizer(),
                out=tmp_path / "out",
                **given,
            )
        assert all((error.value.expected, error.value.found, error.value.fix))
        left = [path.name for path in sorted(tmp_path.rglob("*")) if path not in before]
        assert [name for name in left if name != ".out.work"] == [] or kept
        assert kept or ".out.work" not in left
        return error

    return cut


@pytest.fixture(scope="module")
def model():
    return tiny.model()


@pytest.fixture(scope="module")
def plan(model):
    return attar.plan(model, tokenizer=tiny.tokenizer(), budget=0.7, method="magnitude")


@pytest.mark.parametrize("method", ["schubert", "magnitude"])
def test_a_budget_below_the_smallest_there_is_names_it(cut, method):
    error = cut(budget=0.2, axes="f", method=method, rounds=3)
    assert error.type is PlanError
    assert "at least 9436 (71.2% of the model)" in error.value.expected


def test_layers_below_one(cut):
    assert "one layer" in cut(budget=0.1, method="top").value.expected
    assert "at most what the model costs" in cut(budget=1e9, method="top").value.expected


@pytest.mark.parametrize(
    ("budget", "message"),
    [(1e9, "at most what the model costs"), (0, "greater than 0"), (-1, "greater than 0")],
)
def test_a_budget_that_is_none(cut, budget, message):
    assert message in cut(budget=budget, method="magnitude").value.expected


def test_nothing_or_too_much_asked_for(cut, model, plan):
    assert "budget=0.6" in cut(budget=None).value.fix
    assert cut(model, plan, budget=0.5).value.found == "a plan and a budget"
    assert cut(shape="schubert-99m", budget=0.5).value.fix == "leave out all but one"


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("modernbert", {"axes": ["key"]}, "rotary"),
        ("bert", {"axes": ["embedding"]}, "cut with them: hidden"),
        ("albert", {"method": "top", "budget": 0.9}, "one layer"),
    ],
)
def test_an_axis_that_a_family_lacks(cut, family, options, message):
    error = cut(tiny.model(family), tokenizer=tiny.tokenizer(family), **options)
    assert error.type is PlanError
    assert message in error.value.found


@pytest.mark.parametrize(
    ("option", "fix"),
    [
        ({"axes": ["hiden"]}, "write hidden"),
        ({"method": "shubert", "budget": 0.5}, "write schubert"),
        ({"loss": "distil"}, "write distill"),
        ({"shape": "schubert-98m"}, "write schubert-99m"),
        ({"recover": "mml"}, "write mlm"),
    ],
)
def test_a_name_that_nobody_knows_names_the_nearest(cut, option, fix):
    error = cut(**option)
    assert error.type is RecipeError
    assert error.value.fix == fix


def test_a_shape_for_another_model(cut):
    assert "BERT-base's sizes" in cut(shape="schubert-99m").value.expected


def test_a_plan_for_another_model(cut, plan):
    error = cut(tiny.model(seed=1), plan)
    assert error.type is PlanError
    assert plan.digest in error.value.expected


def edited(plan, change):
    found = json.loads(plan.to_json())
    change(found)
    return json.dumps(found)


EDITS = {
    "out of range": (lambda p: p["layers"][0].update(ffn="0-40"), "0 to 39"),
    "twice": (lambda p: p["layers"][0].update(ffn="0-5,3"), "twice"),
    "backwards": (lambda p: p["layers"][0].update(ffn="5-3"), "no range"),
    "endless": (lambda p: p["layers"][0].update(ffn="0-99999999999"), "no range"),
    "empty": (lambda p: p["layers"][0].update(heads=""), "nothing would stay"),
    "an empty list": (lambda p: p["layers"][0].update(heads=[]), "at least 1 item"),
    "words": (lambda p: p["layers"][0].update(ffn="most"), "invalid literal"),
    "a part of a unit": (lambda p: p["layers"][0].update(heads=[0, 1.5]), "integer"),
    "an unknown key": (lambda p: p["layers"][0].update(ffm="1"), "layers.0.ffm"),
    "a lost key": (lambda p: p.pop("hidden"), "hidden"),
    "sizes that are none": (lambda p: p.update(sizes={}), "sizes.hidden"),
    "no layers": (lambda p: p.update(layers=[]), "layers"),
    "layers out of order": (lambda p: p["layers"].reverse(), "not in their order"),
    "a layer twice": (lambda p: p["layers"].__setitem__(1, p["layers"][0]), "twice"),
    "a layer too many": (lambda p: p["layers"][1].update(layer=2), "0 to 1"),
    "embedding unlike hidden": (lambda p: p.update(embedding="0-2"), "embedding differs"),
    "other sizes": (lambda p: p["sizes"].update(vocab=99), "the model that the plan was made for"),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_plan_that_was_edited_into_nonsense(cut, tmp_path, model, plan, name):
    change, message = EDITS[name]
    file = tmp_path / "plan.json"
    file.write_text(edited(plan, change))
    error = cut(model, file)
    assert error.type is PlanError
    assert message in str(error.value)


@pytest.mark.parametrize("text", ["", "plan", "[]", '{"model": ', "\x00"])
def test_a_plan_that_is_no_plan(cut, tmp_path, model, text):
    file = tmp_path / "plan.json"
    file.write_text(text)
    assert cut(model, file).type is PlanError


def test_a_plan_that_is_not_there(cut, tmp_path, model):
    assert cut(model, tmp_path / "plan.json").value.found == "no such file"


def test_a_plan_without_special_tokens(cut, tmp_path, model, plan):
    file = tmp_path / "plan.json"
    file.write_text(edited(plan, lambda p: p.update(vocab="10-67")))
    error = cut(model, file, texts=None)
    assert error.type is ModelError
    assert "'[PAD]'" in error.value.found


@pytest.mark.parametrize("family", ["albert", "modernbert"])
def test_a_plan_that_a_family_cannot_follow(cut, tmp_path, family):
    model, tokenizer = tiny.model(family), tiny.tokenizer(family)
    found = attar.plan(model, tokenizer=tokenizer, budget=0.8, method="magnitude")
    change = {
        "albert": lambda p: p["layers"][0].update(heads="0"),
        "modernbert": lambda p: [layer.update(key="0-3") for layer in p["layers"]],
    }[family]
    file = tmp_path / "plan.json"
    file.write_text(edited(found, change))
    error = cut(model, file, tokenizer=tokenizer)
    assert error.type is PlanError
    assert "to stay as they are" in error.value.expected


def test_alphas_that_diverge(cut):
    error = cut(lr=50.0, steps=10, kept=True)
    assert error.type is TrainingError
    assert "lower the learning rate" in error.value.fix


@pytest.mark.parametrize("empty", ["\u200b", "\x01"])
def test_texts_without_tokens(cut, empty):
    error = cut(texts=Dataset.from_dict({"text": [empty] * 4}))
    assert error.type is DataError
    assert "special" in error.value.found


def test_no_texts_for_a_method_that_looks_at_them(cut):
    for options in ({}, {"method": "activation", "budget": 0.9}, {"method": "vocabulary"}):
        assert cut(texts=None, **options).type is DataError


def test_a_tokenizer_that_cannot_be_trimmed(cut, monkeypatch):
    tokenizer = tiny.tokenizer()
    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    error = cut(tokenizer=tokenizer, method="vocabulary")
    assert error.type is ModelError
    assert "can be trimmed" in error.value.expected


def test_a_loss_that_the_model_or_the_texts_are_not_for(cut):
    assert "masked-language-model head" in cut(loss="mlm").value.expected
    assert "masked-language-model head" in cut(recover="mlm").value.expected
    assert cut(loss="task").value.found == "texts without labels"
    assert cut(recover="task").value.found == "texts without labels"
    assert cut(tiny.model(head="base"), loss="task").type is DataError


def test_a_table_of_latencies_that_is_none(cut, tmp_path):
    assert "no such file" in cut(table=tmp_path / "no.json").value.found
    assert "latency table" in cut(rounding="auto").value.expected


def test_an_output_that_is_taken(tmp_path, model):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="new or empty"):
            attar.prune(
                model, tokenizer=tiny.tokenizer(), out=tmp_path / "out", budget=0.7, overwrite=overwrite
            )
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "thesis.txt"]


def test_a_count_of_tokens_for_a_method_that_has_none(cut):
    error = cut(budget=0.9, min_count=3)
    assert error.type is PlanError
    assert "vocabulary" in error.value.expected
