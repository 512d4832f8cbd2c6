"""The `vcsf` command: a group that loads a command when it is used, and the only place where errors become output."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from vcsf_cli import __version__
from vcsf_cli.errors import VcsfError

COMMANDS = {
    "prepare": "Turn videos into a store of frames that clips are read from fast.",
    "pretrain": "Train the slow and the fast pathway as a recipe says.",
    "retrieve": "Measure nearest-neighbour retrieval of a trained run.",
    "recipes": "List, show and check recipes.",
    "plugins": "List and describe the components there are.",
}
"""Every built-in command with its line of help, said here so that `vcsf --help` imports none of them."""

EXIT_INTERRUPTED = 130


class LazyGroup(click.Group):
    """Loads a command's module when the command is asked for; plugins' commands only when no built-in has the name."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name in COMMANDS:
            command: click.Command = importlib.import_module(f"vcsf_cli.commands.{name}").command
            return command
        return self._plugin_commands(context).get(name)

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(context, args)
        except click.UsageError as error:
            from vcsf_cli.errors import did_you_mean

            known = [*COMMANDS, *self._plugin_commands(context)]
            raise click.UsageError(f"no such command `{args[0]}`; {did_you_mean(args[0], known)}", context) from error

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    @staticmethod
    def _plugin_commands(context: click.Context) -> dict[str, click.Command]:
        from vcsf_cli import registry

        return {
            command.name or "": command for _, commands in registry.load().call("vcsf_commands") for command in commands
        }


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Plugins can add commands: `vcsf plugins` lists them.",
)
@click.version_option(__version__, prog_name="vcsf")
@click.option("--local-plugin/--no-local-plugin", default=True, help="Whether to load ./vcsf_local.py if there is one.")
@click.option("--debug", is_flag=True, envvar="VCSF_DEBUG", help="Show the traceback of an error.")
@click.pass_context
def vcsf(context: click.Context, local_plugin: bool, debug: bool) -> None:
    """Learn video representations without labels: a slow and a fast pathway that find positives for each other.

    The usual way: `vcsf prepare ucf101`, `vcsf pretrain recipes/vcsf.yaml`, `vcsf retrieve --k 1,5,10`.
    """
    if not local_plugin:
        from vcsf_cli import registry

        registry.leave_out_local_plugin()


def explain(error: VcsfError) -> None:
    """Say an error and its hint on stderr."""
    click.echo(f"error: {error.message}", err=True)
    if error.hint:
        click.echo(f"\nhint: {error.hint}", err=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status: 0 done, 1 the work failed, 2 the command line or recipe is wrong,
    130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # Threads that spin while they wait take the cores from the processes that read clips; must be set before torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        result: Any = vcsf.main(args=arguments, prog_name="vcsf", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.UsageError as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return EXIT_INTERRUPTED
    except VcsfError as error:
        if "--debug" in arguments:
            raise
        explain(error)
        return error.exit_code
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone (`| head`): nobody is left to tell
        return 0
    except OSError as error:
        if "--debug" in arguments or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        explain(
            VcsfError(
                f"{error.strerror}: {error.filename or 'while writing'}",
                "what was finished is kept; the same command goes on",
            )
        )
        return 1
    return result if isinstance(result, int) else 0
