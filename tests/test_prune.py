"""Laws of pruning: what is learned is folded exactly, what stays is what is worth most, and plan and cut agree."""

import copy
import inspect
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForTokenClassification,
    BertConfig,
    BertForPreTraining,
    BertModel,
    BertTokenizer,
)
from typer.testing import CliRunner

import attar
import tiny
from attar import cli
from attar.anatomy.form import form_of
from attar.data.model_task import task_of
from attar.model.checkpoint import digest, load, read_lineage
from attar.pruning import measuring, pruner
from attar.pruning.alphas import alphas_for, betas, fold, gated
from attar.pruning.apply import apply
from attar.pruning.cost import Parameters
from attar.pruning.latency import Latency
from attar.pruning.published_shapes import PUBLISHED, published
from attar.pruning.round import Way, axes_of
from attar.pruning.rounds import rounds
from attar.pruning.schubert import VARIANTS, learn_alphas
from attar.pruning.selection import Scores, in_order, uniform
from attar.pruning.self_distillation import SelfDistillation
from attar.training import loop as train

FAST = {"precision": "fp32", "max_length": 16, "batch_size": 8}
TASKS = {
    "single_label": {"num_labels": 2},
    "multi_label": {"num_labels": 3, "problem_type": "multi_label_classification"},
    "regression": {"num_labels": 1},
}


def plan(model, **options):
    given = {"texts": tiny.texts(32), "steps": 5, **FAST, **options}
    return attar.plan(model, tokenizer=tiny.tokenizer(), **given)


def prune(model, plan=None, **options):
    given = {"texts": tiny.texts(32), "steps": 5, "recover_steps": 4, **FAST, **options}
    return attar.prune(model, plan, tokenizer=tiny.tokenizer(), **given)


def alone(model, batch):
    """What a model takes of a batch: not every family has token types."""
    return {k: v for k, v in batch.inputs.items() if k in inspect.signature(model.forward).parameters}


# The paper's figures


@pytest.fixture(scope="module")
def base():
    with torch.device("meta"):
        return BertForPreTraining(BertConfig()), BertModel(BertConfig(), add_pooling_layer=False)


def test_what_a_unit_costs_is_what_the_paper_prints(base):
    alphas = alphas_for(base[0], VARIANTS["all"])
    found = dict(
        zip([name for name, _ in alphas.named_parameters()], betas(alphas, Parameters(base[0])), strict=True)
    )
    assert found["layers.0.heads"] == pytest.approx(1.0, abs=1e-3)
    assert (
        round(found["outer.hidden"], 2) == 0.73
    )  # of the model in pre-training, as theirs is: with both heads
    # Printed are the first digits of 0.0938.
    assert int(1000 * found["layers.0.key"]) == int(1000 * found["layers.0.value"]) == 93
    assert round(found["layers.0.ffn"], 4) == 0.0078
    without = alphas_for(base[1], VARIANTS["all"])
    assert betas(without, Parameters(base[1]))[0] == pytest.approx(0.72, abs=5e-3)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shapes_have_the_sizes_that_they_are_named_for(base, name):
    count, form = Parameters(base[1]), form_of(base[1].config)
    named = 1e6 * int(name.removeprefix("schubert-").removesuffix("m"))
    assert count(published(name, form)) == pytest.approx(named, rel=0.01)


# Alphas


@pytest.mark.parametrize("head", ["sequence-classification", "masked-lm"])
@pytest.mark.parametrize("family", tiny.CONFIGS)
def test_gated_is_folded(family, head):
    model = tiny.model(family, head)
    batch = next(iter(tiny.batches(family=family, batch_size=8).epoch()))
    inputs = alone(model, batch)
    alphas = alphas_for(model, axes_of(model, "all"))
    torch.manual_seed(0)
    with torch.no_grad():
        for group in alphas.parameters():
            group.uniform_(0.3, 1.2)
    plain = model(**inputs)[0]
    with gated(model, alphas):
        through = model(**inputs)[0]
    through.square().sum().backward()
    assert all(group.grad.abs().sum() > 0 for group in alphas.parameters())
    assert torch.equal(plain, model(**inputs)[0])  # nothing was touched
    folded = copy.deepcopy(model)
    fold(folded, alphas)
    assert (through - folded(**inputs)[0]).abs().max() < 1e-4
    assert (through - plain).abs().max() > 1e-2


