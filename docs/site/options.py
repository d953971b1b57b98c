"""What griffe calls when it has read attar: options in the reference with their limits and defaults."""

from dataclasses import fields, is_dataclass, replace
from typing import Any

import griffe

# How a limit of pydantic's stands after a type, and a lower one before it.
AFTER = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
BEFORE = {"ge": "≤", "gt": "<"}
# Of a group of options: as it is written, and as it is shown.
FIELDS = (griffe.DocstringSectionKind.attributes, griffe.DocstringSectionKind.parameters)


class OptionsExtension(griffe.Extension):
    """Writes out the types of options, and gives a verb the options that it shares with another."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **_: Any) -> None:
        """Go through the verbs and their groups of options."""
        if pkg.path != "attar":
            return
        modules = pkg.modules["verbs"].modules.values()
        for group in (group for module in modules for group in module.classes.values() if not group.is_alias):
            _show_fields(group)
        for verb in (module.functions[module.name] for module in modules if module.name in module.functions):
            for parameter in verb.parameters:
                parameter.annotation = written_out(parameter.annotation)
            _show_examples(verb)
        for verb in (module.functions[module.name] for module in modules if module.name in module.functions):
            _show_shared(verb, loader)


def written_out(kind: Any) -> Any:
    """A type with its aliases resolved, and with limits (`int ≥ 1`) in place of `Annotated`."""
    if isinstance(kind, griffe.ExprName):
        alias = _alias(kind)
        return kind if alias is None else written_out(alias)
    if isinstance(kind, griffe.ExprSubscript) and kind.canonical_path == "typing.Annotated":
        inner, *markers = kind.slice.elements  # type: ignore[union-attr]
        return _limited(written_out(inner), markers)
    if isinstance(kind, list):
        return [written_out(part) for part in kind]
    if isinstance(kind, griffe.Expr) and is_dataclass(kind):
        return replace(kind, **{field.name: written_out(getattr(kind, field.name)) for field in fields(kind)})
    return kind


def _alias(name: griffe.ExprName) -> griffe.Expr | None:
    """What a name of attar's stands for, where that is a type."""
    if not isinstance(name.parent, griffe.Object) or not name.canonical_path.startswith("attar."):
        return None
    found = name.parent.modules_collection.get_member(name.canonical_path)
    value = found.value if isinstance(found, griffe.Attribute) else None
    return value if isinstance(value, griffe.ExprSubscript | griffe.ExprBinOp) else None


def _limited(kind: Any, markers: list[Any]) -> Any:
    """A type with the limits that a pydantic `Field(ge=…, lt=…)` among the markers gives it."""
    limits = {
        argument.name: argument.value
        for marker in markers
        if isinstance(marker, griffe.ExprCall) and marker.function.canonical_name == "Field"
        for argument in marker.arguments
        if isinstance(argument, griffe.ExprKeyword) and argument.name in AFTER
    }
    if len(limits) == 2:
        low, high = sorted(limits, key=list(AFTER).index)
        return griffe.ExprCompare(limits[low], [BEFORE[low], AFTER[high]], [kind, limits[high]])
    for name, limit in limits.items():
        return griffe.ExprCompare(kind, [AFTER[name]], [limit])
    return kind


def _show_fields(group: griffe.Class) -> None:
    """The fields of a group, with those of its bases, as parameters: these are shown with their defaults."""
    about: dict[str, str] = {}
    for owner in (*reversed(group.mro()), group):
        for section in owner.docstring.parsed if owner.docstring else ():
            if section.kind in FIELDS:
                about |= {item.name: item.description for item in section.value}
    known: dict[str, Any] = group.all_members
    found = [
        griffe.DocstringParameter(
            name, description=text, annotation=written_out(known[name].annotation), value=known[name].value
        )
        for name, text in about.items()
    ]
    for number, section in enumerate(group.docstring.parsed if group.docstring else ()):
        if section.kind is griffe.DocstringSectionKind.attributes:
            assert group.docstring is not None
            group.docstring.parsed[number] = griffe.DocstringSectionParameters(found, title="Fields:")


def _section(verb: griffe.Function, kind: griffe.DocstringSectionKind) -> griffe.DocstringSection:
    assert verb.docstring is not None
    return next(section for section in verb.docstring.parsed if section.kind is kind)


def _show_examples(verb: griffe.Function) -> None:
    """Examples, which are commands, as code."""
    kind = griffe.DocstringSectionKind.examples
    for section in verb.docstring.parsed if verb.docstring else ():
        if section.kind is kind:
            commands = [line for _, text in section.value for line in text.splitlines() if line]
            section.value = [(griffe.DocstringSectionKind.text, "\n".join(("```sh", *commands, "```")))]


def _show_shared(verb: griffe.Function, loader: griffe.GriffeLoader) -> None:
    """In place of `**rest` the options of the verb that the decorator names: `@verb(shares=plan)`."""
    names = [
        str(getattr(argument.value, "canonical_path", ""))
        for decorator in verb.decorators
        if isinstance(decorator.value, griffe.ExprCall)
        for argument in decorator.value.arguments
        if isinstance(argument, griffe.ExprKeyword) and argument.name == "shares"
    ]
    for name in names:
        other = loader.modules_collection[name]
        rest = next(item for item in verb.parameters if item.kind is griffe.ParameterKind.var_keyword)
        del verb.parameters[rest.name]
        known = {item.name for item in verb.parameters}
        for item in other.parameters:
            if item.name not in known:
                verb.parameters.add(item)
        kind = griffe.DocstringSectionKind.parameters
        own, others = _section(verb, kind), _section(other, kind)
        own.value = [item for item in own.value if item.name != rest.name]
        own.value += [item for item in others.value if item.name not in known]
