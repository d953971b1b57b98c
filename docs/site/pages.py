"""What MkDocs calls while it builds the site: pages that are made from the repository, links, and no network."""

import json
import logging
import posixpath
import re
from collections.abc import Iterator
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from rich.text import Text
from typer.core import TyperGroup

import attar
from attar.cli import app
from attar.cli.commands import PANELS
from attar.options.registry import VERBS
from attar.options.signature import arguments, parsed

ROOT = Path(__file__).parents[2]
RESULTS = "benchmarks/results"
# Texts of the repository that are pages of the site, under another name.
MOVED = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
    RESULTS: "benchmarks.md",
    "examples": "examples.md",
}
# What is left out beside a page: navigation where it stands alone there, both where a table needs the room.
HIDDEN = {name: ["navigation"] for name in ("index.md", "start.md", "choose.md", "examples.md")}
HIDDEN |= {"papers.md": ["navigation", "toc"]}
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)[^)#\s]+")
# What a browser would fetch by itself.
FETCHED = re.compile(r"<(?:script|img|link|iframe)\b[^>]*?\s(?:src|href)=\"(?:https?:)?//[^\"]+\"[^>]*>")
warning = logging.getLogger("mkdocs.hooks.pages").warning


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages that are made, and those of folders (`decisions/`), into the navigation."""
    config.nav = [_laid_open(entry) for entry in config.nav or []]
    return config


def _laid_open(entry: Any) -> Any:
    if not isinstance(entry, dict):
        return entry
    (title, content), *_ = entry.items()
    if isinstance(content, list):
        return {title: [_laid_open(inner) for inner in content]}
    if content == "reference/":
        return {
            title: [f"reference/{page}" for page in ("index.md", *_reference(), "classes.md", "errors.md")]
        }
    if content.endswith("/"):
        return {title: sorted(f"{content}{file.name}" for file in (ROOT / "docs" / content).glob("*.md"))}
    return entry


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made, and the benchmarks' results, to which pages link."""
    made = {
        page: (ROOT / source).read_text("utf-8") for source, page in MOVED.items() if source.endswith(".md")
    }
    made["benchmarks.md"] += _results()
    made["command-line.md"] = _command_line()
    made |= {f"reference/{page}": text for page, text in _reference().items()}
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    for result in sorted((ROOT / RESULTS).iterdir()):
        files.append(File(f"{RESULTS}/{result.name}", str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in what is made, and let links to files of the repository lead to where these are on the site."""
    here = page.file.src_uri
    page.meta["hide"] = HIDDEN.get(here, [])
    source = next(
        (source for source, moved in MOVED.items() if moved == here and source.endswith(".md")),
        f"docs/{here}",
    )

    def link(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[0]))
        target = MOVED.get(target, target.removeprefix("docs/"))
        return posixpath.relpath(target, posixpath.dirname(here) or ".")

    for place, make in {"<!-- recipes -->": _recipes, "<!-- verbs -->": _verbs}.items():
        if place in markdown:
            markdown = markdown.replace(place, make())
    return LINK.sub(link, markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Warn, which ends a strict build, of what a browser would fetch from elsewhere: the site works offline."""
    for match in FETCHED.finditer(output):
        warning("%s needs the network: %s", page.file.src_uri, match[0][:200])
    return output


def _reference() -> dict[str, str]:
    """A page for each public verb with its groups of options."""
    names = [name for panel in PANELS.values() for name in panel if name in attar.__all__]
    names += sorted((VERBS.keys() & set(attar.__all__)) - set(names))
    return {f"{name}.md": _verb_page(name) for name in names}


def _verb_page(name: str) -> str:
    lines = ["---", f"title: {name}", "---", f"::: attar.verbs.{name}.{name}"]
    lines += ["    options:", f"      heading: attar.{name}", "      heading_level: 1", ""]
    for group in filter(None, (argument.group for argument in arguments(VERBS[name]))):
        if group.__module__.startswith("attar.verbs."):
            lines += [f"::: {group.__module__}.{group.__name__}", ""]
        else:  # made from another verb
            other = group.__name__.lower()
            lines += [f"## {group.__name__}", ""]
            lines += [f"The options of [`attar.{other}`]({other}.md).", ""]
    return "\n".join(lines)


def _verbs() -> str:
    """A table of the public verbs."""
    rows = [f"| [`attar.{page[:-3]}`]({page}) | {_about(VERBS[page[:-3]])} |" for page in _reference()]
    return "\n".join(["| verb | what it does |", "| --- | --- |", *rows])


def _about(verb: Any) -> str:
    return parsed(verb.__doc__).short_description or ""


def _command_line() -> str:
    """The page of the command line, from the commands themselves."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    lines = [
        "# Command line",
        "",
        "What `attar COMMAND --help` says. Options that every run needs come first.",
        "",
    ]
    for name, command in group.commands.items():
        lines += _command(name, command)
    return "\n".join(lines)


def _command(name: str, command: Any) -> Iterator[str]:
    yield from (f"## attar {name}", "", command.help, "")
    examples = [line for line in (command.epilog or "").splitlines() if line.startswith("attar ")]
    if examples:
        yield from ("```sh", *examples, "```", "")
    panels: dict[str, list[str]] = {}
    for parameter in command.params:
        shown, _ = parameter.get_help_record(typer.Context(command, info_name=name))
        about = Text.from_markup(parameter.help).plain
        if parameter.required:
            about += " Required."
        elif parameter.show_default and parameter.default:
            about += f" ({parameter.default})"
        panel = parameter.rich_help_panel or f"{parameter.param_type_name.capitalize()}s"
        panels.setdefault(panel, []).extend((f"`{shown}`", f":   {about}", ""))
    for panel, lines in panels.items():
        yield from (f"**{panel}**", "", *lines)


def _recipes() -> str:
    """The recipes that come with attar, as they are."""
    found = sorted(file.name for file in resources("attar.recipes").iterdir() if file.name.endswith(".yaml"))
    return "\n".join(f'### {name[:-5]}\n\n```yaml\n--8<-- "attar/recipes/{name}"\n```\n' for name in found)


def _results() -> str:
    """A table of the benchmarks' results."""
    lines = ["", "## Results", "", "| result | command | when and where |", "| --- | --- | --- |"]
    for file in sorted((ROOT / RESULTS).glob("*.json")):
        found = json.loads(file.read_text("utf-8"))
        place = f"{found['date']}, {found['machine']['cpu']}, torch {found['machine']['torch']}"
        lines.append(f"| [{file.stem}](results/{file.name}) | `{found['command']}` | {place} |")
    return "\n".join(lines) + "\n"
