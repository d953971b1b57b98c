"""Laws of choosing what stays: alphas are folded exactly, and what is worth most stays."""

import copy
import inspect
import json
import logging
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from pruning import TASKS, plan
from transformers import (
    BertConfig,
    BertForPreTraining,
    BertModel,
)

import attar
import tiny
from attar.anatomy.form import form_of
from attar.data.model_task import task_of
from attar.errors import PlanError
from attar.model.checkpoint import digest
from attar.pruning.alphas import alphas_for, betas, fold, gated
from attar.pruning.apply import apply
from attar.pruning.cost import Parameters
from attar.pruning.latency import Latency
from attar.pruning.published_shapes import PUBLISHED, published
from attar.pruning.round import axes_of
from attar.pruning.schubert import VARIANTS, learn_alphas
from attar.pruning.selection import Scores, in_order, uniform
from attar.pruning.self_distillation import SelfDistillation


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


@pytest.mark.parametrize("rounding", [None, 4])
@pytest.mark.parametrize(("budget", "enough"), [(0.8, True), (0.15, False)])
def test_heads_and_feed_forward_units_go_first_and_all_axes_where_these_are_not_enough(
    budget, enough, rounding, caplog
):
    caplog.set_level(logging.INFO, logger="attar")
    model = tiny.model()
    found = plan(model, budget=budget, method="taylor", axes="auto", rounding=rounding)
    assert found.after.parameters <= budget * found.before.parameters
    whole, left = form_of(model.config), found.kept.form
    inside = all((x.key, x.value) == (y.key, y.value) for x, y in zip(left.layers, whole.layers, strict=True))
    assert (left.hidden == whole.hidden and inside) == enough
    assert ("hidden" in caplog.text) != enough
    if not enough:
        with pytest.raises(PlanError, match="a budget of at least"):
            plan(model, budget=budget, method="taylor", axes=("heads", "ffn"), rounding=rounding)


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
