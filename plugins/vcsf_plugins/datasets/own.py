"""A person's own videos: a folder of them, or a CSV file that lists them."""

from __future__ import annotations

import csv
import io
import os
import random
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal

from annotated_types import Interval

from vcsf_cli.contracts import Video
from vcsf_cli.errors import DataError, InputError
from vcsf_cli.video import videos_below
from vcsf_plugins.datasets.listing import Listing, once, readable

Share = Annotated[float, Interval(gt=0, lt=1)]
Parts = tuple[str, str, str]
"""Part in each split."""
PARTS = ("train", "test", "")
COLUMNS = ("video", "label", "group", "part")


class Drawn(Listing):
    """Videos whose parts are drawn where none are given.

    Args:
        test_share: Share of test videos.
        seed: Of the draw.
    """

    needs_source = True

    def __init__(self, test_share: float, seed: int) -> None:
        super().__init__()
        self.test_share, self.seed = test_share, seed
        self._kept: Mapping[str, Parts] = {}

    def keep_parts(self, parts: Mapping[str, Parts]) -> None:
        """Leave recordings in the parts that they have already; `videos` then draws for the others
        alone."""
        self._kept = parts

    def draw(self, videos: list[Video]) -> list[Video]:
        """Videos with drawn parts."""
        recordings = {_recording_name(video) for video in videos}
        kept = len(recordings & self._kept.keys())
        if kept:
            new = len(recordings) - kept
            drawn = f"; those of {new:,} new ones are drawn" if new else ""
            self._remarks.append(f"{kept:,} recordings keep the parts that they have{drawn}")
        return draw_splits(videos, self.test_share, self.seed, self._kept)


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
        root: Path,
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
                f"--group-pattern {group_pattern!r} is no regular expression: {error}"
            ) from error

    def videos(self) -> list[Video]:
        """All videos, sorted by name.

        Raises:
            DataError: If there are none, the pattern fits none, or the splits don't fit the videos.
        """
        if not self.root.is_dir():
            raise InputError(
                f"--source {self.root} is no folder", "for a list of videos use `vcsf prepare csv`"
            )
        paths = list(videos_below(self.root))
        names = {path: readable(path.relative_to(self.root)) for path in paths}
        labelled = self._labelled(list(names.values()))
        videos = once(
            Video(path, name, name.split("/")[0] if labelled else None, self._group(name))
            for path, name in names.items()
        )
        videos = [replace(video, source=video.group) for video in videos]
        self._remarks = [
            f"{len(videos):,} videos, " + self._about_labels(videos),
            *self._about_groups(videos),
        ]
        if self.splits is not None:
            videos = _read_splits(self.splits, videos)
            left_out = sum(not any(video.split) for video in videos)
            self._remarks += (
                [f"{left_out:,} videos are in no part of {self.splits}"] if left_out else []
            )
            return videos
        return self.draw(videos) if labelled else videos

    def _labelled(self, names: list[str]) -> bool:
        """Whether the first folder of a video is its class: if so asked, or if all lie in at least
        two folders."""
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

    def _about_labels(self, videos: list[Video]) -> str:
        if _label_set(videos):
            return f"{len(_label_set(videos))} classes"
        why = (
            " (they don't lie in folders of classes: see --labels)" if self.labels == "auto" else ""
        )
        return f"unlabelled{why}"

    def _about_groups(self, videos: list[Video]) -> list[str]:
        if self.group_pattern is None:
            return []
        single = [video.name for video in videos if not video.group]
        if len(single) == len(videos):
            raise DataError(
                f"--group-pattern {self.group_pattern.pattern!r} fits none of the videos, such as "
                f"{single[0]}",
                "it is searched for in the path below --source",
            )
        return (
            [f"--group-pattern doesn't fit {len(single):,} videos, such as {single[0]}"]
            if single
            else []
        )

    def _group(self, name: str) -> str:
        match = self.group_pattern.search(name) if self.group_pattern else None
        if match is None:
            return ""
        return (
            match.groupdict().get("group") or (match.group(1) if match.re.groups else match.group())
        ) or ""


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

    def __init__(self, root: Path, /, *, test_share: Share = 0.25, seed: int = 0) -> None:
        super().__init__(test_share, seed)
        self.root = root

    def videos(self) -> list[Video]:
        """All videos, sorted by name.

        Raises:
            InputError: If the source is no file.
            DataError: With every line that is wrong.
        """
        if not self.root.is_file():
            raise InputError(
                f"--source {self.root} is no file",
                "for a folder of videos use `vcsf prepare folder`",
            )
        lines = read_table(self.root, required=("video",), known=COLUMNS)
        problems: list[str] = []
        videos: list[Video] = []
        seen: dict[str, int] = {}
        for number, line in lines:
            path = self.root.parent / line["video"]
            name = _relative_name(path, self.root.parent)
            if not line["video"]:
                problems.append(f"line {number}: it names no video")
            elif name in seen:
                problems.append(f"line {number}: {line['video']} is on line {seen[name]} too")
            elif not path.is_file():
                problems.append(f"line {number}: there is no file {path}")
            seen.setdefault(name, number)
            group, part = line.get("group", ""), line.get("part", "")
            if part not in PARTS:
                problems.append(f"line {number}: part `{part}` is not train, test or empty")
            videos.append(
                Video(path, name, line.get("label") or None, group, group, (part, "", ""))
            )
        _raise_problems(self.root, problems + _straddling(videos))
        videos = once(videos)
        self._remarks = [f"{len(videos):,} videos, {len(_label_set(videos))} classes"]
        if any(video.split[0] for video in videos):
            return videos
        return self.draw(videos) if _label_set(videos) else videos


