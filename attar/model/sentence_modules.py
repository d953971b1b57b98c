"""The files of a sentence-transformers directory: the modules after the encoder, without that library."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers.utils import cached_file

from attar.errors import ModelError
from attar.model.pooling import MODES

MODULES, SETTINGS = "modules.json", "config_sentence_transformers.json"
# Settings of the encoder's module, as that library seeks them: the first that there is. The first is the one written.
TRANSFORMER = tuple(
    f"sentence_{family}_config.json"
    for family in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# Of a config: where sentence-transformers looks for what a reranker's scores go through, since version 4 and before.
RERANKER = ("sentence_transformers", "sbert_ce_default_activation_function")
# Where texts are cut that no file cuts: as sentence-transformers has it, at what the model has positions for.
LIBRARY = "sentence_transformers.models"
SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
ACTIVATIONS = {"Identity": "torch.nn.modules.linear.Identity", "Tanh": "torch.nn.modules.activation.Tanh"}
# Before sentence-transformers 5, each mode of pooling was a key of its own.
LEGACY = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True)
class Linear:
    """A Dense module: sizes, and what follows the product."""

    inputs: int
    outputs: int
    bias: bool = True
    activation: str = "Identity"


@dataclass(frozen=True)
class Head:
    """What makes an embedding of hidden states.

    Attributes:
        pooling: modes, of `attar.model.pooling.MODES`; several stand side by side.
        dense: the layers after pooling.
        normalize: whether embeddings have length 1.
        similarity: how two embeddings are compared: cosine, dot, euclidean or manhattan.
        prompts: texts that are set before others, by name (query, document).
        default_prompt: the name of that which is set before texts where none is named.
        max_length: tokens that a text is cut to; as many as the model has positions for where None.
    """

    pooling: tuple[str, ...] = ("mean",)
    dense: tuple[Linear, ...] = ()
    normalize: bool = False
    similarity: str = "cosine"
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    max_length: int | None = None

    @classmethod
    def of(cls, written: Any) -> "Head":
        """The head that a config says."""
        given = dict(written)
        given["pooling"] = tuple(given["pooling"])
        given["dense"] = tuple(Linear(**one) for one in given["dense"])
        return cls(**given)

    @property
    def written(self) -> dict[str, Any]:
        """The head as a config has it."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]  # tuples as JSON reads them again

    def width(self, hidden: int) -> int:
        """Dimensions of an embedding, for hidden states of a size."""
        return self.dense[-1].outputs if self.dense else hidden * len(self.pooling)

    def reading(self, hidden: int) -> "Head":
        """The head for hidden states of a size."""
        if not self.dense:
            return self
        return self.but(dense=(replace(self.dense[0], inputs=hidden * len(self.pooling)), *self.dense[1:]))

    def but(self, **changes: Any) -> "Head":
        """The head with other values."""
        return replace(self, **changes)


