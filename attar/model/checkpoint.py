"""Model directories: loaded with checks, written whole or not at all, verified by loading them again."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel

from attar.anatomy.families import FAMILIES
from attar.anatomy.resolve import family
from attar.errors import ModelError
from attar.model.embedding import SentenceEncoder, embedding_head
from attar.model.library import verify_library
from attar.model.pretrained import from_pretrained
from attar.model.sentence_modules import (
    RERANKER,
    encoder_folder,
    encoder_settings,
    read_head,
    score_activation,
)
from attar.model.slim import travelling
from attar.progress import say
from attar.storage.writing import LINEAGE, new_directory

Head = Literal[
    "sequence-classification",
    "token-classification",
    "question-answering",
    "masked-lm",
    "causal-lm",
    "pretraining",
    "embedding",
    "base",
]
HEADS: dict[Head, Any] = {
    "sequence-classification": transformers.AutoModelForSequenceClassification,
    "token-classification": transformers.AutoModelForTokenClassification,
    "question-answering": transformers.AutoModelForQuestionAnswering,
    "masked-lm": transformers.AutoModelForMaskedLM,
    "causal-lm": transformers.AutoModelForCausalLM,
    "pretraining": transformers.AutoModelForPreTraining,  # with a next-sentence head where the family has one
    "embedding": SentenceEncoder,
    "base": transformers.AutoModel,
}
# What the class of a saved model is called, as its config has it, and the head to load.
SAVED: dict[str, Head] = {
    "ForSequenceClassification": "sequence-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMaskedLM": "masked-lm",
    "ForCausalLM": "causal-lm",
    "LMHeadModel": "causal-lm",
    "ForPreTraining": "masked-lm",
    "SentenceEncoder": "embedding",  # of an export
}
# Heads that answer by themselves: what is under them is no embedding model, whatever else is in the directory.
ANSWERING: tuple[Head, ...] = ("sequence-classification", "token-classification", "question-answering")
# Of a config: who wrote it and where it lies, not what the model computes.
NAMES = {"_name_or_path", "transformers_version", "architectures", "dtype", "auto_map"}
# What a reloaded model's logits may differ by: the weights are the same bits, only kernels may round otherwise.
RELOAD_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode with its tokenizer, and the name it was asked for by."""

    model: PreTrainedModel
    tokenizer: Any
    name: str


def load(
    source: str | Path | PreTrainedModel,
    *,
    tokenizer: Any = None,
    head: Head | Literal["language"] | None = None,
    fresh_head: bool = False,
    pooling: str | None = None,
    **config: Any,
) -> Loaded:
    """Load a model and its tokenizer from a directory or a hub name.

    Args:
        source: a directory, a hub name, or a model that is loaded already (then `tokenizer` is needed).
        tokenizer: used instead of the one beside the model.
        head: which head to load; the one the checkpoint was saved with where None, and for "language" that of a
            language model, masked or causal as the family is.
        fresh_head: whether the head may be new, to be trained; else weights that the checkpoint lacks are an error,
            since a model with a random head answers without complaint.
        pooling: makes an embedding model of an encoder or decoder alone: how its tokens' vectors become one.
        config: values to write over the checkpoint's config, such as `num_labels`.

    Raises:
        ModelError: the directory is missing, empty, truncated, or holds no model that transformers knows without code
            of the model's own; a pooling that there is not, or of a model that has none.
    """
    if isinstance(source, PreTrainedModel):
        if tokenizer is None:
            raise ModelError(
                expected="a tokenizer beside the loaded model", found="none", fix="pass tokenizer=…"
            )
        if pooling is not None and not (
            isinstance(source, SentenceEncoder) and source.head.pooling == (pooling,)
        ):
            raise _no_pooling(type(source).__name__, pooling, "save it, and name the directory")
        return Loaded(source.eval(), tokenizer, source.config.name_or_path or type(source).__name__)
    if Path(source).is_dir():
        _check_directory(Path(source))
    base = from_pretrained(AutoConfig, source)
    chosen = language_head(base) if head == "language" else head or saved_head(base)
    if head is None and (embeds := _embeds(source, base, chosen, pooling)) is not None:
        chosen, config = "embedding", config | embeds
    loader = loader_of(base, chosen)
    # A head of another number of outputs is begun anew; a mismatch elsewhere is found below.
    config |= {"ignore_mismatched_sizes": True} if fresh_head else {}
    model, info = from_pretrained(loader, source, output_loading_info=True, **config)
    tokenizer = tokenizer or from_pretrained(AutoTokenizer, source)
    if chosen == "embedding":
        _check_embedding(source, model, tokenizer)
    inside = "" if model.base_model is model else f"{model.base_model_prefix}."
    # A pooler is the head's first layer; hidden states do without. Layers of the encoder are never begun anew.
    missing = [
        name
        for name in sorted({*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])})
        if not ("pooler" in name and (fresh_head or not inside))
        and (name.startswith(inside) or not fresh_head)
    ]
    if missing:
        raise ModelError(
            expected=f"all weights of {type(model).__name__} in {source}",
            found=f"none for {', '.join(missing[:3])}" + ("…" if missing[3:] else ""),
            fix="name a model that was trained with this head (attar finetune makes one)",
        )
    if chosen == "sequence-classification" and not any(hasattr(model.config, key) for key in RERANKER):
        if (said := score_activation(source)) is not None:
            setattr(model.config, RERANKER[0], {"activation_fn": said})
    return Loaded(model.eval(), tokenizer, str(source))


