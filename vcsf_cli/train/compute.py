"""Where and how to compute: device, precision, processes."""

from __future__ import annotations

import ctypes
import logging
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vcsf_cli.config.schema import Stage
from vcsf_cli.engine.engine import Engine
from vcsf_cli.errors import InputError, RunError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_MOST_WORKERS = 16


@dataclass(frozen=True)
class Compute:
    """Where and how to compute.

    Args:
        devices: `auto`, `cpu`, `cuda`, `cuda:N`, or a number of GPUs, which are processes where
            there is no GPU.
        precision: `auto`, `float32` or `bf16`.
        workers: Processes that read clips; None for a number that suits the machine.
        save_every: Seconds between two checkpoints.
        share_stages: Whether to take the weights of stages that another run has trained already.
        nodes: Machines that train together.
        engine: Where features are computed; None: in this process.
    """

    devices: str = "auto"
    precision: str = "auto"
    workers: int | None = None
    save_every: float = 120.0
    share_stages: bool = True
    nodes: int = 1
    engine: Engine | None = None

    @property
    def processes(self) -> int:
        """Processes of this machine that train together."""
        return int(self.devices) if self.devices.isdecimal() else 1

    @property
    def world_size(self) -> int:
        """Processes of all machines that train together."""
        return self.processes * self.nodes

    @property
    def num_workers(self) -> int:
        """Number of processes that read clips for each process that trains."""
        cores = (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
        each = (cores - 1) // self.processes
        if of_slurm := os.environ.get("SLURM_CPUS_PER_TASK"):
            each = int(of_slurm) - 1
        good = min(_MOST_WORKERS, max(1, each))
        return good if self.workers is None else self.workers

    def device(self) -> torch.device:
        """The device.

        Raises:
            InputError: If it isn't there.
        """
        found = "cuda" if torch.cuda.is_available() else "cpu"
        wanted = found if self.devices == "auto" or self.devices.isdecimal() else self.devices
        kind, _, index = wanted.partition(":")
        if self.processes < 1:
            raise InputError(
                "--devices 0: at least one process must train", "give auto, or a number from 1"
            )
        if kind == "cuda" and max(int(index or 0), self.processes - 1) >= torch.cuda.device_count():
            raise InputError(
                f"--devices {self.devices}: this machine has {torch.cuda.device_count()} GPUs that "
                "torch can use",
                "GPUs are counted from 0; auto takes what there is",
            )
        return torch.device(wanted)

    def bf16(self) -> bool:
        """Whether networks compute in bfloat16.

        Raises:
            InputError: If it was asked for without a GPU.
        """
        if self.device().type == "cpu":
            if self.precision == "bf16":
                # With torch 2.14 the weights' gradient of a convolution over two frames is
                # uninitialised memory.
                raise InputError(
                    "bf16 needs a GPU: on CPUs torch's gradients of some 3D convolutions in bf16 "
                    "are garbage",
                    "leave --precision and speed.precision out on a CPU",
                )
            return False
        return self.precision == "bf16" or (
            self.precision == "auto" and torch.cuda.is_bf16_supported(including_emulation=False)
        )

    def fabric(self) -> Fabric:
        from lightning_fabric import Fabric  # takes a second to import, and only trainings need it

        device = self.device()
        if device.type == "cpu":
            _keep_freed_memory()
        warnings.filterwarnings("ignore", ".*GPU available but not used.*")
        warnings.filterwarnings("ignore", ".*all_gather is deprecated.*")  # Fabric's call, not ours
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        together = self.world_size > 1
        return Fabric(
            accelerator=device.type,
            strategy="ddp" if together else "auto",
            devices=[device.index or 0]
            if device.type == "cuda" and not together
            else self.processes,
            num_nodes=self.nodes,
            precision="bf16-mixed" if self.bf16() else "32-true",
        )


def too_little_memory(
    device: torch.device, stage: Stage, error: torch.OutOfMemoryError
) -> RunError:
    return RunError(
        f"{device} has too little memory: {str(error).splitlines()[0]}",
        f"set a smaller train.batch (now {stage.train.batch}) or data.size; that is another run",
    )


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def _keep_freed_memory() -> None:
    """Keep the memory of freed tensors for the next ones instead of giving it back to the kernel,
    which has to clear every page again at each step: a quarter of a step's time on a CPU. Works
    with glibc, elsewhere nothing happens."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    except (OSError, AttributeError):
        return


def add_up(tensor: Tensor) -> None:
    """Replace a tensor by its sum over all processes. Fabric's `all_reduce` would wait for the GPUs
    of all before that, at every step."""
    torch.distributed.all_reduce(tensor)


@torch.no_grad()
def average(fabric: Fabric, tensors: Sequence[Tensor]) -> None:
    """Replace tensors by their mean over all processes, in one message."""
    if fabric.world_size == 1 or not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    add_up(flat)
    flat /= fabric.world_size
    for tensor, mean in zip(
        tensors, flat.split_with_sizes([tensor.numel() for tensor in tensors]), strict=True
    ):
        tensor.copy_(mean.view_as(tensor))
