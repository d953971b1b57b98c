"""Models in whatever runtime, opened with their tokenizer: directories, hub names, exports, models in memory."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from transformers import AutoConfig, AutoTokenizer, PreTrainedModel

from attar.data.batches import positions
from attar.data.model_task import task_of
from attar.data.tasks import Task
from attar.errors import ModelError
from attar.model.checkpoint import Head, load
from attar.model.onnx import REPORT, OnnxModel, is_onnx
from attar.model.pretrained import from_pretrained

Source: TypeAlias = str | Path | PreTrainedModel
_FORMATS = {"torch.float32": "fp32", "torch.bfloat16": "bf16", "torch.float16": "fp16"}


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A language model, or what any model has, in whatever runtime.

    Attributes:
        name: for the report.
        runtime: what runs it and in which number format.
        model: called with the inputs of a batch.
        config: the model's.
        tokenizer: its own.
        parameters: how many, None where an export does not say.
        bytes: on disk, None for a model that is in memory only.
        directory: where it is, None for a model that is in memory only.
        positions: tokens of the longest text that it can read.
    """

    name: str
    runtime: str
    model: PreTrainedModel | OnnxModel
    config: Any
    tokenizer: Any
    parameters: int | None
    bytes: int | None = None
    directory: str | None = None
    positions: int = 512


@dataclass(frozen=True, kw_only=True)
class Opened(Reader):
    """A model that answers; `task` is what it was trained for."""

    task: Task


def open_model(
    source: Source, *, name: str | None = None, tokenizer: Any = None, pooling: str | None = None
) -> Opened:
    """Open a model directory, a hub name, an exported model, or a model in memory (with its tokenizer).

    Args:
        pooling: makes an embedding model of an encoder alone, see `load`.

    Raises:
        ModelError: it cannot be loaded; an export without its config and tokenizer beside it.
    """
    reader = open_reader(source, name=name, tokenizer=tokenizer, head=None, pooling=pooling)
    asked = reader.model if isinstance(reader.model, PreTrainedModel) else reader.config
    return Opened(**vars(reader), task=task_of(asked))


def open_reader(
    source: Source,
    *,
    name: str | None = None,
    tokenizer: Any = None,
    head: Head | Literal["language"] | None = "language",
    pooling: str | None = None,
) -> Reader:
    """Open what `open_model` opens, with a language model's head, or the one that it was saved with where None.

    Raises:
        ModelError: it cannot be loaded; an export without its config and tokenizer beside it.
    """
    if isinstance(source, str | Path) and is_onnx(source):
        return _open_export(Path(source), name, tokenizer)
    loaded = load(source, tokenizer=tokenizer, head=head, pooling=pooling)
    where = None if isinstance(source, PreTrainedModel) else str(source)
    size = (
        sum(f.stat().st_size for f in Path(where).glob("*.safetensors"))
        if where and Path(where).is_dir()
        else 0
    )
    return Reader(
        name=name or Path(loaded.name).name,
        runtime=f"torch {_FORMATS.get(str(loaded.model.dtype), str(loaded.model.dtype))}",
        model=loaded.model,
        config=loaded.model.config,
        tokenizer=loaded.tokenizer,
        parameters=loaded.model.num_parameters(),
        bytes=size or loaded.model.num_parameters() * loaded.model.dtype.itemsize,
        directory=where,
        positions=positions(loaded.model),
    )


def _open_export(source: Path, name: str | None, tokenizer: Any) -> Reader:
    model = OnnxModel(source)
    directory = model.path.parent
    try:
        config = from_pretrained(AutoConfig, directory)
        tokenizer = tokenizer or from_pretrained(AutoTokenizer, directory)
    except ModelError as error:
        raise ModelError(
            expected=f"config.json and the tokenizer beside {model.path}",
            found=error.found,
            fix="name the directory that attar export wrote",
        ) from error
    record = directory / REPORT
    written = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    return Reader(
        name=name or directory.name,
        runtime=f"ONNX Runtime {written.get('precision', '')}".strip(),
        model=model,
        config=config,
        tokenizer=tokenizer,
        parameters=written.get("parameters"),
        bytes=model.bytes,
        directory=str(directory),
        positions=int(written.get("positions", getattr(config, "max_position_embeddings", 512))),
    )
