"""`vcsf plugins`: components, the plugins that registered them, and their parameters."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click

from vcsf_cli import registry
from vcsf_cli.commands import COMMANDS
from vcsf_cli.contracts import Component, Parameter
from vcsf_cli.errors import UnknownName
from vcsf_cli.narrate import say


@click.command("plugins")
@click.argument("kind", required=False)
@click.argument("name", required=False)
def command(kind: str | None, name: str | None) -> None:
    """List all components or those of one KIND, or describe the one with KIND and NAME."""
    plugins = registry.load()
    if kind is not None and kind not in registry.HOOKS:
        raise UnknownName("kind of component", kind, registry.HOOKS)
    if kind is not None and name is not None:
        click.echo(_describe(plugins.find(kind, name)))
        return
    for each in [kind] if kind else registry.HOOKS:
        click.echo(f"{each}:")
        for component in plugins.components(each).values():
            click.echo(f"  {component.name:<18} {component.plugin:<14} {component.summary}")
    if kind is None:
        for added, (plugin, _) in plugins.commands(COMMANDS).items():
            click.echo(f"command: {added} ({plugin})")
        click.echo(f"plugins: {', '.join(plugins.plugins())}")
    say(f"next: vcsf plugins {kind or 'KIND'} NAME")


def _describe(component: Component) -> str:
    lines = [
        f"{component.kind} {component.name}, from plugin {component.plugin}",
        "",
        component.summary,
        "",
    ]
    documentation = registry.own_documentation(component.factory)
    rest = documentation.partition("\n\n")[2].partition("Args:")[0].strip()
    if rest:
        lines += [rest, ""]
    lines += [
        line for parameter in component.parameters.values() for line in _parameter_lines(parameter)
    ]
    if not component.parameters:
        lines.append("It takes no parameters.")
    return "\n".join(lines)


def _parameter_lines(parameter: Parameter) -> list[str]:
    value = "required" if parameter.required else f"default {parameter.default!r}"
    return [
        f"  {parameter.name}: {type_name(parameter.annotation)}, {value}",
        f"      {parameter.help}",
    ]


def type_name(annotation: Any) -> str:
    """A type in words, with its bounds: `float, above 0`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        kind, *bounds = arguments
        return ", ".join([type_name(kind), *filter(None, map(_bound, bounds))])
    if origin is Literal:
        return " or ".join(str(value) for value in arguments)
    if origin in (Union, UnionType):
        return " or ".join(map(type_name, arguments))
    if isinstance(annotation, type) and not arguments:
        return "none" if annotation is NoneType else annotation.__name__
    if origin in (tuple, list):
        if len(set(arguments) - {...}) == 1:
            return f"list of {type_name(arguments[0])}"
        return f"list of {', '.join(map(type_name, arguments))}"
    return str(annotation).replace("typing.", "")


def _bound(limit: Any) -> str:
    """A bound of `annotated_types` in words; empty for a check that is code."""
    words = {"gt": "above", "ge": "from", "lt": "below", "le": "to"}
    if isinstance(limit, str):
        return limit
    given = {name: getattr(limit, name, None) for name in words}
    return " ".join(f"{words[name]} {bound}" for name, bound in given.items() if bound is not None)
