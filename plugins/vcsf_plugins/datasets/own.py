"""A person's own videos: a folder of them, or a CSV file that lists them."""

from __future__ import annotations

import csv as csv_module
import io
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Interval

from vcsf_cli.contracts import Video
from vcsf_cli.errors import DataError, InputError
from vcsf_plugins.datasets.listing import Listing, once, videos_below

Share = Annotated[float, Interval(gt=0, lt=1)]
PARTS = ("train", "test", "")
COLUMNS = ("video", "label", "group", "part")


class Folder(Listing):
    """Videos below a folder; see `folder`."""

    def __init__(
        self, root: Path, labels: str, group_pattern: str | None, splits: Path | None, test_share: float, seed: int
    ) -> None:
        super().__init__(benchmark=False)
        self.root, self.labels, self.splits, self.test_share, self.seed = root, labels, splits, test_share, seed
        try:
            self.group_pattern = re.compile(group_pattern) if group_pattern else None
        except re.error as error:
            raise InputError(f"--group-pattern {group_pattern!r} is no regular expression: {error}") from error

    def videos(self) -> list[Video]:
        """All videos, sorted by name.

        Raises:
            DataError: If there are none, the pattern fits none, or the splits don't fit the videos.
        """
        if not self.root.is_dir():
            raise InputError(f"--source {self.root} is no folder", "for a list of videos use `vcsf prepare csv`")
        paths = list(videos_below(self.root))
        names = {path: path.relative_to(self.root).as_posix() for path in paths}
        labelled = self._labelled(list(names.values()))
        videos = once(
            Video(path, name, name.split("/")[0] if labelled else None, self._group(name))
            for path, name in names.items()
        )
        videos = [replace(video, source=video.group) for video in videos]
        if self.group_pattern and not any(video.group for video in videos):
            raise DataError(
                f"--group-pattern {self.group_pattern.pattern!r} fits none of the videos, such as {videos[0].name}",
                "it is searched for in the path below --source",
            )
        self._remarks = [
            f"{len(videos):,} videos" + (f", {len(classes_of(videos))} classes" if labelled else ", unlabelled")
        ]
        if self.splits is not None:
            return read_splits(self.splits, videos)
        return draw_splits(videos, self.test_share, self.seed) if labelled else videos

    def _labelled(self, names: list[str]) -> bool:
        """Whether the first folder of a video is its class: if so asked, or if all lie in at least two folders."""
        if self.labels != "auto":
            return self.labels == "folder"
        firsts = {name.partition("/")[0] for name in names}
        return len(firsts) > 1 and all(name.count("/") == 1 for name in names)

    def _group(self, name: str) -> str:
        match = self.group_pattern.search(name) if self.group_pattern else None
        if match is None:
            return ""
        return (match.groupdict().get("group") or (match.group(1) if match.re.groups else match.group())) or ""


class Listed(Listing):
    """Videos that a CSV file lists; see `csv`."""

    def __init__(self, root: Path, test_share: float, seed: int) -> None:
        super().__init__(benchmark=False)
        self.root, self.test_share, self.seed = root, test_share, seed

    def videos(self) -> list[Video]:
        """All videos, sorted by name.

        Raises:
            DataError: With every line that is wrong.
        """
        lines = read_table(self.root, required=("video",), known=COLUMNS)
        problems: list[str] = []
        videos: list[Video] = []
        seen: dict[str, int] = {}
        for number, line in lines:
            path = Path(line["video"])
            path = path if path.is_absolute() else self.root.parent / path
            name = relative_name(path, self.root.parent)
            if name in seen:
                problems.append(f"line {number}: {line['video']} is on line {seen[name]} too")
            seen.setdefault(name, number)
            if not path.is_file():
                problems.append(f"line {number}: there is no file {path}")
            if line.get("part", "") not in PARTS:
                problems.append(f"line {number}: part `{line['part']}` is not train, test or empty")
            group, part = line.get("group", ""), line.get("part", "")
            videos.append(Video(path, name, line.get("label") or None, group, group, (part, "", "")))
        raise_problems(self.root, problems)
        videos = once(videos)
        self._remarks = [f"{len(videos):,} videos, {len(classes_of(videos))} classes"]
        if any(video.split[0] for video in videos):
            raise_problems(self.root, straddling(videos))
            return videos
        return draw_splits(videos, self.test_share, self.seed) if classes_of(videos) else videos


def classes_of(videos: Iterable[Video]) -> set[str]:
    """The labels there are."""
    return {video.label for video in videos if video.label is not None}


def relative_name(path: Path, root: Path) -> str:
    """A video's name in the manifest: its path below a folder, or all of its path without the leading slash."""
    try:
        return path.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        return path.resolve().as_posix().lstrip("/").replace(":", "")


def raise_problems(path: Path, problems: list[str]) -> None:
    """One error for all problems of a file, if there are any."""
    if problems:
        shown = "\n".join(f"  - {problem}" for problem in problems[:20])
        more = f"\n  - and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise DataError(f"{path} has {len(problems)} problems\n{shown}{more}", "mend these lines")


