"""Static embedding models: a vector for each token and no layer, in the format of model2vec."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from attar.anatomy.families import STATIC
from attar.errors import ModelError
from attar.model.sentence_modules import Head, file_of, write_static_head

WEIGHTS, CONFIG = "model.safetensors", "config.json"


class StaticConfig(PretrainedConfig):
    """Sizes of a static model, in the words of an encoder's config.

    Args:
        hidden_dim: E, of a token's vector.
        vocab_size: V; known once the weights are.
        embedding_dtype: of the vectors on disk.
    """

    model_type = STATIC

    def __init__(
        self, hidden_dim: int = 1, vocab_size: int = 1, embedding_dtype: str = "float16", **other: Any
    ) -> None:
        self.hidden_dim, self.vocab_size, self.embedding_dtype = hidden_dim, vocab_size, embedding_dtype
        # What is asked of every encoder.
        self.hidden_size, self.num_hidden_layers, self.type_vocab_size = hidden_dim, 0, 0
        other = {name: value for name, value in other.items() if name not in vars(self)}
        super().__init__(**other)


class StaticEncoder(PreTrainedModel):
    """Vectors of tokens as hidden states: with a mean over them, what model2vec and `StaticEmbedding` compute."""

    config_class = StaticConfig
    base_model_prefix = ""
    main_input_name = "input_ids"

    def __init__(self, config: StaticConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_dim)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The token vectors."""
        return self.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Take other token vectors."""
        self.embedding = value  # type: ignore[assignment]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput:
        """The vectors of the tokens (B, T, E) as `last_hidden_state`."""
        states = self.embedding(input_ids)
        return BaseModelOutput(
            last_hidden_state=states, hidden_states=(states,) if output_hidden_states else None
        )

    @classmethod
    def from_pretrained(cls, source: Any, *_: Any, **options: Any) -> Any:
        """One from a directory or hub name of model2vec; weights of tokens and shared vectors are multiplied out."""
        wants, written = options.pop("output_loading_info", False), options.pop("config", None)
        found = file_of(source, WEIGHTS)
        tensors = {} if found is None else load_file(found)
        # model2vec's name, and that of sentence-transformers' module.
        vectors = tensors.get("embeddings", tensors.get("embedding.weight"))
        if vectors is None:
            raise ModelError(
                expected=f"{WEIGHTS} with a tensor named embeddings in {source}",
                found=", ".join(tensors) or "none",
                fix="name the directory that model2vec wrote",
            )
        # Of 8 bits the scale is lost: what is made of such vectors is written in half precision, which holds them.
        kind = str(vectors.dtype).removeprefix("torch.") if vectors.is_floating_point() else "float16"
        vectors = vectors.float()
        if "mapping" in tensors:
            vectors = vectors[tensors["mapping"].long()]
        if "weights" in tensors:
            vectors = vectors * tensors["weights"].float()[:, None]
        vectors = vectors.to(getattr(torch, kind)).float()  # as it is written again
        said = {} if written is None else written.to_dict()
        config = StaticConfig(**said | {"embedding_dtype": kind} | sizes(vectors))
        model = cls(config).eval()
        model.embedding.weight.data.copy_(vectors)
        model.name_or_path = config.name_or_path = str(source)
        info: dict[str, set[str]] = {
            "missing_keys": set(),
            "mismatched_keys": set(),
            "unexpected_keys": set(),
        }
        return (model, info) if wants else model

    @torch.no_grad()
    def round(self) -> None:
        """Take the vectors to half precision, in which model2vec writes them, too."""
        self.config.embedding_dtype = "float16"
        self.embedding.weight.copy_(self.embedding.weight.half().float())

    def write(self, place: Path, head: Head) -> None:
        """Write the files of model2vec but for the tokenizer's, with the settings of a head."""
        place.mkdir(parents=True, exist_ok=True)
        vectors = self.embedding.weight.detach().cpu()
        kept = vectors.to(getattr(torch, self.config.embedding_dtype)).contiguous()
        save_file({"embeddings": kept}, place / WEIGHTS)
        said = {
            "model_type": STATIC,
            "architectures": ["StaticModel"],
            **sizes(vectors),
            "seq_length": 1_000_000,  # as there: nothing limits it but max_length
            "max_length": head.max_length,
            "normalize": head.normalize,
            "embedding_dtype": self.config.embedding_dtype,
        }
        (place / CONFIG).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
        write_static_head(head, place)


def sizes(vectors: Tensor | np.ndarray) -> dict[str, int]:
    """What a config says of vectors (V, E)."""
    return {"hidden_dim": vectors.shape[1], "vocab_size": len(vectors)}


def register() -> None:
    """Teach transformers' Auto classes the static class; again is no harm."""
    AutoConfig.register(StaticConfig.model_type, StaticConfig, exist_ok=True)
    AutoModel.register(StaticConfig, StaticEncoder, exist_ok=True)
