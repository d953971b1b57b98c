"""The sizes of a student beside those of its teacher."""

from collections.abc import Mapping


def exceeding(student: Mapping[str, int], teacher: Mapping[str, int]) -> list[str]:
    """The sizes in which a student has more layers than its teacher, or wider ones, each in words.

    More heads of one hidden size are no more parameters and no more work.
    """
    return [
        f"{name} {student[name]} (teacher {teacher[name]})"
        for name in ("layers", "hidden", "ffn")
        if student[name] > teacher[name]
    ]
