"""Ray: processes of many machines, which it starts again elsewhere when one is lost."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from vcsf_cli import registry
from vcsf_cli.engine.engine import Failure, Function, Item, Result
from vcsf_cli.engine.local import Local, map_in, open_pool
from vcsf_cli.errors import EXIT_INTERRUPTED, InputError, RunError
from vcsf_cli.narrate import say

_POLL_SECONDS = 0.1
_CONNECT_SECONDS = 10.0
_RETRIES = 3
"""How often an item is tried again whose process or machine was lost."""


def load_ray() -> Any:
    """The module, which is optional.

    Raises:
        InputError: If it is not installed.
    """
    try:
        import ray  # optional
    except ImportError as error:
        raise InputError(
            "--engine ray needs Ray, which is not installed", "pip install 'vcsf[ray]'"
        ) from error
    return ray


class Ray:
    """Processes of a Ray cluster, while the context is open.

    Every machine has vcsf in the version that this one has, and finds files at the same paths.

    Args:
        address: Of the cluster: `auto`, `HOST:PORT` or `ray://HOST:PORT`; None: the one in
            RAY_ADDRESS, else Ray is started on this machine.
        workers: At most so many items are worked on side by side; None: what the cluster holds.

    Raises:
        InputError: If Ray is not installed, or there is no such cluster.
    """

    def __init__(self, address: str | None = None, workers: int | None = None) -> None:
        self.ray, self.workers = load_ray(), workers
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        address = address or os.environ.get("RAY_ADDRESS") or "local"
        own = {"num_cpus": workers, "include_dashboard": False} if address == "local" else {}
        try:
            _reach(address)
            self.ray.init(address, log_to_driver=False, logging_level="ERROR", **own)
        except (OSError, RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(
                f"there is no Ray cluster at {address} that can be used: {reason}",
                "`ray start --head` starts one; without --address Ray is started here",
            ) from error
        nodes = sum(node["Alive"] for node in self.ray.nodes())
        say(f"Ray {self.ray.__version__}: {nodes} nodes, {self._count('CPU'):g} CPUs")

    def __enter__(self) -> Ray:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.ray.shutdown()

    def map(
        self,
        function: Function[Item, Result],
        items: Iterable[Item],
        folder: Path | None = None,
        time_limit: float | None = None,
        gpus: int = 0,
    ) -> Iterator[Result | Failure]:
        ray = self.ray
        task = ray.remote(_run).options(num_cpus=1, num_gpus=gpus, max_retries=_RETRIES)
        shared = ray.put(function)
        left, waiting = enumerate(items), deque[Any]()
        try:
            while True:
                while len(waiting) < self._most(gpus) and (item := next(left, None)):
                    # In a list, which Ray does not look into: a worker fetches it once.
                    waiting.append(task.remote([shared], *item, str(Path.cwd()), time_limit))
                if not waiting:
                    return
                yield from self._finished(waiting.popleft(), folder)
        finally:
            for each in waiting:
                ray.cancel(each, force=True)

    def start(
        self, words: Sequence[str], log: Path, variables: Mapping[str, str], gpus: int = 0
    ) -> RayJob:
        task = self.ray.remote(_run_command).options(
            num_cpus=1, num_gpus=gpus, max_retries=_RETRIES
        )
        arguments = ([*words], log, {**variables}, str(Path.cwd()))
        return RayJob(self.ray, task.remote(*arguments))

    def side_by_side(self, gpus: int) -> int:
        """How many items, of this many GPUs each, the cluster holds.

        Raises:
            InputError: If it holds none.
        """
        held = 0
        for node in self.ray.nodes():
            if node["Alive"]:
                has = node["Resources"]
                cpus = has.get("CPU", 0)
                held += int(min(cpus, has.get("GPU", 0) // gpus) if gpus else cpus)
        if not held:
            raise InputError(
                f"no machine of the Ray cluster has a CPU and {gpus} GPUs for a task"
                if gpus
                else "no machine of the Ray cluster has a CPU for a task",
                "ask for fewer: --gpus-per-run of `vcsf ablate`, elsewhere --devices cpu; `ray "
                "status` shows what there is"
                if gpus
                else "`ray start --num-cpus` gives a machine some",
            )
        return held

    def _count(self, kind: str) -> float:
        return float(self.ray.cluster_resources().get(kind, 0))

    def _most(self, gpus: int) -> int:
        """How many items are handed to Ray: a few more than are worked on, as machines may join."""
        return self.workers or 3 * self.side_by_side(gpus)

    def _finished(self, reference: Any, folder: Path | None) -> Iterator[Any]:
        """The result behind a reference, with its files in the folder until the next is asked
        for."""
        errors = self.ray.exceptions
        try:
            result, files = self.ray.get(reference)
        except errors.RayTaskError as error:
            raise error.cause from error
        except (
            errors.WorkerCrashedError,
            errors.NodeDiedError,
            errors.OutOfMemoryError,
            errors.ObjectLostError,
        ) as error:
            result, files = Failure(f"crashed {_RETRIES + 1} times ({type(error).__name__})"), {}
        except errors.RayError as error:
            reason = str(error).strip().splitlines()[0]
            raise RunError(
                f"the Ray cluster failed: {reason}", "the same command goes on"
            ) from error
        paths = [folder / name for name in files] if folder else []
        for path, content in zip(paths, files.values(), strict=True):
            path.write_bytes(content)
        yield result
        for path in paths:
            path.unlink(missing_ok=True)


def _reach(address: str) -> None:
    """Connect to a cluster's HOST:PORT once: Ray would go on trying, without an error.

    Raises:
        OSError: If nothing answers there.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal() and (":" not in host or host.endswith("]")):  # else IPv6 without a port
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()


