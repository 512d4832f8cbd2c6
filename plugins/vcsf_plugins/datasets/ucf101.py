"""UCF101 (Soomro, Zamir and Shah, 2012): 13,320 clips of 101 actions, three official splits."""

from __future__ import annotations

import re
from pathlib import Path

from vcsf_cli.contracts import OfficialSize, Video
from vcsf_cli.errors import DataError
from vcsf_cli.narrate import counted
from vcsf_cli.video import videos_below
from vcsf_plugins.datasets.archives import Archive, provide
from vcsf_plugins.datasets.listing import (
    Listing,
    completeness,
    find_lists,
    once,
    read_lines,
)

Parts = dict[str, dict[int, str]]
"""Part by split of every clip that the lists name, by its file's stem in lower case."""

CLASSES, CLIPS = 101, 13_320
NAME = re.compile(r"v_(?P<action>\w+?)_(?P<group>g\d+)_c\d+", re.IGNORECASE)
_SPELLING = {"handstandpushups": "HandstandPushups"}
"""The class that is spelled `HandStandPushups` in its clips' names."""
LISTS = [f"{part}list{split:02d}.txt" for split in (1, 2, 3) for part in ("train", "test")]
SITE = "https://www.crcv.ucf.edu/data/UCF101/"
ARCHIVES = (
    Archive("UCF101.rar"),
    Archive(
        "UCF101TrainTestSplits-RecognitionTask.zip",
        "5c0d1a53b8ed364a2ac830a73f405e51bece7d98ce1254fd19ed4a36b224bd27",
    ),
)


class UCF101(Listing):
    """UCF101: class folders and official lists anywhere below --source, or the official archives.

    Args:
        lists: Folder of the official lists, where they lie elsewhere.
        strict: Refuse an incomplete copy.
        mirror: Address to download the archives from when there is no --source.
    """

    benchmark = True
    recipe = "recipes/vcsf.yaml"
    official_size = OfficialSize(CLIPS, {1: (9_537, 3_783), 2: (9_586, 3_734), 3: (9_624, 3_696)})

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
        provided = provide(self.root, ARCHIVES, self.mirror, LISTS.__contains__, self.lists)
        lists = find_lists(provided.root, self.lists, LISTS.__contains__, provided.unpacked)
        parts, labels = read_parts(lists)
        matches = {
            path: NAME.fullmatch(path.stem)
            for path in videos_below(provided.root, provided.unpacked)
        }
        if matches and not any(matches.values()):
            raise DataError(
                f"none of the {len(matches):,} videos in {provided.root} has a name of UCF101, such as "
                f"v_Archery_g01_c01.avi: {min(path.name for path in matches)}",
                "for videos of your own: vcsf prepare folder",
            )
        videos = once(
            (build_video(path, match, parts, labels) for path, match in matches.items() if match),
            key=parse_clip,
            place=provided.root,
            remarks=provided.left_out(LISTS.__contains__),
        )
        self._remarks = [
            *provided.remarks,
            *self._completeness(videos, lists, set(parts)),
            *provided.left_out(LISTS.__contains__),
        ]
        others = sorted(path.name for path, match in matches.items() if not match)
        if others:
            self._remarks.append(
                f"{counted(len(others), 'video')} left out, whose names are not of UCF101: such as "
                f"{others[0]}"
            )
        return videos

    def _completeness(
        self, videos: list[Video], lists: dict[str, Path], listed: set[str]
    ) -> list[str]:
        count = completeness(len({video.label for video in videos}), CLASSES, len(videos), CLIPS)
        there = {parse_clip(video) for video in videos}
        missing, lost = sorted(listed - there), [name for name in LISTS if name not in lists]
        if self.strict and (missing or lost or len(videos) < CLIPS):
            what = (
                f"; missing are {', '.join((missing or lost)[:3])} ..." if missing or lost else ""
            )
            raise DataError(
                f"UCF101 is not complete: {count}{what}", "leave out --strict to use what is there"
            )
        remarks = [count]
        if lost:
            remarks.append(
                f"lists that were not found: {', '.join(lost)}; --lists DIR says where they are"
            )
        if listed and there - listed:
            remarks.append(
                f"in no list, and so in no split: {counted(len(there - listed), 'clip')}"
            )
        return remarks


def parse_clip(video: Video) -> str:
    """The clip of UCF101 in a file, however its name is spelled and whatever its ending."""
    return video.path.stem.lower()


def build_video(path: Path, match: re.Match[str], parts: Parts, labels: dict[str, str]) -> Video:
    """A clip, its label from the lists or else from its name."""
    key = path.stem.lower()
    label = labels.get(key) or _SPELLING.get(match["action"].lower(), match["action"])
    group = match["group"].lower()
    part = parts.get(key, {})
    split = (part.get(1, ""), part.get(2, ""), part.get(3, ""))
    return Video(path, f"{label}/{path.name}", label, group, f"{label}_{group}", split)


def read_parts(lists: dict[str, Path]) -> tuple[Parts, dict[str, str]]:
    """Part by split, and label, of every clip that the lists name.

    Raises:
        DataError: If a line is wrong, or a clip is in both parts of a split.
    """
    parts: Parts = {}
    labels: dict[str, str] = {}
    for name, path in sorted(lists.items()):
        part, split = name.partition("list")[0], int(name[-5])
        for number, line in read_lines(path):
            label, slash, file = line.split()[0].partition("/")
            if not slash:
                raise DataError(
                    f"{path}:{number}: `{line}` is not `Class/v_Class_g01_c01.avi`",
                    "is it the official list?",
                )
            key = Path(file).stem.lower()
            if parts.setdefault(key, {}).setdefault(split, part) != part:
                raise DataError(
                    f"{path}:{number}: {file} is in both parts of split {split}",
                    "use the official lists",
                )
            labels[key] = label
    return parts, labels