def test_useful_units_are_told_from_noise():
    model = tiny.model(intermediate_size=64)
    noise = torch.arange(64) % 2 == 1
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            layer.output.dense.weight[:, noise] *= 0.02
    batches = tiny.batches(tiny.texts(64), batch_size=16, shuffle=True)
    loss = SelfDistillation(model, copy.deepcopy(model), task=task_of(model.config))
    options = {"steps": 60, "lr": 0.02, "precision": "fp32"}
    alphas = learn_alphas(model, ("ffn",), loss, batches, Parameters(model), **options)
    for layer in alphas.layers:
        alpha = layer["ffn"].detach().abs()
        above = (alpha[~noise][:, None] > alpha[noise][None, :]).float().mean()
        assert above > 0.9
        assert alpha[~noise].mean() > alpha[noise].mean() + 0.2


@pytest.mark.parametrize("method", ["schubert", "taylor"])
def test_a_unit_that_does_nothing_goes_first(method):
    model = tiny.model()
    dead = model.bert.encoder.layer[1]
    with torch.no_grad():
        dead.output.dense.weight[:, 7] = 0
        dead.intermediate.dense.weight[7] = 0
        dead.intermediate.dense.bias[7] = 0
    # A slice of two matrices and a bias a unit. Alphas fall side by side, so that a few others may be as low.
    count = {"taylor": 1, "schubert": 6}[method]
    found = plan(model, budget=model.num_parameters() - 49 * count, axes="f", method=method, steps=60)
    assert sum(len(layer.ffn) for layer in found.layers) == 80 - count
    assert 7 not in found.layers[1].ffn


# Close


@pytest.mark.parametrize("kind", [*TASKS, None])
def test_a_model_is_no_distance_from_itself(kind):
    model = tiny.model(head="masked-lm") if kind is None else tiny.model(**TASKS[kind])
    task = None if kind is None else task_of(model.config)
    loss = SelfDistillation(model, copy.deepcopy(model), task=task)
    parts = loss(next(iter(tiny.batches(tiny.texts(), batch_size=8).epoch())))
    assert set(parts) == ({"hidden"} if kind is None else {"hidden", "prediction"})
    total = torch.stack(list(parts.values())).sum()
    total.backward()
    assert total.abs() < 1e-6
    assert all(p.grad is None or p.grad.abs().max() < 1e-5 for p in model.parameters())


# Choosing


def scores_of(model, axes, seed):
    generator = np.random.default_rng(seed)
    alphas = alphas_for(model, axes)
    with torch.no_grad():
        for group in alphas.parameters():
            group.copy_(torch.tensor(generator.random(len(group))))
    return alphas.scores()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("family", ["bert", "electra", "albert"])
def test_the_smallest_go_and_not_one_more_than_the_budget_asks(family, seed):
    model = tiny.model(family)
    form, cost = form_of(model.config), Parameters(model)
    scores = scores_of(model, axes_of(model, "all"), seed)
    budget = cost(form) * [0.9, 0.7, 0.5, 0.3][seed]
    kept = in_order(form, scores, cost, budget)
    assert cost(kept.form) <= budget
    worst_gone = -1.0, None
    least = np.inf
    for axis, layer, values in scores.groups():
        stays = list(getattr(kept if layer is None else kept.layers[layer], axis))
        goes = sorted(set(range(len(values))) - set(stays))
        assert not goes or values[goes].max() <= values[stays].min()
        if goes and values[goes].max() > worst_gone[0]:
            worst_gone = values[goes].max(), (axis, layer, goes[int(values[goes].argmax())])
        if len(stays) > 1:  # the last of a group stays whatever it is worth
            least = min(least, values[stays].min())
    assert worst_gone[0] <= least
    axis, layer, unit = worst_gone[1]
    more = with_unit(kept, axis, layer, unit, shared=family == "albert")
    assert cost(more.form) > budget


