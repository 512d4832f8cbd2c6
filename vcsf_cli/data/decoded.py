"""Frames of prepared clips, decoded once and kept for all processes of this machine: `--cache`.

One file holds the pixels of all clips of a dataset, without gaps, and a byte for each clip that says
whether they are there. The byte is set after the pixels are written and synchronised, so that
what a killed process or a failing machine leaves counts for nothing. Two processes may write the
same clip at once: their bytes are the same."""

from __future__ import annotations

import atexit
import errno
import hashlib
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
import simplejpeg

from vcsf_cli.contracts import Frames
from vcsf_cli.errors import InputError
from vcsf_cli.narrate import say

if TYPE_CHECKING:
    from vcsf_cli.data.manifest import Manifest

try:
    import fcntl
except ImportError:  # Windows has no such locks, and no shared memory that is a folder
    fcntl = None  # type: ignore[assignment]

PLACE = "VCSF_DECODED"
"""Variable with the place of decoded frames; `--cache` sets it, so that processes that are started
share them."""
MEMORY = "memory"
_SHARED_MEMORY = Path("/dev/shm")
_SHARE_OF_MEMORY = 0.8
"""Of the memory that is free; the rest is for the training."""
_PAGE = 4096
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_held: dict[Path, tuple[int, DecodedFrames]] = {}
"""The files that this process has made or found, with their descriptors, those of shared memory
locked."""


@dataclass
class DecodedFrames:
    """The decoded frames of a dataset.

    Args:
        file: Where they are.
        shapes: Frames, height and width of each clip, (N, 3).
    """

    file: Path
    shapes: Any

    def __post_init__(self) -> None:
        sizes = 3 * self.shapes.prod(1)
        flags = -(-len(self.shapes) // _PAGE) * _PAGE
        self.begins = flags + np.concatenate([[0], np.cumsum(sizes)])
        """Where the pixels of each clip begin, and where the last ones end."""
        self._descriptor = -1
        self._bytes: Any = None
        self._is_full = False

    @classmethod
    def of(cls, manifest: Manifest) -> DecodedFrames | None:
        """The decoded frames of a dataset where the environment says, None if it says nothing.

        Raises:
            InputError: If they can't be kept there.
        """
        place = os.environ.get(PLACE)
        if not place:
            return None
        folder = _SHARED_MEMORY if place == MEMORY else Path(place).expanduser()
        shapes = manifest.table[["frames", "height", "width"]].to_numpy(np.int64)
        # Another version of the decoder may give other pixels.
        said = f"{simplejpeg.__version__} {shapes.tolist()} {[*manifest.table['sha256']]}"
        digest = hashlib.sha256(said.encode()).hexdigest()[:16]
        owner = f"vcsf-{os.getuid()}-" if place == MEMORY else ""
        found = cls(folder / f"{owner}{manifest.name}-{digest}.frames", shapes)
        if found.file not in _held:
            found._make_room(manifest.name, place)
        return found

    def _make_room(self, name: str, place: str) -> None:
        """Make the file, or find it, and check that what it lacks fits."""
        folder = self.file.parent
        if place == MEMORY:
            if fcntl is None or not folder.is_dir():
                raise InputError(
                    f"--cache memory needs shared memory in {folder}, which is not there",
                    "give a folder on a fast disk",
                )
            _remove_abandoned()
        is_new = not self.file.exists()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = _open(self.file, int(self.begins[-1]), shared=place == MEMORY)
        except OSError as error:
            raise InputError(
                f"--cache {place}: {self.file} can't be written: {error.strerror}",
                "give another folder",
            ) from error
        _held[self.file] = descriptor, self
        free = shutil.disk_usage(folder).free
        if place == MEMORY:
            free = min(free, int(_SHARE_OF_MEMORY * _free_memory()))
        # What the files of other datasets still lack is theirs.
        free -= sum(
            kept._needed(other)
            for file, (other, kept) in _held.items()
            if file != self.file and file.parent == folder
        )
        needed = self._needed(descriptor)
        if needed > max(free, 0):
            _release(self.file)
            if is_new:  # an empty file that looks large
                self.file.unlink(missing_ok=True)
            raise InputError(
                f"--cache {place}: the frames of {name} need {needed:,} bytes more, and "
                f"{max(free, 0):,} are free there",
                "give a folder on a disk with room, or leave --cache out",
            )
        there = self._there(descriptor)
        say(
            f"decoded frames: {self.file}, {self.begins[-1] / 1e9:.1f} GB when all clips are in it; "
            f"{there.sum():,} of {len(there):,} are"
        )

    def _there(self, descriptor: int) -> Any:
        """Whether each clip is there, (N,)."""
        return np.frombuffer(os.pread(descriptor, len(self.shapes), 0), np.bool_)

    def _needed(self, descriptor: int) -> int:
        """Bytes of the clips that are not there."""
        return int(np.diff(self.begins)[~self._there(descriptor)].sum())

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_descriptor": -1, "_bytes": None}

    def clip(self, row: int) -> Frames | None:
        """The frames (L, H, W, 3) of a clip, None if they are not there yet; they can't be changed.

        Raises:
            OSError: If the file is gone.
        """
        if self._bytes is None:
            self._descriptor = os.open(self.file, os.O_RDWR)
            self._bytes = np.memmap(self.file, np.uint8, "r", shape=(int(self.begins[-1]),))
        # Not through the map: in shared memory that is full, a page that is read so kills.
        if os.pread(self._descriptor, 1, row) != b"\1":
            return None
        pixels: Frames = self._bytes[self.begins[row] : self.begins[row + 1]]
        return pixels.reshape(*self.shapes[row], 3)

    def put(self, row: int, frames: Iterable[Frames]) -> Frames | None:
        """Write all frames of a clip; returns them as `clip` does. Where the disk is full, nothing
        more is written, and clips are decoded each time.

        Raises:
            OSError: If the file can't be written for another reason.
            ValueError: If they are not of the shape that the manifest says.
        """
        if self._is_full:
            return None
        at, shape = int(self.begins[row]), (*self.shapes[row][1:].tolist(), 3)
        try:
            for frame in frames:
                if frame.shape != shape:
                    raise ValueError(f"a frame of shape {frame.shape}, not {shape}")
                at += _write(self._descriptor, np.ascontiguousarray(frame).data.cast("B"), at)
            if at != self.begins[row + 1]:
                raise ValueError("another number of frames")
            os.fsync(self._descriptor)
            _write(self._descriptor, memoryview(b"\1"), row)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            self._is_full = True
            say(
                f"warning: {self.file.parent} is full: clips that are not in it are decoded each time"
            )
            return None
        return self.clip(row)


def _write(descriptor: int, data: memoryview, at: int) -> int:
    """Write all bytes; returns how many they are."""
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], at + done)
    return done


