"""`vcsf pretrain` at work."""

from __future__ import annotations

from pathlib import Path

from vcsf_cli.commands.common import resumable, submit_command
from vcsf_cli.commands.options import where
from vcsf_cli.config import recipe as recipes
from vcsf_cli.config.recipe import Recipe
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.model.pretrained import init_settings
from vcsf_cli.narrate import say, work_together
from vcsf_cli.runs.run import Run
from vcsf_cli.train.checks import check_batches, training_rows
from vcsf_cli.train.compute import Compute
from vcsf_cli.train.launch import Launch


def train(
    recipe: Recipe,
    name: str,
    assignments: tuple[str, ...],
    init: dict[str, Path],
    data: Path | str,
    runs: Path,
    devices: str,
    precision: str,
    workers: int | None,
    save_every: float,
    launch: str | None,
    slurm: dict[str, str],
    nodes: int,
    share_stages: bool,
    dry_run: bool,
) -> None:
    if init:  # the digests of these files are part of the recipe
        settings = init_settings(recipe.first_stage.init, init)
        recipe = recipes.load(name, (*assignments, *settings))
    precision = recipe.first_stage.speed.precision if precision == "auto" else precision
    compute = Compute(devices, precision, workers, save_every, share_stages, nodes)
    if launch and not dry_run:
        _submit(launch, slurm, Launch(recipe, init, runs, Compute("cpu")), data, compute)
        return
    work_together(compute.world_size > 1)
    training = Launch(recipe, init, runs, compute)
    if dry_run:
        training.dry_run(data)
        return
    run, trainer = training.open(data)
    if trainer is None:
        say(f"run {run.name} is finished: {run.folder}")
    else:
        with resumable():
            trainer.train()
        say(f"finished: {run.folder}")
    places = f"{where('data', data)}{where('runs', runs)}"
    say(f"next: vcsf retrieve --from {run.name} --k 1,5,10{places}")


def _submit(
    launch: str, settings: dict[str, str], training: Launch, data: Path | str, compute: Compute
) -> None:
    """Submit a training. Its devices are the cluster's and not looked at here."""
    recipe = training.recipe
    training_rows(recipe, Manifest.find(data, recipe.first_stage.data.name))
    check_batches(recipe, compute.world_size)
    run = Run(training.folder, recipe)
    if (run.folder / "status.json").is_file() and run.finished:
        say(f"run {run.name} is finished: {run.folder}")
        return
    devices = compute.devices, compute.processes, compute.nodes
    submit_command(launch, settings, run.name, run.folder, *devices)