def with_unit(kept, axis, layer, unit, *, shared):
    if layer is None:
        grown = {axis: (*getattr(kept, axis), unit)}
        if axis == "hidden" and kept.embedding == kept.hidden:
            grown["embedding"] = grown["hidden"]
        return replace(kept, **grown)
    layers = [
        replace(x, **{axis: (*getattr(x, axis), unit)}) if shared or n == layer else x
        for n, x in enumerate(kept.layers)
    ]
    return replace(kept, layers=tuple(layers))


@pytest.mark.parametrize("choose", [in_order, uniform])
def test_sizes_are_rounded_and_the_budget_holds(choose):
    model = tiny.model()
    form, cost = form_of(model.config), Parameters(model)
    scores = scores_of(model, ("hidden", "ffn"), 0)
    kept = choose(form, scores, cost, 0.6 * cost(form), steps={"hidden": 4, "ffn": 16})
    assert cost(kept.form) <= 0.6 * cost(form)
    assert len(kept.hidden) % 4 == 0
    assert all(len(layer.ffn) in {16, 32, 40} for layer in kept.layers)


def test_one_of_each_group_stays():
    model = tiny.model()
    form, cost = form_of(model.config), Parameters(model)
    nothing = Scores({}, tuple({"ffn": torch.zeros(40)} for _ in range(2)))
    smallest = replace(form, layers=tuple(replace(x, ffn=1) for x in form.layers))
    assert in_order(form, nothing, cost, cost(smallest)).form == smallest


METHODS = {
    "schubert": {},
    "schubert-uniform": {"axes": ["ffn", "heads"]},
    "taylor": {"axes": "a", "budget": 0.9},
    "magnitude": {"axes": "h"},
    "activation": {"axes": "f", "budget": 0.8},
    "similarity": {"budget": 0.8},
    "alternate": {"budget": 0.8},
}


@pytest.mark.parametrize("method", METHODS)
def test_a_plan_meets_its_budget_and_touches_nothing(method):
    model = tiny.model()
    before = digest(model), [p.requires_grad for p in model.parameters()]
    options = {"budget": 0.7, **METHODS[method]}
    found = plan(model, method=method, **options)
    assert found.after.parameters <= options["budget"] * found.before.parameters
    assert (digest(model), [p.requires_grad for p in model.parameters()]) == before
    small = apply(model, found.kept)
    assert small.num_parameters() == found.after.parameters
    assert attar.Plan.model_validate_json(found.to_json()) == found
    assert attar.Plan.model_validate_json(found.to_json()).kept == found.kept


def test_costs_are_counted_in_operations_and_seconds(tmp_path):
    model = tiny.model()
    found = plan(model, budget=0.7, cost="flops", method="magnitude", axes="f", length=16)
    assert found.after.flops <= 0.7 * found.before.flops
    table, common = tmp_path / "times.json", {"method": "magnitude", "axes": "f", "length": 16, "rounding": 4}
    measured = asdict(Latency.measure(model, length=16, seconds=0.1))
    sizes = measured["ffn"]["sizes"]
    # A second a unit: what such a small model takes here is noise.
    measured |= {"scale": 1.0, "each": 0.0, "ffn": {"sizes": sizes, "seconds": sizes[1] * len(sizes[0])}}
    table.write_text(json.dumps(measured))
    timed = plan(model, budget=0.7, cost="latency", table=table, **common)
    assert timed.after.latency <= 0.7 * timed.before.latency
    assert all(len(layer.ffn) % 4 == 0 for layer in timed.layers)
    assert sum(len(layer.ffn) for layer in timed.layers) == pytest.approx(0.7 * 80, abs=8)


def test_a_plan_prints_what_goes_and_what_it_costs():
    found = plan(tiny.model(num_hidden_layers=3), budget=0.6, method="top")
    lines = str(found).splitlines()
    assert "the whole layer" in lines[4]
    assert any(line.startswith("layers 3 →") for line in lines)
    assert any("parameters" in line and "→" in line for line in lines)
    assert lines[-1] == "saved as a stock class of transformers"


