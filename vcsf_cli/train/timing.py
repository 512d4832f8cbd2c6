"""How long a training will take, from batches that are timed."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch

from vcsf_cli.config.recipe import Recipe
from vcsf_cli.config.schema import Stage
from vcsf_cli.data.clips import Batch, TwoViewClips
from vcsf_cli.data.loader import ResumableBatchSampler, iterate, training_loader
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.model.parts import build_sampler
from vcsf_cli.model.pathways import TwoPathways, build
from vcsf_cli.train.checks import training_rows
from vcsf_cli.train.compute import Compute, too_little_memory
from vcsf_cli.train.loop import Task
from vcsf_cli.train.optim import build_optimizer
from vcsf_cli.train.task import PretrainTask

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_SECONDS_OF_TIMING = 15.0
"""For all stages together; the batch under way is finished."""

_TIMED_CLIPS = 2
_TIMED_BATCHES = 4


def estimate(recipe: Recipe, manifest: Manifest, compute: Compute) -> list[tuple[int, float]]:
    """Clips an epoch and estimated seconds of every stage, from batches of real clips timed for
    some seconds.

    Stages that compute the same are timed once; those for which no time is left are assumed to be
    as slow as the slowest."""
    rows = training_rows(recipe, manifest)
    deadline = time.monotonic() + _SECONDS_OF_TIMING
    timed: dict[str, float] = {}
    estimates = []
    for stage in recipe.stages:
        kind = stage.model_dump_json(
            exclude={"optim": True, "train": {"epochs", "batch", "log_every", "check_every"}}
        )
        if kind not in timed:
            late = time.monotonic() > deadline and timed
            timed[kind] = (
                max(timed.values())
                if late
                else seconds_a_clip(recipe, stage, manifest, compute, deadline)
            )
        per_epoch = len(rows) // stage.train.batch * stage.train.batch
        estimates.append((per_epoch, timed[kind] * per_epoch * stage.train.epochs))
    return estimates


def seconds_a_clip(
    recipe: Recipe, stage: Stage, manifest: Manifest, compute: Compute, deadline: float
) -> float:
    """Seconds that training on a clip takes. A CPU measures it with a few clips and, where there is
    time before the deadline, with whole batches, which small networks compute much faster. A GPU,
    which takes about as long for a few clips as for many, measures whole batches at once.

    With several processes one is timed, with its share of a batch, and without their
    communication.

    Raises:
        RunError: If a batch needs more memory than a GPU has.
    """
    rows = training_rows(recipe, manifest)
    fabric = replace(compute, devices=str(compute.device()), nodes=1).fabric()
    task = PretrainTask(
        recipe, stage, cast(TwoPathways, fabric.to_device(build(recipe))), manifest, rows, fabric, 0
    )
    task.waits_for_queue = False  # filling a queue takes less time than learning
    optimizer = build_optimizer(stage.optim, task.parameters(), stage.speed.fused)
    clips = TwoViewClips(
        manifest, build_sampler(stage), stage.augment, stage.data.size, recipe.seed
    )

    def timed(size: int) -> tuple[float, float]:
        """Seconds that a clip takes to read and to compute, in batches of a size."""
        order = ResumableBatchSampler(rows, size, recipe.seed, 0, 1000)
        batches = iterate(training_loader(clips, order, 0, pin=False))
        reading, computing = time_steps(fabric, task, optimizer, batches, _TIMED_BATCHES, deadline)
        return reading / size, computing / size

    parts = stage.train.accumulate * (stage.train.parts if stage.train.norm == "split" else 1)
    whole = stage.train.batch // compute.world_size
    few = whole if fabric.device.type == "cuda" else min(max(_TIMED_CLIPS, 2 * parts), whole)
    try:
        reading, computing = timed(few)
    except torch.OutOfMemoryError as error:
        raise too_little_memory(fabric.device, stage, error) from error
    left = deadline - time.monotonic()
    if few < whole and (reading + computing) * whole * _TIMED_BATCHES < left:
        reading, computing = timed(whole)
    return overlapped(reading, computing, compute.num_workers, compute.world_size)


def overlapped(reading: float, computing: float, num_workers: int, processes: int) -> float:
    """Seconds a clip takes in training, of the seconds that one reader and one process need for it.

    Workers read beside the computing, and the slower counts; processes share the clips."""
    return max(reading / max(1, num_workers), computing) / processes


def time_steps(
    fabric: Fabric,
    task: Task,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[Batch],
    count: int,
    deadline: float = math.inf,
) -> tuple[float, float]:
    """Mean seconds that a batch takes to read and to learn from, over at most `count` batches and
    until a deadline on `time.monotonic`'s clock. The first batch warms up and counts only if it is
    the only one."""
    reading: list[float] = []
    computing: list[float] = []
    while not computing or (len(computing) < count and time.monotonic() < deadline):
        begun = time.monotonic()
        batch = next(batches)
        read = time.monotonic()
        for share, terms in task.step(batch):
            fabric.backward(share * terms["loss"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        task.after_step()
        if fabric.device.type == "cuda":
            torch.cuda.synchronize()
        reading.append(read - begun)
        computing.append(time.monotonic() - read)
    return statistics.fmean(reading[1:] or reading), statistics.fmean(computing[1:] or computing)
