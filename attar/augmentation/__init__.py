"""Text augmentation for distillation: copies of each text with words replaced (TinyBERT, 1909.10351, Algorithm 1)."""

from attar.augmentation.any_words import VocabularyCandidates
from attar.augmentation.masked_lm import MaskedLMCandidates
from attar.augmentation.sources import candidates_from
from attar.augmentation.tinybert import PaperCandidates, augment
from attar.augmentation.word_vectors import EmbeddingCandidates, WordVectorCandidates
from attar.augmentation.words import Candidates, Place

__all__ = [
    "Candidates",
    "EmbeddingCandidates",
    "MaskedLMCandidates",
    "PaperCandidates",
    "Place",
    "VocabularyCandidates",
    "WordVectorCandidates",
    "augment",
    "candidates_from",
]
