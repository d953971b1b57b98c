"""Which column of a table plays which role, and rows that lack something."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from datasets import Dataset

from attar.errors import DataError

Columns = Mapping[str, str]


def choose(table: Dataset, columns: Columns | None, roles: Sequence[str], needed: Sequence[str]) -> Dataset:
    """The columns of a table that play a role, under the names of their roles.

    Args:
        columns: the column of each role, where not the one of the role's own name; one that is named must be there.
        roles: that there are.
        needed: roles that must be there.

    Raises:
        DataError: a column is not there, or a role is not known.
    """
    wanted = dict(columns or {})
    if unknown := set(wanted) - set(roles):
        raise DataError(
            expected=f"columns to name only {', '.join(roles)}",
            found=", ".join(sorted(unknown)),
            fix="rename the key",
        )
    chosen = {}
    for role in roles:
        name = wanted.get(role, role)
        if name in table.column_names:
            chosen[role] = name
        elif role in wanted or role in needed:
            close = get_close_matches(name, table.column_names, n=1)
            nearest = close[0] if close else table.column_names[0] if table.column_names else "?"
            raise DataError(
                expected=f"a column {name!r} for the {role}",
                found=f"the columns {', '.join(table.column_names)}",
                fix=f"name it: columns={{'{role}': '{nearest}'}} (command line: --columns {role}={nearest})",
            )
    return table.select_columns(list(chosen.values())).rename_columns(
        {name: role for role, name in chosen.items()}
    )


def reject_rows(bad: Sequence[int], rows: int, name: str, column: str) -> None:
    """Raise DataError where rows, numbered from 0, have nothing in a column."""
    if bad:
        shown = ", ".join(str(i + 1) for i in bad[:5]) + ("…" if len(bad) > 5 else "")
        raise DataError(
            expected=f"a {column} in every row of {name}",
            found=f"{len(bad)} of {rows} rows with an empty {column} (rows {shown})",
            fix="fill or drop those rows",
        )


def name_of(source: object) -> str:
    """What a table is called in an error."""
    return str(source) if isinstance(source, str | Path) else "the table"
