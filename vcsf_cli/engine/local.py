"""Processes of this machine: one that hangs or crashes costs its own item only."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pebble import ProcessExpired, ProcessPool

from vcsf_cli.engine.engine import Failure, Function, Item, Result, heartbeat_path

_SECONDS_BETWEEN_LOOKS = 0.2
_LONGEST_LOOK = 1.0


@dataclass
class _Attempt:
    """An item that is worked on, or waits for it.

    Args:
        work: The begin of the paths of its files.
        beat: When the heartbeat was last touched.
        idle: For how many seconds it has not been touched.
    """

    future: Any
    work: str
    beat: int = -1
    idle: float = 0.0

    def look(self, seconds: float) -> None:
        """Update `idle`, `seconds` after the last look."""
        try:
            beat = heartbeat_path(self.work).stat().st_mtime_ns
        except OSError:
            return
        self.idle = self.idle + seconds if beat == self.beat else 0.0
        self.beat = beat

    def delete_files(self) -> None:
        work = Path(self.work)
        for left_over in work.parent.glob(f"{work.name}*"):
            left_over.unlink(missing_ok=True)


@dataclass(frozen=True)
class LocalJob:
    """A command in a process of this machine."""

    process: subprocess.Popen[bytes]

    def poll(self) -> int | None:
        return None if self.process.poll() is None else self.wait()

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def wait(self) -> int:
        status = self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()
        return status


@dataclass(frozen=True)
class Local:
    """Processes of this machine.

    Args:
        workers: How many `map` takes.
    """

    workers: int = 1

    def start(
        self, words: Sequence[str], log: Path, variables: Mapping[str, str], gpus: int = 0
    ) -> LocalJob:
        with log.open("ab") as file:
            return LocalJob(
                subprocess.Popen(
                    [sys.executable, *words],
                    stdin=subprocess.PIPE,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C reaches us, and we end them one by one
                    env=os.environ | variables,
                )
            )

    def map(
        self,
        function: Function[Item, Result],
        items: Iterable[Item],
        folder: Path | None = None,
        time_limit: float | None = None,
        gpus: int = 0,
    ) -> Iterator[Result | Failure]:
        with open_pool(self.workers) as pool:
            try:
                yield from map_in(pool, self.workers, function, items, folder, time_limit)
            except BaseException:
                pool.stop()
                raise


def open_pool(workers: int) -> Any:
    """Processes that leave Ctrl-C to this one."""
    context = multiprocessing.get_context("spawn")
    return ProcessPool(max_workers=workers, context=context, initializer=_ignore_interrupts)


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def map_in(
    pool: Any,
    workers: int,
    function: Function[Item, Result],
    items: Iterable[Item],
    folder: Path | None,
    time_limit: float | None,
    first: int = 0,
) -> Iterator[Result | Failure]:
    """`Engine.map` in a pool of processes; items are numbered from `first`."""
    left = enumerate(items, first)
    waiting: deque[_Attempt] = deque()
    while True:
        while len(waiting) < 3 * workers and (numbered := next(left, None)) is not None:
            number, item = numbered
            work = str(folder / f"{number:07d}") if folder else ""
            waiting.append(_Attempt(pool.schedule(function, args=[item, work]), work))
        if not waiting:
            return
        if time_limit is not None:
            _kill_idle(waiting, time_limit)
        attempt = waiting.popleft()
        yield _result(attempt, time_limit)
        if folder:
            attempt.delete_files()


def _kill_idle(attempts: deque[_Attempt], time_limit: float) -> None:
    """Wait for the first attempt, killing all that are idle for too long."""
    before = time.monotonic()
    while not wait([attempts[0].future], _SECONDS_BETWEEN_LOOKS).done:
        now = time.monotonic()
        # If a look took longer, this process itself was stopped, and perhaps the others too.
        seconds, before = min(now - before, _LONGEST_LOOK), now
        for attempt in attempts:
            if attempt.future.done():
                continue
            attempt.look(seconds)
            if attempt.idle >= time_limit:
                attempt.future.cancel()  # which kills its process


def _result(attempt: _Attempt, time_limit: float | None) -> Any:
    try:
        return attempt.future.result()
    except CancelledError:
        return Failure(f"no sign of life for {time_limit:g} s: killed", is_stuck=True)
    except ProcessExpired as error:
        return Failure(f"crashed (exit status {error.exitcode})")
