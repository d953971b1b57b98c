"""Folders of documents: which of their files are plain text. Without torch: a recipe is checked by this, too."""

from pathlib import Path

from attar.errors import DataError
from attar.progress import say

# What is read as plain text, whatever lies beside it.
PLAIN = (".txt", ".text", ".md", ".rst")


def texts_in(folder: Path) -> list[Path]:
    """The files of plain text in a folder and the folders in it, in order; hidden ones are passed over.

    Raises:
        DataError: there are none.
    """
    files = sorted(file for file in folder.rglob("*") if file.is_file() and not _hidden(file, folder))
    found = [file for file in files if file.suffix.lower() in PLAIN]
    if not found:
        kinds = sorted({file.suffix for file in files})
        raise DataError(
            expected=f"texts ({', '.join(PLAIN)}) in {folder}",
            found=f"{len(files)} files" + (f" ({', '.join(kinds[:5])})" if kinds else ""),
            fix="convert documents to plain text first; a collection has corpus.jsonl and queries.jsonl",
        )
    if len(files) > len(found):
        say(f"{len(files) - len(found)} of {len(files)} files in {folder} are no texts, and left out")
    return found


def _hidden(file: Path, inside: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(inside).parts)
