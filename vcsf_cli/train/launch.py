"""From a recipe to its training: build the networks, check everything, report or train."""

from __future__ import annotations

from pathlib import Path

import click

from vcsf_cli.config.recipe import Recipe
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.errors import InputError
from vcsf_cli.model.cost import pathway_costs
from vcsf_cli.model.parts import build_sampler, uses_labels
from vcsf_cli.model.pathways import TwoPathways, build
from vcsf_cli.model.pretrained import InitialWeights, read_initial_weights
from vcsf_cli.narrate import counted, duration, say
from vcsf_cli.runs.run import WITH_LABELS, Run, open_run, run_folder
from vcsf_cli.train.checks import (
    check_batches,
    check_losses,
    check_samplers,
    check_shapes,
    training_rows,
    warnings_for,
)
from vcsf_cli.train.compute import Compute
from vcsf_cli.train.pretrain import Trainer
from vcsf_cli.train.timing import estimate


class Launch:
    """A recipe on its way to training: building it checks all that its data are not needed for.

    Args:
        init: Files of `--init` by pathway.
        runs: Folder of run folders.

    Raises:
        InputError: If the device, the networks or the files of `--init` don't fit the recipe.
        PluginError: If a sampler's windows differ in shape.
    """

    def __init__(self, recipe: Recipe, init: dict[str, Path], runs: Path, compute: Compute) -> None:
        self.recipe, self.runs, self.compute = recipe, runs, compute
        check_samplers(recipe)
        compute.bf16()
        self.folder = run_folder(runs, recipe)
        resumes = Run(self.folder, recipe).checkpoint.exists()
        self.model = build(recipe, weights_follow=resumes)
        check_shapes(recipe, self.model)
        check_losses(recipe, self.model)
        self.weights = InitialWeights()
        if not resumes:
            self.weights = read_initial_weights(recipe, init, self.model)
        for imported in self.weights.imported:
            imported.narrate()

    def open(self, data: Path | str) -> tuple[Run, Trainer | None]:
        """Open the run; there is no trainer where it is finished.

        Raises:
            InputError: If the dataset is not prepared, or can't be divided among processes.
            DataError: If it has too few clips.
        """
        manifest = Manifest.find(data, self.recipe.first_stage.data.name)
        rows = training_rows(self.recipe, manifest)
        labels = uses_labels(self.recipe) or self.weights.labels or self.model.uses_labels
        run = open_run(
            self.runs, self.recipe, manifest, labels, self.weights.facts, self.weights.own_files
        )
        self.weights.write(run.folder)
        if run.finished:
            return run, None
        for warning in warnings_for(self.recipe, len(rows)):
            say(f"warning: {warning}")
        if run.uses_labels:
            say(f"warning: {WITH_LABELS}")
        say(
            f"run {run.name} on {len(rows):,} clips of {manifest.name}, {self.compute.device()}: "
            f"{run.folder}"
        )
        check_batches(self.recipe, self.compute.world_size)
        self.weights.put_into(self.model)
        return run, Trainer(run, manifest, rows, self.model, self.compute)

    def dry_run(self, data: Path | str) -> None:
        """Print the resolved recipe on stdout; sizes, warnings and the time on stderr."""
        click.echo(self.recipe.yaml(), nl=False)
        for line in _sizes(self.recipe, self.model):
            say(line)
        say(f"run folder: {self.folder}")
        try:
            manifest = Manifest.find(data, self.recipe.first_stage.data.name)
        except InputError as error:
            say(f"clips and time are unknown: {error.message}")
            say(error.hint)
            return
        rows = training_rows(self.recipe, manifest)
        check_batches(self.recipe, self.compute.world_size)
        for warning in warnings_for(self.recipe, len(rows)):
            say(f"warning: {warning}")
        total = 0.0
        stages = estimate(self.recipe, manifest, self.compute)
        for index, (clips, seconds) in enumerate(stages, start=1):
            epochs = self.recipe.stages[index - 1].train.epochs
            say(
                f"stage {index}: {counted(clips, 'clip')} an epoch, {counted(epochs, 'epoch')}, {duration(seconds)}"
            )
            total += seconds
        say(
            f"estimated time: {duration(total)} on {self.compute.device()}, extrapolated from a "
            "few batches"
        )


def _sizes(recipe: Recipe, model: TwoPathways) -> list[str]:
    """A line for each pathway with its parameters and its operations, motion's own share apart."""
    stage = recipe.first_stage
    lines = []
    for name, parts in pathway_costs(model, stage, build_sampler(stage)).items():
        parameters = ", ".join(f"{part} {cost.parameters:,}" for part, cost in parts.items())
        flops = ", ".join(f"{part} {round(cost.flops / 1e9, 3):,}" for part, cost in parts.items())
        total = sum(cost.parameters for cost in parts.values())
        billions = round(sum(cost.flops for cost in parts.values()) / 1e9, 3)
        lines.append(
            f"{name}: {total:,} parameters ({parameters}), {billions:,} GFLOPs a clip ({flops})"
        )
    return lines