def test_a_layer_that_does_nothing_is_dropped():
    model = tiny.model(num_hidden_layers=4)
    layers = model.bert.encoder.layer
    with torch.no_grad():
        for part in (layers[2].attention.output.dense, layers[2].output.dense):
            part.weight.zero_()
            part.bias.zero_()
        for norm in (
            layers[1].output.LayerNorm,
            layers[2].attention.output.LayerNorm,
            layers[2].output.LayerNorm,
        ):
            norm.weight.fill_(1)
            norm.bias.zero_()
    found = plan(model, budget=0.85, method="similarity")
    assert [layer.layer for layer in found.layers] == [0, 1, 3]
    batch = next(iter(tiny.batches(tiny.texts(), batch_size=8).epoch()))
    assert torch.allclose(apply(model, found.kept)(**batch.inputs)[0], model(**batch.inputs)[0], atol=1e-4)


# Cutting


def test_prune_by_a_plan_is_apply(tmp_path):
    model = tiny.model()
    found = plan(model, budget=0.6, method="magnitude")
    report = prune(model, found.write(tmp_path / "plan.json"), out=tmp_path / "small", texts=None)
    small = load(tmp_path / "small").model
    assert tiny.identical(small, apply(model, found.kept))
    assert attar.Plan.read(tmp_path / "small" / "plan.json") == found
    assert report.shapes == (found.shape("small"),)
    assert report.rows[1].parameters == found.after.parameters == small.num_parameters()
    assert read_lineage(tmp_path / "small")["stage"] == "prune"


def test_rounds_compose(tmp_path):
    model = tiny.model()
    way = Way("magnitude", axes_of(model, "all"))
    cost = Parameters(model)
    made = rounds(model, way, cost, 0.4 * cost(form_of(model.config)), count=3, place=tmp_path)
    assert form_of(made.model.config) == made.kept.form
    assert cost(made.kept.form) <= 0.4 * cost(form_of(model.config))
    assert tiny.difference(made.model, apply(model, made.kept)) < 1e-6


def test_recovery_comes_closer_to_the_model_before(tmp_path):
    model, dev = tiny.model(), tiny.table(40, 1)
    options = {"budget": 0.7, "dev": dev, "texts": tiny.texts(64), "steps": 20, "recover_lr": 2e-3}
    ways = {
        "plain": {"recover": None, "reconstruct": False},
        "fitted": {"recover": None},
        "trained": {"recover_steps": 40, "reconstruct": False},
    }
    found = {name: prune(model, out=tmp_path / name, **options, **way) for name, way in ways.items()}
    far = {name: report.rows[1].metrics["kl"] for name, report in found.items()}
    assert max(far["fitted"], far["trained"]) < far["plain"]
    assert {name for name, report in found.items() if "recover" in report.curves} == {"trained"}


@pytest.mark.parametrize("kind", TASKS)
def test_every_task_prunes(tmp_path, kind):
    model, data = tiny.model(**TASKS[kind]), tiny.table(40, kind=kind)
    options = {"texts": None, "data": data, "dev": tiny.table(20, 1, kind=kind)}
    report = prune(model, out=tmp_path / "out", budget=0.7, loss="task", recover="task", **options)
    assert load(tmp_path / "out").model.config.num_labels == TASKS[kind]["num_labels"]
    assert report.rows[1].parameters <= 0.7 * report.rows[0].parameters
    assert report.main in report.rows[1].metrics


@pytest.mark.parametrize(
    ("head", "loss"), [("masked-lm", "mlm"), ("masked-lm", "distill"), ("base", "distill")]
)
def test_models_without_a_task_prune(tmp_path, head, loss):
    report = prune(tiny.model(head=head), out=tmp_path / "out", budget=0.7, rounds=2, loss=loss, recover=loss)
    assert list(report.curves) == ["recover 1", "recover 2"]
    assert load(tmp_path / "out").model.num_parameters() == report.rows[1].parameters
    metrics = [row.metrics.keys() for row in report.rows]
    if head == "base":
        assert report.notes == ("sizes alone: a BertModel has no head whose answers could be compared",)
        assert metrics == [set(), set()]
    else:
        assert report.notes[0].startswith("measured on 3 texts, held out")
        assert all({"masked_accuracy", "mlm_loss"} <= found for found in metrics)


