"""UCF101 (Soomro, Zamir and Shah, 2012): 13,320 clips of 101 actions, three official splits."""

from __future__ import annotations

import re
from pathlib import Path

from vcsf_cli.contracts import Video
from vcsf_cli.errors import DataError
from vcsf_plugins.datasets.archives import Archive, provide
from vcsf_plugins.datasets.listing import NO_SPLIT, Listing, completeness, find_lists, once, read_lines, videos_below

CLASSES, CLIPS = 101, 13_320
NAME = re.compile(r"v_(?P<action>\w+?)_(?P<group>g\d+)_c\d+", re.IGNORECASE)
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
    """The clips below a folder and the official lists; see `ucf101`."""

    def __init__(self, root: Path, lists: Path | None, strict: bool, mirror: str) -> None:
        super().__init__(benchmark=True)
        self.root, self.lists, self.strict, self.mirror = root, lists, strict, mirror

    def videos(self) -> list[Video]:
        """All clips, sorted by name.

        Raises:
            DataError: If there are none, one is there twice, or with `strict` some are missing.
        """
        root = provide(self.root, ARCHIVES, self.mirror)
        lists = find_lists(root, self.lists, LISTS)
        parts, labels = read_parts(lists)
        found = [self._video(path, parts, labels) for path in videos_below(root) if NAME.match(path.stem)]
        videos = once(video for video in found if video is not None)
        self._remark(videos, lists, set(parts))
        return videos

    def _video(self, path: Path, parts: dict[str, dict[int, str]], labels: dict[str, str]) -> Video | None:
        match = NAME.match(path.stem)
        if match is None:
            return None
        # `v_HandStandPushups_g01_c01.avi` lies in `HandstandPushups`: the lists' spelling of the folder is the label.
        key = path.stem.lower()
        label = labels.get(key, path.parent.name)
        group = match["group"].lower()
        by_split = parts.get(key, {})
        split = tuple(by_split.get(number, "") for number in (1, 2, 3))
        return Video(
            path,
            f"{label}/{path.name}",
            label,
            group,
            f"{label}_{group}",
            (split[0], split[1], split[2]) if by_split else NO_SPLIT,
        )

    def _remark(self, videos: list[Video], lists: dict[str, Path], listed: set[str]) -> None:
        classes = {video.label for video in videos}
        count = completeness(len(classes), CLASSES, len(videos), CLIPS)
        if self.strict and (len(videos) < CLIPS or len(lists) < len(LISTS)):
            missing = sorted(listed - {video.path.stem.lower() for video in videos})
            lost = ", ".join(name for name in LISTS if name not in lists)
            what = f"such as {', '.join(missing[:3])}" if missing else f"and the lists {lost}" if lost else ""
            raise DataError(
                f"UCF101 is not complete: {count} {what}".strip(), "leave out --strict to use what is there"
            )
        self._remarks = [count]
        if len(lists) < len(LISTS):
            lost = ", ".join(name for name in LISTS if name not in lists)
            self._remarks.append(f"lists that were not found: {lost}; --lists DIR says where they are")
        unlisted = sum(video.path.stem.lower() not in listed for video in videos)
        if unlisted and listed:
            self._remarks.append(f"{unlisted:,} clips are in no list: they belong to no split")


def read_parts(lists: dict[str, Path]) -> tuple[dict[str, dict[int, str]], dict[str, str]]:
    """Part by split, and label, of every clip that the lists name, by its file's stem in lower case.

    Raises:
        DataError: If a line is none of such a list, or a clip is in both parts of a split.
    """
    parts: dict[str, dict[int, str]] = {}
    labels: dict[str, str] = {}
    for name, path in sorted(lists.items()):
        part, split = name.partition("list")[0], int(name[-5])
        for number, line in enumerate(read_lines(path), start=1):
            label, slash, file = line.split()[0].partition("/")
            if not slash:
                raise DataError(
                    f"{path}:{number}: `{line}` is no `Class/v_Class_g01_c01.avi`", "is it the official list?"
                )
            key = Path(file).stem.lower()
            if parts.setdefault(key, {}).setdefault(split, part) != part:
                raise DataError(f"{path}:{number}: {file} is in both parts of split {split}", "use the official lists")
            labels[key] = label
    return parts, labels


def ucf101(root: Path, /, *, lists: Path | None = None, strict: bool = False, mirror: str = SITE) -> UCF101:
    """UCF101: class folders and official lists anywhere below --source, or the official archives.

    Args:
        lists: Folder of the official lists, where they lie elsewhere.
        strict: Refuse an incomplete copy.
        mirror: Address to download the archives from when there is no --source.
    """
    return UCF101(root, lists, strict, mirror)
