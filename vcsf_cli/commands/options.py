"""Options that several commands share, and the completion of recipe and run names."""

from __future__ import annotations

import functools
import math
import os
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from vcsf_cli.config.catalogue import RECIPES, Catalogue
from vcsf_cli.contracts import PATHWAYS
from vcsf_cli.data.bucket import CACHE_SIZE, parse_size
from vcsf_cli.data.decoded import PLACE
from vcsf_cli.errors import InputError
from vcsf_cli.remote import is_address
from vcsf_cli.storage.mirror import address_of, mirrored

MOST_WORKERS = 1024
LONGEST = 1e9
"""Seconds; thirty years."""
_DEVICES = "auto|cpu|cuda|cuda:N|COUNT"
_DEVICE = re.compile("auto|cpu|cuda(:[0-9]{1,4})?|[0-9]{1,4}")


def complete_named(
    catalogue: Catalogue,
) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """A completion of names in a catalogue, then of files as the shell does it."""

    def complete(
        context: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        names = [name for name in catalogue.files() if name.startswith(incomplete)]
        return [*map(CompletionItem, names)] or [CompletionItem(incomplete, type="file")]

    return complete


complete_recipe = complete_named(RECIPES)


def complete_run(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names of the run folders in `--runs`, then folders as the shell completes them."""
    folder = context.params.get("runs") or Path("runs")
    names = sorted(path.parent.name for path in Path(folder).glob("*/recipe.yaml"))
    found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="dir")]


class Number(click.FloatRange):
    """A number between two others; `click.FloatRange` itself lets `nan` through."""

    def convert(
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> float:
        number: float = super().convert(value, parameter, context)
        if math.isnan(number):
            self.fail(f"`{value}` is not a number", parameter, context)
        return number


def device_problem(word: str) -> str:
    """What is wrong with a device, or nothing; whether the machine has it is seen later."""
    return "" if _DEVICE.fullmatch(word) else f"`{word}` is not a device"


def _parse_device(text: str) -> str:
    if problem := device_problem(text):
        raise click.BadParameter(f"{problem}; write {_DEVICES}")
    return text


def encoder_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--from` and what goes with it: the arguments `named`, `recipe` and `settings` of
    `encoders.find.find_source`."""
    return _named_encoder(
        command,
        "RUN|FOLDER|FILE|hf:NAME|...",
        "An encoder: a run's folder or name, a folder that `vcsf export` made, a file of weights "
        "with --recipe, or an encoder of others: `hf:NAME` or `hf:FOLDER` for a video model of "
        "transformers, `timm:NAME` for an image network, and what else `vcsf plugins encoder` lists. "
        "vcsf finetune also takes `scratch:RECIPE`, untrained networks.",
        "Set a key of --recipe, or of an encoder of others, such as `stride=4`; may be given often.",
    )


def own_encoder_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """As `encoder_options`, for a command that takes encoders of vcsf's networks only."""
    return _named_encoder(
        command,
        "RUN|FILE",
        "A run's folder or name, or a file of weights with --recipe.",
        "Set a key of --recipe; may be given often.",
    )


def _named_encoder(
    command: Callable[..., Any], metavar: str, encoders: str, settings: str
) -> Callable[..., Any]:
    with_option = click.option(
        "--with", "settings", multiple=True, metavar="KEY=VALUE", help=settings
    )
    from_option = click.option(
        "--from",
        "named",
        metavar=metavar,
        shell_complete=complete_run,
        help=f"{encoders}  [default: the newest finished run]",
    )
    return from_option(_recipe_option(with_option(command)))


_recipe_option = click.option(
    "--recipe",
    metavar="RECIPE",
    shell_complete=complete_recipe,
    help="Whose networks the weights of --from [slow=|fast=]FILE go into: of torchvision, CoCLR or "
    "vcsf. Nothing is trained.",
)


def refuse_unknown_run(options: Mapping[str, Any]) -> None:
    """Refuse a `--from` that names no run, before what takes seconds to load.

    Raises:
        InputError: If it can't be anything else than a run, and there is none.
    """
    from vcsf_cli.runs.run import check_named  # pandas is slow to load

    if not options["recipe"] and not options["settings"]:
        check_named(options["runs"], options["named"])


class _Place(click.Path):
    """A folder, or an address of one as text."""

    def convert(
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> Any:
        return value if is_address(value) else super().convert(value, parameter, context)


def _keep_for_errors(context: click.Context, parameter: click.Parameter, place: Any) -> Any:
    """Tell `vcsf_cli.cli` the folder: the hint of an error may name the option."""
    context.ensure_object(dict)[parameter.name] = place
    return place


def _folder_option(
    name: str, variable: str, usual: str, text: str
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        name,
        type=_Place(path_type=Path, file_okay=False),
        envvar=variable,
        default=Path(usual),
        callback=_keep_for_errors,
        show_default=True,
        show_envvar=True,
        help=text,
    )


class _Bytes(click.ParamType[int]):
    """A number of bytes, such as `50GB`."""

    name = "bytes"

    def convert(
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> int:
        try:
            return parse_size(str(value))
        except ValueError as error:
            self.fail(str(error))


def _tell_processes(context: click.Context, name: str, value: object) -> None:
    """Set a variable of the environment as long as the command runs."""
    before = os.environ.get(name)
    os.environ[name] = str(value)

    def restore() -> None:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before

    context.call_on_close(restore)


def _keep_to(context: click.Context, parameter: click.Parameter, size: int | None) -> None:
    if size is not None:
        _tell_processes(context, CACHE_SIZE, size)


def data_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--data`, and `--cache-size` that goes with it."""
    command = click.option(
        "--cache-size",
        type=_Bytes(),
        metavar="SIZE",
        expose_value=False,
        callback=_keep_to,
        help="Of --data in a bucket, how much is kept on this disk: 50GB.  [default: 100GB]",
    )(command)
    return _folder_option(
        "--data",
        "VCSF_DATA",
        "data",
        "Folder of prepared datasets; may be such an address as s3://bucket/prepared.",
    )(command)


def _share_frames(context: click.Context, parameter: click.Parameter, place: str | None) -> None:
    if place is not None:
        _tell_processes(context, PLACE, place)


cache_option = click.option(
    "--cache",
    envvar=PLACE,
    metavar="memory|DIR",
    expose_value=False,
    callback=_share_frames,
    help="Keep decoded frames there, for this and later commands: in memory as long as one of them "
    "runs, or in a folder on a fast disk of this machine. Not with --engine ray. docs/start.md says "
    "when it pays.",
)


def runs_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--runs`. The command gets a folder of this disk, which a bucket has copies of."""

    @functools.wraps(command)
    def with_runs(*arguments: Any, runs: Path | str, **options: Any) -> Any:
        with mirrored(runs) as folder:
            return command(*arguments, runs=folder, **options)

    return _folder_option(
        "--runs",
        "VCSF_RUNS",
        "runs",
        "Folder of run folders; may be such an address as s3://bucket/runs.",
    )(with_runs)


set_option = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set a recipe key, such as `loss.temperature=0.1`; may be given often.",
)

devices_option = click.option(
    "--devices",
    type=_parse_device,
    default="auto",
    show_default=True,
    metavar=_DEVICES,
    help="Where to compute; auto takes a GPU if there is one.",
)

workers_option = click.option(
    "--workers",
    type=click.IntRange(0, MOST_WORKERS),
    help="Processes that read videos.  [default: one less than the cores, at most 16]",
)


def engine_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--engine` and `--address`."""
    function = click.option(
        "--address",
        metavar="auto|HOST:PORT|ray://...",
        help="The Ray cluster to work on.  [default: Ray is started on this machine]",
    )(function)
    return click.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="Work on this machine, or on all machines of a Ray cluster.",
    )(function)


def _parse_settings(
    context: click.Context, parameter: click.Parameter, given: tuple[str, ...]
) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    for name, equals, text in pairs:
        if not (name and equals and text):
            raise click.BadParameter(f"`{name}{equals}` is not KEY=VALUE", context, parameter)
    if pairs and not context.params.get("launch"):
        raise click.BadParameter("it does nothing without --launch", context, parameter)
    return {name: text for name, _, text in pairs}


def launch_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--launch` and `--slurm`."""
    function = click.option(
        "--slurm",
        multiple=True,
        callback=_parse_settings,
        metavar="KEY=VALUE",
        help="With --launch: an option of sbatch, such as `partition=gpu`, `time=24:00:00` (the "
        "default) or `cpus-per-task=8`, or `requeue=100`: how often the job may go on after its "
        "time; may be given often.",
    )(function)
    return click.option(
        "--launch",
        type=click.Choice(["slurm", "local"]),
        is_eager=True,  # --slurm asks for it
        help="Submit the command to Slurm, as a job that goes on by itself after its time limit; "
        "local: to this machine, in the background.",
    )(function)


save_every_option = click.option(
    "--save-every",
    type=Number(0, LONGEST),
    default=120.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between checkpoints.",
)


def _parse_init(text: str) -> tuple[tuple[str, ...], Path]:
    """A file of weights, and the pathways that start from it."""
    begin, _, rest = text.partition("=")
    pathways, path = (
        ((begin,), Path(rest)) if begin in PATHWAYS and rest else (PATHWAYS, Path(text))
    )
    if not path.is_file():
        raise click.BadParameter(f"there is no file {path}")
    return pathways, path


def _init_by_pathway(
    context: click.Context,
    parameter: click.Parameter,
    given: tuple[tuple[tuple[str, ...], Path], ...],
) -> dict[str, Path]:
    """The file of each pathway that has one.

    Raises:
        BadParameter: If a pathway has two.
    """
    found: dict[str, Path] = {}
    for pathways, path in given:
        for pathway in pathways:
            if pathway in found:
                raise click.BadParameter(f"the {pathway} pathway has two files", context, parameter)
            found[pathway] = path
    return found


init_option = click.option(
    "--init",
    multiple=True,
    type=_parse_init,
    metavar="[SLOW=|FAST=]FILE",
    callback=_init_by_pathway,
    help="Start from the weights in this file instead of random ones: of torchvision, of CoCLR, "
    "or of vcsf itself.",
)

allow_seen_option = click.option(
    "--allow-seen",
    is_flag=True,
    help="Measure test clips that the run saw in training too, which is refused otherwise; the "
    "results are marked.",
)

leave_one_out_option = click.option(
    "--leave-one-out",
    is_flag=True,
    help="Every clip is tested against all clips of other groups, in place of a split.",
)


def refuse_split(leave_one_out: bool, split: object) -> None:
    """Refuse a split where none is used.

    Raises:
        InputError: If one was given.
    """
    if leave_one_out and split is not None:
        raise InputError(
            "--split has no meaning with --leave-one-out", "every clip is tested; leave one out"
        )


precision_option = click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bf16"]),
    default="auto",
    show_default=True,
    help="Arithmetic of the networks; auto is what the recipe says, else bf16 on a GPU that has "
    "it and float32 elsewhere.",
)


def where(option: str, folder: Path | str) -> str:
    """The option that makes a next command in the same shell use the same folder, ` --data DIR`.

    It is empty where the command takes that folder anyway: the one in the environment, else the
    default."""
    # click takes an empty variable for none.
    taken = os.environ.get(f"VCSF_{option.upper()}") or option
    folder = address_of(folder) or folder
    return (
        ""
        if str(folder) in (taken, str(Path(taken)))
        else f" --{option} {shlex.quote(str(folder))}"
    )
