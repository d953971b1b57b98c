"""Which teacher layer each student layer learns from: g(m) = n of TinyBERT (1909.10351, section 3)."""

from collections.abc import Sequence

from attar.errors import RecipeError

Mapping = str | Sequence[int]
KINDS = ("uniform", "top", "bottom")


def layer_map(student: int, teacher: int, kind: Mapping = "uniform") -> tuple[int, ...]:
    """The teacher layer g(m) for each student layer m = 1 … M.

    Args:
        student: number of student layers, M.
        teacher: number of teacher layers, N.
        kind: "uniform", g(m) = round(m·N / M), which is 3m for 12 -> 4 and needs no multiple; "top", the last M;
            "bottom", the first M; or the M numbers themselves, counted from 1.

    Returns:
        M numbers from 1 to N that never decrease.

    Raises:
        RecipeError: an unknown kind, or numbers that are too few, out of range or decreasing.
    """
    if isinstance(kind, str):
        if kind not in KINDS:
            raise RecipeError(
                expected=f"a map: {', '.join(KINDS)}, or {student} layer numbers",
                found=repr(kind),
                fix="name one of them",
            )
        steps = range(1, student + 1)
        if kind == "uniform":
            return tuple(max(1, (2 * m * teacher + student) // (2 * student)) for m in steps)
        if kind == "top":
            return tuple(max(1, teacher - student + m) for m in steps)
        return tuple(min(m, teacher) for m in steps)
    chosen = tuple(int(n) for n in kind)
    wrong = (
        len(chosen) != student or any(not 1 <= n <= teacher for n in chosen) or list(chosen) != sorted(chosen)
    )
    if wrong:
        raise RecipeError(
            expected=f"{student} teacher layers from 1 to {teacher}, never decreasing",
            found=", ".join(map(str, chosen)) or "none",
            fix="give one teacher layer for each student layer, or a name: uniform, top, bottom",
        )
    return chosen
