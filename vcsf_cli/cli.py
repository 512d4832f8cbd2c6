"""The `vcsf` command: it loads a command when it is used, and is the only place that prints
errors."""

from __future__ import annotations

import errno
import importlib
import json
import os
import select
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from vcsf_cli import __version__
from vcsf_cli.commands import COMMANDS
from vcsf_cli.errors import (
    BROKEN_DISK,
    DENIED,
    ERROR_FILE,
    EXIT_INTERRUPTED,
    HINT,
    TOO_FEW,
    WRONG_PATH,
    InputError,
    UnknownName,
    VcsfError,
    is_shortage,
)
from vcsf_cli.storage.files import path_meant, write_text

_PLACES = {"data": "VCSF_DATA", "runs": "VCSF_RUNS"}
"""Options that say where commands write, and the variables that do."""


class _LazyGroup(click.Group):
    """Loads a command's module when it is used; plugins' commands only if no built-in has the
    name."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name in COMMANDS:
            command: click.Command = importlib.import_module(f"vcsf_cli.commands.{name}").command
            return command
        return self._plugin_commands().get(name)

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(context, args)
        except click.UsageError as error:
            raise UnknownName("command", args[0], [*COMMANDS, *self._plugin_commands()]) from error

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except BrokenPipeError as error:
            if any(map(_has_no_reader, (sys.stdout, sys.stderr))):
                raise
            # click would end silently, as if the pipe were our output.
            raise RuntimeError("a pipe between processes broke") from error

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    @staticmethod
    def _plugin_commands() -> dict[str, click.Command]:
        return {name: own for name, (_, own) in _registry().load().commands(COMMANDS).items()}


def _registry() -> ModuleType:
    """The registry, which `vcsf --help` does not need: that loads no plugin."""
    from vcsf_cli import registry  # slow to load

    return registry


def _heed_local_plugin(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    """Leave out ./vcsf_local.py, before any plugin's command is looked up."""
    if not wanted:
        _registry().leave_out_local_plugin()


def _keep_debug_for_main(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    context.ensure_object(dict)["debug"] = wanted


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Plugins can add commands: `vcsf plugins` lists them.",
)
@click.version_option(__version__, prog_name="vcsf")
@click.option(
    "--local-plugin/--no-local-plugin",
    default=True,
    expose_value=False,
    callback=_heed_local_plugin,
    help="Whether to load ./vcsf_local.py if there is one.",
)
@click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    callback=_keep_debug_for_main,
    envvar="VCSF_DEBUG",
    help="Show the traceback of an error.",
)
def vcsf() -> None:
    """Learn video representations without labels: a slow and a fast pathway that find positives for
    each other.

    Typical use: `vcsf prepare ucf101`, `vcsf pretrain recipes/vcsf.yaml`, `vcsf retrieve --k
    1,5,10`."""


def _explain(
    error: VcsfError, options: Mapping[str, Any], cause: BaseException | None = None
) -> int:
    """Say an error and its hint on stderr, or raise its cause for `--debug`; returns the status."""
    if file := os.environ.get(ERROR_FILE):
        content = {"kind": type(error).__name__, "message": error.message}
        write_text(Path(file), json.dumps(content))
    if cause and options.get("debug"):
        raise cause
    click.echo(f"error: {error.message}", err=True)
    if error.hint:
        click.echo(f"\n{HINT}{error.hint}", err=True)
    return error.exit_code


def _in_our_words(error: click.ClickException) -> VcsfError:
    """An error of click, such as an unknown option, as a `VcsfError`."""
    message = error.format_message().rstrip(".")
    context = getattr(error, "ctx", None)
    hint = f"see {context.command_path} --help" if context else ""
    return VcsfError(f"{message[:1].lower()}{message[1:]}", hint)


def _shortage(error: Exception) -> VcsfError | None:
    """Too little memory as a `VcsfError`; None if it is something else."""
    if not is_shortage(error):
        return None
    reason = next(iter(str(error).strip().splitlines()), "")
    return VcsfError(
        f"there is too little memory{f': {reason}' if reason else ''}",
        "end other processes, raise the limit (ulimit -v), or use fewer --workers; the same command "
        "goes on",
    )


