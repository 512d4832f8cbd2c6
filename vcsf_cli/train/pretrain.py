"""Pre-training as a recipe says: its stages one after the other, going on where an earlier call
stopped."""

from __future__ import annotations

import dataclasses
import math
from contextlib import nullcontext
from typing import Any, TypeVar, cast

import torch

from vcsf_cli import registry
from vcsf_cli.config.recipe import Recipe
from vcsf_cli.config.schema import Stage
from vcsf_cli.contracts import Indices
from vcsf_cli.data.clips import TwoViewClips
from vcsf_cli.data.loader import ResumableBatchSampler, iterate, training_loader
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.errors import BusyError, DataError, InputError, RunError
from vcsf_cli.model.cost import pathway_costs
from vcsf_cli.model.parts import build_loss, build_sampler
from vcsf_cli.model.pathways import TwoPathways, build
from vcsf_cli.model.pretrained import InitialWeights
from vcsf_cli.narrate import is_first, say
from vcsf_cli.runs.restore import own_checkpoint
from vcsf_cli.runs.run import Run, now
from vcsf_cli.runs.stages import Stages
from vcsf_cli.storage import checkpoint
from vcsf_cli.storage.files import only_one
from vcsf_cli.train.compute import Compute
from vcsf_cli.train.loop import Log, LoopConfig, TrainState, fit
from vcsf_cli.train.optim import build_optimizer, learning_rate
from vcsf_cli.train.task import PretrainTask

T = TypeVar("T")

NEEDED = {"batch": 2, "split": 2}
"""Clips that a part of a batch must have at least, by `train.norm`."""


def training_rows(recipe: Recipe, manifest: Manifest) -> Indices:
    """Rows of the manifest to train on: the training part of the recipe's split, or all if the data
    has no split.

    Raises:
        DataError: If there are fewer than a batch.
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
        loss, batches = build_loss(stage), len(rows) // stage.train.batch * stage.train.epochs
        if loss.waits_for_queue and math.ceil(loss.queue / stage.train.batch) >= batches:
            raise DataError(
                f"loss `{stage.loss.name}` waits for a queue of {loss.queue} keys, but "
                f"{stage.train.epochs} epochs of "
                f"{len(rows)} clips have no batch left when it is full: nothing would be learned",
                f"--set {f'stages.{index}.' if recipe.tree['stages'] else ''}loss.queue={max(1, len(rows) // 2)} would be half "
                "the clips",
            )
    return rows


def check_batches(recipe: Recipe, processes: int) -> None:
    """Whether batches can be divided among processes, and into parts that batch norm can take
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
        batch = stage.train.batch
        if batch % processes:
            raise InputError(
                f"a batch of {batch} clips can't be divided among {processes} processes",
                "change --devices or train.batch",
            )
        parts = stage.train.accumulate * (stage.train.parts if stage.train.norm == "split" else 1)
        least = batch // processes // parts
        if least < NEEDED.get(stage.train.norm, 1):
            needs = (
                "batch statistics need two clips or more in each"
                if least
                else "some would have no clip"
            )
            raise InputError(
                f"a batch of {batch // processes} clips of a process is divided into {parts} "
                f"parts by train.accumulate and "
                f"train.norm: {needs}",
                "set train.batch higher, or train.accumulate or train.parts lower",
            )
        if stage.train.norm == "split" and batch // processes % parts:
            raise InputError(
                f"a batch of {batch // processes} clips of a process can't be divided into "
                f"{parts} equal parts, as train.norm "
                "`split` does",
                "change train.batch, train.accumulate or train.parts",
            )
        if stage.train.norm == "synced" and processes > 1 and not torch.cuda.is_available():
            raise InputError(
                "train.norm `synced` needs GPUs",
                "torch has synced batch norm for GPUs only; frozen works",
            )


def check_shapes(recipe: Recipe, model: TwoPathways) -> None:
    """Whether the networks can read clips of the size that each stage gives them.

    Raises:
        InputError: If they can't.
    """
    for stage in {stage.sampler.model_dump_json(): stage for stage in recipe.stages}.values():
        pathway_costs(model, stage, build_sampler(stage))


