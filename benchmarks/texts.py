"""The plain text that studies read: books and film reviews of `../shared/data`, every file checked before it is used.

What a study was measured on has to be what its figures say: a shard that is missing, cut short or changed is named, and
nothing is computed.
"""

import csv
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from attar.errors import DataError

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
# Folder -> file -> bytes and SHA-256.
FILES: dict[str, dict[str, tuple[int, str]]] = {
    "lm_english_books": {
        "CATALOGUE.tsv": (12_854, "632bcc82d8560278fae483847a548c9551dd3dc13fbb6bd8bbd7e2593f7366bd"),
        "books-00.txt": (11_141_951, "3b184af6a16b1e15077a10ba257bce7813064e0376ca1ba677eb0582e3fd7132"),
        "books-01.txt": (10_109_189, "9330434c4edaa3e3006d288582a4dfffee22b14fe41b16a5e1c1884a7d800b6f"),
        "books-02.txt": (9_802_321, "6ca7007bf60769952da7bb730493c7e36eb6329484dafa387bdf0f4c9431353b"),
        "books-03.txt": (9_708_272, "18ecbc47642b4a75be0d6a2e57e24b84c949f69f2d31987fcff0a203b1c5c5e7"),
        "books-04.txt": (9_528_498, "691f6e7421837af0d16f43ff0d236a32ed44c2f839ed0def9c13bdef666caa2b"),
        "books-05.txt": (9_876_390, "41bbc74751a76cf77ca7ff130ea0f146125a9dac410d3dc90b6470b5cadad5be"),
        "books-06.txt": (10_210_955, "44f7427a3788c1a32703f9fabdf3e28c7c30a517261f8c8843d84ef12799036d"),
        "books-07.txt": (10_232_217, "d9e8047745618fd9542bb5ad9803e3ecf88d2ff633cf0ce7684cfea68f9b392e"),
        "books-08.txt": (9_624_172, "6fe43ba4dd1fa9c4bbb340c135f7031b273aa300835aa8ebc47d5df0b29d0e52"),
        "books-09.txt": (9_530_015, "39a9db5adad5a067656092b188f96f6e82e75e6d31db862abcede52da3a46122"),
        "books-10.txt": (9_752_189, "eae88b60b0f76ed25454fd89bde02b0ad810f980ab3adf7fc9f10dbec2cb4c78"),
        "books-11.txt": (618_416, "49d5818bf522840b169074c901ef695e64e9ab7360dcf441c0312bfa5ed2f1a1"),
    },
    "lm_korean_reviews": {
        "reviews-00.txt": (9_294_116, "a09800e7a91c7775dd0283c1f063e31c0fabc3f7226702d29091a335c61de5d7"),
        "reviews-01.txt": (9_251_881, "428fa9ac1afa0a4def44b857a01caa534d286c64c37b6419102b1e15cde09f5c"),
        "reviews-02.txt": (9_312_809, "5592e3e43e28bf20692ba87e2e9fdc1a847e46c1e578a18e49985d64678612a6"),
        "reviews-03.txt": (9_240_415, "df9bff27e9c343e49a06d2ab499b23678855138f0d8ce3cd500a4825435604c4"),
    },
}


def checked(folder: str, shared: Path = SHARED) -> list[Path]:
    """The files of a folder, each as long as it should be and with the content that it should have.

    Raises:
        DataError: files that are missing, truncated or changed, all of them named.
    """
    wrong, found = [], []
    for name, (size, digest) in FILES[folder].items():
        path = shared / folder / name
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif (there := path.stat().st_size) != size:
            wrong.append(f"{name} has {there:,} of {size:,} bytes")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            wrong.append(f"{name} has another content (SHA-256)")
        found.append(path)
    if wrong:
        raise DataError(
            expected=f"the {len(found)} files of {folder} as they are listed in benchmarks/texts.py",
            found="; ".join(wrong),
            fix="copy these again from their source, or run with --quick, which reads none of them",
        )
    return found


def books(shared: Path = SHARED) -> dict[str, list[str]]:
    """The paragraphs of every English book by its name; the catalogue names those of a shard in their order."""
    catalogue, *shards = checked("lm_english_books", shared)
    with catalogue.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    found: dict[str, list[str]] = {}
    for path in shards:
        names = [row["book"] for row in rows if row["shard"] == path.stem.rpartition("-")[2]]
        texts = path.read_text(encoding="utf-8").strip("\n").split("\n\n")
        for name, text in zip(names, texts, strict=True):
            found[name] = [line for line in text.split("\n") if line.strip()]
    return found


def by_book(found: Mapping[str, list[str]], held: Mapping[str, int], seed: int = 0) -> dict[str, list[str]]:
    """Names of the books of each split: as many as `held` says of each, drawn by a seed, and all others as `train`.

    A sentence of a book tells much about the next one, so no book is in two splits.
    """
    names = [sorted(found)[i] for i in np.random.default_rng(seed).permutation(len(found))]
    splits = {}
    for split, count in held.items():
        splits[split], names = names[:count], names[count:]
    return splits | {"train": names}


def documents(
    found: Mapping[str, list[str]], names: Sequence[str], words: int, longest: int = 1000
) -> list[str]:
    """Paragraphs of some books in a row, joined to documents of about `longest` words, up to a number of words.

    Every book gives the same share, and a shorter one all of its own. The documents are in a random order, so that the
    first of them are a sample of all.
    """
    sizes = {name: sum(len(line.split()) for line in found[name]) for name in names}
    share = _share(sorted(sizes.values()), words)
    made: list[str] = []
    for name in names:
        part: list[str] = []
        count = taken = 0
        for paragraph in found[name]:
            if taken >= share:
                break
            part.append(paragraph)
            size = len(paragraph.split())
            count, taken = count + size, taken + size
            if count >= longest:
                made.append("\n".join(part))
                part, count = [], 0
        if part:
            made.append("\n".join(part))
    return [made[i] for i in np.random.default_rng(0).permutation(len(made))]


def _share(sizes: Sequence[int], words: int) -> float:
    """The most words of a book, so that all together give so many; sizes from the smallest."""
    left = float(words)
    for number, size in enumerate(sizes):
        if size * (len(sizes) - number) >= left:
            return left / (len(sizes) - number)
        left -= size
    return float("inf")


def paragraphs(found: Mapping[str, list[str]], names: Sequence[str], words: int) -> list[str]:
    """Single paragraphs of some books, up to a number of words, of every book alike."""
    return [line for text in documents(found, names, words, longest=1) for line in text.split("\n")]


def korean_reviews(shared: Path = SHARED) -> list[str]:
    """The 400,000 Korean film reviews, one a text."""
    lines = [
        line
        for path in checked("lm_korean_reviews", shared)
        for line in path.read_text(encoding="utf-8").split("\n")
    ]
    return [line for line in lines if line.strip()]
