"""Models of a form that no stock config says: their classes, their configs, and the file that travels with them."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, PreTrainedModel

from attar.anatomy.form import Form, LayerForm
from attar.anatomy.parts import Anatomy
from attar.anatomy.resolve import family
from attar.model import modeling_slim
from attar.model.embedding import SentenceEncoder

FILE = Path(modeling_slim.__file__).name
# Of a config, what a slim one says beside its family's stock one.
OWN = ("per_layer_config", "slim_parts", "slim_stock", "auto_map")


def register() -> None:
    """Teach transformers' Auto classes the slim classes; again is no harm."""
    for name in modeling_slim.FAMILIES:
        config = getattr(modeling_slim, f"Slim{name}Config")
        AutoConfig.register(config.model_type, config, exist_ok=True)
        for head, auto in modeling_slim.HEADS.items():
            made = getattr(modeling_slim, f"Slim{name}{head}", None)
            if made is not None:
                getattr(transformers, auto).register(config, made, exist_ok=True)


def is_slim(config: Any) -> bool:
    """Whether a config is of a slim class."""
    return str(config.model_type).startswith("slim-")


def config_for(source: Any, form: Form, layers: Sequence[int] | None = None) -> Any:
    """A config of the source's family that says a form: stock where one can, else slim.

    Args:
        source: the config of the model that was cut; all that is not a size is taken over.
        form: to say.
        layers: of the source that the form's layers are; its first ones where None.
    """
    anatomy = family(source.model_type)
    sizes = anatomy.sizes
    stock = form.stock(anatomy)
    given = _plain(source)
    largest = LayerForm(*(max(getattr(x, k) for x in form.layers) for k in ("heads", "key", "value", "ffn")))
    given |= {
        sizes.layers: len(form.layers),
        sizes.hidden: form.hidden,
        sizes.heads: largest.heads,
        sizes.ffn: largest.ffn,
        "vocab_size": form.vocab,
    }
    if sizes.embedding:
        given[sizes.embedding] = form.embedding
    if given.get("layer_types"):  # a layer attends as far as it did in the source
        given["layer_types"] = [given["layer_types"][n] for n in layers or range(len(form.layers))]
    if stock:
        given.pop("head_dim", None)
        return _stock_class(anatomy)(**given)
    given["per_layer_config"] = {
        i: {
            "slim_heads": layer.heads,
            "slim_key": layer.key,
            "slim_value": layer.value,
            "slim_ffn": layer.ffn,
        }
        for i, layer in enumerate(form.layers)
    }
    given |= {"slim_parts": _parts(anatomy), "slim_stock": [sizes.heads, sizes.ffn]}
    if any(axis == "key" for axis, _ in anatomy.uncut):
        given["head_dim"] = largest.key  # rotary positions are of the key size, not of hidden / heads
    return _slim_config_class(anatomy)(**given)


def class_for(model: PreTrainedModel, config: Any) -> type[PreTrainedModel]:
    """The class with the model's head that a config is for."""
    if isinstance(model, SentenceEncoder):  # of any encoder
        return SentenceEncoder
    name = type(model).__name__.removeprefix("Slim")
    if not is_slim(config):
        stock: type[PreTrainedModel] = getattr(transformers, name)
        return stock
    slim: type[PreTrainedModel] = getattr(modeling_slim, f"Slim{name}")
    return slim


def travelling(model: PreTrainedModel) -> dict[str, str]:
    """Files that a model's directory needs beside its weights, by name; puts their names into its config."""
    if not is_slim(model.config):
        return {}
    model = model.encoder if isinstance(model, SentenceEncoder) else model
    stem, name = FILE.removesuffix(".py"), type(model).__name__
    prefix = type(model.config).__name__.removesuffix("Config")
    model.config.auto_map = {"AutoConfig": f"{stem}.{prefix}Config"} | {
        auto: f"{stem}.{prefix}{head}"
        for head, auto in modeling_slim.HEADS.items()
        if hasattr(modeling_slim, prefix + head)
    }
    assert hasattr(modeling_slim, name)  # a class from elsewhere would not be in the file
    return {FILE: Path(modeling_slim.__file__).read_text(encoding="utf-8")}


def _plain(config: Any) -> dict[str, Any]:
    given: dict[str, Any] = copy.deepcopy(config.to_dict())
    for name in (*OWN, "model_type", "transformers_version", "architectures"):
        given.pop(name, None)
    return given


def _stock_class(anatomy: Anatomy) -> Any:
    return type(AutoConfig.for_model(anatomy.name))


def _slim_config_class(anatomy: Anatomy) -> Any:
    return getattr(modeling_slim, f"Slim{_stock_class(anatomy).__name__}")


def _parts(a: Anatomy) -> dict[str, Any]:
    names = ("layers", "query", "key", "value", "attention", "attention_out", "ffn_in", "ffn_out")
    return {name: getattr(a, name) for name in (*names, "fused_qkv", "gated_ffn")}


register()
