"""`vcsf prepare` at work."""

from __future__ import annotations

import json
import math
import os
import shlex
import time
from pathlib import Path, PurePosixPath
from typing import Any

import click

from vcsf_cli import registry
from vcsf_cli.commands.common import open_ray, resumable
from vcsf_cli.commands.options import where
from vcsf_cli.config import strict_yaml
from vcsf_cli.config.check import Checker
from vcsf_cli.contracts import Component, Dataset
from vcsf_cli.data.bucket import working_copy
from vcsf_cli.data.decode import Settings, default_decoder
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.data.prepare import PROBLEMS, Preparation, Summary, read_settings
from vcsf_cli.data.verify import Verification
from vcsf_cli.engine.local import Local
from vcsf_cli.errors import DataError, InputError, RecipeError
from vcsf_cli.narrate import counted, duration, say
from vcsf_cli.remote import is_address, open_filesystem
from vcsf_cli.storage.files import is_folder_name

_RECIPE = "recipes/vcsf.yaml"
"""Suggested for datasets that suggest none of their own."""
_CPU_RECIPE = "recipes/ucf28_cpu.yaml"
_FEW_TEST_CLIPS = 100
"""With fewer, an interval of accuracy is some 20 points wide."""


def prepare(
    component: Component,
    chosen: dict[str, Any],
    source: str | None,
    data: Path | str,
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
    place, copy = f"{str(data).rstrip('/')}/{name}", None
    if isinstance(data, str):
        copy = click.get_current_context().with_resource(working_copy(data, name))
    folder = copy.folder if copy else Path(place)
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
    cluster = open_ray(engine, address, workers, reads_clips=False)
    processes = cluster or Local(workers or os.cpu_count() or 1)
    preparation = Preparation(dataset, folder, settings, time_limit, processes)
    with resumable():
        if to_verify:
            mended = Verification(preparation).run()
        else:
            summary = preparation.run()
        if copy:
            copy.upload()
    if to_verify:
        say(f"{place}: mended, and whole again" if mended else f"{place}: nothing is damaged")
        return
    _say_summary(summary, place, time.monotonic() - begun, max_bad)
    _suggest_leave_one_out(dataset, folder, data)
    if not dataset.benchmark and not plugins.attribute("dataset", kind, "recipe"):
        say(f"without a GPU, take {_CPU_RECIPE} in place of {_RECIPE}:")
    say(next_command(kind, name, data))


def _say_summary(summary: Summary, place: str, seconds: float, max_bad: float) -> None:
    """Say what was prepared.

    Raises:
        DataError: If too many videos are bad.
    """
    if summary.new:
        say(
            f"prepared {counted(summary.new, 'video')} in {duration(seconds)}, "
            f"{summary.new / seconds:.1f} a second"
        )
    else:
        say("everything was prepared already")
    say(
        f"{place}: {counted(summary.clips, 'clip')} of {counted(summary.videos, 'video')}, "
        f"{counted(summary.frames, 'frame')}, {summary.size / 2**20:,.1f} MiB, {summary.bad} bad"
    )
    if summary.damaged:
        say(f"{counted(summary.damaged, 'other')} had errors that the decoder concealed")
    if summary.bad or summary.damaged:
        say(f"what is wrong with them: {place}/{PROBLEMS}")
    if 100 * summary.bad > max_bad * summary.videos:
        raise DataError(
            f"too many are bad: {summary.bad:,} of {counted(summary.videos, 'video')}, more than "
            f"{max_bad:g} %",
            f"see {place}/{PROBLEMS}; the others are prepared and can be used, --max-bad "
            f"{math.ceil(100 * summary.bad / summary.videos)} says that so many are fine",
        )


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
    try:
        return read_settings(folder)
    except DataError:
        if not to_verify:
            raise
        return None


def _suggest_leave_one_out(dataset: Dataset, folder: Path, data: Path | str) -> None:
    """Say how to measure videos of one's own with few test clips."""
    manifest = Manifest.open(folder)
    train, test = (len(manifest.part(1, part)) for part in ("train", "test"))
    few = not dataset.benchmark and 0 < test < _FEW_TEST_CLIPS
    if few and manifest.table["label"].notna().any():
        say(
            f"{counted(train, 'clip')} to train on and {test:,} to test with say little: after training, "
            "vcsf retrieve "
            f"{shlex.quote(manifest.name)} --leave-one-out{where('data', data)} measures with all "
            f"{len(manifest.table):,} clips"
        )


def next_command(kind: str, name: str, data: Path | str) -> str:
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
