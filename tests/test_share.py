"""Laws of shared weights: with a layer each nothing changes, shared layers are one, and distillation recovers."""

import itertools

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification
from typer.testing import CliRunner

import attar
import tiny
from attar.anatomy.resolve import resolve
from attar.cli import app
from attar.errors import ModelError
from attar.evaluation.counting import flops
from attar.evaluation.prediction import predict
from attar.model.checkpoint import load
from attar.model.views import Need, call
from attar.sharing.albert import shared

KIN = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert")
WHERE = [
    (family, head)
    for family, head in itertools.product(KIN, ("sequence-classification", "masked-lm", "base"))
    if head != "sequence-classification" or family not in {"electra", "distilbert"}
]


def four(family="bert", head="sequence-classification", **changes):
    return tiny.model(
        family, head, **{"n_layers" if family == "distilbert" else "num_hidden_layers": 4}, **changes
    )


def inputs(family="bert"):
    batch = next(iter(tiny.batches(tiny.table(9), family, batch_size=9).epoch(0))).inputs
    return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}


def seen(model, given):
    with torch.no_grad():
        found = model(**given)[0]
    return found if found.ndim == 2 else found[given["attention_mask"].bool()]


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("how", ["groups", "cycles"])
@pytest.mark.parametrize(("family", "head"), WHERE)
def test_with_a_layer_each_nothing_changes(family, head, how):
    model, given = four(family, head), inputs(family)
    made = shared(model, how=how, groups=4)
    assert made.config.model_type == "albert"
    close(seen(made, given), seen(model, given))


@pytest.mark.parametrize("head", ["token-classification", "question-answering"])
def test_tags_and_answers_come_along(head):
    from attar.model.checkpoint import HEADS

    for family in ("bert", "roberta"):
        torch.manual_seed(0)
        model = HEADS[head].from_config(tiny.config(family)).eval()
        made = shared(model, how="groups", groups=2)
        given = inputs(family)
        with torch.no_grad():
            for ours, theirs in zip(made(**given).to_tuple(), model(**given).to_tuple(), strict=True):
                close(ours[given["attention_mask"].bool()], theirs[given["attention_mask"].bool()])


def test_second_texts_keep_their_types():
    model, given = four(), inputs()
    given["token_type_ids"] = (
        (torch.arange(given["input_ids"].shape[1]) > 3).long().expand_as(given["input_ids"])
    )
    close(seen(shared(model, how="groups", groups=4), given), seen(model, given))


@pytest.mark.parametrize("start", ["mean", "last"])
@pytest.mark.parametrize(
    ("how", "groups", "which"),
    [("all", None, [[0, 1, 2, 3]]), ("groups", 2, [[0, 1], [2, 3]]), ("cycles", 2, [[0, 2], [1, 3]])],
)
def test_layers_that_share_are_one_layer(how, groups, which, start):
    model = four()
    made = shared(model, how=how, groups=groups, start=start)
    source, target = resolve(model), resolve(made)
    assert target.shape.layers == 4
    assert target.shape == source.shape
    own = [target.at("attention.query", n) for n in range(4)]
    for members in which:
        assert len({id(own[n]) for n in members}) == 1
        theirs = [source.at(source.anatomy.query, n).weight for n in members]
        expected = torch.stack(theirs).mean(0) if start == "mean" else theirs[-1]
        torch.testing.assert_close(own[members[0]].weight, expected)
    assert len({id(layer) for layer in own}) == len(which)


def test_uneven_groups_are_those_that_the_model_runs():
    model = tiny.model(num_hidden_layers=7)
    made = shared(model, how="groups", groups=3)
    runs = []
    for group in made.albert.encoder.albert_layer_groups:
        group.register_forward_hook(lambda module, *_: runs.append(id(module)))
    seen(made, inputs())
    bound = resolve(made)
    ours = [id(made.albert.encoder.albert_layer_groups[bound.place(n)[0]]) for n in range(7)]
    assert runs == ours


@pytest.mark.parametrize(("how", "groups"), [("all", None), ("groups", 2), ("cycles", 2), ("cycles", 4)])
def test_views_see_every_run(how, groups):
    made, given = shared(four(), how=how, groups=groups), inputs()
    layers = frozenset(range(1, 5))
    view = call(made, given, Need(hidden=layers | {0}, scores=layers, relations=layers))
    states = made(**given, output_hidden_states=True).hidden_states
    assert len(states) == 5
    mask = given["attention_mask"].bool()
    bound = resolve(made)
    for n in layers:
        close(view.hidden[n], states[n][mask])
        query = bound.at("attention.query", n - 1)(states[n - 1])
        close(view.queries[n], query.view(*query.shape[:2], 4, -1).transpose(1, 2))


def test_an_embedding_is_factorised_where_the_norm_stands():
    # Tables of a rank below E: nothing is lost but what the norm at E sees otherwise.
    for head in ("masked-lm", "base"):
        model = four(head=head)
        rank = torch.randn(6, 24, generator=torch.Generator().manual_seed(0))
        for name in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
            table = getattr(model.base_model.embeddings, name)
            table.weight.data = table.weight.data[:, :6] @ rank
        texts, given = tiny.batches(tiny.table(200)), inputs()
        made = shared(model, how="groups", groups=4, embedding=12, texts=texts)
        assert made.get_input_embeddings().weight.shape[1] == 12
        with torch.no_grad():
            ours, theirs = (
                call(m.base_model, given, Need(hidden=frozenset({0}))).hidden[0] for m in (made, model)
            )
        error = (ours - theirs).square().mean() / theirs.var()
        assert error < 0.02
        if head == "masked-lm":
            found, told = seen(made, given), seen(model, given)
            assert torch.nn.functional.cosine_similarity(found, told).mean() > 0.8


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    where = tmp_path_factory.mktemp("share")
    four().save_pretrained(where / "teacher")
    tiny.tokenizer().save_pretrained(where / "teacher")
    (where / "texts.txt").write_text("\n".join(tiny.texts(120)) + "\n", encoding="utf-8")
    tiny.table(60).to_csv(where / "train.csv")
    attar.share(where / "teacher", out=where / "shared", how="cycles", groups=2)
    return where


