"""A recipe against its data and the machine, before anything is trained."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import torch

from vcsf_cli import registry
from vcsf_cli.config.recipe import Recipe
from vcsf_cli.config.schema import Stage
from vcsf_cli.contracts import Indices, Sampler, View
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.errors import DataError, InputError, RecipeError
from vcsf_cli.model.cost import WRONG_SHAPES, pathway_costs
from vcsf_cli.model.parts import Geometry, StageLoss, build_sampler, same_window_share
from vcsf_cli.model.pathways import TwoPathways, build

_LEAST_CLIPS = {"batch": 2, "split": 2}
"""Clips that a part of a batch must have at least, by `train.norm`."""


def check_recipe(recipe: Recipe, data: Path | str) -> list[str] | None:
    """Check a recipe, with its networks built; returns warnings, or None if its dataset is not
    prepared in the folder `data`, so that sizes are unchecked.

    Raises:
        VcsfError: If the recipe is wrong.
    """
    check_samplers(recipe)
    check_losses(recipe, build(recipe))
    try:
        manifest = Manifest.find(data, recipe.first_stage.data.name)
    except InputError:
        return None
    return warnings_for(recipe, len(training_rows(recipe, manifest)))


def check_samplers(recipe: Recipe) -> None:
    """Draw views of a video of 100 frames with every stage's sampler.

    Raises:
        PluginError: If a sampler raises, or gives something else than views.
    """
    for stage in recipe.stages:
        with registry.load().blame_for("sampler", stage.sampler.name):
            sampler = build_sampler(stage)
            views = [*sampler.sample(100, np.random.default_rng(0)), *sampler.cover(100)]
            if not all(isinstance(view, View) and view.window.ndim == 1 for view in views):
                raise TypeError("`sample` and `cover` must give Views, as in vcsf_cli.contracts")


def training_rows(recipe: Recipe, manifest: Manifest) -> Indices:
    """Rows of the manifest to train on: the training part of the recipe's split, or all if the data
    has no split.

    Raises:
        DataError: If there are fewer than a batch, or too few for a loss that waits for its queue.
    """
    data = recipe.first_stage.data
    rows = manifest.training_part(data.split)
    largest = max(stage.train.batch for stage in recipe.stages)
    if not len(rows):
        raise DataError(
            f"{manifest.name} has no clip in the training part of split {data.split}",
            "prepare it with lists that have one, or choose another data.split",
        )
    if len(rows) < largest:
        raise DataError(
            f"{manifest.name} has {len(rows)} clips to train on in split {data.split}, fewer than "
            f"a batch of {largest}",
            f"set a smaller train.batch, such as --set train.batch={max(2, len(rows) // 4)}",
        )
    for index, stage in enumerate(recipe.stages):
        loss, batches = StageLoss(stage), len(rows) // stage.train.batch * stage.train.epochs
        whole = len(rows) // stage.train.batch * stage.train.batch
        if whole < loss.min_clips:
            raise DataError(
                f"loss `{stage.loss.name}` needs {loss.min_clips:,} clips or more as it is set, and "
                f"an epoch of {manifest.name}'s split {data.split} has {whole:,}",
                "take a larger set, or change the loss's settings, such as fewer clusters",
            )
        if loss.bank_momentum is not None and stage.train.epochs < 2:
            raise DataError(
                f"loss `{stage.loss.name}` fills its bank in the first epoch, and "
                "train.epochs is 1: nothing would be learned",
                "train two epochs or more",
            )
        if loss.waits_for_queue and math.ceil(loss.queue / stage.train.batch) >= batches:
            where = f"stages.{index}." if recipe.tree["stages"] else ""
            raise DataError(
                f"loss `{stage.loss.name}` waits for a queue of {loss.queue} keys, but "
                f"{stage.train.epochs} epochs of {len(rows)} clips have no batch left when it is "
                "full: nothing would be learned",
                f"--set {where}loss.queue={max(1, len(rows) // 2)} would be half the clips",
            )
        slots = _slots(stage, loss, whole)
        if loss.neighbours >= slots:
            where = f"stages.{index}." if recipe.tree["stages"] else ""
            fewer = f"--set {where}loss.neighbours={max(1, slots // 10)} would be a tenth of them"
            raise DataError(
                f"loss `{stage.loss.name}` takes the {loss.neighbours} nearest of {slots} keys as "
                "positives: nothing would be left to tell a clip from",
                fewer if slots > 1 else "set loss.queue or train.batch higher",
            )
    return rows


def _slots(stage: Stage, loss: StageLoss, clips: int) -> int:
    """How many older keys of other clips a clip is compared with, of `clips` in an epoch."""
    if loss.bank_momentum is not None:
        return clips - 1
    return loss.queue or stage.train.batch - 1


def check_batches(recipe: Recipe, processes: int) -> None:
    """Check that batches can be divided among processes, and into parts that batch norm can take
    statistics of.

    Raises:
        InputError: If they can't.
    """
    norms = {stage.train.norm for stage in recipe.stages}
    if "synced" in norms and norms & {"batch", "split"}:
        raise InputError(
            "train.norm is `synced` in one stage and not in another: networks have one kind for "
            "all of a training",
            "set the top level's train.norm alone; `frozen` may stand beside it",
        )
    for stage in recipe.stages:
        if stage.train.batch % processes:
            raise InputError(
                f"a batch of {stage.train.batch} clips can't be divided among {processes} "
                "processes",
                "change --devices or train.batch",
            )
        _check_parts(stage, stage.train.batch // processes)
        if stage.train.norm == "synced" and processes > 1 and not torch.cuda.is_available():
            raise InputError(
                "train.norm `synced` needs GPUs",
                "torch has synced batch norm for GPUs only; frozen works",
            )


def _check_parts(stage: Stage, batch: int) -> None:
    """Check that a process's batch can be divided into the stage's parts."""
    train = stage.train
    parts = train.accumulate * (train.parts if train.norm == "split" else 1)
    least = batch // parts
    if least < _LEAST_CLIPS.get(train.norm, 1):
        needs = (
            "batch statistics need two clips or more in each"
            if least
            else "some would have no clip"
        )
        raise InputError(
            f"a batch of {batch} clips of a process is divided into {parts} parts by "
            f"train.accumulate and train.norm: {needs}",
            "set train.batch higher, or train.accumulate or train.parts lower",
        )
    if train.norm == "split" and batch % parts:
        raise InputError(
            f"a batch of {batch} clips of a process can't be divided into {parts} equal parts, as "
            "train.norm `split` does",
            "change train.batch, train.accumulate or train.parts",
        )


def check_shapes(recipe: Recipe, model: TwoPathways) -> None:
    """Check that the networks can read clips of the size that each stage gives them.

    Raises:
        InputError: If they can't.
    """
    for stage in {stage.sampler.model_dump_json(): stage for stage in recipe.stages}.values():
        pathway_costs(model, stage, build_sampler(stage))


def check_losses(recipe: Recipe, model: TwoPathways | None = None) -> None:
    """Check the losses of every stage, and that what they see of segments can be had.

    Args:
        model: The recipe's networks, built where they are needed if None.

    Raises:
        InputError: If losses don't fit each other, the sampler, or the networks.
    """
    for stage in recipe.stages:
        loss = StageLoss(stage)
        wanted = loss.segments | loss.steps
        if not wanted:
            continue
        sampler = build_sampler(stage)
        if not same_window_share(sampler):
            raise RecipeError(
                "never gives two views of the same window, which a loss of segments needs",
                "set sampler.same_window above 0",
                key="sampler",
            )
        model = model or build(recipe)
        for pathway in wanted:
            segments, steps = loss.segments.get(pathway), loss.steps.get(pathway)
            _check_segments(stage, model, sampler, pathway, segments, steps)


def _check_segments(
    stage: Stage,
    model: TwoPathways,
    sampler: Sampler,
    pathway: str,
    segments: int | None,
    steps: int | None,
) -> None:
    """Check that a pathway's window can be cut into segments that it can read, and that the
    features of the whole have time steps to divide."""
    geometry = Geometry.from_sampler(sampler)
    begin, end = geometry.parts[pathway]
    if segments and ((end - begin) % segments or end - begin < 2 * segments):
        raise RecipeError(
            f"cuts windows of {end - begin} frames into {segments} segments: they must be equal, "
            "with two frames or more",
            "change the number of segments, or sampler.frames",
            key="segments",
        )
    blank = copy.deepcopy(model).eval()
    window = torch.zeros(1, 3, end - begin, stage.data.size, stage.data.size)
    positions = {pathway: torch.tensor(geometry.positions[pathway])[None]}
    with torch.no_grad():
        if segments:
            try:
                blank.segments(window, positions, {pathway: segments})
            except WRONG_SHAPES as error:
                raise InputError(
                    f"backbone `{stage.backbone.name}` can't read segments of "
                    f"{geometry.segment_frames(pathway, segments)} frames in the {pathway} pathway: "
                    f"{str(error).splitlines()[0]}",
                    "set sampler.frames higher, or take fewer segments",
                ) from error
        had = blank.features(window, positions, pooled=False)[pathway].shape[2]
    if steps and had % steps:
        raise RecipeError(
            f"wants {steps} spans of time, but the features of the {pathway} pathway have {had} "
            "time steps",
            f"take fewer segments, fewer strides along time ({pathway}.temporal_strides), or the "
            "setting of the loss that does without",
            key="segments",
        )


def warnings_for(recipe: Recipe, clips: int) -> list[str]:
    """Warnings about settings that are allowed but seldom meant, for a number of training clips."""
    staged = bool(recipe.tree["stages"])
    found = []
    stages_by_queue: dict[int, list[str]] = {}
    for number, stage in enumerate(recipe.stages, start=1):
        loss = StageLoss(stage)
        stages_by_queue.setdefault(loss.queue, []).append(str(number))
        where = f" in stage {number}" if staged else ""
        optim, epochs = stage.optim, stage.train.epochs
        if optim.schedule != "step" and optim.drops:
            found.append(
                f"optim.drops is {optim.drops}{where}, which the schedule `{optim.schedule}` does "
                "not read"
            )
        if optim.warmup >= epochs:
            found.append(
                f"optim.warmup is {optim.warmup:g}{where}, which ends after {epochs} epochs: it is "
                "never over"
            )
        keys = _slots(stage, loss, clips)
        if keys // 2 < loss.neighbours < keys:
            found.append(
                f"loss.neighbours is {loss.neighbours}{where}, more than half of the {keys} keys that "
                f"they are among: most are not near; {max(1, keys // 10)} or fewer are usual"
            )
    for slots, numbers in stages_by_queue.items():
        if slots > clips // 2:
            where = f" in stages {', '.join(numbers)}" if staged else ""
            setting = "of stages.N.loss.queue " if staged else "--set loss.queue="
            found.append(
                f"loss.queue is {slots}{where}, more than half of the {clips} training clips: most "
                "of a clip's negatives are then its own neighbours' and stale keys; "
                f"{setting}{max(1, clips // 2)} or less is usual"
            )
    return found