def _label_set(videos: Iterable[Video]) -> set[str]:
    """The labels there are."""
    return {video.label for video in videos if video.label is not None}


def _relative_name(path: Path, root: Path) -> str:
    """A video's name in the manifest: its path below a folder, or all of its path without the
    leading slash.

    Links are not followed: a video that is one has the link's name.
    """
    absolute, folder = (Path(os.path.normpath(each.absolute())) for each in (path, root))
    if absolute.is_relative_to(folder):
        return readable(absolute.relative_to(folder))
    return readable(absolute).lstrip("/").replace(":", "")


def _raise_problems(path: Path, problems: list[str]) -> None:
    """One error for all problems of a file, if there are any."""
    if problems:
        shown = "\n".join(f"  - {problem}" for problem in problems[:20])
        more = f"\n  - and {len(problems) - 20} more" if len(problems) > 20 else ""
        count = f"{len(problems)} problems" if len(problems) > 1 else "a problem"
        raise DataError(f"{path} has {count}\n{shown}{more}", "mend these lines")


def read_table(
    path: Path, required: tuple[str, ...], known: tuple[str, ...]
) -> list[tuple[int, dict[str, str]]]:
    """The lines of a CSV file with a header, numbered as an editor does.

    Raises:
        DataError: If it is no such file, or lacks a column.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} can't be read as UTF-8 text: {error}", "save it as CSV, UTF-8"
        ) from error
    header = text.partition("\n")[0]
    delimiter = ";" if ";" in header and "," not in header else ","
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter, strict=True)
    columns = [name.strip() for name in reader.fieldnames or []]
    missing, unknown = (
        [c for c in required if c not in columns],
        [c for c in columns if c not in known],
    )
    if missing or unknown:
        what = (
            f"lacks the column `{missing[0]}`"
            if missing
            else f"has an unknown column `{unknown[0]}`"
        )
        raise DataError(f"{path} {what}", f"its first line names columns, of {', '.join(known)}")
    reader.fieldnames = columns
    try:
        lines = [(reader.line_num, line) for line in reader]
    except csv.Error as error:
        hint = "look for a quotation mark that is not closed"
        raise DataError(f"{path}, line {reader.line_num + 1}: {error}", hint) from error
    if not lines:
        raise DataError(f"{path} lists no video", "put one video on every line after the first")
    too_long = [
        f"line {number}: it has more cells than the first line"
        for number, line in lines
        if None in line
    ]
    _raise_problems(path, too_long)
    return [
        (number, {key: (value or "").strip() for key, value in line.items()})
        for number, line in lines
    ]


def _read_splits(path: Path, videos: list[Video]) -> list[Video]:
    """Videos with the parts that a file `video,part[,split]` gives them; a line without split is of
    split 1.

    Raises:
        DataError: With every line that is wrong.
    """
    if not path.is_file():
        raise InputError(f"--splits {path} is no file", "give a CSV file `video,part[,split]`")
    parts: dict[str, list[str]] = {video.name: ["", "", ""] for video in videos}
    problems = []
    for number, line in read_table(path, ("video", "part"), ("video", "part", "split")):
        name, part, split = (
            PurePosixPath(line["video"]).as_posix(),
            line["part"],
            line.get("split") or "1",
        )
        if name not in parts:
            problems.append(f"line {number}: there is no video {name}")
        elif part not in PARTS:
            problems.append(f"line {number}: part `{part}` is not train, test or empty")
        elif split not in ("1", "2", "3"):
            problems.append(f"line {number}: split `{split}` is not 1, 2 or 3")
        elif parts[name][int(split) - 1] not in ("", part):
            problems.append(f"line {number}: {name} is in both parts of split {split}")
        else:
            parts[name][int(split) - 1] = part
    divided = [replace(video, split=three(parts[video.name])) for video in videos]
    _raise_problems(path, problems + _straddling(divided))
    return divided


def three(parts: list[str]) -> Parts:
    """The parts in the three splits."""
    first, second, third = parts
    return first, second, third


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


def _recording_name(video: Video) -> str:
    """The name of what a video was cut from: its group, or its own."""
    return video.group or video.name


def draw_splits(
    videos: list[Video],
    test_share: float,
    seed: int,
    kept: Mapping[str, Parts] = MappingProxyType({}),
) -> list[Video]:
    """Three seeded splits by group: of each class about `test_share` of the videos are test, and no
    group is in both parts. A group that spans classes goes to one part with all its videos; a class
    of one group is all train; a video without label is in no part where its group is test.

    Args:
        videos: All videos.
        test_share: Share of a class's videos that are test.
        seed: Of the draw.
        kept: The parts that groups have already, by name. The others are drawn so that of each
            class, old and new videos together, about `test_share` are test. A group that was left
            out of a split stays out of it.
    """
    members: dict[str, Counter[str]] = defaultdict(Counter)
    for video in videos:
        members[_recording_name(video)].update([video.label] if video.label is not None else [])

    def draw(split: int) -> tuple[set[str], set[str]]:
        """The groups of the test part, and those in no part."""
        fixed = {group: parts[split] for group, parts in kept.items() if group in members}
        out = {group for group, part in fixed.items() if not part}
        test = {group for group, part in fixed.items() if part == "test"}
        candidates = {group: count for group, count in members.items() if group not in out}
        rng = random.Random(f"{seed}/{split}")
        return _draw_test(candidates, test_share, rng, test, fixed.keys() - out - test), out

    drawn = [draw(split) for split in range(3)]

    def part(video: Video, split: int) -> str:
        test, out = drawn[split]
        group = _recording_name(video)
        if group in out:
            return ""
        if group not in test:
            return "train"
        return "test" if video.label is not None else ""

    return [
        replace(video, split=(part(video, 0), part(video, 1), part(video, 2))) for video in videos
    ]


def _draw_test(
    members: dict[str, Counter[str]],
    test_share: float,
    rng: random.Random,
    test: Collection[str] = (),
    train: Collection[str] = (),
) -> set[str]:
    """Draw the groups of the test part.

    Args:
        members: Number of videos by class in each group.
        test_share: Share of a class's videos that are test; more only where its smallest group
            already is more.
        rng: Says the order in which groups are tried.
        test: Groups that are in the test part already.
        train: Groups that are in the training part already.
    """
    order = sorted(members)
    rng.shuffle(order)
    order = [group for group in order if group not in test and group not in train]
    total = sum(members.values(), Counter())
    left = Counter(label for count in members.values() for label in count)
    taken: Counter[str] = Counter()
    chosen: set[str] = set()

    def choose(group: str) -> None:
        chosen.add(group)
        taken.update(members[group])
        left.subtract(list(members[group]))

    def leaves_train(group: str) -> bool:
        return bool(members[group]) and all(left[label] > 1 for label in members[group])

    for group in test:
        choose(group)
    for group in order:
        fits = all(
            taken[label] + n <= test_share * total[label] for label, n in members[group].items()
        )
        if fits and leaves_train(group):
            choose(group)
    for group in sorted(
        order, key=lambda group: members[group].total()
    ):  # better too much test than none of a class
        if leaves_train(group) and not all(taken[label] for label in members[group]):
            choose(group)
    return chosen
