"""What the listings of datasets have in common: finding files, and saying what is wrong with
them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from vcsf_cli.contracts import Video
from vcsf_cli.errors import DataError, InputError
from vcsf_cli.video import files_below


class Listing:
    """Videos that are listed once, with remarks."""

    benchmark = False

    def __init__(self) -> None:
        self._remarks: list[str] = []

    def remarks(self) -> list[str]:
        """Sentences for the user."""
        return list(self._remarks)


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
