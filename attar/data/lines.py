"""Lines of plain text, read as they are needed, for work that passes over a text without holding it."""

from collections.abc import Iterator

from datasets.exceptions import DatasetGenerationError

from attar.data.corpus import Texts
from attar.data.tables import read_texts
from attar.errors import DataError

# Rows that are taken from a stream at a time.
ROWS = 1000


def lines_of(texts: Texts) -> Iterator[str]:
    """The texts one by one, of files line by line.

    Args:
        texts: as `read_texts` reads them.

    Raises:
        DataError: no text; a file that is missing, in another encoding or binary. Of a file this is found when the
            reading comes to it.
    """
    count, name = 0, str(texts) if not isinstance(texts, list | tuple) else ", ".join(map(str, texts[:3]))
    try:
        for rows in read_texts(texts, streaming=True).iter(batch_size=ROWS):
            for text in rows["text"]:
                count += 1
                if "\0" in text:
                    raise DataError(
                        expected="plain text",
                        found=f"a zero byte in text {count}: a binary file, or UTF-16",
                        fix="take it out, or convert it to UTF-8",
                    )
                yield text
    except (DatasetGenerationError, UnicodeDecodeError) as error:
        raise DataError(
            expected=f"{name[:200]} to be text in UTF-8",
            found=_cause(error),
            fix="convert it to UTF-8",
        ) from error
    if not count:
        raise DataError(
            expected="at least one line of text", found=f"none in {name[:200]}", fix="check the file"
        )


def _cause(error: BaseException) -> str:
    while (
        isinstance(error, DatasetGenerationError) and error.__cause__ is not None
    ):  # which says only that there is one
        error = error.__cause__
    return f"{type(error).__name__}: {(str(error) or 'nothing in it').splitlines()[0][:200]}"
