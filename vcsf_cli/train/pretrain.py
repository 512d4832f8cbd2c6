"""Pre-training as a recipe says: its stages one after the other, resumed where an earlier call
stopped."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, cast

import torch

from vcsf_cli import registry
from vcsf_cli.config.schema import Stage
from vcsf_cli.contracts import Indices
from vcsf_cli.data.clips import Batch, TwoViewClips
from vcsf_cli.data.loader import ResumableBatchSampler, iterate, training_loader
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.errors import BusyError, RunError
from vcsf_cli.model.parts import build_sampler
from vcsf_cli.model.pathways import TwoPathways, blame_parts
from vcsf_cli.narrate import counted, is_first, say
from vcsf_cli.runs.restore import load_checkpoint
from vcsf_cli.runs.run import Run, now
from vcsf_cli.runs.stages import Stages
from vcsf_cli.storage import checkpoint
from vcsf_cli.storage.files import lock
from vcsf_cli.train.compute import Compute, too_little_memory
from vcsf_cli.train.loop import Log, LoopConfig, TrainState, fit
from vcsf_cli.train.optim import build_optimizer, learning_rate, load_state
from vcsf_cli.train.task import PretrainTask


class Trainer:
    """One call of `vcsf pretrain` on a run.

    Args:
        model: The recipe's networks, with the weights that a run without checkpoint starts from;
            they are trained in place.
    """

    def __init__(
        self, run: Run, manifest: Manifest, rows: Indices, model: TwoPathways, compute: Compute
    ) -> None:
        self.run, self.manifest, self.rows, self.compute = run, manifest, rows, compute
        self.recipe = run.recipe
        self.fabric = compute.fabric()
        self.fabric.launch()
        norms = {stage.train.norm for stage in self.recipe.stages}
        if self.fabric.world_size > 1 and "synced" in norms:
            model = cast(TwoPathways, torch.nn.SyncBatchNorm.convert_sync_batchnorm(model))  # type: ignore[no-untyped-call]  # torch's
        self.model = cast(TwoPathways, self.fabric.to_device(model))
        self.saved: dict[str, Any] | None = None

    def train(self) -> None:
        """Train what is left.

        Raises:
            RunError: If another process trains the same run, or the training fails.
        """
        busy = BusyError(
            f"run {self.run.name} is being trained by another process",
            "wait for it, or change a recipe key",
        )
        with lock(self.run.folder / "lock", busy) if is_first() else nullcontext():
            position = self._resume()
            log = Log(self.run, position)
            for index in range(position.stage, len(self.recipe.stages)):
                if index > position.stage:
                    position = TrainState(stage=index, step=position.step)
                self._train_stage(position, log)
            log.close()
            self.fabric.barrier()
            if is_first():
                self.run.note(finished=True, ended=now(), steps=position.step)
                registry.load().notify("vcsf_on_finish", run=self.run, results=log.last)

    def _resume(self) -> TrainState:
        """Where to begin: at the checkpoint, behind the stages that another run has trained, or at
        the start.

        The first process looks for all, because a file may appear between two looks; and not before
        it holds the lock, because another process may just have written a later checkpoint."""
        self.stages = Stages(self.run, self.manifest.hash)
        if is_first():
            self._note_processes()
        if self.fabric.broadcast(self.run.checkpoint.exists()):
            self.saved = load_checkpoint(self.run)
            position = TrainState(**self.saved["position"])
            say(
                f"going on after step {position.step:,} (stage {position.stage + 1}, epoch "
                f"{position.epoch + 1})"
            )
            return position
        shares = self.compute.share_stages and is_first()
        found = self.fabric.broadcast(self.stages.find_trained(self.model) if shares else None)
        if found is None:
            return TrainState()
        run, count = found
        step, trained_by = self.stages.take_over(self.model, run, count)
        which = "stage 1 is" if count == 1 else f"stages 1 to {count} are"
        say(
            f"{which} the same as those of run {trained_by}: its weights are taken "
            "(--no-share-stages trains anew)"
        )
        stages = self.recipe.stages
        if count == len(stages):
            return TrainState(stage=count - 1, epoch=stages[-1].train.epochs, step=step)
        return TrainState(stage=count, step=step)

    def _note_processes(self) -> None:
        """Remember how many processes train; say it if they were not as many before."""
        begun = self.run.checkpoint.exists()
        before = self.run.status.get("processes", []) if begun else []
        if before[-1:] == [self.fabric.world_size]:
            return
        self.run.note(processes=[*before, self.fabric.world_size])
        if before:
            say(f"warning: {self.run.remarks[0]}")

    def _train_stage(self, position: TrainState, log: Log) -> None:
        """Train one stage from a position in it, and keep what it has come to."""
        index, stages = position.stage, self.recipe.stages
        stage, is_left = stages[index], position.epoch < stages[index].train.epochs
        if is_left and len(stages) > 1:
            pathways = " and ".join(stage.train.pathways)
            what = f"{stage.loss_names}, {pathways}, {counted(stage.train.epochs, 'epoch')}"
            say(f"stage {index + 1} of {len(stages)}: {what}")
        task, optimizer = self._build_task(index)
        self.stages.begin(index, self.model)
        if is_first():
            task.first_check = log.first_check

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
                batches, config = self._batches(position), self._loop_config(stage)
                with blame_parts(stage):
                    fit(self.fabric, task, optimizer, batches, config, position, log, save)
        except torch.OutOfMemoryError as error:
            raise too_little_memory(self.fabric.device, stage, error) from error
        save()
        self.stages.end(index, self.model, position.step)

    def _build_task(self, index: int) -> tuple[PretrainTask, torch.optim.Optimizer]:
        """The task of a stage and its optimiser, with their state where the checkpoint is of this
        stage."""
        stage, workers = self.recipe.stages[index], self.compute.num_workers
        task = PretrainTask(
            self.recipe, stage, self.model, self.manifest, self.rows, self.fabric, workers
        )
        optimizer = build_optimizer(stage.optim, task.parameters(), stage.speed.fused)
        if self.saved is not None and index == self.saved["position"]["stage"]:
            task.load_state(self.saved["task"], self.run.checkpoint)
            try:
                load_state(optimizer, self.saved["optimizer"])
            except (ValueError, KeyError) as error:
                raise RunError(
                    f"the optimiser's state in {self.run.checkpoint} doesn't fit the recipe's "
                    f"networks: {error}",
                    "the code of a network or an optimiser has changed since; use the version that "
                    "trained it",
                ) from error
        return task, optimizer

    def _batches(self, position: TrainState) -> Iterator[Batch]:
        """The batches that are left of a stage."""
        stage = self.recipe.stages[position.stage]
        before = sum(earlier.train.epochs for earlier in self.recipe.stages[: position.stage])
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
        pin = self.fabric.device.type == "cuda"
        return iterate(training_loader(clips, order, self.compute.num_workers, pin))

    def _loop_config(self, stage: Stage) -> LoopConfig:
        train = stage.train
        return LoopConfig(
            epochs=train.epochs,
            batches=len(self.rows) // train.batch,
            clips=train.batch,
            seed=self.recipe.seed,
            log_every=train.log_every,
            check_every=train.check_every,
            save_every=self.compute.save_every,
            learning_rate=lambda epoch: learning_rate(stage.optim, epoch, train.epochs),
            check_first=True,
        )
