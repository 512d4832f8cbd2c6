"""The one loop that trains any task: steps, logging, checkpoints, and stopping where it can go
on."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Protocol, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from vcsf_cli import registry
from vcsf_cli.data.clips import Batch
from vcsf_cli.data.loader import reader_deaths
from vcsf_cli.errors import RunError
from vcsf_cli.narrate import Progress, is_first
from vcsf_cli.runs.metrics import MetricsFile, merge_record
from vcsf_cli.runs.run import Run
from vcsf_cli.storage.files import write_text


class Task(Protocol):
    """What the loop needs of a task."""

    @property
    def ready(self) -> bool:
        """Whether there is anything to learn from yet; if not, batches go to `enqueue`."""
        ...

    def enqueue(self, batch: Batch) -> None:
        """Take a batch in without learning from it."""
        ...

    def step(self, batch: Batch) -> Iterator[tuple[float, dict[str, Tensor]]]:
        """Terms of each part of a batch, with its share of the batch; `loss` is what is
        minimised."""
        ...

    def average_gradients(self) -> None:
        """Called before the optimiser's step."""
        ...

    def after_step(self) -> None:
        """Called after the optimiser's step."""
        ...

    def extra_metrics(self) -> dict[str, float]:
        """What else to log of the last batch."""
        ...

    def evaluate(self) -> dict[str, float]:
        """A check every few epochs."""
        ...

    def name(self, batch: Batch) -> list[str]:
        """The videos of a batch, for a person to find what went wrong."""
        ...


@dataclass
class TrainState:
    """How far a run has come; saved with every checkpoint.

    Args:
        stage: Number of the stage, from 0.
        epoch: Finished epochs of the stage.
        batch: Finished batches of the epoch under way.
        step: Optimiser steps of the whole run.
        sums: Sums of the terms since the last log.
        count: How many steps those are.
    """

    stage: int = 0
    epoch: int = 0
    batch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0


@dataclass
class LoopConfig:
    """What the loop is told about a stage.

    Args:
        epochs: Epochs of the stage.
        batches: Batches of an epoch.
        clips: Clips of a batch.
        seed: Of anything random inside a network, such as dropout.
        log_every: Steps between two log lines.
        check_every: Epochs between two checks, 0 for none.
        save_every: Seconds between two checkpoints.
        learning_rate: From finished epochs, with their fraction, to the learning rate.
    """

    epochs: int
    batches: int
    clips: int
    seed: int
    log_every: int
    check_every: int
    save_every: float
    learning_rate: Callable[[float], float]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or a polite kill, after a checkpoint was saved."""


class _Stopper:
    """Turns the first SIGINT or SIGTERM into a request to stop after the step; the second one stops
    at once."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Stopper:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Log:
    """Where a run's records go: metrics.csv, TensorBoard and plugins.

    Args:
        run: The run.
        position: Where the run goes on.
    """

    def __init__(self, run: Run, position: TrainState) -> None:
        self.run = run
        self.last: dict[str, float] = {}
        self.first = is_first()
        if self.first:
            step = position.step
            self.file = MetricsFile(run.metrics, step, position.stage + 1, position.epoch)
            self.last = self.file.last()
            self.board = SummaryWriter(
                str(run.folder / "tensorboard"), purge_step=step + 1 if step else None
            )

    def close(self) -> None:
        """Complete what is open."""
        if self.first:
            self.board.close()

    def write(self, record: dict[str, float]) -> None:
        """Write one record, which has a `step`; only the first process does."""
        self.last = merge_record(self.last, record)
        if not self.first:
            return
        self.file.append({name: round(value, 6) for name, value in record.items()})
        for name, value in record.items():
            if name != "step":
                self.board.add_scalar(name, value, int(record["step"]))
        registry.load().notify("vcsf_on_log", run=self.run, record=record)


def fit(
    fabric: Fabric,
    task: Task,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Batch],
    plan: LoopConfig,
    position: TrainState,
    log: Log,
    save: Callable[[], None],
) -> None:
    """Train a task to the end of its stage.

    Args:
        fabric: Devices and precision.
        task: What to train.
        optimizer: Of the task's parameters as they are, not wrapped by fabric: the task itself
            averages gradients over processes. A group's `lr_scale` multiplies the learning rate of
            the plan.
        batches: The batches that are left of the stage, in order.
        plan: How long, and how often to log and save.
        position: How far the run has come; changed in place.
        log: Where records go.
        save: Writes a checkpoint of everything, position included.

    Raises:
        Interrupted: After Ctrl-C, with a checkpoint saved.
        RunError: If the loss is not finite, or a process that reads has died.
    """
    done = position.epoch * plan.batches + position.batch
    clock = _Clock()
    saved = time.monotonic()
    steps = Progress(plan.epochs * plan.batches, "steps", "training", done)
    with reader_deaths(), _Stopper() as stopper, steps as progress:
        for batch in clock.waiting(batches):
            passed = position.epoch + position.batch / plan.batches
            for group in optimizer.param_groups:
                group["lr"] = plan.learning_rate(passed) * group.get("lr_scale", 1.0)
            # Draws are each process's own, and in one process what they always were.
            torch.manual_seed(
                (plan.seed * 1_000_003 + position.step) * fabric.world_size + fabric.global_rank
            )
            if task.ready:
                values = _train_step(fabric, task, optimizer, batch, position, log.run)
            else:
                values = {}
                task.enqueue(batch)
            advance(position, values, plan)
            epoch_ends = position.batch == 0
            ends = epoch_ends and position.epoch == plan.epochs
            if position.count and (position.step % plan.log_every == 0 or ends):
                log.write(_build_record(position, task, plan, optimizer, clock))
            if epoch_ends and plan.check_every and (position.epoch % plan.check_every == 0 or ends):
                if fabric.is_global_zero:
                    log.write({**_stamp(position, plan), **task.evaluate()})
                fabric.barrier()
                clock.restart()
            progress.advance(1, progress_note(log.last, position, plan))
            if _any_process(fabric, stopper.requested):
                save()
                raise Interrupted
            if time.monotonic() - saved > plan.save_every and not ends:
                save()
                saved = time.monotonic()