def warnings_for(recipe: Recipe, clips: int) -> list[str]:
    """What is allowed but seldom meant."""
    stages_of: dict[int, list[str]] = {}
    for number, stage in enumerate(recipe.stages, start=1):
        stages_of.setdefault(build_loss(stage).queue, []).append(str(number))
    found = []
    staged = bool(recipe.tree["stages"])
    for number, stage in enumerate(recipe.stages, start=1):
        where = f" in stage {number}" if staged else ""
        optim, epochs = stage.optim, stage.train.epochs
        if optim.schedule != "step" and optim.drops:
            found.append(
                f"optim.drops is {optim.drops}{where}, which the schedule `{optim.schedule}` does "
                f"not read"
            )
        if optim.warmup >= epochs:
            found.append(
                f"optim.warmup is {optim.warmup:g}{where}, which ends after {epochs} epochs: it "
                f"is never over"
            )
    for slots, numbers in stages_of.items():
        if slots > clips // 2:
            where = f" in stages {', '.join(numbers)}" if staged else ""
            setting = "of stages.N.loss.queue " if staged else "--set loss.queue="
            found.append(
                f"loss.queue is {slots}{where}, more than half of the {clips} training clips: "
                f"most of a clip's negatives "
                f"are then its own neighbours' and stale keys; {setting}{max(1, clips // 2)} or "
                f"less is usual"
            )
    return found


