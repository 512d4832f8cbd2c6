"""Decoding many videos in parallel: results come in order, and a process that hangs or crashes
costs its own video only."""

from __future__ import annotations

import multiprocessing
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pebble import ProcessExpired, ProcessPool

from vcsf_cli.data.decode import Decoded, DecodeJob, decode, heartbeat_path, ignore_interrupts

MISSING = -1
"""The size of a file that isn't there."""
_SECONDS_BETWEEN_LOOKS = 0.2
_LONGEST_LOOK = 1.0


@dataclass(frozen=True)
class Outcome:
    """The result of a job.

    Args:
        decoded: Its clips, or what is wrong with it.
        size: Bytes of its file before it was decoded.
        retry_above: The time limit above which another try is worth it; None: never.
    """

    decoded: Decoded
    size: int
    retry_above: float | None


@dataclass
class _Attempt:
    """A video that is being decoded, or waits for it.

    Args:
        heartbeat: A file that its process touches with every frame; none before it begins.
        size: Bytes of the video's file when it was handed in.
        beat: When the heartbeat was last touched.
        idle: For how many seconds it has not been touched.
    """

    future: Any
    heartbeat: Path
    size: int
    beat: int = -1
    idle: float = 0.0

    def look(self, seconds: float) -> None:
        """Update `idle`, `seconds` after the last look."""
        try:
            beat = self.heartbeat.stat().st_mtime_ns
        except OSError:
            return
        self.idle = self.idle + seconds if beat == self.beat else 0.0
        self.beat = beat


def decode_all(jobs: Iterable[DecodeJob], workers: int, time_limit: float) -> Iterator[Outcome]:
    """The outcome of every job, in order.

    Args:
        jobs: What to decode; their files of clips are deleted when the next outcome is asked for.
        time_limit: Seconds without a new frame after which a process is killed.

    Raises:
        StorageError: If a clip can't be written.
    """
    left = iter(jobs)
    waiting: deque[_Attempt] = deque()
    context = multiprocessing.get_context("spawn")
    with ProcessPool(max_workers=workers, context=context, initializer=ignore_interrupts) as pool:
        try:
            while True:
                while len(waiting) < 3 * workers and (job := next(left, None)) is not None:
                    size = file_size(job.path)  # not later: a disk may be unplugged meanwhile
                    future = pool.schedule(decode, args=[job])
                    waiting.append(_Attempt(future, heartbeat_path(job.work), size))
                if not waiting:
                    return
                _kill_idle(waiting, time_limit)
                attempt = waiting.popleft()
                yield _outcome(attempt, time_limit)
                for left_over in attempt.heartbeat.parent.glob(f"{attempt.heartbeat.stem}*"):
                    left_over.unlink(missing_ok=True)
        except BaseException:
            pool.stop()  # type: ignore[no-untyped-call]  # pebble's
            raise


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


def _outcome(attempt: _Attempt, time_limit: float) -> Outcome:
    try:
        decoded = attempt.future.result()
        return Outcome(decoded, attempt.size, 0.0 if decoded.unread else None)
    except CancelledError:
        problem = f"no frame for {time_limit:g} s: killed; see --time-limit"
        return Outcome(Decoded(problem=problem), attempt.size, time_limit)
    except ProcessExpired as error:  # perhaps for want of memory: the next call tries again
        problem = f"the decoder crashed (exit status {error.exitcode})"
        return Outcome(Decoded(problem=problem), attempt.size, 0.0)


def file_size(path: Path) -> int:
    """Bytes of a file; `MISSING` if it isn't there, as where a link leads nowhere."""
    try:
        return path.stat().st_size
    except OSError:
        return MISSING
