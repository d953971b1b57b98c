"""Cut a model for real: a new, smaller one, with the weights of the units that stay."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from attar.anatomy.form import Form, Slot, factorised, form_of, modules, slots
from attar.anatomy.resolve import resolve
from attar.errors import PlanError
from attar.model.slim import class_for, config_for
from attar.pruning.units import Indexer, Kept


@torch.no_grad()
def apply(model: PreTrainedModel, kept: Kept, **changes: Any) -> PreTrainedModel:
    """A new model with what stays of another; the other is left as it is.

    The new model computes what `masked(model, kept)` computes. Its class is its family's stock one where a stock config
    can say its form, else the slim one.

    Args:
        changes: values of the smaller model's config, such as the new numbers of special tokens.

    Raises:
        ModelError: the model has weights that the family's anatomy does not name.
        PlanError: the form is one that no class of the family has.
    """
    source, form = form_of(model.config), kept.form
    _possible(model, kept)
    config = config_for(model.config, form, [layer.layer for layer in kept.layers])
    for name, value in changes.items():
        setattr(config, name, value)
    made = _fresh(class_for(model, config), config)
    index = Indexer(source, kept)
    state = model.state_dict()
    anatomy = resolve(model).anatomy
    prefix = ("" if model.base_model is model else model.base_model_prefix + ".") + anatomy.layers + "."
    found: dict[str, Tensor] = {}
    for slot in slots(model):
        name = slot.name
        if slot.layer is not None and not anatomy.shared:
            if slot.layer not in index.place:
                continue
            name = name.replace(f"{prefix}{slot.layer}.", f"{prefix}{index.place[slot.layer]}.", 1)
        found[name] = index.take(slot, state[slot.name]) * rescaled(slot, anatomy, source, kept, index)
    made.load_state_dict(found)
    made.tie_weights()
    return made.eval()


def _fresh(kind: type[PreTrainedModel], config: Any) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        made: PreTrainedModel = kind(config)
    made.config.architectures = [kind.__name__]
    return made


def rescaled(slot: Slot, anatomy: Any, source: Form, kept: Kept, index: Indexer) -> Tensor | float:
    """What a query is multiplied by, so that q kᵀ / sqrt(k) is the same with the new key size as with the old."""
    if slot.layer is None or not slot.name.rpartition(".")[0].endswith("." + anatomy.query):
        return 1.0
    own, old = kept.layers[index.place[slot.layer]], source.layers[slot.layer]
    factor: float = (len(own.key) / old.key) ** 0.5
    if not anatomy.fused_qkv or factor == 1.0:
        return factor
    queries = len(own.heads) * len(own.key)
    rest = queries + len(own.heads) * len(own.value)
    scale = torch.cat([torch.full((queries,), factor), torch.ones(rest)])
    return scale[:, None] if len(slot.dims) > 1 else scale


def _possible(model: PreTrainedModel, kept: Kept) -> None:
    bound, form = resolve(model), kept.form
    name = bound.anatomy.name
    source = form_of(model.config)
    for axis, why in bound.anatomy.uncut:
        if axis == "layers":
            same = {(x.heads, x.key, x.value, x.ffn) for x in kept.layers}
            whole = len(form.layers) == len(source.layers) and len(same) == 1
        else:
            pairs = ((kept.layers[n], source.layers[x.layer]) for n, x in enumerate(kept.layers))
            whole = all(len(getattr(own, axis)) == getattr(old, axis) for own, old in pairs)
        if not whole:
            raise PlanError(
                expected=f"the {axis} of a {name} model to stay as they are",
                found=why,
                fix="keep all of them",
            )
    if not bound.anatomy.shared and factorised(bound) and form.hidden == form.embedding:
        raise PlanError(
            expected=f"a hidden size other than the embedding size: {name} has a matrix between them only then",
            found=f"{form.hidden} both",
            fix="keep one hidden unit more or fewer",
        )
    if bound.anatomy.pre_norm and kept.layers[0].layer != 0:
        raise PlanError(
            expected=f"the first layer to stay: in {name} it alone has no norm before its attention",
            found=f"layer {kept.layers[0].layer} as the first that stays",
            fix="keep layer 0",
        )


@contextmanager
def masked(model: PreTrainedModel, kept: Kept) -> Iterator[PreTrainedModel]:
    """The model with all that does not stay switched off, though still there: what `apply` must agree with.

    Vocabulary entries are not switched off. Norms take mean and variance over the dimensions that stay.
    """
    source = form_of(model.config)
    index = Indexer(source, kept)
    bound = resolve(model)
    handles: list[Any] = []
    for name, (module, layer, dims) in modules(model).items():
        if layer is not None and layer not in index.place:
            continue
        out = dims[-1] if isinstance(module, nn.Embedding) else dims[0]
        if out == ("vocab",):
            continue
        mask = index.mask(out, layer, _width(module)).to(cast(Tensor, module.weight).device)
        handles.append(module.register_forward_hook(_masking(module, mask)))
        del name
    gone = set() if bound.anatomy.shared else set(range(len(source.layers))) - set(index.place)
    layers = cast(nn.ModuleList, bound.at(bound.anatomy.layers))
    handles += [layers[n].register_forward_hook(lambda _, given, out: _skip(given, out)) for n in gone]
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()


def _skip(given: tuple[Any, ...], out: Any) -> Any:
    return (given[0], *out[1:]) if isinstance(out, tuple) else given[0]


def _width(module: nn.Module) -> int:
    weight = cast(Tensor, module.weight)
    return weight.shape[1] if isinstance(module, nn.Embedding) else weight.shape[0]


def _masking(module: nn.Module, mask: Tensor) -> Any:
    if not isinstance(module, nn.LayerNorm):
        return lambda _, given, out: out * mask
    norm = module

    def over_kept(_: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
        x, count = given[0], mask.sum()
        mean = (x * mask).sum(-1, keepdim=True) / count
        centred = (x - mean) * mask
        variance = centred.square().sum(-1, keepdim=True) / count
        y: Tensor = centred * (variance + norm.eps).rsqrt() * norm.weight * mask
        return y if norm.bias is None else y + norm.bias * mask

    return over_kept