def _open(file: Path, size: int, shared: bool) -> int:
    """A descriptor of a file of a size, which is made if it is not there. In shared memory it is
    locked as long as a process that uses it lives, and the last of them removes it."""
    while True:
        # All users write into shared memory: a link there may lead to a file of this one.
        no_link = os.O_NOFOLLOW if shared else 0
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | no_link, 0o600)
        if shared:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        with suppress(FileNotFoundError):  # the last one removed it meanwhile
            if os.path.samestat(os.fstat(descriptor), file.stat()):
                if file.stat().st_size in (0, size):
                    break
                # Cut short, by a copy that broke off: its flags promise pixels that are gone.
                file.unlink()
        os.close(descriptor)
    os.ftruncate(descriptor, size)
    if shared:
        atexit.register(_release, file)
        _exit_on_sigterm()
    return descriptor


def _exit_on_sigterm() -> None:
    """Let SIGTERM end this process through its exit handlers, if nobody else handles it. The status
    is what a shell gives without them."""
    process, status = os.getpid(), 128 + signal.SIGTERM

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a process that reads clips, between its start and its set-up
            os._exit(status)
        sys.exit(status)

    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, end)


def _release(file: Path) -> None:
    """Close a file, and remove it if it is in shared memory and no other process uses it."""
    if file not in _held:
        return
    descriptor, _ = _held.pop(file)
    if file.parent == _SHARED_MEMORY:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.unlink(missing_ok=True)
    os.close(descriptor)


def _remove_abandoned() -> None:
    """Remove files of shared memory whose processes were killed."""
    for file in _SHARED_MEMORY.glob(f"vcsf-{os.getuid()}-*.frames"):
        with suppress(OSError), file.open("r+b") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.unlink()


def _free_memory() -> int:
    """Bytes of memory that can be taken without swapping: of the machine, and of what it leaves to
    the groups of processes that this one is in."""
    available = [
        1024 * int(line.split()[1])
        for line in _lines("/proc/meminfo")
        if line.startswith("MemAvailable:")
    ]
    return min([*available, *_left_to_groups()], default=0)


def _left_to_groups(
    groups: str = "/proc/self/cgroup", root: str = "/sys/fs/cgroup"
) -> Iterator[int]:
    """Bytes of memory that control groups with a limit may still take: those of a container, of a
    job of Slurm. What they only keep of files is free."""
    for line in _lines(groups):
        _, controllers, path = line.split(":", 2)
        top, limit, used, prefix = Path(root), "memory.max", "memory.current", ""
        if "memory" in controllers.split(","):  # the first version
            top, prefix = top / "memory", "total_"
            limit, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
        elif controllers:
            continue
        group = top / path.strip("/")
        for folder in (group, *group.parents):  # the limit of each holds
            with suppress(OSError, ValueError):  # no such file; "max": no limit
                taken = int((folder / used).read_text()) - int((folder / limit).read_text())
                for name, count in map(str.split, _lines(folder / "memory.stat")):
                    if name in (f"{prefix}active_file", f"{prefix}inactive_file"):
                        taken -= int(count)
                yield max(0, -taken)
            if folder == top:
                break


def _lines(file: str | Path) -> list[str]:
    """Lines of a file of the kernel, none where it is not there."""
    try:
        return Path(file).read_text(encoding="ascii").splitlines()
    except OSError:
        return []