def test_models_of_tags_and_answers_are_measured_where_there_is_something_to_ask(tmp_path):
    tagger = AutoModelForTokenClassification.from_config(tiny.config(num_labels=3))
    report = prune(tagger, out=tmp_path / "plain", budget=0.7)
    assert {"agreement", "kl"} <= report.rows[1].metrics.keys()
    rows = [{"tokens": text.split(), "tags": ["LABEL_0"] * len(text.split())} for text in tiny.texts(32)]
    report = prune(tagger, out=tmp_path / "table", budget=0.7, texts=None, data=Dataset.from_list(rows))
    assert {"accuracy", "agreement", "kl"} <= report.rows[1].metrics.keys()

    reader = AutoModelForQuestionAnswering.from_config(tiny.config())
    report = prune(reader, out=tmp_path / "texts", budget=0.7)
    assert report.notes == ("sizes alone: questions and their contexts are needed to measure (data or dev)",)
    columns = {"question": tiny.texts(32), "context": tiny.texts(32, 1)}
    asked = Dataset.from_dict(columns)
    report = prune(reader, out=tmp_path / "asked", budget=0.7, texts=None, data=asked, max_length=32)
    assert {"agreement", "kl"} <= report.rows[1].metrics.keys()


@pytest.mark.parametrize("way", ["rounds", "plan"])
def test_nothing_is_learned_from_the_texts_that_are_measured(tmp_path, monkeypatch, way):
    learned, measured = set(), set()

    def watch(place, seen, of):
        real = getattr(place, of)
        found = 1 if of == "measure" else 0

        def wrapped(*given, **options):
            seen.update(given[found]["text"][:])
            return real(*given, **options)

        monkeypatch.setattr(place, of, wrapped)

    watch(pruner, learned, "encode")
    watch(measuring, measured, "measure")
    model, texts = tiny.model(), list(dict.fromkeys(tiny.texts(80)))
    chosen = {"budget": 0.7} if way == "rounds" else {"plan": plan(model, budget=0.7, texts=texts, seed=3)}
    report = prune(model, out=tmp_path / "small", texts=texts, seed=5, **chosen)
    assert len(measured) == len(texts) // 10
    assert learned == set(texts) - measured
    assert {"agreement", "kl"} <= report.rows[1].metrics.keys()
    assert report.remarks()[1].startswith(f"too few texts for an interval: {len(measured)}; about")


def test_labels_count_where_some_of_the_texts_are_held_out(tmp_path):
    report = prune(tiny.model(), out=tmp_path / "out", budget=0.7, texts=None, data=tiny.table(400))
    assert {"accuracy", "agreement", "kl"} <= report.rows[1].metrics.keys()
    assert not report.rows[1].retained.missing
    report = prune(tiny.model(), out=tmp_path / "one", budget=0.7, texts=tiny.texts(1))
    assert report.notes == ("sizes alone: there are no texts to measure on",)


@pytest.mark.parametrize("family", sorted(set(tiny.CONFIGS) - {"bert", "camembert", "xlm-roberta"}))
def test_every_family_prunes(tmp_path, family):
    model = tiny.model(family)
    options = {"texts": tiny.texts(16), "steps": 3, "recover_steps": 2, **FAST}
    attar.prune(model, tokenizer=tiny.tokenizer(family), out=tmp_path / "out", budget=0.7, **options)
    assert load(tmp_path / "out").model.num_parameters() <= 0.7 * model.num_parameters()


def test_a_killed_pruning_ends_as_an_uninterrupted_one(tmp_path, monkeypatch):
    model = tiny.model(hidden_dropout_prob=0.3)
    options = {"budget": 0.5, "rounds": 2, "texts": tiny.texts(40), "seed": 3}
    prune(model, out=tmp_path / "whole", **options)
    inner = train._step
    for last in (3, 7, 12):  # in the alphas, the recovery, and the second round
        count = [0]

        def interrupted(*arguments, count=count, last=last):
            count[0] += 1
            if count[0] > last:
                raise KeyboardInterrupt
            return inner(*arguments)

        monkeypatch.setattr(train, "_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prune(model, out=tmp_path / "killed", **options)
        assert not (tmp_path / "killed").exists()
        monkeypatch.undo()
    prune(model, out=tmp_path / "killed", **options)
    assert tiny.identical(*(load(tmp_path / name).model for name in ("whole", "killed")))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "whole"]


# Vocabularies

FEW = ["good film", "a bad plot", "the cast was lovely"]