def language_head(config: Any) -> Head:
    """The head of a language model of this config's family: it predicts masked tokens, or the next one."""
    return "causal-lm" if family(config.model_type).causal else "masked-lm"


def loader_of(config: Any, head: Head) -> Any:
    """The class that loads models of this config with this head.

    Raises:
        ModelError: the family has no such head.
    """
    loader = HEADS[head]
    if type(config) not in loader._model_mapping:
        raise ModelError(
            expected=f"a family that has a {head} head",
            found=f"{config.model_type!r}, which transformers has none for",
            fix="name an encoder (BERT and its kin)"
            if head != "causal-lm"
            else "name a decoder (GPT-2 and its kin)",
        )
    return loader


def save(
    model: PreTrainedModel,
    tokenizer: Any,
    out: str | Path,
    *,
    lineage: Mapping[str, Any],
    files: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a model directory and prove that it loads: reload it and compare logits.

    An embedding model or a reranker is opened with sentence-transformers, too, where that is installed.

    A slim model's code goes with it, so that it loads where attar is not installed.

    Args:
        lineage: how the model was made; written to `lineage.json` with the versions of what made it.
        files: further text files of the directory, by name (`README.md`).
        overwrite: replace a directory that attar wrote before.

    Raises:
        OutputError: `out` is taken, or the disk is full.
        ModelError: the reloaded model gives other logits, or sentence-transformers other embeddings or scores; nothing
            is left behind.
    """
    out, code = Path(out), travelling(model)
    with new_directory(out, overwrite=overwrite) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        text = json.dumps({**lineage, "versions": versions()}, indent=2, ensure_ascii=False, default=str)
        (temporary / LINEAGE).write_text(text + "\n", encoding="utf-8")
        for name, content in {**code, **(files or {})}.items():
            (temporary / name).write_text(content, encoding="utf-8")
        verify(model, temporary)
        verify_library(model, tokenizer, temporary)
    return out


@torch.no_grad()
def verify(model: PreTrainedModel, directory: Path) -> float:
    """Reload a saved model and compare it with the one in memory on random tokens.

    Returns:
        The largest absolute difference of the outputs.

    Raises:
        ModelError: the difference is above `RELOAD_TOLERANCE`, or weights are missing.
    """
    again, info = from_pretrained(type(model), directory, output_loading_info=True)
    missing = sorted(info["missing_keys"])
    ids = torch.randint(5, model.config.vocab_size, (2, 12), generator=torch.Generator().manual_seed(0))
    training, device = model.training, model.device
    ours = model.eval()(input_ids=ids.to(device))[0].float().cpu()
    model.train(training)
    theirs = again.eval()(input_ids=ids)[0].float()
    difference = (ours - theirs).abs().max().item() if ours.shape == theirs.shape else float("inf")
    if missing or not difference <= RELOAD_TOLERANCE:
        raise ModelError(
            expected=f"the saved {type(model).__name__} to load and give the same outputs",
            found=f"missing weights {missing[:3]}" if missing else f"outputs that differ by {difference:.2g}",
            fix="report this as a bug of attar, with the model's config.json; nothing was written",
        )
    return difference


def read_lineage(directory: str | Path) -> dict[str, Any]:
    """The lineage written beside a model, empty for one that attar did not make."""
    path = Path(directory) / LINEAGE
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def digest(*things: Any) -> str:
    """A short name for values, tensors, tables, models or files, equal where the content is equal."""
    total = hashlib.sha256()
    for thing in things:
        if isinstance(thing, torch.nn.Module):
            for name, tensor in sorted(thing.state_dict().items()):
                total.update(name.encode())
                total.update(_bits(tensor))
            # The same weights are another model with other heads, activations or windows.
            written = thing.config.to_dict() if isinstance(thing, PreTrainedModel) else {}
            known = {key: value for key, value in written.items() if key not in NAMES}
            total.update(json.dumps(known, sort_keys=True, default=str).encode())
        elif isinstance(thing, torch.Tensor):
            total.update(_bits(thing))
        elif hasattr(thing, "tobytes"):
            total.update(thing.tobytes())
        elif isinstance(thing, Path) and thing.is_file():
            total.update(thing.read_bytes())
        else:
            total.update(json.dumps(thing, sort_keys=True, default=str).encode())
        total.update(b"\0")
    return total.hexdigest()[:16]


def _bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def versions() -> dict[str, str]:
    """Versions of what made a result."""
    return {name: version(name) for name in ("attar", "torch", "transformers")}


def saved_head(config: Any) -> Head:
    """The head that a checkpoint was saved with, as its config says; "base" where it says none."""
    written = (config.architectures or [""])[0]
    if written.endswith("ElectraForPreTraining"):  # a discriminator, no language model
        return "pretraining"
    return next((head for name, head in SAVED.items() if written.endswith(name)), "base")


def _check_embedding(source: str | Path, model: SentenceEncoder, tokenizer: Any) -> None:
    """Refuse texts that only sentence-transformers lower-cases; say where a pooled token knows nothing of the text."""
    if encoder_settings(source).get("do_lower_case") and tokenizer.tokenize("FILM") != tokenizer.tokenize(
        "film"
    ):
        raise ModelError(
            expected="a tokenizer that lower-cases texts by itself, or none that has to",
            found=f"do_lower_case true among the settings of {source}, and a tokenizer that reads FILM as written",
            fix="set do_lower_case in tokenizer_config.json (of a tokenizer without it: a Lowercase normalizer in "
            "tokenizer.json) in place of sentence_bert_config.json",
        )
    if "cls" in model.head.pooling and _reads_on(model.config):
        say(
            f"{source} takes the first token's vector, and no token of a {model.config.model_type} model sees those "
            "after it: that vector knows nothing of the text's other words"
        )


def _embeds(source: str | Path, config: Any, saved: Head, pooling: str | None) -> dict[str, Any] | None:
    """Options that load an embedding model, saved with this head, as `embedding_head` has them.

    Raises:
        ModelError: what that raises; a pooling of a model that answers, or of tokens that know nothing of the text.
    """
    if saved in ANSWERING:
        if pooling is None:
            return None
        raise _no_pooling(f"{source}, which has a {saved} head", pooling, "leave pooling out (--pooling)")
    found = embedding_head(source, pooling)
    if pooling == "cls" and _reads_on(config):
        seen = f"{config.model_type}, whose first token sees only itself"
        raise _no_pooling(seen, pooling, "take lasttoken or mean")
    return found


def _reads_on(config: Any) -> bool:
    """Whether no token sees those after it."""
    model_type = config.model_type.removeprefix("slim-")
    return model_type in FAMILIES and FAMILIES[model_type].causal


def _no_pooling(found: str, pooling: str, fix: str) -> ModelError:
    return ModelError(
        expected="a pooling that fits the model",
        found=f"pooling {pooling!r} of {found}",
        fix=fix,
    )


def _check_directory(path: Path) -> None:
    place = path / encoder_folder(path)
    files = {file.name for file in place.iterdir()} if place.is_dir() else set()
    weights = {name for name in files if name.endswith((".safetensors", ".bin", ".safetensors.index.json"))}
    lacking = "config.json" if "config.json" not in files else "" if weights else "model.safetensors"
    if lacking:
        read_head(path)  # which names a first module that is no Transformer, and has its files elsewhere
        raise ModelError(
            expected=f"{lacking} in {place}",
            found=", ".join(sorted(files)[:8]) or "an empty directory",
            fix="name the directory that save_pretrained wrote",
        )
