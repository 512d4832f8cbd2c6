"""Videos in tar files, as WebDataset lays them out: the members of a sample have one name and
different endings."""

from __future__ import annotations

import json
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from vcsf_cli.contracts import RemoteFile, Video
from vcsf_cli.errors import DataError, InputError
from vcsf_cli.narrate import Progress, counted
from vcsf_cli.remote import find_files, is_address, list_files, open_seekable
from vcsf_cli.video import VIDEO_ENDINGS, files_below
from vcsf_plugins.datasets.draw import Drawn
from vcsf_plugins.datasets.listing import decode_text, once
from vcsf_plugins.datasets.own import Share

_ENDING = ".tar"
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_THREADS = 16
"""Tars that are listed at a time: each waits for its server most of the time."""


class WebDataset(Drawn):
    """Videos in tar files of WebDataset: --source is a tar, a folder of them, or such a pattern as
    'videos-{000000..000099}.tar'. A sample's class is in its .cls, or the `label` in its .json.

    Args:
        test_share: Share of test videos; parts are drawn by the `group` in the .json.
        seed: Of the draw; recordings that are prepared already keep their parts.
    """

    origins: ClassVar = dict.fromkeys(("label", "group", "source"), "the tars of --source")

    def __init__(self, root: Path | str, /, *, test_share: Share = 0.25, seed: int = 0) -> None:
        super().__init__(test_share, seed)
        self.root = root

    def videos(self) -> list[Video]:
        """All videos, sorted by name. The tars' headers are read, and their small members.

        Raises:
            InputError: If there is no such tar.
            DataError: If one is damaged or compressed, or there is no video.
            RemoteError: If one can't be reached.
        """
        tars = find_tars(self.root)
        found: list[Video] = []
        with ThreadPoolExecutor(_THREADS) as pool, Progress(len(tars), "tars", "listing") as shown:
            for videos in pool.map(_list_tar, tars, tars.values()):
                found += videos
                shown.advance()
        listed = once(found)
        classes = len({video.label for video in listed} - {None})
        self._remarks = [
            f"{counted(len(listed), 'video')} in {counted(len(tars), 'tar')}, "
            f"{counted(classes, 'class', 'classes')}"
        ]
        return self.draw(listed) if classes else listed


def find_tars(root: Path | str) -> dict[str, Path | str]:
    """The paths or addresses of the tars that a source names, by what names in them begin with.

    Raises:
        InputError: If one is not there.
    """
    places = list(_expand(str(root)))
    if not is_address(places[0]):
        folder = Path(places[0])
        if folder.is_dir():
            tars = [path for path in files_below(folder) if path.suffix == _ENDING]
            return {path.relative_to(folder).with_suffix("").as_posix(): path for path in tars}
        missing = [place for place in places if not Path(place).is_file()]
    elif len(places) == 1 and not places[0].endswith(_ENDING):
        files = list_files(places[0])
        return {
            name.removesuffix(_ENDING): file.address
            for name, file in files.items()
            if name.endswith(_ENDING)
        }
    else:
        there = find_files(places)
        missing = [place for place, file in zip(places, there, strict=True) if file is None]
    if missing:
        raise InputError(
            f"{len(missing):,} of the {len(places):,} tars of --source are not there, such as "
            f"{missing[0]}",
            "look at the numbers of the pattern",
        )
    return {
        PurePosixPath(place).stem: place if is_address(place) else Path(place) for place in places
    }


def _expand(pattern: str) -> Iterator[str]:
    """The names that a pattern with ranges such as `{000..099}` stands for."""
    found = _RANGE.search(pattern)
    if found is None:
        yield pattern
        return
    first, last = found.groups()
    for number in range(int(first), int(last) + 1):
        yield from _expand(
            f"{pattern[: found.start()]}{number:0{len(first)}}{pattern[found.end() :]}"
        )


def _list_tar(name: str, tar: Path | str) -> list[Video]:
    """The videos of a tar."""
    with open_seekable(tar) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as members:
                videos, facts = _read_members(str(tar), members)
        except tarfile.TarError as error:
            raise DataError(
                f"{tar} can't be read as a tar: {error}", "it must be whole, and not compressed"
            ) from error
    found = []
    for key, video in videos.items():
        about = facts.get(key, {})
        label, group = about.get("cls") or about.get("label"), str(about.get("group") or "")
        label = None if label in (None, "") else str(label)
        own = video.member.removeprefix("./")
        found.append(Video(video, f"{name}/{own}", label, group, group))
    return found


def _read_members(
    tar: str, members: tarfile.TarFile
) -> tuple[dict[str, RemoteFile], dict[str, dict[str, Any]]]:
    """The video of each sample, and what its .json and .cls say of it."""
    videos: dict[str, RemoteFile] = {}
    facts: dict[str, dict[str, Any]] = defaultdict(dict)
    for member in members:
        key, ending = _split(member.name)
        if not member.isfile():
            continue
        if PurePosixPath(member.name).suffix.lower() in VIDEO_ENDINGS:
            videos[key] = RemoteFile(tar, member.size, begin=member.offset_data, member=member.name)
        elif ending in ("cls", "json"):
            content = members.extractfile(member)
            assert content is not None
            text = decode_text(content.read())
            facts[key] |= {"cls": text.strip()} if ending == "cls" else _parse(text)
    return videos, facts


def _split(member: str) -> tuple[str, str]:
    """The key and the ending of a member, which begins at the first dot of its name."""
    folder, slash, name = member.removeprefix("./").rpartition("/")
    key, _, ending = name.partition(".")
    return folder + slash + key, ending.lower()


def _parse(text: str) -> dict[str, Any]:
    """The object in a text, an empty one if there is another thing."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
