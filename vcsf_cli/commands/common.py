"""What several commands do in the same way: open a Ray cluster, submit a job, stop on Ctrl-C."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from vcsf_cli.data.decoded import PLACE
from vcsf_cli.engine.on_ray import Ray
from vcsf_cli.engine.slurm import Resources, submit
from vcsf_cli.errors import EXIT_INTERRUPTED, InputError
from vcsf_cli.narrate import say


def open_ray(
    engine: str, address: str | None, workers: int | None = None, reads_clips: bool = True
) -> Ray | None:
    """The Ray cluster that `--engine` and `--address` ask for, until the command ends; None for
    this machine alone.

    Args:
        reads_clips: Whether its machines read prepared clips.

    Raises:
        InputError: If there is none, or decoded frames would have to be kept on all its machines.
    """
    if engine == "local":
        if address:
            raise InputError(f"--address {address} is of a Ray cluster", "add --engine ray")
        return None
    if reads_clips and (place := os.environ.get(PLACE)):
        raise InputError(
            f"--cache {place} keeps frames on this machine, and with --engine ray others read them",
            f"leave one of them out (--cache may be set by the variable {PLACE})",
        )
    return click.get_current_context().with_resource(Ray(address, workers))


@contextmanager
def resumable() -> Iterator[None]:
    """End with `EXIT_INTERRUPTED` on Ctrl-C, and say that the same command continues."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"interrupted; the same command goes on: vcsf {shlex.join(sys.argv[1:])}")
        raise click.exceptions.Exit(EXIT_INTERRUPTED) from None


def submit_command(
    launch: str,
    settings: Mapping[str, str],
    name: str,
    folder: Path,
    devices: str,
    processes: int = 1,
    nodes: int = 1,
    added: Sequence[str] = (),
) -> None:
    """Submit this process's command line, without `--launch`, as a job.

    Args:
        settings: Of `--slurm`.
        name: Of the job.
        folder: Of what the command trains; the job's files are in its folder `jobs`.
        devices: Of `--devices`; all but `cpu` are GPUs.
        processes: Processes on each machine.
        nodes: Machines.
        added: Words after those of the command line.
    """
    gpus = 0 if devices == "cpu" else processes
    needs = Resources(nodes, processes, gpus, settings)
    submit(launch, name, [*_without_launch(sys.argv[1:]), *added], folder / "jobs", needs)


def _without_launch(words: list[str]) -> list[str]:
    """The words of a command line without `--launch`, `--slurm` and their values."""
    left, options = iter(words), ("--launch", "--slurm")
    kept = []
    for word in left:
        if word in options:
            next(left)
        elif not word.startswith(tuple(f"{option}=" for option in options)):
            kept.append(word)
    return kept