@pytest.mark.parametrize("last", [False, True], ids=["pad first", "pad last"])
def test_a_vocabulary_goes_through_a_plan_and_gives_the_same_logits(tmp_path, last):
    words = tiny.VOCABULARY[1:] + tiny.VOCABULARY[:1] if last else tiny.VOCABULARY
    tokenizer = BertTokenizer(vocab={piece: i for i, piece in enumerate(words)})
    model = tiny.model(pad_token_id=words.index("[PAD]"))
    found = attar.plan(model, tokenizer=tokenizer, method="vocabulary", texts=FEW)
    assert found.after.parameters == found.before.parameters - 24 * (tiny.VOCAB - len(found.vocab))
    file = found.write(tmp_path / "plan.json")
    attar.prune(model, file, tokenizer=tokenizer, out=tmp_path / "out")
    small = load(tmp_path / "out")
    assert len(small.tokenizer) == small.model.config.vocab_size == len(found.vocab) < tiny.VOCAB
    assert small.model.config.pad_token_id == small.tokenizer.pad_token_id
    said = [
        m.model(**m.tokenizer(FEW, return_tensors="pt", padding=True)).logits
        for m in (small, type(small)(model, tokenizer, ""))
    ]
    assert torch.allclose(*said, atol=1e-5)


# On the command line, in recipes


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    where = tmp_path_factory.mktemp("prune")
    tiny.saved(where / "model")
    tiny.table(40).to_csv(where / "train.csv")
    (where / "texts.txt").write_text("\n".join(tiny.texts(32)) + "\n")
    return where


def test_the_command_line_plans_then_cuts(place, tmp_path):
    def run(*words):
        shown = CliRunner().invoke(cli.app, [str(word) for word in words])
        assert shown.exit_code == 0, shown.output
        return shown.output

    model, texts, file = place / "model", ["--texts", place / "texts.txt"], tmp_path / "plan.json"
    asked = ["--budget", 0.6, "--axes", "ffn,heads", "--steps", 4]
    shown = run("plan", model, *asked, *texts, "--out", file)
    found = attar.Plan.read(file)
    assert all(word in shown for word in ("layer", "heads", "ffn", "parameters", "█"))
    assert found.hidden == tuple(range(24))
    assert "parameters" in run("prune", model, *asked, *texts, "--plan-only")
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]
    shown = run("prune", model, "--plan", file, *texts, "--recover-steps", 3, "--out", tmp_path / "small")
    assert "smaller" in shown
    assert load(tmp_path / "small").model.num_parameters() == found.after.parameters
    told = CliRunner().invoke(cli.app, ["plan", str(model), "--budget", "0.6", "--out", str(file)])
    assert told.exit_code == 1
    assert "--overwrite" in told.output + told.stderr


@pytest.mark.parametrize("after", ["distill", "finetune"])
def test_a_recipe_prunes_and_goes_on(place, tmp_path, after):
    learning = {"epochs": 1, "batch_size": 8}
    then = {
        "distill": {"intermediate": learning, "prediction": learning, "max_length": 32},
        "finetune": {**learning, "max_length": 32},
    }[after]
    recipe = {
        "name": "small",
        "model": str(place / "model"),
        "data": {"train": str(place / "train.csv"), "dev": str(place / "train.csv")},
        "stages": [
            {"prune": {"budget": 0.7, "steps": 3, "recover_steps": 2, "max_length": 32}},
            {after: then},
            {"evaluate": {"max_length": 32}},
        ],
    }
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    assert CliRunner().invoke(cli.app, ["check", str(file)]).exit_code == 0
    attar.run(file, out=tmp_path / "run")
    pruned, last = (tmp_path / "run" / name for name in ("1-prune", f"2-{after}"))
    parent = {"distill": place / "model", "finetune": pruned}[after]
    assert read_lineage(last)["parent"] == str(parent)
    small, again = (load(path).model for path in (pruned, last))
    assert form_of(small.config) == form_of(again.config)
    assert not tiny.identical(small, again)
    assert json.loads((pruned / "report.json").read_text())["shapes"]


def test_texts_may_come_as_a_dataset():
    found = plan(tiny.model(), budget=0.8, texts=None, data=Dataset.from_dict({"text": tiny.texts(20)}))
    assert found.after.parameters <= 0.8 * found.before.parameters
