"""A person's own videos: a folder of them, or a CSV file that lists them."""

from __future__ import annotations

import csv
import io
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Annotated, ClassVar, Literal

from annotated_types import Interval

from vcsf_cli.contracts import Video
from vcsf_cli.errors import DataError, InputError
from vcsf_cli.narrate import counted
from vcsf_cli.remote import beside, find_files, read_bytes
from vcsf_cli.video import videos_in
from vcsf_plugins.datasets.draw import Drawn
from vcsf_plugins.datasets.listing import once, readable

Share = Annotated[float, Interval(gt=0, lt=1)]
_PARTS = ("train", "test", "")
_SHOWN_CLASSES = 4


class Folder(Drawn):
    """Videos of your own below --source, in folders named after their classes or without labels.

    Args:
        labels: Whether the first folder is the class; auto: if every video lies in one of several
            folders.
        group_pattern: Regular expression whose first group, found in a video's path, says what
            never straddles a split.
        splits: CSV file `video,part[,split]` with train and test parts; else they are drawn by
            group.
        test_share: Share of test videos when parts are drawn.
        seed: Of the draw; recordings that are prepared already keep their parts.
    """

    origins: ClassVar = {
        "label": "--labels and the folders' names",
        "group": "--group-pattern",
        "source": "--group-pattern",
    }

    def __init__(
        self,
        root: Path | str,
        /,
        *,
        labels: Literal["auto", "folder", "none"] = "auto",
        group_pattern: str | None = None,
        splits: Path | None = None,
        test_share: Share = 0.25,
        seed: int = 0,
    ) -> None:
        super().__init__(test_share, seed)
        self.root, self.labels, self.splits = root, labels, splits
        try:
            self.group_pattern = re.compile(group_pattern) if group_pattern else None
        except re.error as error:
            raise InputError(
                f"--group-pattern {group_pattern!r} is not a regular expression: {error}"
            ) from error

    def videos(self) -> list[Video]:
        """All videos, sorted by name.

        Raises:
            InputError: If the source is not a folder.
            DataError: If there are none, the pattern fits none, or the splits don't fit the videos.
        """
        if isinstance(self.root, Path) and not self.root.is_dir():
            raise InputError(
                f"--source {self.root} is not a folder",
                "for a list of videos use `vcsf prepare csv`",
            )
        found, remarks = videos_in(self.root)
        names = [readable(Path(name)) for name in found]
        labelled = self._are_labelled(names)
        videos = []
        for path, name in zip(found.values(), names, strict=True):
            label, group = name.split("/")[0] if labelled else None, self._find_group(name)
            videos.append(Video(path, name, label, group, source=group))
        videos = once(videos, place=self.root, remarks=remarks)
        self._remarks = [
            f"{counted(len(videos), 'video')}, {self._describe_labels(videos)}",
            *remarks,
        ]
        self._check_groups(videos)
        if self.splits is None:
            return self.draw(videos) if labelled else videos
        videos = _read_splits(self.splits, videos)
        if unused := sum(not any(video.split) for video in videos):
            self._remarks.append(f"in no part of {self.splits}: {counted(unused, 'video')}")
        return videos

    def _are_labelled(self, names: list[str]) -> bool:
        """Whether the first folder of a video is its class; auto: if all lie directly in one of at
        least two folders."""
        loose = [name for name in names if "/" not in name]
        if self.labels == "folder" and loose:
            raise DataError(
                f"{loose[0]} lies in no folder that would be its class",
                "--labels none needs no folders",
            )
        if self.labels != "auto":
            return self.labels == "folder"
        firsts = {name.partition("/")[0] for name in names}
        return len(firsts) > 1 and all(name.count("/") == 1 for name in names)

    def _describe_labels(self, videos: list[Video]) -> str:
        if count := _count_classes(videos):
            said = counted(count, "class", "classes")
            if self.labels != "auto":
                return said
            names = sorted({video.label for video in videos if video.label})
            more = ", ..." if count > _SHOWN_CLASSES else ""
            return (
                f"{said}, named as the folders ({', '.join(names[:_SHOWN_CLASSES])}{more}); "
                "--labels none if these are no classes"
            )
        if self.labels == "auto":
            return "unlabelled (they don't lie in folders of classes: see --labels)"
        return "unlabelled"

    def _find_group(self, name: str) -> str:
        match = self.group_pattern.search(name) if self.group_pattern else None
        if match is None:
            return ""
        first = match.group(1) if match.re.groups else match.group()
        return match.groupdict().get("group") or first or ""

    def _check_groups(self, videos: list[Video]) -> None:
        single = [video.name for video in videos if not video.group]
        if self.group_pattern is None or not single:
            return
        if len(single) == len(videos):
            raise DataError(
                f"--group-pattern {self.group_pattern.pattern!r} fits none of the videos, such as "
                f"{single[0]}",
                "it is searched for in the path below --source",
            )
        self._remarks.append(
            f"--group-pattern doesn't fit {counted(len(single), 'video')}, such as {single[0]}"
        )


