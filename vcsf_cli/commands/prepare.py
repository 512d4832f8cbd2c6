"""`vcsf prepare`: videos in, a store of frames out."""

from __future__ import annotations

import shlex
import types
import typing
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click

from vcsf_cli import registry
from vcsf_cli.commands.options import (
    LONGEST,
    MOST_WORKERS,
    Number,
    data_option,
    engine_options,
)
from vcsf_cli.contracts import Parameter
from vcsf_cli.data.decode import default_decoder
from vcsf_cli.errors import InputError, PluginError


def _shared_options(function: Callable[..., Any]) -> Callable[..., Any]:
    shown = partial(click.option, show_default=True)
    options: list[Callable[[Callable[..., Any]], Callable[..., Any]]] = [
        click.option(
            "--source",
            help="The videos: a folder, an archive or a CSV file, or such an address as "
            "s3://bucket/videos.",
        ),
        data_option,
        click.option(
            "--name",
            help="The dataset's folder in --data.  [default: the kind, or the source's name]",
        ),
        shown(
            "--size",
            type=click.IntRange(16, 65_500),  # libjpeg's limit
            default=128,
            help="Short side of stored frames; never enlarged.",
        ),
        shown(
            "--quality",
            type=click.IntRange(1, 100),
            default=90,
            help="Of the stored JPEGs.",
        ),
        click.option(
            "--decoder",
            help=f"Video reader; see `vcsf plugins decoder`.  [default: {default_decoder()}, or as "
            "before]",
        ),
        click.option(
            "--square-pixels/--no-square-pixels",
            default=None,
            help="Store videos with oblong pixels in the shape they are shown in.  [default: as "
            "before, else of own videos, not of benchmark sets]",
        ),
        click.option(
            "--fps",
            type=Number(0.001, 1000),
            help="Resample to this rate.  [default: each video's own]",
        ),
        shown(
            "--max-seconds",
            type=Number(1, LONGEST),
            default=60.0,
            help="Longer videos become several clips (benchmark sets are never cut).",
        ),
        shown(
            "--on-bad",
            type=click.Choice(["skip", "keep"]),
            default="skip",
            help="Leave bad videos out, or keep what could be read.",
        ),
        shown(
            "--max-bad",
            type=Number(0, 100),
            default=1.0,
            metavar="PERCENT",
            help="Fail when more videos are bad.",
        ),
        shown(
            "--time-limit",
            type=Number(1, LONGEST),
            default=120.0,
            metavar="SECONDS",
            help="Kill the decoding of a video that gives no new frame for this time.",
        ),
        click.option(
            "--workers",
            type=click.IntRange(1, MOST_WORKERS),
            help="Processes.  [default: all cores]",
        ),
        engine_options,
        click.option(
            "--verify",
            "to_verify",
            is_flag=True,
            help="Compare all that is prepared with its checksums, and mend what is damaged from "
            "the videos.",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


class _Kind(click.Command):
    """A command without arguments: one is taken for the source."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        _, extra, _ = self.make_parser(context).parse_args(args=list(args))
        helps = {*args} & {*self.get_help_option_names(context)}
        if extra and not helps and not context.resilient_parsing:
            raise InputError(
                f"unexpected argument {extra[0]}", f"write --source {shlex.quote(extra[0])}"
            )
        return super().parse_args(context, args)


class _Kinds(click.Group):
    """One subcommand a dataset component, with an option for every keyword of its factory."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(registry.load().components("dataset"))

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        component = registry.load().find("dataset", name)

        def callback(**values: Any) -> None:
            chosen = {key: values.pop(key) for key in component.parameters}
            from vcsf_cli.commands.work import prepare  # pandas is slow to load

            prepare.prepare(component, chosen, **values)

        command = click.command(name, cls=_Kind, help=component.summary)(_shared_options(callback))
        taken = component.parameters.keys() & {parameter.name for parameter in command.params}
        if taken:
            raise PluginError(
                f"dataset `{name}` of plugin `{component.plugin}` has a keyword `{min(taken)}`, "
                "which is an option of `vcsf prepare` itself",
                "rename it",
            )
        command.params += [_build_option(parameter) for parameter in component.parameters.values()]
        return command


def _build_option(parameter: Parameter) -> click.Option:
    kind = parameter.annotation
    if get_origin(kind) is typing.Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(item for item in get_args(kind) if item is not type(None))
    flag = f"--{parameter.name.replace('_', '-')}"
    shown = parameter.default not in (None, False)
    if kind is bool:
        return click.Option([flag], is_flag=True, default=parameter.default, help=parameter.help)
    click_type: Any = click.Path(path_type=Path, exists=True) if kind is Path else kind
    if get_origin(kind) is Literal:
        click_type = click.Choice(list(get_args(kind)))
    return click.Option(
        [flag],
        type=click_type,
        default=parameter.default,
        show_default=shown,
        required=parameter.required,
        help=parameter.help,
    )


@click.group("prepare", cls=_Kinds)
def command() -> None:
    """Turn videos into a store of frames that clips are read from fast.

    Each video is decoded once, by all cores; a second call goes on where the first one stopped.
    """
