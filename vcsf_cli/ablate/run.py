"""Doing a plan's work: a process for each run, several side by side, each stage trained once,
failures told and passed over."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from vcsf_cli.ablate.estimate import is_begun, must_wait, own_stages
from vcsf_cli.ablate.measured import asked_before, recall_ks
from vcsf_cli.ablate.plan import Plan, RunSpec
from vcsf_cli.config.table import DEFAULT_PROTOCOLS, Measure
from vcsf_cli.errors import BusyError, RunError
from vcsf_cli.narrate import duration, say
from vcsf_cli.train.compute import Compute

LOGS = "logs"
"""Of a table's folder: what the processes said, a file a run."""
_LOOK_EVERY = 0.1
"""Seconds between two looks at the processes."""
AGAIN_AFTER = 10.0
"""Seconds until a run that another process had is tried again."""

_THREADS = "OMP_NUM_THREADS"
"""What torch takes its number of threads from."""


@dataclass(frozen=True)
class RunOptions:
    """Options that are handed on to the commands.

    Args:
        devices: A device for each run that is worked on side by side.
        precision: Of training and fine-tuning.
        workers: Processes that read clips; None for each command's default.
        save_every: Seconds between checkpoints.
        allow_seen: Whether test clips may have been seen in training.
    """

    devices: tuple[str, ...]
    precision: str
    workers: int | None
    save_every: float
    allow_seen: bool = False

    @property
    def several(self) -> bool:
        """Whether runs are worked on side by side."""
        return len(self.devices) > 1

    @property
    def threads(self) -> int | None:
        """Threads of each run where several share the CPU, unless the user has said how many; None
        for all."""
        lanes = sum(Compute(device).device().type == "cpu" for device in self.devices)
        if lanes < 2 or _THREADS in os.environ:
            return None
        cores = (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
        return max(1, cores // lanes)

    def machines(self) -> list[Compute]:
        """Each device with the rest.

        Raises:
            InputError: If one isn't there, or can't do it.
        """
        found = [self.machine(device) for device in self.devices]
        for machine in found:
            machine.bf16()
        return found

    def machine(self, device: str) -> Compute:
        """One device with the rest; whether it is there is not looked at."""
        return Compute(device, self.precision, self.workers, self.save_every)


@dataclass
class _RowProcess:
    """A process at work on one run."""

    cell: RunSpec
    device: str
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    error_file: Path
    begun: float


@dataclass(frozen=True)
class Failure:
    """A run whose work failed.

    Args:
        cell: The run.
        why: The last error it told.
    """

    cell: RunSpec
    why: str


def remaining_commands(plan: Plan, cell: RunSpec, how: RunOptions, device: str) -> list[list[str]]:
    """What is left to type for a run: its training, and what was not measured yet."""
    places = ["--data", str(plan.data), "--runs", str(plan.runs), "--devices", device]
    places += [] if how.workers is None else ["--workers", str(how.workers)]
    arithmetic = ["--precision", how.precision, "--save-every", str(how.save_every)]
    commands = []
    if not plan.is_trained(cell):
        changed = [word for each in cell.assignments for word in ("--set", each)]
        commands.append(["pretrain", cell.line.base, *changed, *places, *arithmetic])
    for measure in plan.missing(cell):
        start = [
            plan.measured_on(cell, measure),
            "--from",
            str(cell.run.folder),
            "--split",
            str(cell.split),
        ]
        start += ["--allow-seen"] if how.allow_seen else []
        if measure.task == "retrieve":
            before = asked_before(
                cell.run, plan.manifest(plan.measured_on(cell, measure)), cell.split
            )
            ks = sorted({*recall_ks(measure), *before})
            commands.append(["retrieve", *start, "--k", ",".join(map(str, ks)), *places])
        else:
            commands.append(
                ["finetune", *start, *_by_classification(cell, measure), *places, *arithmetic]
            )
    return commands


def _by_classification(cell: RunSpec, measure: Measure) -> list[str]:
    """Options of `vcsf finetune`."""
    pathway = "both" if len(cell.line.trains) > 1 else cell.line.trains[0]
    changed = [word for each in measure.assignments for word in ("--set", each)]
    return [
        "--pathway",
        pathway,
        "--protocol",
        measure.protocol or DEFAULT_PROTOCOLS[measure.task],
        *changed,
    ]


class TableRun:
    """The work of a plan.

    Args:
        plan: The plan.
        how: Options for the commands.
    """

    def __init__(self, plan: Plan, how: RunOptions) -> None:
        self.plan, self.how = plan, how
        self.stages = {cell.recipe.hash: plan.stages_of(cell) for cell in plan.cells}
        self.workers: list[_RowProcess] = []
        self.failures: list[Failure] = []
        self.waiting = [cell for cell in plan.cells if self._is_left(cell)]
        self.total = len(self.waiting)
        self.begun = 0
        self.not_before: dict[str, float] = {}

    def _is_left(self, cell: RunSpec) -> bool:
        """Whether there is something to do for a run that is whole; that one is damaged is
        noted."""
        try:
            return bool(self.plan.missing(cell)) and own_stages(cell) >= 0
        except RunError as error:
            self._fail(cell, error.message)
            return False

    def run(self) -> list[Failure]:
        """Do all work; what failed is returned.

        Raises:
            KeyboardInterrupt: After all processes have saved what they had.
        """
        try:
            while self.waiting or self.workers:
                self._start()
                time.sleep(_LOOK_EVERY)
                for worker in list(self.workers):
                    if worker.process.poll() is not None:
                        self._end(worker)
        finally:
            self._stop()
        return self.failures

    def _start(self) -> None:
        """Give every free device the next run that needs not wait for a stage which another is
        training."""
        free = list(self.how.devices)
        for worker in self.workers:
            free.remove(worker.device)
        for cell in list(self.waiting):
            if not free or time.monotonic() < self.not_before.get(cell.name, 0.0):
                continue
            if not any(self.waits_for(cell, worker.cell) for worker in self.workers):
                self.waiting.remove(cell)
                self.workers.append(self._begin(cell, free.pop(0)))

    def waits_for(self, cell: RunSpec, other: RunSpec) -> bool:
        """Whether a run could take over a stage that another one, which is being worked on, has yet
        to finish."""
        if is_begun(cell) or self.plan.is_trained(cell):
            return False
        ours, theirs = (self.stages[each.recipe.hash] for each in (cell, other))
        return must_wait(ours, theirs, own_stages(other))

    def _begin(self, cell: RunSpec, device: str) -> _RowProcess:
        path = self.plan.folder / LOGS / f"{cell.run.name}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        commands = remaining_commands(self.plan, cell, self.how, device)
        self.begun += cell.name not in self.not_before
        doing = " and ".join(dict.fromkeys(words[0] for words in commands))
        on = f" on {device}" if self.how.several else ""
        say(f"{self.begun}/{self.total} {cell.name}{on}: {doing}, log {path}")
        error_file = path.with_name(f".{cell.run.name}.error.json")
        error_file.unlink(missing_ok=True)
        log = path.open("ab")
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "vcsf_cli.ablate.worker",
                str(error_file),
                json.dumps(commands),
            ],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches us, and we end them one by one
            env=os.environ
            | ({} if self.how.threads is None else {_THREADS: str(self.how.threads)}),
        )
        return _RowProcess(cell, device, process, log, error_file, time.monotonic())

    def _end(self, worker: _RowProcess) -> None:
        """Note how a run ended."""
        self.workers.remove(worker)
        self._close(worker)
        cell, took = worker.cell, duration(time.monotonic() - worker.begun)
        if worker.process.returncode == 0:
            say(f"done: {cell.name} in {took}")
            return
        try:
            error = json.loads(worker.error_file.read_text(encoding="utf-8"))
        except FileNotFoundError:  # a crash, explained by the log
            error = {"kind": "", "message": f"it ended with status {worker.process.returncode}"}
        worker.error_file.unlink(missing_ok=True)
        if error["kind"] != BusyError.__name__:
            self._fail(cell, error["message"])
            return
        if cell.name not in self.not_before:
            say(
                f"{cell.name} is worked on by another process: it waits for that; going on with "
                f"the others"
            )
        self.not_before[cell.name] = time.monotonic() + AGAIN_AFTER
        self.waiting.append(cell)

    def _fail(self, cell: RunSpec, why: str) -> None:
        self.failures.append(Failure(cell, why))
        say(f"failed: {cell.name}: {why}; going on with the others")

    def _stop(self) -> None:
        """End all processes as Ctrl-C does, and wait until they have saved."""
        for worker in self.workers:
            worker.process.send_signal(signal.SIGINT)
        for worker in self.workers:
            worker.process.wait()
            self._close(worker)

    @staticmethod
    def _close(worker: _RowProcess) -> None:
        if worker.process.stdin:
            worker.process.stdin.close()
        worker.log.close()


def pretrain_command(cell: RunSpec) -> str:
    """What to type to train a run by hand."""
    return f"vcsf pretrain {shlex.join([cell.line.base, *(word for each in cell.assignments for word in ('--set', each))])}"


def parse_devices(named: Sequence[str]) -> tuple[str, ...]:
    """What `--devices` names: one for each run that is worked on side by side; `0,1` are the first
    two GPUs."""
    return tuple(f"cuda:{name}" if name.isdecimal() else name for name in named)
