"""The version, the changelog and the package agree: what a release is made from."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
SEMANTIC = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
RELEASED = re.compile(r"## \[(.+?)\] - \d{4}-\d{2}-\d{2}")


def faults(changelog, project):
    """What is wrong with a changelog beside the project's version; see CONTRIBUTING.md, "Make a release"."""
    found = []
    heads = re.findall(r"^## .*", changelog, re.M)
    if heads[:1] != ["## [Unreleased]"]:
        found.append("the first heading is not [Unreleased]")
    names = [name.group(1) for head in heads[1:] if (name := RELEASED.fullmatch(head))]
    if len(names) < len(heads) - 1:
        found.append("a heading is not [version] - date")
    if not all(map(SEMANTIC.fullmatch, [*names, project])):
        return [*found, "a version is not major.minor.patch"]
    numbers = [tuple(map(int, name.split("."))) for name in [project, *names]]
    if numbers[1:] != sorted(set(numbers[1:]), reverse=True):
        found.append("versions do not descend")
    if unknown := set(re.findall(r"^### (.*)", changelog, re.M)) - KINDS:
        found.append(f"kinds of change that nobody expects: {unknown}")
    changes = re.search(r"^- ", changelog.partition("## [Unreleased]")[2].partition("\n## ")[0], re.M)
    if numbers[1:] and (numbers[0] <= numbers[1] if changes else numbers[0] != numbers[1]):
        found.append(
            "the project's version is not that of the next release, or of the last where nothing changed"
        )
    return found


def test_version_and_changelog_agree():
    assert not faults((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), PROJECT["version"])
    assert version("attar") == PROJECT["version"]


def test_what_disagrees_is_found():
    unreleased, changes = "# Changelog\n\n## [Unreleased]\n", "\n### Added\n\n- `verb`.\n"
    last = "\n## [0.2.0] - 2026-12-01\n" + changes
    assert not faults(unreleased + last, "0.2.0")
    assert not faults(unreleased + changes + last, "0.3.0")
    assert faults(unreleased + changes + last, "0.2.0")  # the next release has no version yet
    assert faults(unreleased + last, "0.3.0")  # a version that nothing was noted for
    assert faults(last, "0.2.0")
    assert faults(unreleased + last.replace(" - 2026-12-01", ""), "0.2.0")
    assert faults(unreleased + last + last.replace("0.2.0", "0.2.1"), "0.2.0")
    assert faults(unreleased + last.replace("Added", "New"), "0.2.0")
    assert faults(unreleased + last, "0.2")


def test_types_travel_with_the_package():
    assert (ROOT / "attar" / "py.typed").is_file()
    assert "Typing :: Typed" in PROJECT["classifiers"]
