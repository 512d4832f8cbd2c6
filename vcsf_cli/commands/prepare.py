"""`vcsf prepare`: videos in, a store of frames out."""

from __future__ import annotations

import json
import os
import shlex
import time
import types
import typing
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args, get_origin

import click

from vcsf_cli import registry
from vcsf_cli.commands.common import open_ray, resumable
from vcsf_cli.commands.options import (
    LONGEST,
    MOST_WORKERS,
    Number,
    data_option,
    engine_options,
    where,
)
from vcsf_cli.config import strict_yaml
from vcsf_cli.config.check import Checker
from vcsf_cli.contracts import Component, Dataset, Parameter
from vcsf_cli.data.decode import Settings, default_decoder
from vcsf_cli.engine.local import Local
from vcsf_cli.errors import DataError, InputError, PluginError, RecipeError
from vcsf_cli.narrate import duration, say
from vcsf_cli.remote import is_address, open_filesystem
from vcsf_cli.storage.files import is_folder_name

_RECIPE = "recipes/vcsf.yaml"
"""Suggested for datasets that suggest none of their own."""
_FEW_TEST_CLIPS = 100
"""With fewer, an interval of accuracy is some 20 points wide."""


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


class _Kinds(click.Group):
    """One subcommand a dataset component, with an option for every keyword of its factory."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(registry.load().components("dataset"))

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        component = registry.load().find("dataset", name)

        def callback(**values: Any) -> None:
            chosen = {key: values.pop(key) for key in component.parameters}
            _prepare(component, chosen, **values)

        command = click.command(name, help=component.summary)(_shared_options(callback))
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


def _prepare(
    component: Component,
    chosen: dict[str, Any],
    source: str | None,
    data: Path,
    name: str | None,
    size: int,
    quality: int,
    decoder: str | None,
    square_pixels: bool | None,
    fps: float | None,
    max_seconds: float,
    on_bad: str,
    max_bad: float,
    time_limit: float,
    workers: int | None,
    engine: str,
    address: str | None,
    to_verify: bool,
) -> None:
    from vcsf_cli.data import prepare, verify  # pandas is slow to load

    kind = component.name
    plugins = registry.load()
    root = None if source is None else _check_source(source, kind)
    if plugins.attribute("dataset", kind, "needs_source", False):
        if root is None:
            raise InputError(f"vcsf prepare {kind} needs --source", "it says where the videos are")
        name = name or _name_after(root)
    name = name or kind
    if not is_folder_name(name):
        raise InputError(f"--name {name!r} is not a name for a folder", "give letters and digits")
    folder = data / name
    dataset: Dataset = plugins.build(
        "dataset", kind, root or folder / "original", **_check_options(component, chosen)
    )
    before = _settings_before(folder, to_verify)
    decoder = decoder or (before or {}).get("decoder") or default_decoder()
    plugins.build("decoder", decoder)  # its library may be missing
    if square_pixels is None:
        square_pixels = before.get("square_pixels", False) if before else not dataset.benchmark
    settings = Settings(kind, decoder, size, quality, fps, max_seconds, on_bad, square_pixels)
    begun = time.monotonic()
    cluster = open_ray(engine, address, workers)
    place = cluster or Local(workers or os.cpu_count() or 1)
    preparation = prepare.Preparation(dataset, folder, settings, time_limit, place)
    with resumable():
        if to_verify:
            mended = verify.Verification(preparation).run()
            say(f"{folder}: mended, and whole again" if mended else f"{folder}: nothing is damaged")
            return
        summary = preparation.run()
    if summary.new:
        seconds = time.monotonic() - begun
        say(
            f"prepared {summary.new:,} videos in {duration(seconds)}, {summary.new / seconds:.1f} "
            "a second"
        )
    else:
        say("everything was prepared already")
    say(
        f"{folder}: {summary.clips:,} clips of {summary.videos:,} videos, {summary.frames:,} "
        f"frames, {summary.size / 2**20:,.1f} MiB, {summary.bad} bad"
    )
    if summary.damaged:
        say(f"{summary.damaged:,} others had errors that the decoder concealed")
    if summary.bad or summary.damaged:
        say(f"what is wrong with them: {folder / prepare.PROBLEMS}")
    if 100 * summary.bad > max_bad * summary.videos:
        raise DataError(
            f"{summary.bad} of {summary.videos} videos are bad, more than {max_bad:g} %",
            f"see {folder / prepare.PROBLEMS}; the others are prepared and can be used, --max-bad says how "
            "many are fine",
        )
    _suggest_leave_one_out(dataset, folder, data)
    say(next_command(kind, name, data))


def _check_source(source: str, kind: str) -> Path | str:
    """The path or the address that --source is.

    Raises:
        InputError: If there is no such path, or the dataset reads no addresses.
    """
    if not is_address(source):
        if not Path(source).exists() and "{" not in source:  # a pattern: the dataset looks
            raise InputError(
                f"--source {source} does not exist", "name a folder, an archive or a CSV file"
            )
        return Path(source)
    if not registry.load().attribute("dataset", kind, "reads_addresses", False):
        raise InputError(
            f"vcsf prepare {kind} reads no addresses such as {source}",
            "copy it to this disk, and name the folder",
        )
    open_filesystem(source)  # its library is there
    return source


def _name_after(root: Path | str) -> str:
    """The name of a dataset after where its videos lie."""
    if isinstance(root, Path) and root.is_dir():
        return root.resolve().name
    path = PurePosixPath(root)
    if "{" in path.name:  # of a pattern, what stands before the numbers
        return path.name.partition("{")[0].rstrip("-_.") or path.parent.name
    return path.stem if path.suffix in (".csv", ".tar") or isinstance(root, Path) else path.name


def _settings_before(folder: Path, to_verify: bool) -> dict[str, Any] | None:
    """The settings that a folder was prepared with; None before that, and where they are damaged
    and to be mended."""
    from vcsf_cli.data.prepare import read_settings  # pandas is slow to load

    try:
        return read_settings(folder)
    except DataError:
        if not to_verify:
            raise
        return None


def _suggest_leave_one_out(dataset: Dataset, folder: Path, data: Path) -> None:
    """Say how to measure videos of one's own with few test clips."""
    from vcsf_cli.data.manifest import Manifest  # pandas is slow to load

    manifest = Manifest.open(folder)
    test = len(manifest.part(1, "test"))
    few = not dataset.benchmark and 0 < test < _FEW_TEST_CLIPS
    if few and manifest.table["label"].notna().any():
        say(
            f"{test} test clips say little: after training, vcsf retrieve "
            f"{shlex.quote(manifest.name)} --leave-one-out{where('data', data)} measures with all "
            f"{len(manifest.table):,} clips"
        )


