"""Splits for videos that come without any: drawn by group, with a seed."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from vcsf_cli.contracts import Video
from vcsf_plugins.datasets.listing import Listing

Parts = tuple[str, str, str]
"""`train`, `test` or empty, in each of three splits."""


class Drawn(Listing):
    """Videos whose splits are drawn where none are given.

    Args:
        test_share: Share of test videos.
        seed: Of the draw.
    """

    needs_source = True
    reads_addresses = True

    def __init__(self, test_share: float, seed: int) -> None:
        super().__init__()
        self.test_share, self.seed = test_share, seed
        self._kept: Mapping[str, Parts] = {}

    def keep_parts(self, parts: Mapping[str, Parts]) -> None:
        """Draw for other recordings than these."""
        self._kept = parts

    def draw(self, videos: list[Video]) -> list[Video]:
        """The videos with drawn splits, and a remark on those that keep theirs."""
        recordings = {_group_name(video) for video in videos}
        if kept := len(recordings & self._kept.keys()):
            new = len(recordings) - kept
            drawn = f"; those of {new:,} new ones are drawn" if new else ""
            self._remarks.append(f"{kept:,} recordings keep the parts that they have{drawn}")
        return draw_splits(videos, self.test_share, self.seed, self._kept)


def draw_splits(
    videos: list[Video],
    test_share: float,
    seed: int,
    kept: Mapping[str, Parts] = MappingProxyType({}),
) -> list[Video]:
    """Three splits by group: about `test_share` of the videos of each class are test, and no group
    is in both parts.

    A group that spans classes goes to one part with all its videos. A class of one group is all
    train. Where a group is test, its videos without label are in no part.

    Args:
        videos: All videos.
        test_share: Share of a class's videos that are test.
        seed: Of the draw.
        kept: Parts by group that stay as they are, empty ones too. The others are drawn so that the
            share holds for old and new videos of a class together.
    """
    members: dict[str, Counter[str]] = defaultdict(Counter)
    for video in videos:
        members[_group_name(video)].update([video.label] if video.label is not None else [])
    drawn = []
    for split in range(3):
        fixed = {group: parts[split] for group, parts in kept.items() if group in members}
        test = _draw_test(members, test_share, random.Random(f"{seed}/{split}"), fixed)
        drawn.append([_choose_part(video, test, fixed) for video in videos])
    return [
        replace(video, split=parts)
        for video, parts in zip(videos, zip(*drawn, strict=True), strict=True)
    ]


def _group_name(video: Video) -> str:
    return video.group or video.name


def _choose_part(video: Video, test: set[str], fixed: Mapping[str, str]) -> str:
    group = _group_name(video)
    if group in test:
        return "test" if video.label is not None else ""
    return fixed.get(group, "train")


def _draw_test(
    members: Mapping[str, Counter[str]],
    test_share: float,
    rng: random.Random,
    fixed: Mapping[str, str],
) -> set[str]:
    """The groups of the test part, those that are there already included.

    Args:
        members: Number of videos by class in each group.
        test_share: Share of a class's videos that are test; more only where its smallest group
            already is more.
        rng: Says the order in which groups are tried.
        fixed: Parts that groups have already.
    """
    members = {group: count for group, count in members.items() if fixed.get(group) != ""}
    order = sorted(members)
    rng.shuffle(order)
    order = [group for group in order if group not in fixed]
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

    for group in members:
        if fixed.get(group) == "test":
            choose(group)
    for group in order:
        fits = all(
            taken[label] + n <= test_share * total[label] for label, n in members[group].items()
        )
        if fits and leaves_train(group):
            choose(group)
    # Better too many test videos than none of a class.
    for group in sorted(order, key=lambda group: members[group].total()):
        if leaves_train(group) and not all(taken[label] for label in members[group]):
            choose(group)
    return chosen
