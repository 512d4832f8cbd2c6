"""Batches of clips: their order, and the processes that read them."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from multiprocessing.queues import Queue
from threading import Thread
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from vcsf_cli.contracts import Indices
from vcsf_cli.data.clips import Batch, EvalClips, TwoViewClips
from vcsf_cli.errors import HINT, RunError, VcsfError

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]


class ResumableBatchSampler(Sampler[list[tuple[int, int]]]):
    """The batches of a stage: rows permuted by (seed, epoch), without the last incomplete batch.

    Args:
        rows: Rows of the manifest to train on.
        seed: Of the permutations.
        first_epoch: The epoch to begin with, counted from 0 over the whole run.
        last_epoch: The epoch after the last.
        offset: Batches of the first epoch that are already done.
        process: Number of this process, which gets its share of every batch.
        processes: Number of processes; a divisor of `batch`.
    """

    def __init__(
        self,
        rows: Indices,
        batch: int,
        seed: int,
        first_epoch: int,
        last_epoch: int,
        offset: int = 0,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self.rows, self.batch, self.seed = rows, batch, seed
        self.mine = slice(process * batch // processes, (process + 1) * batch // processes)
        self.first_epoch, self.last_epoch, self.offset = first_epoch, last_epoch, offset

    def __len__(self) -> int:
        return (self.last_epoch - self.first_epoch) * (len(self.rows) // self.batch) - self.offset

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for epoch in range(self.first_epoch, self.last_epoch):
            order = np.random.default_rng((self.seed, epoch)).permutation(self.rows)
            start = self.offset if epoch == self.first_epoch else 0
            for batch in range(start, len(order) // self.batch):
                chosen = order[batch * self.batch : (batch + 1) * self.batch][self.mine]
                yield [(epoch, int(row)) for row in chosen]


def training_loader(
    clips: TwoViewClips, order: ResumableBatchSampler, workers: int, pin: bool
) -> DataLoader[Batch]:
    """Batches in order; the number of workers does not change them."""
    return DataLoader(
        clips,
        batch_sampler=order,
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=set_up_worker if workers else None,
    )


_OF_READERS = (
    "DataLoader worker",
    "unable to resize file",
    "unable to write to file",
    "unable to open shared memory object",
    "No space left on device",
)
"""What torch's errors say where its processes, or the memory that they share, fail."""

_Item = TypeVar("_Item")

_FILES, _FILES_OF_A_WORKER = 64, 32
"""Open files that reading needs beside those of each worker, which hands over every tensor as
one."""


def iterate(loader: DataLoader[_Item]) -> Iterator[_Item]:
    """The items of a loader. Errors of its processes are raised as they were there.

    Raises:
        DataError: If a clip can't be read.
        RunError: If a process that reads has died or failed, or may open too few files.
    """
    _check_open_files(loader.num_workers)
    try:
        with reader_deaths():
            with _sigterm_held_back():
                items = iter(loader)
            yield from items
    except (VcsfError, OSError) as error:
        if "in DataLoader worker process" not in str(error):
            raise
        # torch puts the worker's whole traceback into the message: its end is ours.
        end = str(error).rpartition(f"{type(error).__name__}: ")[2].strip()
        reason, _, hint = end.partition(f"\n{HINT}")
        if isinstance(error, VcsfError):
            raise type(error)(reason, hint) from error
        raise RunError(
            f"a process that reads clips failed: {reason}",
            "look at the disk and the limits (ulimit -a); the same command goes on",
        ) from error


def _check_open_files(workers: int) -> None:
    """Check that this process may open the files that workers need; without them torch waits for
    ever. A limit that the user may raise is raised.

    Raises:
        RunError: If it may not.
    """
    if resource is None or not workers:
        return
    needed = _FILES + _FILES_OF_A_WORKER * workers
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft == unlimited or soft >= needed:
        return
    if hard != unlimited and hard < needed:
        raise RunError(
            f"a process may open {hard} files here, and --workers {workers} needs {needed}",
            "raise the limit (ulimit -n), or give --workers 0",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


@contextmanager
def reader_deaths() -> Iterator[None]:
    """Report the death of a process that reads. torch raises it wherever the main process is, even
    within a step.

    Raises:
        RunError: If a process that reads has died.
    """
    try:
        try:
            yield
        except (ConnectionError, EOFError):  # it was about to hand over a batch
            time.sleep(1)  # torch's handler of its death then raises here and not during ours
            raise
    except (RuntimeError, ConnectionError, EOFError) as error:
        if isinstance(error, RuntimeError) and not any(text in str(error) for text in _OF_READERS):
            raise
        lines = str(error).strip().splitlines()
        # torch puts the whole traceback of a process into its message; the last line says why.
        reason = lines[-1 if "Traceback" in str(error) else 0] if lines else type(error).__name__
        raise RunError(
            f"a process that reads clips died: {reason}",
            "memory or /dev/shm may be too small: --workers 0 does without, and the same command "
            "goes on",
        ) from error


@contextmanager
def _sigterm_held_back() -> Iterator[None]:
    """Start processes with SIGTERM held back, so that none comes before `set_up_worker` has run."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def set_up_worker(worker: int) -> None:
    """Ignore Ctrl-C and SIGTERM in a worker unless the main process sends it: schedulers send them
    to all processes, but the main one has to finish its step and save. Use one thread. End when a
    batch can't be handed over."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None and hasattr(signal, "sigwaitinfo"):
        Thread(target=_exit_on_sigterm, args=(parent.pid,), daemon=True).start()
    else:  # on macOS
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    torch.set_num_threads(1)
    # Python drops what it can't put into a queue, and torch would wait for that batch for ever.
    Queue._on_queue_feeder_error = staticmethod(_end_for_lost_batch)  # type: ignore[attr-defined]


def _end_for_lost_batch(error: Exception, batch: object) -> None:
    sys.stderr.write(f"a batch could not be handed over: {error}\n")
    sys.stderr.flush()
    os._exit(1)


def _exit_on_sigterm(parent: int) -> None:
    """End this process at a SIGTERM from its parent, and ignore others."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def video_loader(videos: EvalClips, workers: int) -> DataLoader[dict[str, Any]]:
    """One clip at a time, in order."""
    return DataLoader(
        videos,
        batch_size=None,
        num_workers=workers,
        worker_init_fn=set_up_worker if workers else None,
    )
