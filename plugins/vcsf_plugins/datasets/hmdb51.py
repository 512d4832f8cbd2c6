"""HMDB51 (Kuehne et al., ICCV 2011): 6,766 clips of 51 actions, three official splits."""

from __future__ import annotations

import re
from pathlib import Path

from vcsf_cli.contracts import Video
from vcsf_cli.errors import DataError
from vcsf_plugins.datasets.archives import Archive, provide
from vcsf_plugins.datasets.listing import Listing, completeness, files_below, find_lists, once, read_lines, videos_below

CLASSES, CLIPS = 51, 6_766
FLAGS = {"0": "", "1": "train", "2": "test"}
CLASS_LIST = re.compile(r"(?P<label>.+)_test_split(?P<split>[123])\.txt")
FLAT_LISTS = [f"{part}list{split:02d}.txt" for split in (1, 2, 3) for part in ("train", "test")]
SITE = "https://serre-lab.clps.brown.edu/wp-content/uploads/2013/10/"
ARCHIVES = (Archive("hmdb51_org.rar"), Archive("test_train_splits.rar"))

Parts = dict[tuple[str, str], list[str]]
"""Part in each split, by class and file name in lower case."""


class HMDB51(Listing):
    """The clips below a folder and the official lists; see `hmdb51`."""

    def __init__(self, root: Path, lists: Path | None, strict: bool, mirror: str) -> None:
        super().__init__(benchmark=True)
        self.root, self.lists, self.strict, self.mirror = root, lists, strict, mirror

    def videos(self) -> list[Video]:
        """All clips, sorted by name.

        Raises:
            DataError: If there are none, one is there twice, or with `strict` some are missing.
        """
        root = provide(self.root, ARCHIVES, self.mirror)
        parts = self._parts(root)
        videos = once(video_of(path, parts) for path in videos_below(root))
        count = completeness(len({video.label for video in videos}), CLASSES, len(videos), CLIPS)
        if self.strict and (len(videos) < CLIPS or not parts):
            raise DataError(f"HMDB51 is not complete: {count}", "leave out --strict to use what is there")
        self._remarks = [count]
        if not parts:
            self._remarks.append(
                "no official lists were found: clips belong to no split; --lists DIR says where they are"
            )
        return videos

    def _parts(self, root: Path) -> Parts:
        where = self.lists or root
        parts: Parts = {}
        seen: dict[str, Path] = {}
        for path in files_below(where):
            match = CLASS_LIST.fullmatch(path.name)
            if not match:
                continue
            other = seen.setdefault(path.name, path)
            if other != path and other.read_bytes() != path.read_bytes():
                raise DataError(
                    f"the list {path.name} is there twice: {other} and {path}", "name the right one with --lists"
                )
            read_class_list(path, match["label"], int(match["split"]), parts)
        for name, path in find_lists(root, self.lists, FLAT_LISTS).items():
            read_flat_list(path, name.partition("list")[0], int(name[-5]), parts)
        return parts


def read_class_list(path: Path, label: str, split: int, parts: Parts) -> None:
    """An official list: `name.avi 0|1|2` a line, where the name may hold spaces.

    Raises:
        DataError: If a line is none of that form.
    """
    for number, line in enumerate(read_lines(path), start=1):
        name, _, flag = line.rpartition(" ")
        if flag not in FLAGS or not name:
            raise DataError(f"{path}:{number}: `{line}` is no `name.avi 0|1|2`", "is it the official list?")
        parts.setdefault((label.lower(), stem_of(name)), ["", "", ""])[split - 1] = FLAGS[flag]


def read_flat_list(path: Path, part: str, split: int, parts: Parts) -> None:
    """A list of one part: `class/name 0` a line.

    Raises:
        DataError: If a line is none of that form.
    """
    for number, line in enumerate(read_lines(path), start=1):
        entry = line.rpartition(" ")[0] or line
        label, slash, name = entry.partition("/")
        if not slash:
            raise DataError(f"{path}:{number}: `{line}` is no `class/name 0`", "is it a list of HMDB51?")
        parts.setdefault((label.lower(), stem_of(name)), ["", "", ""])[split - 1] = part


def stem_of(name: str) -> str:
    """A file name without a video's ending, in lower case; other dots belong to the name."""
    return re.sub(r"\.avi$", "", name.strip(), flags=re.IGNORECASE).lower()


def video_of(path: Path, parts: Parts) -> Video:
    """A clip; its recording is what its file name says before the class."""
    label = path.parent.name
    split = parts.get((label.lower(), stem_of(path.name)), ["", "", ""])
    recording = re.split(rf"_{re.escape(label)}_", path.stem, maxsplit=1, flags=re.IGNORECASE)[0]
    return Video(path, f"{label}/{path.name}", label, recording, recording, (split[0], split[1], split[2]))


def hmdb51(root: Path, /, *, lists: Path | None = None, strict: bool = False, mirror: str = SITE) -> HMDB51:
    """HMDB51: class folders and official lists anywhere below --source, or the official archives.

    Args:
        lists: Folder of the official lists, where they lie elsewhere.
        strict: Refuse an incomplete copy.
        mirror: Address to download the archives from when there is no --source.
    """
    return HMDB51(root, lists, strict, mirror)
