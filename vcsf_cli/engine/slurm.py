"""A command as a job of Slurm, by submitit, that puts itself back into the queue and goes on."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, cast

from vcsf_cli.errors import EXIT_INTERRUPTED, InputError
from vcsf_cli.narrate import say

_DEFAULTS = {"time": "24:00:00", "requeue": "100", "cpus_per_task": "8"}
_OURS = ("nodes", "ntasks", "ntasks_per_node", "array", "output", "error", "open_mode")
"""Options of sbatch that follow from the command."""
_TIME = re.compile(
    r"((?P<days>\d+)-)?(?P<first>\d+)(:(?P<second>\d+))?(:(?P<third>\d+))?", re.ASCII
)


@dataclass(frozen=True)
class Resources:
    """What a job needs.

    Args:
        nodes: Machines.
        processes: Processes on each.
        gpus: GPUs on each.
        settings: Options of sbatch by their long names, and `requeue`: how often the job is put
            back into the queue at its time limit.
    """

    nodes: int
    processes: int
    gpus: int
    settings: Mapping[str, str]


def _minutes(time: str) -> int:
    """Minutes of a time limit as Slurm writes it: `90`, `2:30:00`, `1-12`, `1-12:30:00`.

    Raises:
        InputError: If it is none.
    """
    found = _TIME.fullmatch(time)
    if not found:
        raise InputError(
            f"--slurm time={time} is not a time",
            "write minutes, HOURS:MINUTES:SECONDS, or DAYS-HOURS",
        )
    first, second, third = (int(found[part] or 0) for part in ("first", "second", "third"))
    if found["days"]:
        seconds = int(found["days"]) * 86400 + first * 3600 + second * 60 + third
    elif found["third"]:
        seconds = first * 3600 + second * 60 + third
    else:
        seconds = first * 60 + second
    return max(1, seconds // 60)


def submit(where: str, name: str, words: Sequence[str], folder: Path, needs: Resources) -> None:
    """Submit `vcsf WORDS`.

    Args:
        where: `slurm`, or `local` for processes of this machine that stand in for a cluster's.
        name: Of the job. Slurm runs jobs of one name one after the other.
        words: The command line. It goes on where it was interrupted.
        folder: Where the job's files go, which all machines share.

    Raises:
        InputError: If submitit or Slurm is missing, or Slurm refuses the job.
    """
    submitit = _load_submitit()
    if where == "slurm" and not all(map(shutil.which, ("sbatch", "srun"))):
        raise InputError(
            "--launch slurm needs Slurm's sbatch and srun, which are not on this machine",
            "work on a machine that submits to the cluster; --launch local tries it here",
        )
    options = _read_options(needs.settings)
    times = {f"{where}_max_num_timeout": _parse_count(options.pop("requeue"))}
    executor = submitit.AutoExecutor(folder, where, **times)
    executor.update_parameters(**_parameters(name, needs, options))
    try:
        job = executor.submit(_Command([*words], str(Path.cwd())))
    except submitit.core.utils.FailedJobError as error:
        reason = str(error).strip().splitlines() or ["sbatch failed"]
        raise InputError(f"Slurm refuses the job: {reason[-1]}", "see --slurm") from error
    say(f"job {job.job_id} is submitted; its log: {job.paths.stderr}")


def _load_submitit() -> Any:
    """The module, which is optional.

    Raises:
        InputError: If it is not installed.
    """
    try:
        import submitit  # optional
    except ImportError as error:
        raise InputError(
            "--launch needs submitit, which is not installed", "pip install 'vcsf[slurm]'"
        ) from error
    return submitit


def _read_options(settings: Mapping[str, str]) -> dict[str, str]:
    """Options of sbatch by names with underscores, and `requeue`, with the defaults."""
    options = _DEFAULTS | {name.replace("-", "_"): text for name, text in settings.items()}
    for name in _OURS:
        if name in options:
            raise InputError(
                f"--slurm {name}: that follows from the command", "see --devices and --nodes"
            )
    return options


def _parse_count(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise InputError(
            f"--slurm requeue={text} is not a number", "say how often the job may go on"
        )
    return int(text)


def _parameters(name: str, needs: Resources, options: dict[str, str]) -> dict[str, Any]:
    """What submitit has to know; all other options go to sbatch as they are."""
    asks_for_gpus = {"gpus", "gpus_per_node", "gpus_per_task", "gres"} & {*options}
    # A job waits until all others of the same name have ended.
    fixed = {"dependency": "singleton", "requeue": True}
    return {
        "name": name,
        "timeout_min": _minutes(options["time"]),
        "nodes": needs.nodes,
        "tasks_per_node": needs.processes,
        "gpus_per_node": None if asks_for_gpus else needs.gpus or None,
        "slurm_additional_parameters": fixed | options,
        "slurm_srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={options['cpus_per_task']}"],
    }


@dataclass(frozen=True)
class _Command:
    """A command line in each process of a job.

    submitit's own handler of the signal before the time limit leaves at once, in the middle of a
    step. Here the first process stops as on Ctrl-C, which saves and stops the others, and then lets
    that handler put the job back into the queue."""

    words: list[str]
    cwd: str

    def __call__(self) -> None:
        submitit = _load_submitit()
        environment = submitit.JobEnvironment()
        is_first = environment.global_rank == 0
        if environment.num_tasks > 1:
            os.environ["NODE_RANK"] = str(environment.node)
            submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        warned: list[int] = []
        number = environment._usr_sig()
        requeue = cast(Callable[[int, None], None], signal.getsignal(number))
        if is_first:
            _interrupt_on(number, warned)
        os.chdir(self.cwd)
        sys.argv[:] = ["vcsf", *self.words]
        try:
            runpy.run_module("vcsf_cli", run_name="__main__")
        except SystemExit as stop:
            if stop.code == EXIT_INTERRUPTED and not is_first:
                return  # an exit status would end the first process before it is done
            if stop.code == EXIT_INTERRUPTED and warned:
                requeue(number, None)
            if stop.code:
                raise

    def checkpoint(self) -> Any:
        """What is to be done when the job goes on."""
        return _load_submitit().helpers.DelayedSubmission(self)


def _interrupt_on(number: int, warned: list[int]) -> None:
    """Let a signal do what Ctrl-C does, in this process alone, and note it in a list."""
    process = os.getpid()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process:  # processes that read clips inherit the handler
            warned.append(number)
            signal.raise_signal(signal.SIGINT)

    signal.signal(number, interrupt)
    signal.signal(signal.SIGINT, signal.default_int_handler)
