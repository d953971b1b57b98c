"""A student of the stock DistilBERT class, started from chosen layers of a BERT-like teacher."""

from typing import cast

import torch
from torch import Tensor, nn
from transformers import DistilBertConfig, DistilBertForMaskedLM, PreTrainedModel

from attar.anatomy.resolve import resolve
from attar.errors import ModelError
from attar.model.weights import position_offset

# What of a layer goes over whole, by the names of the anatomy.
LAYER = ("query", "key", "value", "attention_out", "attention_norm", "ffn_in", "ffn_out", "ffn_norm")


@torch.no_grad()
def to_distilbert(teacher: PreTrainedModel, chosen: tuple[int, ...]) -> PreTrainedModel:
    """DistilBERT with a teacher's embeddings, head, and the layers named, copied (1910.01108, section 3).

    DistilBERT has no token types and no pooler. The vector of token type 0, which a teacher adds to every token of a
    single text, goes into the positions, so that nothing changes on single texts; types of second texts are lost.

    Args:
        teacher: a masked language model of BERT's computation, its layers alike.
        chosen: teacher layers, from 1.

    Raises:
        ModelError: a family that computes otherwise, a factorised embedding, or no masked-language-model head.
    """
    source = resolve(teacher)
    anatomy, shape, own = source.anatomy, source.shape, teacher.config
    if anatomy.pre_norm or anatomy.shared or anatomy.causal or shape.each or shape.embedding != shape.hidden:
        raise ModelError(
            expected="a teacher that computes as BERT does, to copy into DistilBERT: bert, roberta, distilbert",
            found=f"{type(teacher).__name__} of the family {anatomy.name}",
            fix="leave family out: the student is then of the teacher's own family",
        )
    if teacher.get_output_embeddings() is None or not anatomy.language[0]:
        raise ModelError(
            expected="a teacher with a masked-language-model head",
            found=type(teacher).__name__,
            fix="attar pretrain gives it that head",
        )
    offset = position_offset(own)
    hidden_dropout, attention_dropout = (getattr(own, key) for key in anatomy.sizes.dropouts[:2])
    config = DistilBertConfig(
        vocab_size=shape.vocab,
        max_position_embeddings=own.max_position_embeddings - offset,
        n_layers=len(chosen),
        n_heads=shape.heads,
        dim=shape.hidden,
        hidden_dim=shape.ffn,
        dropout=hidden_dropout,
        attention_dropout=attention_dropout,
        activation=getattr(own, "hidden_act", None) or own.activation,
        initializer_range=own.initializer_range,
        pad_token_id=own.pad_token_id,
        tie_word_embeddings=own.tie_word_embeddings,
    )
    student = DistilBertForMaskedLM(config).float().eval()
    student.config.architectures = [type(student).__name__]
    target = resolve(student)
    for m, n in enumerate(chosen):
        for part in LAYER:
            _copy(source.at(getattr(anatomy, part), n - 1), target.at(getattr(target.anatomy, part), m))
    for part in ("word_embeddings", "embedding_norm"):
        _copy(source.at(getattr(anatomy, part)), target.at(getattr(target.anatomy, part)))
    positions, types = source.at(anatomy.position_embeddings), source.at(anatomy.type_embeddings)
    rows = cast(Tensor, cast(nn.Module, positions).weight)[offset:].float()
    if types is not None:
        rows = rows + cast(Tensor, types.weight)[0].float()
    cast(Tensor, cast(nn.Module, target.at(target.anatomy.position_embeddings)).weight).copy_(rows)
    for theirs, ours in zip(anatomy.language, target.anatomy.language, strict=True):
        _copy(teacher.get_submodule(theirs), student.get_submodule(ours))
    _copy(teacher.get_output_embeddings(), student.get_output_embeddings())
    return student


def _copy(source: nn.Module | None, target: nn.Module | None) -> None:
    assert source is not None
    assert target is not None
    for name, parameter in target.named_parameters():
        parameter.copy_(cast(Tensor, getattr(source, name)))
