"""What the listings of datasets have in common: finding files, and saying what is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from vcsf_cli.contracts import Video
from vcsf_cli.errors import DataError

VIDEO_ENDINGS = frozenset({".avi", ".mp4", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv"})
NO_SPLIT = ("", "", "")


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


def files_below(root: Path) -> Iterator[Path]:
    """All files below a folder but hidden ones, in sorted order; links are followed once."""
    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        state = Path(folder).stat()
        if (state.st_dev, state.st_ino) in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(folder) / name


def videos_below(root: Path) -> Iterator[Path]:
    """All files below a folder whose ending is a video's."""
    return (path for path in files_below(root) if path.suffix.lower() in VIDEO_ENDINGS)


def once(videos: Iterable[Video]) -> list[Video]:
    """Videos sorted by name.

    Raises:
        DataError: If two have the same name, naming both files; or if there are none.
    """
    found: dict[str, Video] = {}
    for video in videos:
        other = found.setdefault(video.name, video)
        if other is not video:
            raise DataError(
                f"{video.name} is there twice: {other.path} and {video.path}", "leave only one of them below --source"
            )
    if not found:
        raise DataError("no video was found", "look whether --source is the right folder")
    return [found[name] for name in sorted(found)]


def read_lines(path: Path) -> list[str]:
    """The lines of a list file that hold something; bytes that are no UTF-8 are read as Latin-1."""
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return [line.strip() for line in text.splitlines() if line.strip()]


def find_lists(root: Path, lists: Path | None, names: Iterable[str]) -> dict[str, Path]:
    """List files by name, anywhere below `lists` or else `root`.

    Raises:
        DataError: If one is there twice.
    """
    wanted = set(names)
    found: dict[str, Path] = {}
    for path in files_below(lists or root):
        if path.name not in wanted:
            continue
        other = found.setdefault(path.name, path)
        if other != path and other.read_bytes() != path.read_bytes():
            raise DataError(
                f"the list {path.name} is there twice: {other} and {path}",
                "name the folder of the right one with --lists",
            )
    return found


def completeness(classes: int, of_classes: int, clips: int, of_clips: int) -> str:
    """How much of a dataset is there, in words."""
    return f"{classes} of {of_classes} classes, {clips:,} of {of_clips:,} clips"