def test_parameters_fall_and_operations_do_not(place):
    report = attar.share(
        place / "teacher", out=place / "small", embedding=8, texts=place / "texts.txt", overwrite=True
    )
    teacher, student = report.rows
    weights = load_file(place / "small" / "model.safetensors")
    assert student.parameters == sum(tensor.numel() for tensor in weights.values()) < teacher.parameters / 2
    # The widening of the embedding is all that is added: 2 E h operations a token.
    assert student.flops - teacher.flops == 2 * 80 * 8 * 24
    assert student.flops == flops(load(place / "small").model, length=80)
    assert "operations" in report.notes[0]
    assert "stored once and computed every time" in report.notes[0]
    assert AutoModelForSequenceClassification.from_pretrained(place / "small").config.num_hidden_groups == 1


def test_distillation_recovers(place):
    from attar.data.batches import Batches, encode

    report = attar.distill(
        place / "teacher",
        student=place / "shared",
        texts=tiny.texts(40),
        out=place / "out",
        intermediate={"epochs": 10, "lr": 1e-2, "batch_size": 10},
        prediction={"epochs": 10, "lr": 1e-2, "batch_size": 10},
        precision="fp32",
        cache=False,
    )
    for stage, points in report.curves.items():
        first, last = (sum(part.values()) for _, part in (points[0], points[-1]))
        assert last < first, stage
    recovered = load(place / "out").model
    assert (recovered.config.inner_group_num, recovered.config.num_hidden_layers) == (2, 2)
    tokenizer = tiny.tokenizer()
    table = Batches(encode(tiny.table(40, seed=5), tokenizer, max_length=32), tokenizer)
    teacher, before, after = (
        torch.tensor(predict(load(place / n).model, table)) for n in ("teacher", "shared", "out")
    )
    teacher, before, after = (logits.softmax(-1) for logits in (teacher, before, after))
    assert (after - teacher).square().mean() < 0.9 * (before - teacher).square().mean()
    found = attar.evaluate(place / "out", place / "train.csv")
    assert found.rows[0].metrics


def test_a_recipe_shares_and_recovers(place, tmp_path):
    short = {"epochs": 1, "batch_size": 30}
    recipe = {
        "name": "shared",
        "model": str(place / "teacher"),
        "data": {"train": str(place / "train.csv")},
        "stages": [
            {"share": {"embedding": 16}},
            {"distill": {"intermediate": short, "prediction": short, "cache": False, "max_length": 32}},
            {"evaluate": {}},
        ],
    }
    recipe["data"]["dev"] = recipe["data"]["train"]
    attar.run(recipe, out=tmp_path / "out")
    made = load(tmp_path / "out" / "2-distill").model
    assert made.config.model_type == "albert"
    assert made.config.embedding_size == 16
    assert [problem.where for problem in problems(recipe)] == []
    for change, where in (
        ({"how": "groups"}, "groups"),
        ({"how": "cycles", "groups": 3}, "groups"),
        ({"embedding": 25}, "embedding"),
    ):
        recipe["stages"][0]["share"] = change
        assert [problem.where for problem in problems(recipe)] == [f"stages[0].share.{where}"]
    recipe["stages"][0]["share"] = {}
    recipe["stages"][1]["distill"]["student"] = {"layers": 2}
    assert problems(recipe)[0].where == "stages[1].distill.student"


def problems(recipe):
    from attar.recipes import check, parse

    return check(parse(recipe))


def test_what_albert_does_not_compute_is_refused(place, tmp_path):
    refused = {
        "norms before": tiny.model("modernbert"),
        "a decoder": tiny.model("gpt2", "causal-lm"),
        "shared already": tiny.model("albert"),
        "tanh": tiny.model("electra"),
        "gelu": tiny.model("roberta", "masked-lm", hidden_act="relu"),
    }
    for message, model in refused.items():
        with pytest.raises(ModelError, match=message):
            shared(model)
    for options in (
        {"how": "groups"},
        {"how": "all", "groups": 2},
        {"how": "cycles", "groups": 3},
        {"how": "groups", "groups": 5},
        {"how": "some", "groups": 2},
        {"start": "first"},
        {"embedding": 25},
        {"embedding": 0},
    ):
        with pytest.raises(ModelError, match=r"groups|embedding|start"):
            shared(four(), **options)
    with pytest.raises(ModelError, match="texts"):
        attar.share(place / "teacher", out=tmp_path / "out", embedding=8)
    assert not (tmp_path / "out").exists()
    grouped = load(place / "shared")
    with pytest.raises(ModelError, match="groups"):
        attar.distill(grouped.model, tokenizer=grouped.tokenizer, texts=tiny.texts(9), out=tmp_path / "out")


def test_the_command(place, tmp_path):
    words = [
        "share",
        str(place / "teacher"),
        "--out",
        str(tmp_path / "out"),
        "--how",
        "groups",
        "--groups",
        "2",
    ]
    shown = CliRunner().invoke(app, words, env={"COLUMNS": "100"})
    assert shown.exit_code == 0, shown.output
    assert "operations" in shown.output
    assert CliRunner().invoke(app, [*words[:-1], "9", "--overwrite"]).exit_code == 1
