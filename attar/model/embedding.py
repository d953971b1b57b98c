"""Embedding models: an encoder, pooling, Dense layers and a norm as one model, whose output is the embedding."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedModel
from transformers.modeling_outputs import ModelOutput

from attar.errors import ModelError
from attar.model.pooling import MODES, pool
from attar.model.pretrained import from_pretrained
from attar.model.sentence_modules import Head, read_head, write_head
from attar.model.static import StaticEncoder

# Of a config: what follows the encoder.
KEY = "sentence_embedding"


@dataclass
class EmbeddingOutput(ModelOutput):  # type: ignore[misc,unused-ignore]  # transformers' own is untyped
    """What a `SentenceEncoder` gives.

    Attributes:
        logits: embeddings (B, E).
        last_hidden_state: what was pooled, (B, T, D).
        hidden_states: of all layers, where asked for.
    """

    logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class SentenceEncoder(PreTrainedModel):
    """A model of sentence-transformers' kind; its logits are embeddings (B, E).

    Args:
        config: of the encoder, with a `Head` as `sentence_embedding`.
        encoder: to take; one with fresh weights where None.
    """

    base_model_prefix = "encoder"
    main_input_name = "input_ids"
    # Attention is the encoder's, which is asked itself.
    _supports_sdpa = True
    _supports_attention_backend = True
    _supports_flash_attn = True
    _model_mapping: ClassVar[Any] = AutoModel._model_mapping

    def __init__(self, config: Any, encoder: PreTrainedModel | None = None) -> None:
        encoder = AutoModel.from_config(config) if encoder is None else encoder
        # One config for both, so that what is set on one (the attention) holds for the other.
        setattr(encoder.config, KEY, getattr(config, KEY))
        super().__init__(encoder.config)
        self.encoder = encoder
        self.set_head(Head.of(getattr(config, KEY)).reading(encoder.config.hidden_size))

    @property
    def head(self) -> Head:
        """What makes an embedding of the encoder's hidden states."""
        return Head.of(getattr(self.config, KEY))

    def set_head(self, head: Head) -> None:
        """Take another head; its Dense layers have fresh weights."""
        setattr(self.config, KEY, head.written)
        self.dense = nn.ModuleList(nn.Linear(one.inputs, one.outputs, bias=one.bias) for one in head.dense)

    @property
    def width(self) -> int:
        """E, dimensions of an embedding."""
        return self.head.width(self.encoder.config.hidden_size)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> EmbeddingOutput:
        """Embeddings and what they were made of."""
        assert input_ids is not None
        given = {} if token_type_ids is None or not self.kinds else {"token_type_ids": token_type_ids}
        output = self.encoder(
            input_ids,
            attention_mask=attention_mask,
            output_hidden_states=bool(output_hidden_states),
            return_dict=True,
            **given,
        )
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        x = pool(output.last_hidden_state, mask, self.head.pooling)
        for linear, said in zip(self.dense, self.head.dense, strict=True):
            x = linear(x)
            x = x.tanh() if said.activation == "Tanh" else x
        if self.head.normalize:
            x = F.normalize(x, dim=-1)
        return EmbeddingOutput(x, output.last_hidden_state, output.hidden_states)

    @property
    def kinds(self) -> bool:
        """Whether the encoder tells two texts of a pair apart."""
        return int(getattr(self.config, "type_vocab_size", 0)) > 0

    @classmethod
    def from_config(cls, config: Any, **options: Any) -> "SentenceEncoder":
        """One with fresh weights."""
        head = getattr(config, KEY)
        encoder = AutoModel.from_config(config, **options)
        setattr(encoder.config, KEY, head)
        return cls(encoder.config, encoder)

    @classmethod
    def from_pretrained(cls, source: Any, *_: Any, **options: Any) -> Any:
        """One from a sentence-transformers directory, or with `sentence_embedding=` from an encoder alone.

        Args:
            options: of the encoder's `from_pretrained`; `output_loading_info` gives its keys as well.
        """
        given = options.pop(KEY, None)
        wants = options.pop("output_loading_info", False)
        options.pop("trust_remote_code", None)
        read = read_head(source) if given is None else (Head.of(given), {})
        if read is None:
            raise ModelError(
                expected=f"an embedding model: modules.json with a Pooling module at {source}",
                found="none",
                fix=f"say how tokens are pooled: pooling=… (--pooling), one of {', '.join(MODES)}",
            )
        encoder, info = from_pretrained(AutoModel, source, output_loading_info=True, **options)
        info["missing_keys"] = {
            name for name in info["missing_keys"] if "pooler" not in name
        }  # which nothing reads
        head, weights = read
        setattr(encoder.config, KEY, head.written)
        model = cls(encoder.config, encoder)
        model.load_state_dict(weights, strict=False)
        return (model, info) if wants else model

    def save_pretrained(self, save_directory: Any, **options: Any) -> None:
        """Write a sentence-transformers directory, without the tokenizer."""
        if isinstance(self.encoder, StaticEncoder):
            self.encoder.write(Path(save_directory), self.head)
            return
        self.encoder.config.architectures = [type(self.encoder).__name__]
        self.encoder.save_pretrained(save_directory, **options)
        self.save_head(Path(save_directory))

    def save_head(self, place: Path) -> None:
        """Write the modules after the encoder into a directory, as sentence-transformers has them."""
        weights = {
            name: value.detach().cpu()
            for name, value in self.state_dict().items()
            if name.startswith("dense.")
        }
        write_head(self.head, weights, self.encoder.config.hidden_size, place)


def embedding_head(source: str | Path, pooling: str | None) -> dict[str, Any] | None:
    """Options that load an embedding model from a source; None where it is none, and no pooling makes it one.

    Raises:
        ModelError: a pooling that there is not, or another than that of the source's own modules.
    """
    if pooling is not None and pooling not in MODES:
        raise ModelError(
            expected=f"a pooling among {', '.join(MODES)}", found=repr(pooling), fix="name one of them"
        )
    read = read_head(source)
    if pooling is None or (read is not None and read[0].pooling == (pooling,)):
        return None if read is None else {}
    if read is not None:
        raise ModelError(
            expected=f"the pooling that {source} was trained with, {' and '.join(read[0].pooling)}",
            found=pooling,
            fix="leave pooling out: it is read from the model's own files",
        )
    return {KEY: Head(pooling=(pooling,), normalize=True).written}