class Table(Drawn):
    """Videos that a CSV file --source lists: `video,label[,group][,part]`, paths relative to the
    file.

    Args:
        test_share: Share of test videos when no part is given and parts are drawn by group.
        seed: Of the draw; recordings that are prepared already keep their parts.
    """

    origins: ClassVar = {
        "label": "the column `label` of --source",
        "group": "the column `group` of --source",
        "source": "the column `group` of --source",
    }

    def __init__(self, root: Path | str, /, *, test_share: Share = 0.25, seed: int = 0) -> None:
        super().__init__(test_share, seed)
        self.root = root

    def videos(self) -> list[Video]:
        """All videos, sorted by name.

        Raises:
            InputError: If the source is not a file.
            DataError: With every line that is wrong.
        """
        if isinstance(self.root, Path) and not self.root.is_file():
            raise InputError(
                f"--source {self.root} is not a file",
                "for a folder of videos use `vcsf prepare folder`",
            )
        problems: list[str] = []
        videos: list[Video] = []
        seen: dict[str, int] = {}
        lines = _read_table(self.root, "video", known=("label", "group", "part"))
        places = [_locate(self.root, line["video"]) for _, line in lines]
        files = find_files([place for place, _ in places])
        for (number, line), (place, name), path in zip(lines, places, files, strict=True):
            if not line["video"]:
                problems.append(f"line {number}: it names no video")
            elif name in seen:
                problems.append(f"line {number}: {line['video']} is on line {seen[name]} too")
            elif path is None or (isinstance(path, Path) and not path.is_file()):
                problems.append(f"line {number}: there is no file {place}")
            seen.setdefault(name, number)
            if path is None:
                continue
            group, part = line.get("group", ""), line.get("part", "")
            if part not in _PARTS:
                problems.append(f"line {number}: part `{part}` is not train, test or empty")
            videos.append(
                Video(path, name, line.get("label") or None, group, group, (part, "", ""))
            )
        _raise_problems(self.root, problems + _straddling(videos))
        videos = once(videos)
        classes = _count_classes(videos)
        self._remarks = [f"{counted(len(videos), 'video')}, {counted(classes, 'class', 'classes')}"]
        if classes and not any(video.split[0] for video in videos):
            return self.draw(videos)
        return videos


def _count_classes(videos: list[Video]) -> int:
    return len({video.label for video in videos} - {None})


def _locate(table: Path | str, video: str) -> tuple[Path | str, str]:
    """The path or the address of a video that a table names, and the video's name."""
    place = beside(table, video)
    if isinstance(place, Path):
        return place, _relative_name(place, Path(table).parent)
    folder = f"{str(table).rpartition('/')[0]}/"
    return place, place.removeprefix(folder).rpartition("://")[2].lstrip("/")


def _relative_name(path: Path, root: Path) -> str:
    """A video's name: its path below a folder, else its whole path without the leading slash.

    Links are not followed: a video that is one has the link's name.
    """
    absolute, folder = (Path(os.path.normpath(each.absolute())) for each in (path, root))
    if absolute.is_relative_to(folder):
        return readable(absolute.relative_to(folder))
    return readable(absolute).lstrip("/").replace(":", "")


