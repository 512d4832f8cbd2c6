"""Which clips do what: query and gallery, and of a training part those with labels and those held
out, drawn by class, from a seed, by whole recordings.

Clips cut from one recording show the same scene: a clip whose sibling was learned from says nothing
about new videos."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vcsf_cli.contracts import Indices

if TYPE_CHECKING:
    from vcsf_cli.data.manifest import Manifest

Labels = npt.NDArray[np.object_]


@dataclass(frozen=True)
class LabelBudget:
    """How many clips of each class have a label.

    Args:
        text: As a user writes it: `1%`, `10%`, `5-per-class`.
        share: Fraction of a class's clips, or None.
        count: Clips of a class, or None.
    """

    text: str
    share: float | None = None
    count: int | None = None

    @classmethod
    def parse(cls, text: str) -> LabelBudget:
        """What a user wrote.

        Raises:
            ValueError: If it is neither a percentage up to 100 nor a number of clips.
        """
        percent = re.fullmatch(r"(\d+(?:\.\d+)?)%", text)
        number = re.fullmatch(r"(\d+)-per-class", text)
        if percent and 0 < float(percent[1]) <= 100:
            return cls(text, share=float(percent[1]) / 100)
        if number and int(number[1]):
            return cls(text, count=int(number[1]))
        raise ValueError(
            f"`{text}` is neither a percentage nor a number of clips; write 1%, 10% or 5-per-class"
        )

    def of(self, clips: int) -> int:
        """How many of a class's clips have a label: at least one."""
        if self.share is not None:
            return max(1, round(self.share * clips))
        return min(clips, self.count or 1)


def draw_labelled(
    rows: Indices, label: Labels, source: Labels, few: LabelBudget, seed: int
) -> Indices:
    """Rows that have a label: of each class one recording after the other in seeded order, the last
    one perhaps in part.

    Args:
        rows: Rows of the manifest to draw from.
        label: Class of each row of the manifest.
        source: Recording of each row of the manifest.
        few: How many.
        seed: Of the order.
    """
    drawn: list[int] = []
    for number, name in enumerate(sorted(set(label[rows]))):
        members = rows[label[rows] == name]
        order = np.random.default_rng((seed, number)).permutation(sorted(set(source[members])))
        by_recording = [row for recording in order for row in members[source[members] == recording]]
        drawn += by_recording[: few.of(len(members))]
    return np.sort(np.array(drawn, np.int64))


def hold_out(
    rows: Indices, label: Labels, source: Labels, share: float, seed: int
) -> tuple[Indices, Indices]:
    """Rows that learn and rows that choose: whole recordings, about `share` of each class's, at
    least one of each class that can spare one.

    Returns:
        Both parts. Where most classes can't spare a recording all rows learn and none chooses.
    """
    classes = sorted(set(label[rows]))
    recordings = {name: sorted(set(source[rows[label[rows] == name]])) for name in classes}
    left = {name: len(recordings[name]) for name in classes}
    classes_of: dict[object, set[object]] = {}
    for row in rows:
        classes_of.setdefault(source[row], set()).add(label[row])
    held: set[object] = set()
    for number, name in enumerate(classes):
        wanted = max(1, round(share * len(recordings[name]))) - len(
            held.intersection(recordings[name])
        )
        for recording in np.random.default_rng((seed, number)).permutation(recordings[name]):
            if wanted <= 0:
                break
            if recording in held or any(left[each] < 2 for each in classes_of[recording]):
                continue
            held.add(recording)
            wanted -= 1
            for each in classes_of[recording]:
                left[each] -= 1
    without = [name for name in classes if not held.intersection(recordings[name])]
    if 2 * len(without) > len(classes):
        return rows, rows[:0]
    chooses = np.isin(source[rows].astype(str), sorted(map(str, held)))
    return rows[~chooses], rows[chooses]


def missing_classes(train: Indices, test: Indices, label: Labels) -> dict[str, int]:
    """Classes of test rows that no training row has, with their number of test rows."""
    known = set(label[train])
    return dict(sorted(Counter(str(name) for name in label[test] if name not in known).items()))


@dataclass(frozen=True)
class QueryGallery:
    """Who asks and who is searched.

    Args:
        query: Rows of the manifest.
        gallery: Rows of the manifest.
        leave_one_out: Whether both are all clips and a clip is never its own neighbour.
        left_out: Clips of the dataset that take no part, and why, in words.
    """

    query: Indices
    gallery: Indices
    leave_one_out: bool
    left_out: str

    @property
    def rows(self) -> Indices:
        """All rows that need features, in order."""
        return np.unique(np.concatenate([self.query, self.gallery]))


def query_gallery(manifest: Manifest, split: int) -> QueryGallery:
    """Test clips query training clips; without labels or without a test part all clips query the
    others."""
    table = manifest.table
    labelled = table["label"].notna().to_numpy()
    test, train = manifest.part(split, "test"), manifest.part(split, "train")
    test, train = test[labelled[test]], train[labelled[train]]
    if len(test) and len(train):
        outside = len(table) - len(test) - len(train)
        words = (
            f"{outside:,} clips are in neither part of split {split} or have no label"
            if outside
            else "none"
        )
        return QueryGallery(test, train, False, words)
    return QueryGallery(np.arange(len(table)), np.arange(len(table)), True, "none")
