"""Where augmentation takes words from, by the names that a recipe has for it."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from attar.augmentation.any_words import VocabularyCandidates
from attar.augmentation.masked_lm import MaskedLMCandidates, Masks
from attar.augmentation.tinybert import PaperCandidates
from attar.augmentation.word_vectors import EmbeddingCandidates, WordVectorCandidates
from attar.augmentation.words import Candidates
from attar.model.checkpoint import load


def candidates_from(
    source: str, vectors: str, model: PreTrainedModel, tokenizer: Any, *, masks: Masks = "one"
) -> Candidates:
    """Where augmentation takes words from: `schema.Augment` says what the names mean."""

    def words(name: str) -> Candidates:
        return (
            EmbeddingCandidates(model, tokenizer)
            if name == "embeddings"
            else WordVectorCandidates.from_file(name)
        )

    if source == "vocabulary":
        return VocabularyCandidates(tokenizer)
    if source == "embeddings" or Path(source).is_file():
        return words(source)
    masked = load(source, head="masked-lm")
    return PaperCandidates(MaskedLMCandidates(masked.model, masked.tokenizer, masks=masks), words(vectors))
