"""What the listings of datasets have in common: finding files, and saying what is wrong with
them."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from vcsf_cli.contracts import Video
from vcsf_cli.errors import DataError, InputError

VIDEO_ENDINGS = frozenset(
    {".avi", ".mp4", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv"}
)


class Listing:
    """Videos that are listed once, with remarks.

    Args:
        benchmark: Whether clips are already cut as the benchmark wants them.
    """

    def __init__(self, benchmark: bool) -> None:
        self.benchmark = benchmark
        self._remarks: list[str] = []

    def remarks(self) -> list[str]:
        """Sentences for the user."""
        return list(self._remarks)


def files_below(root: Path, unpacked: Path | None = None) -> Iterator[Path]:
    """All files below a folder but hidden ones, in sorted order; links are followed once.

    Args:
        root: The folder.
        unpacked: What archives were unpacked into: in this folder no link is followed or listed.
            People link folders and videos into their datasets, but a link in an archive is somebody
            else's.

    Raises:
        DataError: If a folder can't be read.
    """

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
    """All files below a folder whose ending is a video's; see `files_below`."""
    return (path for path in files_below(root, unpacked) if path.suffix.lower() in VIDEO_ENDINGS)


def by_name(video: Video) -> str:
    """What tells videos apart where nothing else does."""
    return video.name


def once(videos: Iterable[Video], key: Callable[[Video], str] = by_name) -> list[Video]:
    """Videos sorted by name.

    Args:
        videos: In any order.
        key: What no two videos may share.

    Raises:
        DataError: If two share their key, naming both files; or if there are none.
    """
    found: dict[str, Video] = {}
    for video in videos:
        other = found.setdefault(key(video), video)
        if other is not video:
            raise DataError(
                f"{video.name} is there twice: {other.path} and {video.path}",
                "leave only one of them below --source",
            )
    if not found:
        raise DataError("no video was found", "look whether --source is the right folder")
    return sorted(found.values(), key=by_name)


def decode_text(data: bytes) -> str:
    """Bytes as text; what is no UTF-8 is read as Latin-1, in which every byte is a letter."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def readable(path: Path) -> str:
    """A path with `/`, as text that can be written to any file, whatever bytes its names are made
    of."""
    return decode_text(os.fsencode(path.as_posix()))


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a list file that hold something, numbered from 1."""
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if line.strip():
            yield number, decode_text(line.strip())


def find_lists(
    root: Path, lists: Path | None, is_list: Callable[[str], bool], unpacked: Path | None = None
) -> dict[str, Path]:
    """List files by name, anywhere below `lists` or else `root`; for `unpacked` see `files_below`.

    Raises:
        InputError: If `lists` is no folder.
        DataError: If one is there twice.
    """
    if lists is not None and not lists.is_dir():
        raise InputError(
            f"--lists {lists} is no folder", "name the folder that the official lists lie in"
        )
    found: dict[str, Path] = {}
    for path in files_below(lists or root, unpacked):
        if not is_list(path.name):
            continue
        other = found.setdefault(path.name, path)
        if other != path:
            raise DataError(
                f"the list {path.name} is there twice: {other} and {path}",
                "name the folder of the right one with --lists",
            )
    return found


def completeness(classes: int, of_classes: int, clips: int, of_clips: int) -> str:
    """How much of a dataset is there, in words."""
    return f"{classes} of {of_classes} classes, {clips:,} of {of_clips:,} clips"
