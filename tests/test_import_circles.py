"""No module of the package imports itself by way of others, wherever in the file the import stands."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "attar"


def imported(tree: ast.AST) -> Iterator[tuple[str, ...]]:
    """What each import of a file names, most specific first: at its top, inside functions, and for types only."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name,) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((f"{node.module}.{alias.name}", node.module) for alias in node.names)


def graph(package: Path) -> dict[str, set[str]]:
    """Module -> the modules of the package that it imports."""
    places = {
        ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in package.rglob("*.py")
    }
    return {
        name: {
            found
            for names in imported(ast.parse(path.read_text(encoding="utf-8")))
            if (found := next((n for n in names if n in places), None)) is not None
        }
        for name, path in places.items()
    }


def circle(edges: dict[str, set[str]]) -> list[str]:
    """The modules of one circle in order, the first again at the end; empty where there is none."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_the_package_has_no_import_circle():
    assert circle(graph(PACKAGE)) == []


@pytest.mark.parametrize(
    "back",
    [
        "from pack.a import x",
        "from pack import a",
        "import pack.a",
        "def f():\n    from pack.a import x",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pack.a import x",
    ],
)
def test_a_circle_is_found_wherever_its_import_stands(tmp_path, back):
    pack = tmp_path / "pack"
    pack.mkdir()
    (pack / "__init__.py").write_text("")
    (pack / "a.py").write_text("from pack.b import y\n")
    (pack / "b.py").write_text(back + "\n")
    assert set(circle(graph(pack))) == {"pack.a", "pack.b"}
    (pack / "b.py").write_text("y = 1\n")
    assert circle(graph(pack)) == []
