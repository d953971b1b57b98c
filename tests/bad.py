"""What the tests of bad input share: a check of what an error says, and rows and files to spoil."""


def told(error):
    """Every message has its three parts."""
    assert all((error.value.expected, error.value.found, error.value.fix))
    assert str(error.value).splitlines()[0].startswith("expected ")
    assert "do this: " in str(error.value)
    return str(error.value)


def labelled(*labels):
    """Rows of one text and these labels."""
    return [{"text": "a film", "label": label} for label in labels]


def csv(path, text, encoding="utf-8"):
    """The file, with a text in it."""
    path.write_bytes(text.encode(encoding))
    return path
