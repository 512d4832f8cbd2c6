"""Writes docs/recipes.md and docs/commands.md from the code: `python docs/site/reference.py`.

`tests/test_docs.py` fails while a page is not what this makes of the code."""

import ast
import inspect
import json
import textwrap
import typing
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import click

from vcsf_cli import registry
from vcsf_cli.cli import vcsf
from vcsf_cli.commands import COMMANDS
from vcsf_cli.commands.plugins import type_name
from vcsf_cli.config import schema
from vcsf_cli.config.catalogue import RECIPES
from vcsf_cli.contracts import Component

DOCS = Path(__file__).resolve().parents[1]
MADE = "<!-- Made from the code by docs/site/reference.py; a change here is lost. -->\n"
KINDS = {
    "backbone": "Backbones",
    "motion": "Motion modules",
    "sampler": "Samplers",
    "loss": "Losses",
}
NODES = {
    "data": schema.Data,
    "augment": schema.Augment,
    "head": schema.Head,
    "optim": schema.Optim,
    "train": schema.Train,
    "speed": schema.Speed,
}


def recipes() -> str:
    """The reference of recipes: what vcsf brings, vcsf's own keys, and parts with their settings."""
    lines = ["# Recipes", "", MADE]
    lines += [
        "A recipe is strict YAML. Keys that it leaves out have the defaults below, and any can be set on the",
        "command line: `vcsf pretrain demo --set loss.temperature=0.1`. `vcsf recipes show demo` prints a recipe",
        "with all of them, `vcsf recipes check FILE` checks one. `extends: NAME` begins with another recipe. A stage of",
        "`stages` inherits the keys above it that it does not name.",
        "",
        "| recipe | what it is |",
        "|---|---|",
    ]
    for name, path in RECIPES.files().items():
        first = path.read_text(encoding="utf-8").partition("\n")[0].strip("# ")
        lines.append(f"| [`{name}`](../recipes/{name}.yaml) | {_cell(first)} |")
    lines += ["", "## Keys of vcsf", "", *_table(_fields("", schema.Top))]
    for node, model in NODES.items():
        lines += ["", f"### `{node}`", ""]
        if own := registry.own_documentation(model):
            lines += [own, ""]
        lines += _table(_fields(f"{node}.", model))
    lines += [
        "",
        "Beside these: `slow.input` and `fast.input` (`rgb` or `difference`), `motion.after` (the stages of the",
        "backbone that a motion module follows), and the settings of the parts below. `slow` and `fast` may set the",
        "backbone's own settings for one pathway.",
        "",
        "`auxiliary_losses` adds losses to `loss`. Each entry has the settings of a loss below, and of vcsf's own",
        "`weight` (1 by default) and `pathways` (both by default):",
        "",
        "```yaml",
        "loss: {name: infonce, temperature: 0.1, queue: 0}",
        "auxiliary_losses:",
        "  - {name: temporal_contrast, weight: 0.5, pathways: [fast]}",
        "```",
        "",
        "All losses of a stage see the same older keys, so those that read any need the same `queue`. A loss that finds",
        "positives (`cross_pathway`) can only be the stage's `loss`. A stage with `auxiliary_losses: []` leaves out those",
        "of the top level. `metrics.csv` has every loss and term under its name, such as",
        "`fast_temporal_contrast_local_local`; `fast_loss` is the weighted sum.",
        "",
        "`temporal_contrast` needs as many time steps of the features as segments, or a multiple, unless `global_local` is",
        "0. In the recipes with S3D, R3D-18 and R(2+1)D-18 slow has 2 and fast 4, but in `ucf28_gpu`, of 16 frames, 1 and",
        "2; in `ucf28_cpu` and `ten_classes` slow has 2 and fast 1.",
    ]
    for kind, title in KINDS.items():
        lines += ["", f"## {title}", "", f"`{kind}.name` is one of:"]
        for component in registry.load().components(kind).values():
            lines += _part(kind, component)
    return "\n".join(lines) + "\n"


def _part(kind: str, component: Component) -> Iterator[str]:
    yield from ("", f"### `{component.name}`", "", component.summary)
    documentation = registry.own_documentation(component.factory)
    rest = documentation.partition("\n\n")[2].partition("Args:")[0].strip()
    if rest:
        yield from ("", rest)
    rows = [
        (
            f"{kind}.{each.name}",
            type_name(each.annotation),
            "required" if each.required else _plain(each.default),
            each.help,
        )
        for each in component.parameters.values()
    ]
    yield from ("", *(_table(rows) if rows else ["It has no settings."]))


def _fields(prefix: str, model: Any) -> Iterator[tuple[str, str, str, str]]:
    """Key, type, default and help of a model's fields; the helps are the texts below them."""
    types = typing.get_type_hints(model, include_extras=True)
    helps = _texts_below(model)
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = "required" if field.is_required() else _plain(default)
        yield f"{prefix}{name}", type_name(types[name]), shown, helps.get(name, "")


def _texts_below(model: Any) -> dict[str, str]:
    """The text below each field of a model that has one."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(node, ast.ClassDef)
    return {
        field.target.id: " ".join(below.value.value.split())
        for field, below in pairwise(node.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
    }


def _plain(value: Any) -> str:
    return "none" if value is None else json.dumps(value).strip('"')


def _table(rows: Iterable[tuple[str, str, str, str]]) -> list[str]:
    head = ["| key | type | default | what it is |", "|---|---|---|---|"]
    return head + [
        f"| `{key}` | {_cell(kind)} | {_cell(default)} | {_cell(text)} |"
        for key, kind, default, text in rows
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def commands() -> str:
    """The reference of commands: the help of each, as the command line prints it."""
    lines = ["# Commands", "", MADE]
    lines += [
        "`vcsf COMMAND --help` prints the same. Exit status: 0 done, 1 the work failed, 2 the command line or recipe",
        "is wrong, 130 interrupted with everything saved. Results go to stdout, what is told on the way to stderr.",
    ]
    context = click.Context(vcsf, info_name="vcsf", **vcsf.context_settings)
    for name in COMMANDS:
        lines += _help(vcsf.get_command(context, name), context, 2)
    return "\n".join(lines) + "\n"


def _help(command: click.Command | None, above: click.Context, level: int) -> Iterator[str]:
    assert command is not None
    context = click.Context(command, parent=above, info_name=command.name, terminal_width=90)
    yield from ("", f"{'#' * level} vcsf {context.command_path.removeprefix('vcsf ')}", "")
    yield from ("```text", context.get_help(), "```")
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            yield from _help(command.get_command(context, name), context, level + 1)


PAGES = {"recipes.md": recipes, "commands.md": commands}

if __name__ == "__main__":
    for page, content in PAGES.items():
        (DOCS / page).write_text(content(), encoding="utf-8")