def _read_splits(path: Path, videos: list[Video]) -> list[Video]:
    """Videos with the parts in a file `video,part[,split]`; a line without split is of split 1.

    Raises:
        InputError: If there is no such file.
        DataError: With every line that is wrong.
    """
    if not path.is_file():
        raise InputError(f"--splits {path} is not a file", "give a CSV file `video,part[,split]`")
    parts: dict[str, list[str]] = {video.name: ["", "", ""] for video in videos}
    problems = []
    for number, line in _read_table(path, "video", "part", known=("split",)):
        name, part = PurePosixPath(line["video"]).as_posix(), line["part"]
        split = line.get("split") or "1"
        if name not in parts:
            problems.append(f"line {number}: there is no video {name}")
        elif part not in _PARTS:
            problems.append(f"line {number}: part `{part}` is not train, test or empty")
        elif split not in ("1", "2", "3"):
            problems.append(f"line {number}: split `{split}` is not 1, 2 or 3")
        elif parts[name][int(split) - 1] not in ("", part):
            problems.append(f"line {number}: {name} is in both parts of split {split}")
        else:
            parts[name][int(split) - 1] = part
    divided = [
        replace(video, split=(first, second, third))
        for video, (first, second, third) in zip(videos, parts.values(), strict=True)
    ]
    _raise_problems(path, problems + _straddling(divided))
    return divided


def _straddling(videos: list[Video]) -> list[str]:
    """Groups that are in both parts of a split, in words."""
    problems = []
    for split in range(3):
        parts: dict[str, set[str]] = defaultdict(set)
        for video in videos:
            if video.group and video.split[split] in ("train", "test"):
                parts[video.group].add(video.split[split])
        problems += [
            f"group {group} is in both parts of split {split + 1}"
            for group in sorted(parts)
            if len(parts[group]) > 1
        ]
    return problems


def _read_table(
    path: Path | str, *required: str, known: tuple[str, ...]
) -> list[tuple[int, Mapping[str, str]]]:
    """The lines of a CSV file with a header, numbered as an editor does.

    Args:
        path: The file, or its address; columns are separated by commas or semicolons.
        required: Columns that it must have.
        known: Columns that it may have.

    Raises:
        DataError: If it is not such a file.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} can't be read as UTF-8 text: {error}", "save it as CSV, UTF-8"
        ) from error
    header = text.partition("\n")[0]
    delimiter = ";" if ";" in header and "," not in header else ","
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter, strict=True)
    columns = [name.strip() for name in reader.fieldnames or []]
    found = f", its columns are {', '.join(columns)}" if columns else ""
    problems = [f"lacks the column `{name}`{found}" for name in required if name not in columns]
    problems += [
        f"has an unknown column `{name}`" for name in columns if name not in (*required, *known)
    ]
    if problems:
        raise DataError(
            f"{path} {problems[0]}",
            f"its first line names columns, of {', '.join((*required, *known))}",
        )
    reader.fieldnames = columns
    try:
        lines = [(reader.line_num, line) for line in reader]
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num + 1}: {error}",
            "look for a quotation mark that is not closed",
        ) from error
    if not lines:
        raise DataError(f"{path} lists no video", "put one video on every line after the first")
    _raise_problems(
        path,
        [
            f"line {number}: it has more cells than the first line"
            for number, line in lines
            if None in line
        ],
    )
    return [
        (number, {key: (value or "").strip() for key, value in line.items()})
        for number, line in lines
    ]


def _raise_problems(path: Path | str, problems: list[str]) -> None:
    """Raise one error for all problems of a file, if there are any."""
    if problems:
        shown = "\n".join(f"  - {problem}" for problem in problems[:20])
        more = f"\n  - and {len(problems) - 20} more" if len(problems) > 20 else ""
        count = f"{len(problems)} problems" if len(problems) > 1 else "a problem"
        raise DataError(f"{path} has {count}\n{shown}{more}", "mend these lines")
