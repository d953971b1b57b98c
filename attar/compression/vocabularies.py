"""The vocabularies of exports: all tokens of the teacher, or those that the texts use."""

import json
import tempfile
from pathlib import Path
from typing import Any

from attar.anatomy.resolve import Bound
from attar.compression.data import Texts
from attar.compression.shipping import tokenizer_bytes
from attar.errors import ModelError
from attar.progress import say
from attar.pruning.vocabulary import config_ids, restrict, trim
from attar.storage.writing import write_atomic


class Vocabularies:
    """Which tokens stay, and what the tokenizer then is.

    Args:
        bound: the teacher.
        place: keeps which tokens the texts use.
    """

    def __init__(self, texts: Texts, bound: Bound, place: Path) -> None:
        self.texts, self.bound, self.place = texts, bound, place

    def tokens(self, name: str) -> tuple[int, ...] | None:
        """The token numbers of a vocabulary; None where the tokenizer or the family cannot be trimmed."""
        if name == "all":
            return tuple(range(self.bound.shape.vocab))
        file = self.place / "vocabulary.json"
        if not file.is_file():
            try:
                kept: list[int] | None = list(trim(self.texts.loaded.tokenizer, self.texts.words()).kept)
                config_ids(self.texts.loaded.model.config, kept or [])
            except ModelError as error:
                say(f"the vocabulary stays whole: expected {error.expected}, found {error.found}")
                kept = None
            write_atomic(file, json.dumps(kept))
        found = json.loads(file.read_text())
        return None if found is None else tuple(found)

    def tokenizer(self, name: str) -> Any:
        """The tokenizer of a vocabulary."""
        kept = self.tokens(name)
        whole = self.texts.loaded.tokenizer
        return whole if name == "all" or kept is None else restrict(whole, kept)

    def costs(self) -> tuple[dict[str, int], dict[str, int]]:
        """By the names of those that there are: how many tokens, and bytes of the tokenizer's files."""
        sizes, files = {}, {}
        for name in ("all", "used"):
            kept = self.tokens(name)
            if kept is None:
                continue
            sizes[name] = len(kept)
            with tempfile.TemporaryDirectory() as directory:
                files[name] = tokenizer_bytes(self.tokenizer(name), Path(directory))
        return sizes, files