def file_of(source: str | Path, name: str) -> Path | None:
    """A file of a model directory or of a model on the hub; None where it has none."""
    found = cached_file(
        str(source),
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return None if found is None else Path(found)


def read_head(source: str | Path) -> tuple[Head, dict[str, torch.Tensor]] | None:
    """The modules after the encoder, with the Dense layers' weights by name; None where there are none (a reranker's).

    Raises:
        ModelError: a module that attar does not know, one in an order that makes no embedding, a pooling mode that
            there is not, or one that includes no prompt.
    """
    modules = _modules(source)
    kinds = [_kind(module) for module in modules]
    if kinds[:1] == ["StaticEmbedding"] and set(kinds[1:]) <= {"Normalize"}:
        # Which is a mean over tokens of any number, and has settings of its own only where that library saved it.
        settings = _settings(source) | {"max_length": _json(source, "config.json").get("max_length")}
        return Head(pooling=("mean",), normalize="Normalize" in kinds).but(**settings), {}
    unknown = [
        kind for kind in kinds if kind not in ("Transformer", "Pooling", "Dense", "Normalize", "Dropout")
    ]
    order = [kind for kind in kinds if kind != "Dropout"]
    if order in ([], ["Transformer"]):
        return None
    if (
        unknown
        or order[:2] != ["Transformer", "Pooling"]
        or "Normalize" in order[2:-1]
        or order.count("Pooling") > 1
    ):
        raise ModelError(
            expected=f"{MODULES} of {source} to list Transformer, Pooling, Dense layers and at most one Normalize, so",
            found=", ".join(kinds),
            fix=(f"attar knows no {unknown[0]}: " if unknown else "")
            + "take that module out with sentence-transformers and save again, or pass the encoder alone with "
            "pooling=… (--pooling)",
        )
    head = Head(pooling=(), normalize="Normalize" in kinds)
    weights: dict[str, torch.Tensor] = {}
    for module, kind in zip(modules, kinds, strict=True):
        if kind == "Pooling":
            head = head.but(pooling=_pooling(source, module["path"]))
        elif kind == "Dense":
            linear, tensors = _dense(source, module["path"])
            weights |= {f"dense.{len(head.dense)}.{name}": tensor for name, tensor in tensors.items()}
            head = head.but(dense=(*head.dense, linear))
    return head.but(**_settings(source)), weights


def encoder_folder(source: str | Path) -> str:
    """The folder of a sentence-transformers model that its encoder and tokenizer are in: "" beside modules.json.

    Raises:
        ModelError: a module's folder is outside the model's directory.
    """
    first = next(iter(_modules(source)), {"type": "", "path": ""})
    return str(first["path"]) if _kind(first) == "Transformer" else ""


def encoder_settings(source: str | Path) -> dict[str, Any]:
    """What is written of the encoder's module: `max_seq_length`, `do_lower_case`."""
    folder = encoder_folder(source)
    return next(filter(None, (_json(source, _inside(folder, name)) for name in TRANSFORMER)), {})


def _modules(source: str | Path) -> list[dict[str, Any]]:
    listed = file_of(source, MODULES)
    modules = [] if listed is None else _read(listed)
    if not isinstance(modules, list) or not all({"type", "path"} <= set(module) for module in modules):
        raise ModelError(
            expected=f"a list of modules, each with a type and a path, in {MODULES} of {source}",
            found="something else",
            fix="fetch the model again, or save it again with sentence-transformers",
        )
    for module in modules:
        path = PurePosixPath(module["path"])
        if path.is_absolute() or ".." in path.parts:
            raise ModelError(
                expected=f"modules in folders of {source}",
                found=f"{module['path']!r} in {MODULES}",
                fix="save the model again with sentence-transformers",
            )
    return modules


def _kind(module: dict[str, Any]) -> str:
    return str(module["type"]).rpartition(".")[2]


def _inside(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _json(source: str | Path, name: str) -> dict[str, Any]:
    found = file_of(source, name)
    return dict(_read(found)) if found else {}


def _config(source: str | Path, path: str) -> dict[str, Any]:
    """The config of a module, which it cannot do without: what it does would be a guess."""
    if found := _json(source, f"{path}/config.json"):
        return found
    raise ModelError(
        expected=f"{path}/config.json in {source}, which its {MODULES} names",
        found="none, or one with nothing in it",
        fix="fetch the model again, or save it again with sentence-transformers",
    )


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(
            expected=f"JSON in {file}",
            found=str(error),
            fix="fetch the model again, or save it again with sentence-transformers",
        ) from None


def score_activation(source: str | Path) -> str | None:
    """What a CrossEncoder's scores go through, as it was saved since sentence-transformers 5; None of other models."""
    found = _json(source, SETTINGS).get("activation_fn")
    return None if found is None else str(found)


def _settings(source: str | Path) -> dict[str, Any]:
    said, tokenizer = _json(source, SETTINGS), _inside(encoder_folder(source), "tokenizer_config.json")
    similarity, prompts = said.get("similarity_fn_name") or "cosine", said.get("prompts") or {}
    default = said.get("default_prompt_name")
    for what, given, known in (
        ("similarity_fn_name", similarity, SIMILARITIES),
        ("default_prompt_name", default, (None, *prompts)),
    ):
        if given not in known:
            raise ModelError(
                expected=f"{what} among {', '.join(map(str, known))} in {SETTINGS} of {source}",
                found=repr(given),
                fix="correct that file, or save the model again with sentence-transformers",
            )
    return {
        "similarity": similarity,
        "prompts": prompts,
        "default_prompt": default,
        "max_length": encoder_settings(source).get("max_seq_length")
        or _json(source, tokenizer).get("max_length"),
    }


def _pooling(source: str | Path, path: str) -> tuple[str, ...]:
    said = _config(source, path)
    if "pooling_mode" in said:
        modes = [said["pooling_mode"]] if isinstance(said["pooling_mode"], str) else said["pooling_mode"]
    else:
        modes = [mode for key, mode in LEGACY.items() if said.get(key)] or ["mean"]
    if unknown := [mode for mode in modes if mode not in MODES]:
        raise ModelError(
            expected=f"a pooling among {', '.join(MODES)}",
            found=f"{unknown[0]!r} in {path}/config.json of {source}",
            fix="save the model again with one of these",
        )
    if not said.get("include_prompt", True):
        raise ModelError(
            expected="a pooling over all tokens",
            found=f"include_prompt false in {path}/config.json of {source}: tokens of the prompt are left out",
            fix="distil from an encoder whose pooling includes its prompt; attar does not know where a prompt ends",
        )
    return tuple(modes)


def _dense(source: str | Path, path: str) -> tuple[Linear, dict[str, torch.Tensor]]:
    said = _config(source, path)
    activation = str(said.get("activation_function", "Tanh")).rpartition(".")[2]
    if activation not in ACTIVATIONS or said.get("use_residual"):
        raise ModelError(
            expected=f"a Dense module with {' or '.join(ACTIVATIONS)} and no residual in {source}/{path}",
            found="use_residual" if said.get("use_residual") else said["activation_function"],
            fix="train the model again with one of these",
        )
    safe, pickled = file_of(source, f"{path}/model.safetensors"), file_of(source, f"{path}/pytorch_model.bin")
    if safe is None and pickled is None:
        raise ModelError(
            expected=f"model.safetensors in {path} of {source}",
            found="none",
            fix="fetch or save the model again",
        )
    tensors = load_file(safe) if safe else torch.load(pickled, weights_only=True)  # type: ignore[arg-type]
    weight = tensors["linear.weight"]
    linear = Linear(weight.shape[1], weight.shape[0], "linear.bias" in tensors, activation)
    return linear, {name.removeprefix("linear."): tensor for name, tensor in tensors.items()}


def write_head(head: Head, weights: dict[str, torch.Tensor], hidden: int, place: Path) -> None:
    """Write the modules after the encoder beside it, in names that every version of sentence-transformers reads.

    Args:
        weights: of the Dense layers, as `read_head` gives them.
        hidden: size of the encoder's hidden states.
    """
    listed = [("", "Transformer"), ("1_Pooling", "Pooling")]
    listed += [(f"{n}_Dense", "Dense") for n in range(2, 2 + len(head.dense))]
    listed += [(f"{len(listed)}_Normalize", "Normalize")] if head.normalize else []
    _write_modules(head, listed, place)
    for path, _ in listed[1:]:
        (place / path).mkdir()
    pooling: dict[str, Any] = {"word_embedding_dimension": hidden} | {
        key: mode in head.pooling for key, mode in LEGACY.items()
    }
    if tuple(mode for mode in LEGACY.values() if mode in head.pooling) != head.pooling:  # in another order
        pooling = {"embedding_dimension": hidden, "pooling_mode": list(head.pooling)}
    _write(place / "1_Pooling" / "config.json", pooling)
    for n, linear in enumerate(head.dense):
        said = {"in_features": linear.inputs, "out_features": linear.outputs, "bias": linear.bias}
        inner = place / f"{n + 2}_Dense"
        _write(inner / "config.json", said | {"activation_function": ACTIVATIONS[linear.activation]})
        names = ("weight", "bias") if linear.bias else ("weight",)
        save_file(
            {f"linear.{name}": weights[f"dense.{n}.{name}"].contiguous() for name in names},
            inner / "model.safetensors",
        )
    _write(place / TRANSFORMER[0], {"max_seq_length": head.max_length, "do_lower_case": False})


def write_static_head(head: Head, place: Path) -> None:
    """Write what follows a static model, which takes the mean of its tokens itself."""
    _write_modules(
        head, [(".", "StaticEmbedding"), *([("1_Normalize", "Normalize")] if head.normalize else [])], place
    )


def _write_modules(head: Head, listed: list[tuple[str, str]], place: Path) -> None:
    modules = [
        {"idx": n, "name": str(n), "path": path, "type": f"{LIBRARY}.{kind}"}
        for n, (path, kind) in enumerate(listed)
    ]
    _write(place / MODULES, modules)
    named = {"prompts": head.prompts, "default_prompt_name": head.default_prompt}
    _write(place / SETTINGS, named | {"similarity_fn_name": head.similarity})


def _write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
