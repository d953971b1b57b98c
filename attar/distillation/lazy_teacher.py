"""The teacher of a language model: named at first, and loaded when its weights are needed, if they ever are."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel

from attar.anatomy.resolve import family
from attar.data.language_modeling import TextBatches
from attar.evaluation.language_model import measure
from attar.model.checkpoint import Loaded, digest, language_head, load, loader_of
from attar.model.lm_head import output
from attar.model.pretrained import from_pretrained
from attar.storage.writing import write_atomic
from attar.training.loop import is_main


@dataclass
class LazyTeacher:
    """The teacher, of which the weights are loaded when they are first needed."""

    source: str | Path | PreTrainedModel
    given: Any = None
    _loaded: Loaded | None = None

    def __post_init__(self) -> None:
        if isinstance(self.source, PreTrainedModel) or not Path(self.source).is_dir():
            self.loaded()  # which says what is wrong with it

    def loaded(self) -> Loaded:
        """The teacher's model and tokenizer."""
        if self._loaded is None:
            self._loaded = load(self.source, tokenizer=self.given, head="language")
            output(self._loaded.model)
        return self._loaded

    @property
    def model(self) -> PreTrainedModel:
        """The teacher's model."""
        return self.loaded().model

    @property
    def name(self) -> str:
        """What the teacher was asked for by."""
        return self._loaded.name if self._loaded else str(self.source)

    @property
    def config(self) -> Any:
        """The teacher's config."""
        if self._loaded is None and not (Path(str(self.source)) / "config.json").is_file():
            self.loaded()
        return self._loaded.model.config if self._loaded else from_pretrained(AutoConfig, self.source)

    @property
    def tokenizer(self) -> Any:
        """The teacher's tokenizer."""
        if self._loaded is None and self.given is None:
            self.given = from_pretrained(AutoTokenizer, self.source)
        return self._loaded.tokenizer if self._loaded else self.given

    @property
    def parameters(self) -> int:
        """How many the teacher has; they need not be loaded for it."""
        if self._loaded is not None:
            return int(self._loaded.model.num_parameters())
        loader = loader_of(self.config, language_head(self.config))
        with torch.device("meta"):
            return int(loader.from_config(self.config).num_parameters())

    @property
    def causal(self) -> bool:
        """Whether it predicts next tokens."""
        return family(self.config.model_type).causal

    @property
    def key(self) -> str:
        """A digest of the weights: of their files, where there are files, so that they need not be loaded."""
        if isinstance(self.source, PreTrainedModel) or not Path(self.source).is_dir():
            return digest(self.model)
        files = [
            path for path in sorted(Path(self.source).iterdir()) if path.suffix in {".safetensors", ".bin"}
        ]
        return digest(*files, Path(self.source) / "config.json")

    def figures(self, held: TextBatches, kept: Path | None) -> tuple[dict[str, float], int]:
        """The teacher's figures on dev texts, and its parameters: from a file where they were kept.

        So that a teacher whose logits are kept need not be loaded to say them again.
        """
        key = digest(self.key, *held.content)
        if kept is not None and kept.is_file():
            there = json.loads(kept.read_text())
            if there["key"] == key:
                return there["metrics"], there["parameters"]
        metrics, size = measure(self.model, held), self.model.num_parameters()
        if kept is not None and is_main():
            write_atomic(kept, json.dumps({"key": key, "metrics": metrics, "parameters": size}))
        return metrics, size
