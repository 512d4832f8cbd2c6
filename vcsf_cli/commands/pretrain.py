"""`vcsf pretrain`: train the two pathways as a recipe says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

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
from vcsf_cli.errors import InputError
from vcsf_cli.narrate import duration, say, work_together

# What loads torch or pandas is imported by the functions that need it: --help must be fast.
if TYPE_CHECKING:
    from vcsf_cli.model.pathways import TwoPathways
    from vcsf_cli.train.compute import Compute


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
    type=click.IntRange(1),
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
    from vcsf_cli.data.manifest import Manifest
    from vcsf_cli.model.parts import uses_labels
    from vcsf_cli.model.pathways import build
    from vcsf_cli.model.pretrained import InitialWeights, read_initial_weights
    from vcsf_cli.runs.run import WITH_LABELS, Run, open_run, run_folder
    from vcsf_cli.train.checks import (
        check_batches,
        check_samplers,
        check_shapes,
        training_rows,
        warnings_for,
    )
    from vcsf_cli.train.compute import Compute
    from vcsf_cli.train.pretrain import Trainer

    precision = resolved.first_stage.speed.precision if precision == "auto" else precision
    compute = Compute(devices, precision, workers, save_every, share_stages, nodes)
    work_together(compute.world_size > 1)
    check_samplers(resolved)
    compute.bf16()
    folder = run_folder(runs, resolved)
    resumes = Run(folder, resolved).checkpoint.exists()
    model = build(resolved, weights_follow=resumes)
    check_shapes(resolved, model)
    start = InitialWeights() if resumes else read_initial_weights(resolved, init, model)
    for imported in start.imported:
        imported.narrate()
    if dry_run:
        _dry_run_report(resolved, model, data, folder, compute)
        return
    manifest = Manifest.open(data / resolved.first_stage.data.name)
    rows = training_rows(resolved, manifest)
    labels = uses_labels(resolved) or start.labels or model.uses_labels
    run = open_run(runs, resolved, manifest, labels, start.facts, start.own_files)
    start.write(run.folder)
    if run.finished:
        say(f"run {run.name} is finished: {run.folder}")
        say(_next_command(run.name, data, runs))
        return
    for warning in warnings_for(resolved, len(rows)):
        say(f"warning: {warning}")
    if run.uses_labels:
        say(f"warning: {WITH_LABELS}")
    say(
        f"run {run.name} on {len(rows):,} clips of {manifest.name}, {compute.device()}: "
        f"{run.folder}"
    )
    check_batches(resolved, compute.world_size)
    start.put_into(model)
    with resumable():
        Trainer(run, manifest, rows, model, compute).train()
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


def _sizes(resolved: Recipe, model: TwoPathways) -> list[str]:
    """A line for each pathway with its parameters and its operations, motion's own share apart."""
    from vcsf_cli.model.cost import pathway_costs
    from vcsf_cli.model.parts import build_sampler

    lines = []
    for name, parts in pathway_costs(
        model, resolved.first_stage, build_sampler(resolved.first_stage)
    ).items():
        parameters = ", ".join(f"{part} {cost.parameters:,}" for part, cost in parts.items())
        flops = ", ".join(f"{part} {round(cost.flops / 1e9, 3):,}" for part, cost in parts.items())
        total = sum(cost.parameters for cost in parts.values())
        billions = round(sum(cost.flops for cost in parts.values()) / 1e9, 3)
        lines.append(
            f"{name}: {total:,} parameters ({parameters}), {billions:,} GFLOPs a clip ({flops})"
        )
    return lines


def _dry_run_report(
    resolved: Recipe, model: TwoPathways, data: Path, folder: Path, compute: Compute
) -> None:
    """`--dry-run`: the resolved recipe on stdout, everything else on stderr."""
    from vcsf_cli.data.manifest import Manifest
    from vcsf_cli.train.checks import check_batches, training_rows, warnings_for
    from vcsf_cli.train.timing import estimate

    click.echo(resolved.yaml(), nl=False)
    for line in _sizes(resolved, model):
        say(line)
    say(f"run folder: {folder}")
    try:
        manifest = Manifest.open(data / resolved.first_stage.data.name)
    except InputError as error:
        say(f"clips and time are unknown: {error.message}")
        say(error.hint)
        return
    rows = training_rows(resolved, manifest)
    check_batches(resolved, compute.world_size)
    for warning in warnings_for(resolved, len(rows)):
        say(f"warning: {warning}")
    total_seconds = 0.0
    for index, (clips, seconds) in enumerate(estimate(resolved, manifest, compute), start=1):
        epochs = resolved.stages[index - 1].train.epochs
        say(f"stage {index}: {clips:,} clips an epoch, {epochs} epochs, {duration(seconds)}")
        total_seconds += seconds
    say(
        f"estimated time: {duration(total_seconds)} on {compute.device()}, extrapolated from a few "
        "batches timed for at most 20 s"
    )
