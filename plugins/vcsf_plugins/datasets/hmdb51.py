"""HMDB51 (Kuehne et al., ICCV 2011): 6,766 clips of 51 actions, three official splits."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from vcsf_cli.contracts import OfficialSize, Video
from vcsf_cli.errors import DataError
from vcsf_cli.narrate import counted
from vcsf_cli.video import VIDEO_ENDINGS, videos_below
from vcsf_plugins.datasets.archives import Archive, provide
from vcsf_plugins.datasets.listing import (
    Listing,
    completeness,
    find_lists,
    once,
    read_lines,
    readable,
)

CLASSES, CLIPS = 51, 6_766
_FLAGS = {"0": "", "1": "train", "2": "test"}
_CLASS_LIST = re.compile(r"(?P<label>.+)_test_split(?P<split>[123])\.txt")
_FLAT_LIST = re.compile(r"(?P<part>train|test)list0(?P<split>[123])\.txt")
SITE = "https://serre-lab.clps.brown.edu/wp-content/uploads/2013/10/"
ARCHIVES = (Archive("hmdb51_org.rar"), Archive("test_train_splits.rar"))

Clip = tuple[str, str]
"""Class and file name without its ending, both in lower case."""

Parts = dict[Clip, dict[int, str]]
"""Part by split of every clip that the lists name."""


class HMDB51(Listing):
    """HMDB51: class folders and official lists anywhere below --source, or the official archives.

    Args:
        lists: Folder of the official lists, where they lie elsewhere.
        strict: Refuse an incomplete copy.
        mirror: Address to download the archives from when there is no --source.
    """

    benchmark = True
    recipe = "recipes/vcsf_hmdb51.yaml"
    official_size = OfficialSize(CLIPS, {1: (3_570, 1_530), 2: (3_570, 1_530), 3: (3_570, 1_530)})

    def __init__(
        self, root: Path, /, *, lists: Path | None = None, strict: bool = False, mirror: str = SITE
    ) -> None:
        super().__init__()
        self.root, self.lists, self.strict, self.mirror = root, lists, strict, mirror

    def videos(self) -> list[Video]:
        """All clips, sorted by name.

        Raises:
            DataError: If there are none, one is there twice, or with `strict` some are missing.
        """
        provided = provide(self.root, ARCHIVES, self.mirror, is_list, self.lists)
        parts = read_parts(find_lists(provided.root, self.lists, is_list, provided.unpacked))
        videos = once(
            (build_video(path, parts) for path in videos_below(provided.root, provided.unpacked)),
            key=lambda v: "/".join(parse_clip(v)),
            place=provided.root,
            remarks=provided.left_out(is_list),
        )
        count = completeness(len({video.label for video in videos}), CLASSES, len(videos), CLIPS)
        lost = [
            str(split) for split in (1, 2, 3) if not any(split in part for part in parts.values())
        ]
        if self.strict and (len(videos) < CLIPS or lost):
            what = f"; missing are the lists of split {', '.join(lost)}" if lost else ""
            raise DataError(
                f"HMDB51 is not complete: {count}{what}", "leave out --strict to use what is there"
            )
        self._remarks = [*provided.remarks, count, *provided.left_out(is_list)]
        if lost:
            self._remarks.append(
                f"no lists of split {', '.join(lost)} were found; --lists DIR says where they are"
            )
        unlisted = sum(parse_clip(video) not in parts for video in videos)
        if parts and unlisted:
            self._remarks.append(f"in no list, and so in no split: {counted(unlisted, 'clip')}")
        return videos


def is_list(name: str) -> bool:
    """Whether a file is a list, official or of one part."""
    return bool(_CLASS_LIST.fullmatch(name) or _FLAT_LIST.fullmatch(name))


def read_parts(lists: dict[str, Path]) -> Parts:
    """The parts in lists of either form.

    Raises:
        DataError: If a line is wrong, or a clip is in two parts of a split.
    """
    parts: Parts = {}
    for name, path in sorted(lists.items()):
        match = _CLASS_LIST.fullmatch(name)
        entries = (
            _class_list(path, match["label"])
            if match
            else _flat_list(path, name.partition("list")[0])
        )
        split = int(name[-5])
        for number, clip, part in entries:
            if parts.setdefault(clip, {}).setdefault(split, part) != part:
                raise DataError(
                    f"{path}:{number}: {'/'.join(clip)} is in two parts of split {split}",
                    "use the official lists",
                )
    return parts


def _class_list(path: Path, label: str) -> Iterator[tuple[int, Clip, str]]:
    """Line number, clip and part from an official list: `name.avi 0|1|2` a line, where the name may
    hold spaces."""
    for number, line in read_lines(path):
        name, _, flag = line.rpartition(" ")
        if flag not in _FLAGS or not name:
            raise DataError(
                f"{path}:{number}: `{line}` is not `name.avi 0|1|2`", "is it the official list?"
            )
        yield number, (label.lower(), _video_stem(name)), _FLAGS[flag]


def _flat_list(path: Path, part: str) -> Iterator[tuple[int, Clip, str]]:
    """Line number, clip and part from a list of one part: `class/name 0` a line."""
    for number, line in read_lines(path):
        label, slash, name = re.sub(r"\s+\d+$", "", line).partition("/")
        if not slash:
            raise DataError(
                f"{path}:{number}: `{line}` is not `class/name 0`", "is it a list of HMDB51?"
            )
        yield number, (label.lower(), _video_stem(name)), part


def _video_stem(name: str) -> str:
    """A file name without a video's ending, in lower case; other dots belong to the name."""
    stem, dot, ending = name.strip().rpartition(".")
    known = f"{dot}{ending.lower()}" in VIDEO_ENDINGS
    return unicodedata.normalize("NFC", stem if known else name.strip()).lower()


def parse_clip(video: Video) -> Clip:
    label, _, name = video.name.partition("/")
    return label.lower(), _video_stem(name)


def build_video(path: Path, parts: Parts) -> Video:
    """A clip; its recording is the part of its file name before the class."""
    label, name = readable(path.parent).rpartition("/")[2], readable(path).rpartition("/")[2]
    part = parts.get((label.lower(), _video_stem(name)), {})
    named = re.match(rf"(.+)_{re.escape(label)}_", name, re.IGNORECASE)
    recording = named[1] if named else _video_stem(name)
    split = (part.get(1, ""), part.get(2, ""), part.get(3, ""))
    return Video(path, f"{label}/{name}", label, recording, recording, split)
