"""What several commands do in the same way: open a Ray cluster, and stop on Ctrl-C."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from vcsf_cli.engine.on_ray import Ray
from vcsf_cli.errors import EXIT_INTERRUPTED, InputError
from vcsf_cli.narrate import say

if TYPE_CHECKING:
    pass


def open_ray(engine: str, address: str | None, workers: int | None = None) -> Ray | None:
    """The Ray cluster that `--engine` and `--address` ask for, until the command ends; None for
    this machine alone.

    Raises:
        InputError: If there is none.
    """
    if engine == "local":
        if address:
            raise InputError(f"--address {address} is of a Ray cluster", "add --engine ray")
        return None
    return click.get_current_context().with_resource(Ray(address, workers))


@contextmanager
def resumable() -> Iterator[None]:
    """End with `EXIT_INTERRUPTED` on Ctrl-C, and say that the same command continues."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"interrupted; the same command goes on: vcsf {shlex.join(sys.argv[1:])}")
        raise click.exceptions.Exit(EXIT_INTERRUPTED) from None
