"""Helpers for plugins: finding video files, a base for readers, and resizing."""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from vcsf_cli import remote
from vcsf_cli.contracts import Frame, Frames, RemoteFile
from vcsf_cli.errors import DataError

VIDEO_ENDINGS = frozenset({
    ".264", ".265", ".3g2", ".3gp", ".3gpp", ".amv", ".asf", ".avi", ".dav", ".divx", ".dv",
    ".f4v", ".flc", ".fli", ".flv", ".gif", ".gxf", ".h264", ".h265", ".hevc", ".insv", ".ivf",
    ".m1v", ".m2p", ".m2t", ".m2ts", ".m2v", ".m4v", ".mj2", ".mjpeg", ".mjpg", ".mk3d", ".mkv",
    ".mod", ".mov", ".mp4", ".mp4v", ".mpe", ".mpeg", ".mpg", ".mpv", ".mts", ".mxf", ".nsv",
    ".nut", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".tod", ".tp", ".trp", ".ts", ".vob", ".webm",
    ".wmv", ".wtv", ".xvid", ".y4m",
})  # fmt: skip
"""Of the containers and raw streams of video that FFmpeg reads, in lower case."""
_NAMED = 3
"""How many folders without a video a remark names."""


class SequentialReader(ABC):
    """An open video that is always decoded from its start, and so exact whatever the container.

    Args:
        path: The file.
        fps: Frames per second as the container says, 0.0 if unknown.
        declared: Number of frames that there should be, 0 if unknown.
    """

    def __init__(self, path: Path, fps: float, declared: int) -> None:
        self.path, self.fps, self.declared = path, fps, declared

    @abstractmethod
    def stream(self) -> Iterator[Frame]:
        """All frames in presentation order, in bounded memory."""

    @cached_property
    def _length(self) -> int:
        return sum(1 for _ in self.stream())

    def __len__(self) -> int:
        """Number of frames that decode; the first call decodes them all."""
        return self._length

    def read(self, indices: Sequence[int], size: int | None = None) -> Frames:
        """The frames `indices`, any order, repeats allowed: uint8 (T, H, W, 3), short side at most
        `size` if given.

        Raises:
            IndexError: If there is no such frame.
        """
        wanted = set(indices)
        found: dict[int, Frames] = {}
        for number, frame in enumerate(self.stream()):
            if number in wanted:
                found[number] = frame.image if size is None else short_side(frame.image, size)
            if len(found) == len(wanted):
                break
        missing = wanted - found.keys()
        if missing:
            raise IndexError(f"there is no frame {min(missing)} in {self.path}")
        return np.stack([found[index] for index in indices])


def short_side(image: Frames, size: int, pixel_aspect: float = 1.0) -> Frames:
    """An image with square pixels, scaled down to a short side of `size`; a smaller one keeps its
    size. `pixel_aspect` is the width of its pixels by their height."""
    height, width = image.shape[:2]
    shape = width * max(1.0, pixel_aspect), height / min(1.0, pixel_aspect)
    scale = min(1.0, size / min(shape))
    if shape == (width, height) and scale == 1.0:
        return image
    width, height = (max(min(size, round(side)), round(side * scale)) for side in shape)
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def files_below(root: Path, unpacked: Path | None = None) -> Iterator[Path]:
    """All files below a folder in sorted order, without hidden ones; links are followed once. Pipes,
    devices and sockets are left out, as reading one may never end.

    Args:
        root: The folder.
        unpacked: A folder in it where archives were unpacked: no link there is followed or listed,
            as users link folders and videos into their datasets, but archives are not trusted.

    Raises:
        DataError: If a folder can't be read.
    """
    return (path for path in _walk(root, unpacked) if not _is_special(path))


def _is_special(path: Path) -> bool:
    """Whether it is a pipe, a device or a socket, or a link to one."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:  # a link that leads nowhere: reading it says so
        return False


def _walk(root: Path, unpacked: Path | None) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise DataError(
            f"{error.filename} can't be read: {error.strerror}", "look at its permissions"
        ) from error

    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(root, onerror=refuse, followlinks=True):
        state = Path(folder).stat()
        if (state.st_dev, state.st_ino) in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        names = sorted(name for name in names if not name.startswith("."))
        if unpacked is not None and Path(folder).is_relative_to(unpacked):
            folders[:] = [name for name in folders if not Path(folder, name).is_symlink()]
            names = [name for name in names if stat.S_ISREG(Path(folder, name).lstat().st_mode)]
        yield from (Path(folder, name) for name in names)


def videos_below(root: Path, unpacked: Path | None = None) -> Iterator[Path]:
    """The files below a folder with the ending of a video; see `files_below`."""
    return (path for path in files_below(root, unpacked) if _is_video(path))


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_ENDINGS


def videos_in(root: Path | str) -> tuple[dict[str, Path | RemoteFile], list[str]]:
    """The videos below a folder, or below an address, by their path from there, and remarks on what
    is left out.

    Raises:
        DataError: If a folder can't be read.
        RemoteError: If the address can't be reached.
    """
    if isinstance(root, Path):
        found = {path.relative_to(root).as_posix(): path for path in videos_below(root)}
        return {**found}, left_out(root)
    files = remote.list_files(root)
    videos = {name: file for name, file in files.items() if _is_video(Path(name))}
    others = Counter(_ending(Path(name)) for name in files if name not in videos)
    return {**videos}, _count_left_out(others)


def left_out(
    root: Path, unpacked: Path | None = None, used: Callable[[str], bool] | None = None
) -> list[str]:
    """Remarks on the files below a folder that `videos_below` leaves out: how many there are of
    each ending, and which folders hold no video at all.

    Args:
        root: The folder.
        unpacked: As of `files_below`.
        used: Whether the file of a name is used in another way, such as a list of splits.
    """
    others: Counter[str] = Counter()
    of_use, without = {root, *root.parents}, []
    for path in _walk(root, unpacked):
        special = _is_special(path)
        if (_is_video(path) and not special) or (used is not None and used(path.name)):
            of_use.update(path.parents)
        else:
            others["pipes or devices" if special else _ending(path)] += 1
            without.append(path)
    remarks = _count_left_out(others)
    outermost = dict.fromkeys(
        above.relative_to(root).as_posix()
        for path in without
        if (above := next((a for a in reversed(path.parents) if a not in of_use), None))
    )
    if outermost:
        more = f" and {len(outermost) - _NAMED:,} more" if len(outermost) > _NAMED else ""
        remarks.append(
            f"warning: folders without a video: {', '.join([*outermost][:_NAMED])}{more}"
        )
    return remarks


def _ending(path: Path) -> str:
    return path.suffix.lower() or "without ending"


def _count_left_out(others: Counter[str]) -> list[str]:
    if not others:
        return []
    return ["left out: " + ", ".join(f"{n:,} {what}" for what, n in others.most_common())]
