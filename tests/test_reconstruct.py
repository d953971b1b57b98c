"""Reconstruction: what can be taken over exactly is, and what cannot comes closer; a model that lost nothing stays."""

import copy
from dataclasses import replace

import pytest
import torch

import slims
import tiny
from attar.anatomy.families import ENCODERS
from attar.anatomy.form import form_of
from attar.anatomy.resolve import resolve
from attar.model.checkpoint import Loaded
from attar.model.views import Need, call
from attar.pruning.apply import apply
from attar.pruning.cost import Parameters
from attar.pruning.pruner import Pruner
from attar.pruning.reconstruction import reconstruct
from attar.pruning.round import Way
from attar.pruning.rounds import Recovery
from attar.pruning.units import everything

FAMILIES = [name for name in ENCODERS if name != "albert"]


def rows(family):
    return tiny.batches(tiny.texts(80), family, batch_size=16)


def apart(small, model, kept, family):
    """Mean squared distance of the last hidden states, in the dimensions that stay, on other texts."""
    need = (
        Need(hidden=frozenset({len(kept.layers)})),
        Need(hidden=frozenset({model.config.num_hidden_layers})),
    )
    total = 0.0
    with torch.no_grad():
        for batch in tiny.batches(tiny.texts(20, seed=7), family, batch_size=20):
            ours, theirs = (
                next(iter(call(m, batch.inputs, n).hidden.values()))
                for m, n in zip((small, model), need, strict=True)
            )
            total += float((ours - theirs[:, list(kept.hidden)]).square().mean())
    return total


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cut_of_every_axis_comes_closer(family):
    model = slims.model(family)
    kept = slims.uneven(form_of(model.config), resolve(model).anatomy)
    small = apply(model, kept)
    before = apart(small, model, kept, family)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert reconstruct(small, model, kept, rows(family))
    assert apart(small, model, kept, family) < 0.6 * before
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_what_nothing_was_cut_from_stays_as_it_is(family):
    model = slims.model(family)
    kept = everything(form_of(model.config))
    small = apply(model, kept)
    assert reconstruct(small, model, kept, rows(family))
    torch.testing.assert_close(
        dict(small.named_parameters()), dict(model.named_parameters()), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_a_head_and_neurons_that_are_there_twice_are_taken_over_exactly(family):
    model = copy.deepcopy(slims.model(family))
    form, bound = form_of(model.config), resolve(model)
    layer = form.layers[1]
    with torch.no_grad():
        # Head 3 says what head 0 says, and the second half of the neurons what the first does.
        width = layer.value
        if bound.anatomy.fused_qkv:
            fused = bound.at(bound.anatomy.query, 1)
            for part in fused.weight.split(form.hidden):
                part[3 * width :] = part[:width]
            inner, half = bound.at(bound.anatomy.ffn_in, 1), layer.ffn // 2
            for part in inner.weight.split(layer.ffn):
                part[half : 2 * half] = part[:half]
        else:
            for part in ("query", "key", "value"):
                module = bound.at(getattr(bound.anatomy, part), 1)
                for tensor in (module.weight, module.bias):
                    tensor[3 * width :] = tensor[:width]
            module, half = bound.at(bound.anatomy.ffn_in, 1), layer.ffn // 2
            for tensor in (module.weight, module.bias):
                tensor[half : 2 * half] = tensor[:half]
    whole = everything(form)
    fewer = replace(whole.layers[1], heads=(0, 1, 2), ffn=(*range(half), *range(2 * half, layer.ffn)))
    kept = replace(whole, layers=(whole.layers[0], fewer))
    small = apply(model, kept)
    before = apart(small, model, kept, family)
    assert reconstruct(small, model, kept, rows(family), penalty=1e-6)
    assert before > 1e-3
    assert apart(small, model, kept, family) < 1e-5


def test_a_unit_that_the_last_norm_switches_off_stays_off():
    model = copy.deepcopy(slims.model("bert"))
    form, bound = form_of(model.config), resolve(model)
    with torch.no_grad():
        bound.at(bound.anatomy.ffn_norm, 1).weight[5] = 0.0  # as MiniLM has some
    whole = everything(form)
    kept = replace(whole, layers=tuple(replace(x, ffn=x.ffn[::2]) for x in whole.layers))
    small = apply(model, kept)
    assert reconstruct(small, model, kept, rows("bert"))
    assert abs(resolve(small).at(bound.anatomy.ffn_norm, 1).weight[5].item()) < 1e-6


def test_rounds_fit_to_the_model_of_their_round_so_that_what_was_folded_stays(tmp_path):
    model = tiny.model()
    cost, place = Parameters(model), tmp_path

    def pruned(*, fold, fit):
        way = Way("schubert", ("heads", "ffn"), steps=30, lr=0.05, precision="fp32", fold=fold)
        recovery = Recovery(None, precision="fp32", reconstruct=fit)
        pruner = Pruner(Loaded(model, tiny.tokenizer(), "tiny"), way, texts=tiny.table(64))
        here = place / f"{fold}-{fit}"
        here.mkdir()
        return pruner.rounds(0.8 * cost(form_of(model.config)), 1, recovery, here).model

    plain, fitted = (pruned(fold=False, fit=fit) for fit in (False, True))
    folded, both = (pruned(fold=True, fit=fit) for fit in (False, True))
    # Folding moves what the model says by more than fitting does, and fitting does not take it back.
    assert tiny.difference(folded, both) < 0.5 * tiny.difference(folded, plain)
    assert tiny.difference(both, fitted) > 0.5 * tiny.difference(folded, plain)


def test_layers_that_are_one_layer_are_left_alone():
    model = slims.model("albert")
    kept = slims.uneven(form_of(model.config), resolve(model).anatomy)
    small, same = apply(model, kept), apply(model, kept)
    assert not reconstruct(small, model, kept, rows("albert"))
    assert tiny.identical(small, same)