def read_table(path: Path, required: tuple[str, ...], known: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """The lines of a CSV file with a header, numbered as an editor does.

    Raises:
        DataError: If it is no such file, or lacks a column.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} can't be read as UTF-8 text: {error}", "save it as CSV, UTF-8") from error
    header = text.partition("\n")[0]
    reader = csv_module.DictReader(io.StringIO(text), delimiter=";" if ";" in header and "," not in header else ",")
    columns = [name.strip() for name in reader.fieldnames or []]
    missing, unknown = [c for c in required if c not in columns], [c for c in columns if c not in known]
    if missing or unknown:
        what = f"lacks the column `{missing[0]}`" if missing else f"has an unknown column `{unknown[0]}`"
        raise DataError(f"{path} {what}", f"its first line names columns, of {', '.join(known)}")
    reader.fieldnames = columns
    lines = [(reader.line_num, {k: (v or "").strip() for k, v in line.items() if k}) for line in reader]
    if not lines:
        raise DataError(f"{path} lists no video", "put one video on every line after the first")
    return lines


def read_splits(path: Path, videos: list[Video]) -> list[Video]:
    """Videos with the parts that a file `video,part[,split]` gives them; a line without split is of split 1.

    Raises:
        DataError: With every line that is wrong.
    """
    by_name = {video.name: video for video in videos}
    parts: dict[str, list[str]] = {name: ["", "", ""] for name in by_name}
    problems = []
    for number, line in read_table(path, ("video", "part"), ("video", "part", "split")):
        name, part, split = line["video"], line["part"], line.get("split") or "1"
        if name not in by_name:
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
    raise_problems(path, problems or straddling(divided))
    return divided


def three(parts: list[str]) -> tuple[str, str, str]:
    """The parts in the three splits."""
    first, second, third = parts
    return first, second, third


def straddling(videos: list[Video]) -> list[str]:
    """Groups that are in both parts of a split, in words."""
    problems = []
    for split in range(3):
        parts: dict[str, set[str]] = defaultdict(set)
        for video in videos:
            if video.group and video.split[split]:
                parts[video.group].add(video.split[split])
        problems += [
            f"group {group} is in both parts of split {split + 1}" for group in sorted(parts) if len(parts[group]) > 1
        ]
    return problems


def draw_splits(videos: list[Video], test_share: float, seed: int) -> list[Video]:
    """Three seeded splits by group: of each class about `test_share` of the videos are test, and no group is in both
    parts. A group that spans classes goes to one part with all its videos; a class of one group is all train."""
    members: dict[str, list[Video]] = defaultdict(list)
    for video in videos:
        members[video.group or video.name].append(video)
    tests: list[set[str]] = []
    for split in range(3):
        order = sorted(members)
        random.Random(f"{seed}/{split}").shuffle(order)
        total = Counter(video.label for video in videos)
        groups = Counter(label for group in members.values() for label in {video.label for video in group})
        taken: Counter[str | None] = Counter()
        chosen: set[str] = set()
        for group in order:
            count = Counter(video.label for video in members[group])
            fits = all(taken[label] + n <= max(n, test_share * total[label]) for label, n in count.items())
            leaves_one = all(groups[label] > 1 for label in count)
            if fits and leaves_one and any(taken[label] < test_share * total[label] for label in count):
                chosen.add(group)
                taken += count
                groups -= Counter(dict.fromkeys(count, 1))
        tests.append(chosen)

    def part(video: Video, split: int) -> str:
        if video.label is None:
            return "train"
        return "test" if (video.group or video.name) in tests[split] else "train"

    return [replace(video, split=(part(video, 0), part(video, 1), part(video, 2))) for video in videos]


def folder(
    root: Path,
    /,
    *,
    labels: Literal["auto", "folder", "none"] = "auto",
    group_pattern: str | None = None,
    splits: Path | None = None,
    test_share: Share = 0.25,
    seed: int = 0,
) -> Folder:
    """Videos of your own below --source, in folders named after their classes or without labels.

    Args:
        labels: Whether the first folder is the class; auto: if every video lies in one of several folders.
        group_pattern: Regular expression whose first group, found in a video's path, says what never straddles a split.
        splits: CSV file `video,part[,split]` with train and test parts; else they are drawn by group.
        test_share: Share of test videos when parts are drawn.
        seed: Of the draw.
    """
    return Folder(root, labels, group_pattern, splits, test_share, seed)


def csv(root: Path, /, *, test_share: Share = 0.25, seed: int = 0) -> Listed:
    """Videos that a CSV file --source lists: `video,label[,group][,part]`, paths relative to the file.

    Args:
        test_share: Share of test videos when no part is given and parts are drawn by group.
        seed: Of the draw.
    """
    return Listed(root, test_share, seed)
