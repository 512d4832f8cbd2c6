"""Shared by all listings: unique videos, lists of splits, and text from files and names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
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


_by_name = attrgetter("name")


def once(
    videos: Iterable[Video],
    key: Callable[[Video], str] = _by_name,
    place: Path | str = "",
    remarks: Sequence[str] = (),
) -> list[Video]:
    """Videos sorted by name.

    Args:
        videos: The videos.
        key: What no two of them may have alike.
        place: Where they were looked for.
        remarks: Of `left_out`, on other files there.

    Raises:
        DataError: If two have the same key, naming both files; or if there are none.
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
        where, others = f" in {place}" if place else "", "".join(f"; {r}" for r in remarks[:1])
        raise DataError(
            f"no video was found{where}{others}", "look whether --source is the right folder"
        )
    return sorted(found.values(), key=_by_name)


def decode_text(data: bytes) -> str:
    """Bytes as text: UTF-8, or else Latin-1, in which every byte is a letter."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def readable(path: Path) -> str:
    """A path with `/`, as text that any file can hold, whatever bytes its names have."""
    return decode_text(os.fsencode(path.as_posix()))


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a list file that are not blank, numbered from 1."""
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if line.strip():
            yield number, decode_text(line.strip())


def find_lists(
    root: Path, lists: Path | None, is_list: Callable[[str], bool], unpacked: Path | None = None
) -> dict[str, Path]:
    """List files by name, anywhere below `lists` or else `root`; for `unpacked` see `files_below`.

    Raises:
        InputError: If `lists` is not a folder.
        DataError: If one is there twice.
    """
    if lists is not None and not lists.is_dir():
        raise InputError(
            f"--lists {lists} is not a folder", "name the folder that the official lists lie in"
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
    return f"{classes} of {of_classes} classes, {clips:,} of {of_clips:,} clips"
