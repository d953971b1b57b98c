"""What a teacher thinks likely next, or behind a mask, at several temperatures: the picture of distillation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from attar.data.batches import positions
from attar.errors import DataError, ModelError
from attar.model.checkpoint import load
from attar.model.views import call
from attar.report.temperature import Temperatures, TokenProbabilities

MASK = "[MASK]"


@torch.no_grad()
def temperature(
    model: str | Path | PreTrainedModel,
    text: str,
    *,
    temperatures: Sequence[float],
    top: int,
    tokenizer: Any,
) -> Temperatures:
    """A language model's likeliest tokens at several temperatures; see `attar.temperature`."""
    loaded = load(model, tokenizer=tokenizer)
    if loaded.model.get_output_embeddings() is None:
        raise ModelError(
            expected="a language model, masked or causal, whose head gives a probability to every token",
            found=type(loaded.model).__name__,
            fix="name the model before it was fine-tuned; attar pretrain gives an encoder that head",
        )
    logits = _logits(loaded.model, loaded.tokenizer, text)
    best = logits.topk(min(top, len(logits))).indices
    warm = []
    for t in temperatures:
        logs = (logits / t).log_softmax(-1)
        entropy = -torch.xlogy(logs.exp(), logs.exp()).sum()
        warm.append(TokenProbabilities(float(t), tuple(logs[best].exp().tolist()), float(entropy)))
    tokens = tuple(shown(loaded.tokenizer, number) for number in best.tolist())
    return Temperatures(Path(loaded.name).name, text.strip(), tokens, tuple(warm))


def shown(tokenizer: Any, number: int) -> str:
    """A token as a reader can tell it from others: spaces as ␣, bytes that are no whole letter in hexadecimal."""
    piece = tokenizer.convert_ids_to_tokens(number)
    if piece is None:  # a row of the table that no token has
        return f"<{number}>"
    if piece in tokenizer.all_special_tokens or piece.startswith(("##", "▁")):
        return str(piece)
    text = tokenizer.decode([number])
    if "\ufffd" in text:
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        back = {letter: byte for byte, letter in bytes_to_unicode().items()}
        return "".join(f"<{back[letter]:02X}>" if letter in back else letter for letter in piece)
    return str(text).replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥") or str(piece)


def _logits(model: PreTrainedModel, tokenizer: Any, text: str) -> Tensor:
    """Those of the masked place or of the next token, (V,), in double precision."""
    masked = "MaskedLM" in type(model).__name__ or "PreTraining" in type(model).__name__
    if masked and tokenizer.mask_token is not None:
        text = text.replace(MASK, tokenizer.mask_token)
    inputs = tokenizer(text, return_tensors="pt", verbose=False)
    ids = inputs["input_ids"][0]
    if not len(ids) or not text.strip():
        raise DataError(
            expected="a text", found=repr(text), fix="write some words before what is to be guessed"
        )
    if len(ids) > positions(model):
        raise DataError(
            expected=f"at most the {positions(model)} tokens that the model has positions for",
            found=str(len(ids)),
            fix="give a shorter text",
        )
    place = len(ids) - 1
    if masked:
        places = (ids == tokenizer.mask_token_id).nonzero().flatten().tolist()
        if len(places) != 1:
            raise DataError(
                expected=f"one {MASK} in the text, for a masked language model",
                found=f"{len(places)} in {text!r}",
                fix=f"write {MASK} where a word is to be guessed",
            )
        place = places[0]
    device = model.device
    logits = call(model, {name: value.to(device) for name, value in inputs.items()}).logits[0, place]
    if not logits.isfinite().all():
        raise ModelError(
            expected="finite logits", found="NaN or infinity", fix="load the model again in float32"
        )
    return logits.double().cpu()
