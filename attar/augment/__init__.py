"""Text augmentation for distillation: copies of each text with words replaced (TinyBERT, 1909.10351, Algorithm 1)."""

from attar.augment.masked import MaskedLMCandidates
from attar.augment.run import PaperCandidates, augment
from attar.augment.sources import candidates_from
from attar.augment.vectors import EmbeddingCandidates, WordVectorCandidates
from attar.augment.words import Candidates, Place

__all__ = [
    "Candidates",
    "EmbeddingCandidates",
    "MaskedLMCandidates",
    "PaperCandidates",
    "Place",
    "WordVectorCandidates",
    "augment",
    "candidates_from",
]
