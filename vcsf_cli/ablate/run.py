"""Doing the work of a plan: a process for each run, several side by side, each stage trained once,
failed runs passed over."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from vcsf_cli.ablate.measured import measured_ks, recall_ks
from vcsf_cli.ablate.plan import Plan
from vcsf_cli.ablate.rows import RunSpec
from vcsf_cli.config.table import DEFAULT_PROTOCOLS, RETRIEVED
from vcsf_cli.engine.engine import Engine, Job
from vcsf_cli.errors import BusyError, RunError
from vcsf_cli.evaluate.retrieval import retrieval_folder
from vcsf_cli.narrate import duration, say
from vcsf_cli.train.compute import Compute

LOGS = "logs"
"""Folder of a table with the output of its processes, a file for each run."""
_POLL_SECONDS = 0.1
RETRY_SECONDS = 10.0
"""Time until a run that another process had locked is tried again."""
_THREADS = "OMP_NUM_THREADS"
"""Variable that torch takes its number of threads from."""


@dataclass(frozen=True)
class RunOptions:
    """Options that are passed on to the commands.

    Args:
        devices: A device for each run that is worked on side by side.
        precision: Of training and fine-tuning.
        workers: Processes that read clips; None for each command's default.
        save_every: Seconds between checkpoints.
        allow_seen: Whether test clips may have been seen in training.
        spread: Whether an engine gives each run a share of a machine.
    """

    devices: tuple[str, ...]
    precision: str
    workers: int | None
    save_every: float
    allow_seen: bool = False
    spread: bool = False

    @property
    def several(self) -> bool:
        """Whether runs are worked on side by side."""
        return len(self.devices) > 1

    @property
    def threads(self) -> int | None:
        """Threads for each run if several share the CPU; None if they don't or the user chose."""
        sharing = sum(Compute(device).device().type == "cpu" for device in self.devices)
        if sharing < 2 or self.spread or _THREADS in os.environ:
            return None
        affinity = getattr(os, "sched_getaffinity", None)
        cores = len(affinity(0)) if affinity else os.cpu_count() or 1
        return max(1, cores // sharing)

    @property
    def here(self) -> bool:
        """Whether this machine has the devices: those of an engine may be on others."""
        gpus = max(
            int(device) if device.isdecimal() else device != "cpu" for device in self.devices
        )
        return not self.spread or gpus <= torch.cuda.device_count()

    def compute(self, device: str) -> Compute:
        return Compute(device, self.precision, self.workers, self.save_every)


def parse_devices(names: Sequence[str]) -> tuple[str, ...]:
    """The devices of `--devices`; `0,1` are the first two GPUs."""
    return tuple(f"cuda:{name}" if name.isdecimal() else name for name in names)


def _set_options(assignments: Sequence[str]) -> list[str]:
    return [word for each in assignments for word in ("--set", each)]


def pretrain_command(spec: RunSpec) -> str:
    """The command line that trains a run by hand."""
    return f"vcsf pretrain {shlex.join([spec.row.base, *_set_options(spec.assignments)])}"


def remaining_commands(
    plan: Plan, spec: RunSpec, options: RunOptions, device: str
) -> list[list[str]]:
    """The command lines that are left for a run: its training and missing measurements."""
    places = ["--data", str(plan.data), "--runs", str(plan.runs), "--devices", device]
    places += [] if options.workers is None else ["--workers", str(options.workers)]
    arithmetic = ["--precision", options.precision, "--save-every", str(options.save_every)]
    commands = []
    if not plan.is_trained(spec):
        changed = _set_options(spec.assignments)
        commands.append(["pretrain", spec.row.base, *changed, *places, *arithmetic])
    for measure in plan.missing(spec):
        dataset = plan.measured_on(spec, measure)
        start = [dataset, "--from", str(spec.run.folder)]
        start += ["--leave-one-out"] if measure.leave_one_out else ["--split", str(spec.split)]
        start += ["--allow-seen"] if options.allow_seen else []
        if measure.task in RETRIEVED:
            folder = retrieval_folder(spec.run, dataset, spec.split, measure.leave_one_out)
            ks = ",".join(map(str, sorted({*recall_ks(measure), *measured_ks(folder)})))
            more = ["--clusters"] if measure.task == "clusters" else []
            commands.append(["retrieve", *start, "--k", ks, *more, *places])
        else:
            pathways = spec.row.classified_pathways
            start += ["--pathway", "both" if len(pathways) > 1 else pathways[0]]
            start += ["--protocol", measure.protocol or DEFAULT_PROTOCOLS[measure.task]]
            start += _set_options(measure.assignments)
            commands.append(["finetune", *start, *places, *arithmetic])
    return commands


@dataclass
class _RunProcess:
    """A process that works on one run.

    Args:
        error_file: The last error of its commands, written by them.
    """

    spec: RunSpec
    device: str
    job: Job
    error_file: Path
    started: float


class TableRunner:
    """Does what is left of a plan.

    Args:
        gpus: GPUs that the engine gives to each run.
    """

    def __init__(self, plan: Plan, options: RunOptions, engine: Engine, gpus: int = 0) -> None:
        self.plan, self.options, self.engine, self.gpus = plan, options, engine, gpus
        self._running: list[_RunProcess] = []
        self._failures: dict[str, str] = {}
        self._waiting = [spec for spec in plan.specs if self._has_work(spec)]
        self._total = len(self._waiting)
        self._started = 0
        self._not_before: dict[str, float] = {}

    def run(self) -> dict[str, str]:
        """Do all work; returns why runs failed, by their name.

        Raises:
            KeyboardInterrupt: After all processes have saved what they had.
        """
        try:
            while self._waiting or self._running:
                self._start_free_devices()
                time.sleep(_POLL_SECONDS)
                for running in list(self._running):
                    if (status := running.job.poll()) is not None:
                        self._running.remove(running)
                        self._note_end(running, status)
        finally:
            for running in self._running:
                running.job.interrupt()
            for running in self._running:
                running.job.wait()
        return self._failures

    def _has_work(self, spec: RunSpec) -> bool:
        """Whether a run has something left to do; a damaged one fails at once."""
        try:
            return bool(self.plan.missing(spec)) and spec.finished_stages >= 0
        except RunError as error:
            self._fail(spec, error.message)
            return False

    def _start_free_devices(self) -> None:
        """Start the next run on every free device, but none that waits for a stage of another."""
        free = list(self.options.devices)
        for running in self._running:
            free.remove(running.device)
        for spec in list(self._waiting):
            if not free or time.monotonic() < self._not_before.get(spec.name, 0.0):
                continue
            if not any(
                self.plan.must_wait(spec, running.spec, running.spec.finished_stages)
                for running in self._running
            ):
                self._waiting.remove(spec)
                self._running.append(self._start(spec, free.pop(0)))

    def _start(self, spec: RunSpec, device: str) -> _RunProcess:
        log_file = self.plan.folder / LOGS / f"{spec.run.name}.log"
        log_file.parent.mkdir(parents=True, exist_ok=True)
        error_file = log_file.with_name(f".{spec.run.name}.error.json")
        error_file.unlink(missing_ok=True)
        commands = remaining_commands(self.plan, spec, self.options, device)
        self._started += spec.name not in self._not_before
        doing = " and ".join(dict.fromkeys(words[0] for words in commands))
        on = f" on {device}" if self.options.several else ""
        say(f"{self._started}/{self._total} {spec.name}{on}: {doing}, log {log_file}")
        words = ["-m", "vcsf_cli.ablate.worker", str(error_file), json.dumps(commands)]
        threads = self.options.threads
        variables = {} if threads is None else {_THREADS: str(threads)}
        job = self.engine.start(words, log_file, variables, self.gpus)
        return _RunProcess(spec, device, job, error_file, time.monotonic())

    def _note_end(self, ended: _RunProcess, status: int) -> None:
        spec = ended.spec
        if status == 0:
            say(f"done: {spec.name} in {duration(time.monotonic() - ended.started)}")
            return
        try:
            error = json.loads(ended.error_file.read_text(encoding="utf-8"))
        except FileNotFoundError:  # a crash, which the log explains
            error = {"kind": "", "message": f"it ended with status {status}"}
        ended.error_file.unlink(missing_ok=True)
        if error["kind"] != BusyError.__name__:
            self._fail(spec, error["message"])
            return
        if spec.name not in self._not_before:
            say(
                f"{spec.name} is worked on by another process: it waits for that; going on with "
                "the others"
            )
        self._not_before[spec.name] = time.monotonic() + RETRY_SECONDS
        self._waiting.append(spec)

    def _fail(self, spec: RunSpec, why: str) -> None:
        self._failures[spec.name] = why
        say(f"failed: {spec.name}: {why}; going on with the others")
