"""The one loop that trains any task: steps, logging, checks, and checkpoints that it can resume
from."""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from vcsf_cli import registry
from vcsf_cli.data.clips import Batch
from vcsf_cli.data.loader import reader_deaths
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.errors import RunError
from vcsf_cli.narrate import Progress, is_first
from vcsf_cli.runs.metrics import MetricsFile, merge_record
from vcsf_cli.runs.run import RunFolder
from vcsf_cli.storage.files import write_text
from vcsf_cli.train.compute import add_up, average

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Terms = dict[str, Tensor]


class Task(ABC):
    """Networks with their loss and a check; the loop knows nothing else of a method.

    Attributes:
        manifest: The dataset; a batch's `video` are its rows.
        shown: Metrics of `evaluate` that stand beside the progress bar, by name, with their format.
    """

    manifest: Manifest
    shown: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def step(self, batch: Batch) -> Iterator[tuple[float, Terms]]:
        """Yield every part of a batch: its share of the batch, and its terms.

        `loss` is minimised, all terms are logged. Where nothing is yielded, the optimiser takes no
        step."""

    def after_step(self) -> None:  # noqa: B027 - most tasks do nothing here
        """Called after the optimiser's step."""

    def after_epoch(self, epoch: int) -> None:  # noqa: B027
        """Called after an epoch of the stage, of which `epoch` are done."""

    @abstractmethod
    def evaluate(self) -> dict[str, float]:
        """Metrics of a check; only the first process asks for them."""

    def extra_metrics(self) -> dict[str, float]:
        """Metrics of the last batch that are not terms; only when they are logged, and before
        `after_step`."""
        return {}

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """State for the checkpoint."""

    @abstractmethod
    def load_state(self, state: Mapping[str, Any], path: Path) -> None:
        """Resume from what `state` gave.

        Raises:
            RunError: If it does not fit; `path` is named as where it comes from.
        """


@dataclass
class TrainState:
    """How far a run has come; saved with every checkpoint.

    Args:
        stage: Number of the stage, from 0.
        batch: Finished batches of the epoch under way.
        sums: Sums of the terms since the last log, on the device until `settle`.
        count: Steps since the last log.
    """

    stage: int = 0
    epoch: int = 0
    batch: int = 0
    step: int = 0
    sums: dict[str, Any] = field(default_factory=dict)
    count: int = 0

    @property
    def is_start(self) -> bool:
        """Whether nothing has been read of any stage."""
        return (self.stage, self.epoch, self.batch, self.step) == (0, 0, 0, 0)

    def settle(self) -> None:
        """Fetch the sums from the device."""
        self.sums = {name: float(total) for name, total in self.sums.items()}

    def advance(self, terms: Terms, batches: int) -> None:
        """Count a batch of an epoch of `batches`, and a step if the batch had terms."""
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += bool(terms)
        self.step += bool(terms)
        self.batch += 1
        if self.batch == batches:
            self.batch = 0
            self.epoch += 1


