"""Decoding many videos in parallel: outcomes come in order, and a process that hangs or crashes
costs its own video only."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2

from vcsf_cli.contracts import RemoteFile
from vcsf_cli.data.decode import Decoded, DecodeJob, Settings, decode
from vcsf_cli.engine.engine import Engine, Failure

MISSING = -1
"""The size of a file that isn't there."""


@dataclass(frozen=True)
class Outcome:
    """The result of decoding a video.

    Args:
        decoded: Its clips, or what is wrong with it.
        size: Bytes of its file before it was decoded.
        retry_above: The time limit above which another try is worth it; None: never.
    """

    decoded: Decoded
    size: int
    retry_above: float | None


def decode_all(
    paths: Iterable[Path | RemoteFile],
    settings: Settings,
    engine: Engine,
    folder: Path,
    time_limit: float,
) -> Iterator[Outcome]:
    """The outcome of every video, in order.

    Args:
        paths: The files.
        settings: How to store their frames.
        engine: Where to decode.
        folder: Where files of clips are written; they are deleted when the next outcome is asked
            for.
        time_limit: Seconds without a new frame after which a process is killed.

    Raises:
        StorageError: If a clip can't be written.
        RemoteError: If a file that is not on this disk can't be reached.
    """
    sizes: deque[int] = deque()

    def handed_in() -> Iterator[Path | RemoteFile]:
        for path in paths:
            sizes.append(file_size(path))  # not later: a disk may be unplugged meanwhile
            yield path

    for found in engine.map(partial(_decode, settings), handed_in(), folder, time_limit):
        yield _outcome(found, sizes.popleft(), folder, time_limit)


def _decode(settings: Settings, path: Path | RemoteFile, work: str) -> Decoded:
    cv2.setNumThreads(1)
    return decode(DecodeJob(path, work, settings))


def _outcome(found: Decoded | Failure, size: int, folder: Path, time_limit: float) -> Outcome:
    if isinstance(found, Decoded):
        for clip in found.clips:  # it may have been another folder where it was decoded
            clip.path = folder / clip.path.name
        return Outcome(found, size, 0.0 if found.unread else None)
    if found.is_stuck:
        problem = f"no frame for {time_limit:g} s: killed; see --time-limit"
        return Outcome(Decoded(problem=problem), size, time_limit)
    # Perhaps for want of memory: the next call tries again.
    return Outcome(Decoded(problem=f"the decoder {found.reason}"), size, 0.0)


def file_size(path: Path | RemoteFile) -> int:
    """Bytes of a file; `MISSING` if it isn't there, as where a link leads nowhere."""
    if isinstance(path, RemoteFile):
        return path.size
    try:
        return path.stat().st_size
    except OSError:
        return MISSING
