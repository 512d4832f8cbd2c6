"""`vcsf pretrain`: train the two pathways as a recipe says."""

from __future__ import annotations

from typing import Any

import click

from vcsf_cli import registry
from vcsf_cli.commands.options import (
    cache_option,
    complete_recipe,
    data_option,
    devices_option,
    init_option,
    launch_options,
    precision_option,
    runs_option,
    save_every_option,
    set_option,
    workers_option,
)
from vcsf_cli.config import recipe as recipes


@click.command("pretrain")
@click.argument("recipe", shell_complete=complete_recipe)
@set_option
@init_option
@data_option
@cache_option
@runs_option
@devices_option
@precision_option
@workers_option
@save_every_option
@launch_options
@click.option(
    "--nodes",
    type=click.IntRange(1, 10_000),
    default=1,
    show_default=True,
    help="Machines that train together, with --devices COUNT each; start the command on all, by "
    "torchrun or Slurm.",
)
@click.option(
    "--share-stages/--no-share-stages",
    default=True,
    show_default=True,
    help="Take the weights of the first stages, or of all, that another run in --runs has trained "
    "already.",
)
@click.option(
    "--log",
    "loggers",
    multiple=True,
    metavar="LOGGER",
    help="Log there too, see `vcsf plugins logger`; may be given often. A logger that fails never "
    "stops the training.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Check everything, print the resolved recipe and an estimate, train nothing.",
)
def command(
    recipe: str, assignments: tuple[str, ...], loggers: tuple[str, ...], **options: Any
) -> None:
    """Train the slow and the fast pathway as RECIPE (a file, or a name that `vcsf recipes` lists)
    says.

    The same command goes on where an earlier one stopped, however it stopped, and does nothing when
    the run is finished. A changed recipe is another run, in a folder of its own."""
    resolved = recipes.load(recipe, assignments)  # its errors come at once

    from vcsf_cli.commands.work import pretrain  # torch takes seconds to load

    with registry.load().observed_by(loggers):
        pretrain.train(resolved, recipe, assignments, **options)