def _train_step(
    fabric: Fabric,
    task: Task,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    position: TrainState,
    run: Run,
) -> dict[str, float]:
    """One step of the optimiser; the terms of the batch.

    Raises:
        RunError: If the loss is not finite.
    """
    sums: dict[str, Tensor] = {}
    for share, terms in task.step(batch):
        for name, value in terms.items():
            sums[name] = sums.get(name, torch.zeros_like(value.detach())) + share * value.detach()
        fabric.backward(share * terms["loss"])
    values = _average_terms(fabric, sums)
    path = run.folder / (
        "bad_batch.json" if fabric.world_size == 1 else f"bad_batch-{fabric.global_rank}.json"
    )
    _check_finite(values, task.name(batch), position, path)
    task.average_gradients()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    task.after_step()
    return values


def _average_terms(fabric: Fabric, terms: Mapping[str, Tensor]) -> dict[str, float]:
    """Terms as numbers, the mean over all processes."""
    stacked = torch.stack([value.float().reshape(()) for value in terms.values()])
    if fabric.world_size > 1:
        stacked = cast(Tensor, fabric.all_reduce(stacked, reduce_op="mean"))
    return dict(zip(terms, stacked.tolist(), strict=True))


def _any_process(fabric: Fabric, wanted: bool) -> bool:
    """Whether any process wants something, so that all do it at the same step."""
    if fabric.world_size == 1:
        return wanted
    flag = torch.tensor(float(wanted), device=fabric.device)
    return bool(cast(Tensor, fabric.all_reduce(flag, reduce_op="sum")) > 0)


def advance(position: TrainState, values: Mapping[str, float], plan: LoopConfig) -> None:
    """Count a batch, and a step if something was learned from it."""
    for name, value in values.items():
        position.sums[name] = position.sums.get(name, 0.0) + value
    position.count += bool(values)
    position.step += bool(values)
    position.batch += 1
    if position.batch == plan.batches:
        position.batch = 0
        position.epoch += 1


def _build_record(
    position: TrainState,
    task: Task,
    plan: LoopConfig,
    optimizer: torch.optim.Optimizer,
    clock: _Clock,
) -> dict[str, float]:
    """The means since the last record, and the state of things."""
    means = {name: total / position.count for name, total in position.sums.items()}
    rate, waiting = clock.restart(plan.clips)
    position.sums, position.count = {}, 0
    return {
        **_stamp(position, plan),
        **means,
        **task.extra_metrics(),
        "lr": optimizer.param_groups[0]["lr"],
        "clips_per_second": rate,
        "data_wait": waiting,
    }


def _stamp(position: TrainState, plan: LoopConfig) -> dict[str, float]:
    """What says in every record where in the training it is."""
    epoch = position.epoch + position.batch / plan.batches
    return {"step": position.step, "stage": position.stage + 1, "epoch": epoch}


def progress_note(last: Mapping[str, float], position: TrainState, plan: LoopConfig) -> str:
    """What stands beside the progress bar."""
    parts = [f"epoch {min(position.epoch + 1, plan.epochs)}/{plan.epochs}"]
    if last.get("stage") != position.stage + 1:  # nothing is logged while a queue is filled
        return parts[0]
    if "loss" in last:
        parts.append(f"loss {last['loss']:.3f}")
    if "clips_per_second" in last:
        parts += [f"{last['clips_per_second']:.0f} clips/s", f"data wait {last['data_wait']:.0%}"]
    if "both_check_R@1" in last:
        parts.append(f"check R@1 {last['both_check_R@1']:.1%}")
    return "  ".join(parts)


def _check_finite(
    values: Mapping[str, float], videos: list[str], position: TrainState, path: Path
) -> None:
    """Stop before a loss that is no number spoils the weights; the last checkpoint is still good.

    Raises:
        RunError: With this process's clips of the batch written to the path.
    """
    if math.isfinite(values["loss"]):
        return
    content = {
        "step": position.step,
        "stage": position.stage + 1,
        "epoch": position.epoch,
        "terms": values,
        "videos": videos,
    }
    write_text(path, json.dumps(content, indent=2) + "\n")
    raise RunError(
        f"the loss is {values['loss']} at step {position.step + 1} (batch {position.batch + 1} of "
        f"epoch "
        f"{position.epoch + 1}: {', '.join(videos[:3])}, ...)",
        f"the batch is in {path}; try a lower optim.lr, or --precision float32",
    )


class _Clock:
    """Time since the last record, and how much of it was spent waiting for data."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._waited = 0.0
        self._batches = 0

    def waiting(self, batches: Iterable[Batch]) -> Iterable[Batch]:
        """The batches, with the time until each arrives counted as waiting."""
        iterator = iter(batches)
        while True:
            asked = time.monotonic()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._waited += time.monotonic() - asked
            self._batches += 1
            yield batch

    def restart(self, clips: int = 0) -> tuple[float, float]:
        """Clips a second and the share of time spent waiting since the last restart."""
        elapsed = max(time.monotonic() - self._start, 1e-9)
        rate, share = self._batches * clips / elapsed, self._waited / elapsed
        self._start, self._waited, self._batches = time.monotonic(), 0.0, 0
        return rate, share
