"""`vcsf pretrain`: train the two pathways as a recipe says."""

from __future__ import annotations

from pathlib import Path

import click

from vcsf_cli.commands.common import resumable
from vcsf_cli.commands.options import (
    complete_recipe,
    data_option,
    devices_option,
    init_option,
    precision_option,
    runs_option,
    save_every_option,
    set_option,
    where,
    workers_option,
)
from vcsf_cli.config import recipe as recipes
from vcsf_cli.config.recipe import Recipe
from vcsf_cli.narrate import say, work_together


@click.command("pretrain")
@click.argument("recipe", shell_complete=complete_recipe)
@set_option
@init_option
@data_option
@runs_option
@devices_option
@precision_option
@workers_option
@save_every_option
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
    "--dry-run",
    is_flag=True,
    help="Check everything, print the resolved recipe and an estimate, train nothing.",
)
def command(
    recipe: str,
    assignments: tuple[str, ...],
    init: dict[str, Path],
    data: Path,
    runs: Path,
    devices: str,
    precision: str,
    workers: int | None,
    save_every: float,
    nodes: int,
    share_stages: bool,
    dry_run: bool,
) -> None:
    """Train the slow and the fast pathway as RECIPE (a file, or a name that `vcsf recipes` lists)
    says.

    The same command goes on where an earlier one stopped, however it stopped, and does nothing when
    the run is finished. A changed recipe is another run, in a folder of its own."""
    resolved = _resolve(recipe, assignments, init)

    # These load torch: --help must be fast.
    from vcsf_cli.train.compute import Compute
    from vcsf_cli.train.launch import launch

    precision = resolved.first_stage.speed.precision if precision == "auto" else precision
    compute = Compute(devices, precision, workers, save_every, share_stages, nodes)
    work_together(compute.world_size > 1)
    training = launch(resolved, init, runs, compute)
    if dry_run:
        training.dry_run(data)
        return
    run, trainer = training.open(data, runs)
    if trainer is None:
        say(f"run {run.name} is finished: {run.folder}")
    else:
        with resumable():
            trainer.train()
        say(f"finished: {run.folder}")
    say(_next_command(run.name, data, runs))


def _resolve(recipe: str, assignments: tuple[str, ...], init: dict[str, Path]) -> Recipe:
    """The recipe, with the digests of the files that `--init` gives."""
    resolved = recipes.load(recipe, assignments)
    if not init:
        return resolved
    from vcsf_cli.model.pretrained import init_settings

    return recipes.load(recipe, (*assignments, *init_settings(resolved.first_stage.init, init)))


def _next_command(run: str, data: Path, runs: Path) -> str:
    return f"next: vcsf retrieve --from {run} --k 1,5,10{where('data', data)}{where('runs', runs)}"