def _denied(path: Path, reason: str, options: Mapping[str, Any]) -> VcsfError:
    """A path that this user may not use, or nobody may write, as a `VcsfError`."""
    locked = _what_can_not_be_written(path)
    if locked is None:  # perhaps it can't be read
        hint = "look at its permissions, and at those of the folders above it"
        return VcsfError(f"{reason}: {path}", hint)
    hint = "name a place that you can write to"
    for option, variable in _PLACES.items():
        place = options.get(option)
        if isinstance(place, Path) and _is_within(path, place):
            hint = f"{hint} with --{option} or {variable}"
            break
    if locked == path:
        return VcsfError(f"{path} can't be written: {reason}", hint)
    return VcsfError(f"the folder {locked.absolute()} can't be written: {reason}: {path}", hint)


def _what_can_not_be_written(path: Path) -> Path | None:
    """A path, or the folder that it would lie in, whichever can be read but not be written; None if
    that is not what is wrong."""
    # `exists` raises an error below a folder that can't be entered.
    there = [each for each in (path, *path.absolute().parents) if os.access(each, os.F_OK)]
    for place in there[: 2 if there[0] == path else 1]:
        can_be_read = os.access(place, os.X_OK if place.is_dir() else os.R_OK)
        if can_be_read and not os.access(place, os.W_OK):
            return place
    return None


def _is_within(path: Path, place: Path) -> bool:
    """Whether a path is below a folder, or has to be made for it."""
    path, place = path.absolute(), place.absolute()
    return path.is_relative_to(place) or place.is_relative_to(path)


def _system_error(error: OSError, options: Mapping[str, Any]) -> VcsfError | None:
    """An error of the operating system as a `VcsfError`; None if its traceback is needed."""
    named = isinstance(error.filename, str | bytes)
    path = path_meant(Path(os.fsdecode(error.filename))) if named else None
    message = f"{error.strerror}: {path or 'while writing'}"
    if error.errno in TOO_FEW:
        return VcsfError(
            message,
            "raise the limit (ulimit -n for files, -u for processes, -v for memory), or use fewer "
            "--workers; the same command goes on",
        )
    if error.errno == errno.ENOENT and path:
        return VcsfError(message, "was it removed meanwhile? bring it back, or begin again")
    if error.errno in WRONG_PATH:
        return InputError(message, "look at the folders and names that you gave")
    if error.errno in DENIED and path:
        return _denied(path, error.strerror or "no permission", options)
    if error.errno in BROKEN_DISK:
        return VcsfError(message, "what was finished is kept; the same command goes on")
    return None


def _has_no_reader(stream: Any) -> bool:
    """Whether a stream is a pipe whose other end has gone (`| head`)."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
    except (OSError, ValueError, AttributeError):  # no file, or closed
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _reader_has_gone() -> bool:
    """Whether the reader of our output has gone; what is still buffered is then discarded."""
    alone = [stream for stream in (sys.stdout, sys.stderr) if _has_no_reader(stream)]
    for stream in alone:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    return bool(alone)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status: 0 done, 1 the work failed, 2 the command line
    or recipe is wrong, 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options: dict[str, Any] = {}
    # Threads that spin while they wait take the cores from the processes that read clips; must be
    # set before torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        result: Any = vcsf.main(
            args=arguments, prog_name="vcsf", standalone_mode=False, obj=options
        )
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        _explain(_in_our_words(error), options)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return EXIT_INTERRUPTED
    except VcsfError as error:
        return _explain(error, options, error)
    except (BrokenPipeError, SystemExit):  # SystemExit is what click makes of a broken pipe
        if not _reader_has_gone():
            raise
        return 0
    except OSError as error:
        explained = _system_error(error, options)
        if explained is None:
            raise
        return _explain(explained, options, error)
    except (MemoryError, RuntimeError, ImportError) as error:
        short = _shortage(error)
        if short is None:
            raise
        return _explain(short, options, error)
    return result if isinstance(result, int) else 0