class Trainer:
    """One call of `vcsf pretrain` on a run.

    Args:
        run: The run.
        manifest: Its prepared dataset.
        machine: Where and how to compute.
        start: Weights that a run without checkpoint starts from, where they are not random.
    """

    def __init__(
        self, run: Run, manifest: Manifest, machine: Compute, start: InitialWeights
    ) -> None:
        self.run, self.manifest, self.machine = run, manifest, machine
        self.recipe = run.recipe
        self.rows = training_rows(self.recipe, manifest)
        self.fabric = machine.fabric()
        check_batches(self.recipe, self.fabric.world_size)
        self.fabric.launch()
        model = build(self.recipe, weights_follow=run.checkpoint.exists())
        start.put_into(model)
        if self.fabric.world_size > 1 and any(
            stage.train.norm == "synced" for stage in self.recipe.stages
        ):
            model = cast(TwoPathways, torch.nn.SyncBatchNorm.convert_sync_batchnorm(model))  # type: ignore[no-untyped-call]  # torch's
        self.model = cast(TwoPathways, self.fabric.to_device(model))
        self.saved: dict[str, Any] | None = None

    def train(self) -> dict[str, float]:
        """Train what is left, and return the last logged values.

        Raises:
            RunError: If another process trains the same run, or the training fails.
        """
        busy = BusyError(
            f"run {self.run.name} is being trained by another process",
            "wait for it, or change a recipe key",
        )
        with only_one(self.run.folder / "lock", busy) if is_first() else nullcontext():
            # Not before the lock is held: another process may just have written a later one.
            self.saved = (
                own_checkpoint(self.run) if self._agreed(self.run.checkpoint.exists()) else None
            )
            if self.saved:
                at = self.saved["position"]
                say(
                    f"going on after step {at['step']:,} (stage {at['stage'] + 1}, epoch "
                    f"{at['epoch'] + 1})"
                )
            self.stages = Stages(self.run, self.manifest.hash)
            position = (
                TrainState(**self.saved["position"]) if self.saved else self._first_position()
            )
            log = Log(self.run, position)
            first = position.stage
            for index in range(first, len(self.recipe.stages)):
                if index != first:
                    position = TrainState(stage=index, step=position.step)
                self.stage(index, position, log)
            log.close()
            self.fabric.barrier()
            if is_first():
                self.run.note(finished=True, ended=now(), steps=position.step)
                registry.load().notify("vcsf_on_finish", run=self.run, results=log.last)
            return log.last

    def _first_position(self) -> TrainState:
        """The start, or behind the stages that another run has trained."""
        found = self.stages.found(self.model) if self.machine.share_stages and is_first() else None
        found = self._agreed(found)
        if found is None:
            return TrainState()
        run, count = found
        step, trained_by = self.stages.take_over(self.model, run, count)
        which = "stage 1 is" if count == 1 else f"stages 1 to {count} are"
        stages = self.recipe.stages
        say(
            f"{which} the same as those of run {trained_by}: its weights are taken "
            f"(--no-share-stages trains anew)"
        )
        if count == len(stages):
            return TrainState(stage=count - 1, epoch=stages[-1].train.epochs, step=step)
        return TrainState(stage=count, step=step)

    def _agreed(self, first: T) -> T:
        """What the first process has found, for all: a file may appear between two looks."""
        return self.fabric.broadcast(first)

    def stage(self, index: int, position: TrainState, log: Log) -> None:
        """Train one stage from a position in it."""
        stage = self.recipe.stages[index]
        is_left = position.epoch < stage.train.epochs
        if is_left and len(self.recipe.stages) > 1:
            what = f"{stage.loss.name}, {' and '.join(stage.train.pathways)}, {stage.train.epochs} epochs"
            say(f"stage {index + 1} of {len(self.recipe.stages)}: {what}")
        before = sum(earlier.train.epochs for earlier in self.recipe.stages[:index])
        resumes = self.saved is not None and index == self.saved["position"]["stage"]
        task = PretrainTask(
            self.recipe,
            stage,
            self.model,
            self.manifest,
            self.rows,
            self.fabric,
            self.machine.num_workers,
        )
        optimizer = build_optimizer(stage.optim, task.parameters(), stage.speed.fused)
        if self.saved is not None and resumes:
            task.load_state(self.saved["task"], self.run.checkpoint)
            try:
                optimizer.load_state_dict(self.saved["optimizer"])
            except (ValueError, KeyError) as error:
                raise RunError(
                    f"the optimiser's state in {self.run.checkpoint} doesn't fit the recipe's "
                    f"networks: {error}",
                    "the code of a network or an optimiser has changed since; use the version "
                    "that trained it",
                ) from error
        self.stages.begin(index, self.model)
        plan = loop_config(stage, len(self.rows), self.recipe.seed, self.machine.save_every)
        clips = TwoViewClips(
            self.manifest, build_sampler(stage), stage.augment, stage.data.size, self.recipe.seed
        )
        order = ResumableBatchSampler(
            self.rows,
            stage.train.batch,
            self.recipe.seed,
            before + position.epoch,
            before + stage.train.epochs,
            position.batch,
            self.fabric.global_rank,
            self.fabric.world_size,
        )
        loader = training_loader(
            clips, order, self.machine.num_workers, pin=self.fabric.device.type == "cuda"
        )

        def save() -> None:
            content = {
                "recipe": self.recipe.yaml(),
                "data_hash": self.manifest.hash,
                "position": dataclasses.asdict(position),
                "task": task.state(),
                "optimizer": optimizer.state_dict(),
            }
            if is_first():
                checkpoint.save(self.run.checkpoint, content)

        try:
            if is_left:
                fit(self.fabric, task, optimizer, iterate(loader), plan, position, log, save)
        except torch.OutOfMemoryError as error:
            raise RunError(
                f"{self.fabric.device} has too little memory: {str(error).splitlines()[0]}",
                f"set a smaller train.batch (now {stage.train.batch}) or data.size; that is "
                f"another run",
            ) from error
        save()
        self.stages.end(index, self.model, position.step)


def loop_config(stage: Stage, clips: int, seed: int, save_every: float) -> LoopConfig:
    """What the loop is told about a stage with so many training clips."""
    return LoopConfig(
        epochs=stage.train.epochs,
        batches=clips // stage.train.batch,
        clips=stage.train.batch,
        seed=seed,
        log_every=stage.train.log_every,
        check_every=stage.train.check_every,
        save_every=save_every,
        learning_rate=lambda epoch: learning_rate(stage.optim, epoch, stage.train.epochs),
    )