@dataclass
class LoopConfig:
    """How long to train a stage, and how often to log, check and save.

    Args:
        seed: Seed of anything random inside a network, such as dropout.
        check_every: Epochs between two checks, 0 for none.
        check_first: Whether there is a check before the first step, where there are checks.
        learning_rate: The learning rate after a number of epochs, which may be a fraction.
    """

    epochs: int
    batches: int
    clips: int
    seed: int
    log_every: int
    check_every: int
    save_every: float
    learning_rate: Callable[[float], float]
    check_first: bool = False


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or a polite kill, after a checkpoint was saved."""


def fit(
    fabric: Fabric,
    task: Task,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Batch],
    config: LoopConfig,
    position: TrainState,
    log: Log,
    save: Callable[[], None],
) -> None:
    """Train a task to the end of its stage.

    Args:
        optimizer: Not wrapped by fabric: gradients are averaged over processes here. A group's
            `lr_scale` multiplies the scheduled learning rate.
        batches: The batches that are left of the stage, in order.
        position: How far the run has come; changed in place.
        save: Writes a checkpoint of everything, position included.

    Raises:
        Interrupted: After Ctrl-C, with a checkpoint saved.
        RunError: If the loss is not finite, or a process that reads has died.
    """
    clock, saved = _Clock(), time.monotonic()
    done = position.epoch * config.batches + position.batch
    steps = Progress(config.epochs * config.batches, "steps", "training", done)
    watch, vote = _LossWatch(fabric, task, log.run), _Vote(fabric)
    with reader_deaths(), _Stopper() as stopper, steps as progress:
        if position.is_start and config.check_every and config.check_first:
            _check(fabric, task, position, config, log)
            clock.restart()
        for batch in clock.waiting(batches):
            _set_learning_rate(optimizer, config, position)
            # Seeds dropout and the like from the step, so that a resumed run draws the same.
            torch.manual_seed(
                (config.seed * 1_000_003 + position.step) * fabric.world_size + fabric.global_rank
            )

            sums: Terms = {}
            for share, terms in task.step(batch):
                fabric.backward(share * terms["loss"])
                _add(sums, terms, share)
            means = _average_terms(fabric, sums)
            if means:
                watch.add(means, batch, position)
                _average_gradients(fabric, optimizer)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

            position.advance(means, config.batches)
            epoch_ends = position.batch == 0
            stage_ends = epoch_ends and position.epoch == config.epochs
            checks = config.check_every and epoch_ends
            checks = checks and (position.epoch % config.check_every == 0 or stage_ends)
            logs = position.count and (position.step % config.log_every == 0 or stage_ends)
            if logs or epoch_ends:
                watch.settle()  # nothing that a spoilt step has touched is measured or kept
            record = _build_record(position, task, config, optimizer, clock) if logs else None
            if means:
                task.after_step()
            if epoch_ends:
                task.after_epoch(position.epoch)
            if record:
                log.write(record)
            if checks:
                _check(fabric, task, position, config, log)
                clock.restart()
            progress.advance(1, progress_note(log.last, position, config, task.shown))
            stops = vote.is_for(stopper.requested, at_once=stage_ends)
            if stops or (time.monotonic() - saved > config.save_every and not stage_ends):
                watch.settle()
                position.settle()
                save()
                saved = time.monotonic()
            if stops:
                raise Interrupted


def _set_learning_rate(
    optimizer: torch.optim.Optimizer, config: LoopConfig, position: TrainState
) -> None:
    rate = config.learning_rate(position.epoch + position.batch / config.batches)
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


def _check(fabric: Fabric, task: Task, position: TrainState, config: LoopConfig, log: Log) -> None:
    """Log a check. That before training is kept by a call that begins again."""
    if fabric.is_global_zero and not (position.is_start and log.file.read()):
        metrics = task.evaluate()
        if metrics:
            log.write({**_stamp(position, config), **metrics})
    fabric.barrier()


def _add(sums: Terms, terms: Terms, share: float) -> None:
    """Add the terms of a part of a batch, weighted by its share."""
    for name, value in terms.items():
        sums[name] = sums.get(name, torch.zeros_like(value.detach())) + share * value.detach()


def _average_terms(fabric: Fabric, terms: Terms) -> Terms:
    """Terms as float64 scalars of the device, the mean over all processes."""
    if not terms:
        return {}
    stacked = torch.stack([value.float().reshape(()) for value in terms.values()])
    average(fabric, [stacked])
    return dict(zip(terms, stacked.double().unbind(), strict=True))


def _average_gradients(fabric: Fabric, optimizer: torch.optim.Optimizer) -> None:
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    average(fabric, [weight.grad for weight in weights if weight.grad is not None])


def _computes_ahead(device: torch.device) -> bool:
    """Whether a device computes while this process goes on."""
    return device.type == "cuda"


def _begin_fetch(value: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """A copy of a scalar on the host, and the event after which it is there."""
    if not value.is_cuda:
        return value, None
    copy = torch.empty_like(value, device="cpu", pin_memory=True)
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's
    copy.copy_(value, non_blocking=True)
    event.record()
    return copy, event


class _Vote:
    """Whether any process wants something, so that all do it at the same step.

    GPUs answer one step late, so that they never wait for this process.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self._late = _computes_ahead(fabric.device)
        self._last: tuple[Tensor, torch.cuda.Event | None] | None = None

    def is_for(self, wanted: bool, at_once: bool) -> bool:
        """Whether any process wants it, or wanted it a step before.

        Args:
            at_once: Whether this step's answer is needed.
        """
        if self.fabric.world_size == 1:
            return wanted
        flag = torch.full((), float(wanted), device=self.fabric.device)
        add_up(flag)
        asked = _begin_fetch(flag)
        answer, self._last = self._last if self._late and not at_once else asked, asked
        if answer is None:
            return False
        votes, event = answer
        if event is not None:
            event.synchronize()
        return bool(votes > 0)