def next_command(kind: str, name: str, data: Path) -> str:
    """The command after preparing."""
    recipe = registry.load().attribute("dataset", kind, "recipe")
    same = recipe is not None and name == kind
    own = "" if same else f" --set {shlex.quote(f'data.name={_as_yaml(name)}')}"
    return f"next: vcsf pretrain {recipe or _RECIPE}{own}{where('data', data)}"


def _as_yaml(name: str) -> str:
    """A name in YAML: `2024` alone would be a number."""
    try:
        value, _ = strict_yaml.parse(name, "")
    except RecipeError:
        value = None
    return name if value == name else json.dumps(name, ensure_ascii=False)


class _OptionChecker(Checker):
    """Names options instead of keys."""

    def place(self, *path: str | int) -> str:
        return f"--{str(path[-1]).replace('_', '-')}"


def _check_options(component: Component, chosen: dict[str, Any]) -> dict[str, Any]:
    """Options in the types of the factory's annotations.

    Raises:
        InputError: If one doesn't fit.
    """
    plain = {
        name: str(value) if isinstance(value, Path) else value for name, value in chosen.items()
    }
    checker = _OptionChecker({})
    settings = checker.settings(component, plain, ())
    if settings is None:
        problems = checker.problems
        raise InputError("; ".join(problem.message for problem in problems), problems[0].hint)
    return settings
