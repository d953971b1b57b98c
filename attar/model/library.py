"""What sentence-transformers makes of a directory that attar wrote: compared before the directory is there."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from attar.errors import ModelError
from attar.model.embedding import SentenceEncoder
from attar.model.sentence_modules import RERANKER
from attar.progress import quiet_libraries

TEXTS = ["one text", "and another one, which is longer"]


@torch.inference_mode()
def verify_library(model: PreTrainedModel, tokenizer: Any, directory: Path) -> None:
    """Open a saved embedding model or reranker with sentence-transformers, where that is installed, and compare.

    Of a reranker the scores are compared before what they go through, which is a line of the config.

    Raises:
        ModelError: its embeddings or scores are others.
    """
    embeds = isinstance(model, SentenceEncoder)
    ranks = type(model).__name__.endswith("ForSequenceClassification") and any(
        hasattr(model.config, key) for key in RERANKER
    )
    if not (embeds or ranks) or find_spec("sentence_transformers") is None:
        return
    from sentence_transformers import CrossEncoder, SentenceTransformer

    if embeds:
        window = {"truncation": True, "max_length": model.head.max_length} if model.head.max_length else {}
        batch = tokenizer(TEXTS, padding=True, return_tensors="pt", **window)
        ours = _logits(model, {name: batch[name] for name in ("input_ids", "attention_mask")})
        with quiet_libraries():
            library = SentenceTransformer(str(directory), device="cpu")
            theirs = library.encode(TEXTS, prompt="", convert_to_tensor=True)
    else:
        ours = _logits(model, tokenizer(TEXTS, TEXTS[::-1], padding=True, return_tensors="pt")).squeeze(-1)
        pairs = list(zip(TEXTS, TEXTS[::-1], strict=True))
        with quiet_libraries():
            ranker = CrossEncoder(str(directory), device="cpu")
            theirs = ranker.predict(pairs, activation_fn=torch.nn.Identity(), convert_to_tensor=True)
    # Of static models that library sums token vectors as they are written.
    rounding = 2e-3 if theirs.dtype == torch.float16 else 1e-4
    theirs = theirs.float().cpu()
    difference = float((ours - theirs).abs().max()) if ours.shape == theirs.shape else float("inf")
    if not difference <= rounding * max(1.0, float(theirs.abs().max())):
        raise ModelError(
            expected=f"sentence-transformers to give the {'embeddings' if embeds else 'scores'} that attar gives",
            found=f"a difference of {difference:.2g}",
            fix="report this as a bug of attar with the model's config.json and modules.json; nothing was written",
        )


def _logits(model: PreTrainedModel, batch: Any) -> Tensor:
    training = model.training
    found = model.eval()(**{name: part.to(model.device) for name, part in batch.items()}).logits
    model.train(training)
    return found.float().cpu()  # type: ignore[no-any-return]