class _LossWatch:
    """Stops a training whose loss is not finite.

    A GPU's loss is looked at one step late, so that the GPU never waits for this process: by then
    the weights may be spoilt, but nothing of them is kept, because `settle` is called before
    anything is logged, checked or saved.
    """

    def __init__(self, fabric: Fabric, task: Task, run: RunFolder) -> None:
        self.fabric, self.task, self.run = fabric, task, run
        self._late = _computes_ahead(fabric.device)
        self._pending: tuple[Tensor, torch.cuda.Event | None, Terms, Batch, TrainState] | None = (
            None
        )

    def add(self, terms: Terms, batch: Batch, position: TrainState) -> None:
        """Watch the loss of a step, the position of which is that before it."""
        self.settle()
        self._pending = *_begin_fetch(terms["loss"]), terms, batch, replace(position)
        if not self._late:
            self.settle()

    def settle(self) -> None:
        """Look at the loss of the last step.

        Raises:
            RunError: If it is not finite, with this process's clips of the batch written into the
                run's folder; the last checkpoint is still good.
        """
        if self._pending is None:
            return
        loss, event, terms, batch, position = self._pending
        self._pending = None
        if event is not None:
            event.synchronize()
        if math.isfinite(float(loss)):
            return
        rank = "" if self.fabric.world_size == 1 else f"-{self.fabric.global_rank}"
        path = self.run.folder / f"bad_batch{rank}.json"
        table = self.task.manifest.table
        videos = table["video"].iloc[batch["video"].tolist()].astype(str).tolist()
        content = {
            "step": position.step,
            "stage": position.stage + 1,
            "epoch": position.epoch,
            "terms": {name: float(value) for name, value in terms.items()},
            "videos": videos,
        }
        write_text(path, json.dumps(content, indent=2) + "\n")
        raise RunError(
            f"the loss is {float(loss)} at step {position.step + 1} (batch {position.batch + 1} of "
            f"epoch {position.epoch + 1}: {', '.join(videos[:3])}, ...)",
            f"the batch is in {path}; try a lower optim.lr, or --precision float32",
        )


def _build_record(
    position: TrainState,
    task: Task,
    config: LoopConfig,
    optimizer: torch.optim.Optimizer,
    clock: _Clock,
) -> dict[str, float]:
    """A record of the means since the last one; means and clock start again."""
    position.settle()
    means = {name: total / position.count for name, total in position.sums.items()}
    rate, waiting = clock.restart(config.clips)
    position.sums, position.count = {}, 0
    return {
        **_stamp(position, config),
        **means,
        **task.extra_metrics(),
        "lr": optimizer.param_groups[0]["lr"],
        "clips_per_second": rate,
        "data_wait": waiting,
    }


def _stamp(position: TrainState, config: LoopConfig) -> dict[str, float]:
    """The columns of every record that say where in the training it is."""
    epoch = position.epoch + position.batch / config.batches
    return {"step": position.step, "stage": position.stage + 1, "epoch": epoch}


def progress_note(
    last: Mapping[str, float], position: TrainState, config: LoopConfig, shown: Mapping[str, str]
) -> str:
    """The text beside the progress bar.

    Args:
        shown: The task's own metrics to show, by name, with their format.
    """
    parts = [f"epoch {min(position.epoch + 1, config.epochs)}/{config.epochs}"]
    if last.get("stage") != position.stage + 1:  # the stage has logged nothing yet
        return parts[0]
    formats = {"loss": "loss {:.3f}", "clips_per_second": "{:.0f} clips/s"}
    formats |= {"data_wait": "data wait {:.0%}", **shown}
    parts += [text.format(last[name]) for name, text in formats.items() if name in last]
    return "  ".join(parts)


class Log:
    """Where a run's records go: metrics.csv, TensorBoard and plugins."""

    def __init__(self, run: RunFolder, position: TrainState) -> None:
        self.run = run
        self.last: dict[str, float] = {}
        self.first = is_first()
        if self.first:
            step = position.step
            self.file = MetricsFile(run.metrics, step, position.stage + 1, position.epoch)
            self.last = self.file.last()
            threading.excepthook = _print_error_of_thread
            self.board = SummaryWriter(
                str(run.folder / "tensorboard"), purge_step=step + 1 if step else None
            )

    def first_check(self) -> dict[str, float]:
        """The check before training, which is the record of step 0; empty if there is none."""
        first = next(iter(self.file.read()), {"step": ""})
        return (
            {name: float(value) for name, value in first.items() if value}
            if first["step"] == "0"
            else {}
        )

    def close(self) -> None:
        """Write what TensorBoard still holds back."""
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


def _print_error_of_thread(error: threading.ExceptHookArgs) -> None:
    """Print the traceback of a thread, but for TensorBoard's: it keeps its error for the next call of
    the board, which raises it."""
    if not type(error.thread).__module__.startswith("tensorboard."):
        threading.__excepthook__(error)


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

    def __exit__(self, *error: object) -> None:
        self._restore()

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


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