@dataclass(frozen=True)
class RayJob:
    """A command in a process of a Ray cluster; another one goes on if that is lost."""

    ray: Any
    reference: Any

    def poll(self) -> int | None:
        ready, _ = self.ray.wait([self.reference], timeout=0)
        return self.wait() if ready else None

    def interrupt(self) -> None:
        self.ray.cancel(self.reference)

    def wait(self) -> int:
        errors = self.ray.exceptions
        try:
            return int(self.ray.get(self.reference))
        except errors.TaskCancelledError:
            return EXIT_INTERRUPTED
        except errors.RayError as error:
            say(f"Ray: {str(error).strip().splitlines()[0]}")
            return 1


_functions: dict[str, Any] = {}
"""The function that this process of Ray works with, by its reference."""
_pools: list[Any] = []
"""The process that can be killed in place of this one."""


def _run(
    shared: list[Any], number: int, item: Any, cwd: str, time_limit: float | None
) -> tuple[Any, dict[str, bytes]]:
    """The result of an item, in a process of Ray, and the content of its files by name."""
    _go_to(cwd)
    (reference,) = shared
    if reference.hex() not in _functions:
        if time_limit is None:
            registry.load()  # imports what a pickled network may be made of
        _functions.clear()
        _functions[reference.hex()] = load_ray().get(reference)
    function = _functions[reference.hex()]
    with tempfile.TemporaryDirectory(prefix="vcsf-") as folder:
        if time_limit is None:
            result = function(item, f"{folder}/{number:07d}")
        else:
            if not _pools:
                _pools.append(open_pool(1))
            found = map_in(_pools[0], 1, function, [item], Path(folder), time_limit, number)
            result = next(found)
        files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    return result, files


def _run_command(words: list[str], log: Path, variables: dict[str, str], cwd: str) -> int:
    """The exit status of a command, in a process of Ray."""
    _go_to(cwd)
    # Ray holds Ctrl-C back from its processes, and a command would inherit that.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    job = Local().start(words, log, variables)
    try:
        while (status := job.poll()) is None:
            time.sleep(_POLL_SECONDS)  # Ray's interruption does not end a wait
        return status
    except BaseException:
        job.interrupt()
        job.wait()
        raise


def _go_to(cwd: str) -> None:
    """Work where the command does, if there is such a folder: relative paths are meant from there,
    and a plugin may lie in it."""
    with suppress(OSError):
        os.chdir(cwd)
