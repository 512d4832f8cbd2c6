"""Which clips do what: query and gallery; and of the training part, those with labels and those
held out, drawn by class and by whole recordings from a seed.

Clips of one recording show the same scene: after training on one of them, the others say nothing
about new videos."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vcsf_cli.contracts import Indices
from vcsf_cli.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from vcsf_cli.data.manifest import Manifest

Labels = npt.NDArray[np.object_]
PARTS = ("train", "test")


@dataclass(frozen=True)
class LabelBudget:
    """How many clips of each class have a label.

    Args:
        share: Fraction of a class's clips, or None.
        count: Clips of a class, or None.
    """

    text: str
    share: float | None = None
    count: int | None = None

    @classmethod
    def parse(cls, text: str) -> LabelBudget:
        """Read `1%`, `10%`, `5-per-class`.

        Raises:
            ValueError: If it is neither a percentage up to 100 nor a number of clips.
        """
        percent = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]+)?)%", text)
        number = re.fullmatch(r"([0-9]{1,9})-per-class", text)
        if percent and 0 < float(percent[1]) <= 100:
            return cls(text, share=float(percent[1]) / 100)
        if number and int(number[1]):
            return cls(text, count=int(number[1]))
        raise ValueError(
            f"`{text}` is neither a percentage nor a number of clips; write 1%, 10% or 5-per-class"
        )

    def number(self, clips: int) -> int:
        """How many clips of a class have a label: at least one."""
        if self.share is not None:
            return max(1, round(self.share * clips))
        return min(clips, self.count or 1)


def draw_labelled(
    rows: Indices, label: Labels, source: Labels, budget: LabelBudget, seed: int
) -> Indices:
    """Rows that have a label: recording by recording in seeded order for each class, perhaps only a
    part of the last one.

    Args:
        rows: Rows of the manifest to draw from.
        label: Class of each row of the manifest.
        source: Recording of each row of the manifest.
        seed: Of the order.
    """
    drawn: list[int] = []
    for number, name in enumerate(sorted(set(label[rows]))):
        members = rows[label[rows] == name]
        order = np.random.default_rng((seed, number)).permutation(sorted(set(source[members])))
        by_recording = [row for recording in order for row in members[source[members] == recording]]
        drawn += by_recording[: budget.number(len(members))]
    return np.sort(np.array(drawn, np.int64))


def hold_out(
    rows: Indices, label: Labels, source: Labels, share: float, seed: int
) -> tuple[Indices, Indices]:
    """Rows to train on and rows to choose settings with: whole recordings, about `share` of each
    class's, at least one of each class that has another. None is held out if most classes have one
    recording only."""
    classes = sorted(set(label[rows]))
    recordings = {name: sorted(set(source[rows[label[rows] == name]])) for name in classes}
    left = {name: len(recordings[name]) for name in classes}
    classes_in: dict[object, set[object]] = {}
    for row in rows:
        classes_in.setdefault(source[row], set()).add(label[row])
    held: set[object] = set()
    for number, name in enumerate(classes):
        wanted = max(1, round(share * len(recordings[name]))) - len(
            held.intersection(recordings[name])
        )
        for recording in np.random.default_rng((seed, number)).permutation(recordings[name]):
            if wanted <= 0:
                break
            if recording in held or any(left[each] < 2 for each in classes_in[recording]):
                continue
            held.add(recording)
            wanted -= 1
            for each in classes_in[recording]:
                left[each] -= 1
    without = [name for name in classes if not held.intersection(recordings[name])]
    if 2 * len(without) > len(classes):
        return rows, rows[:0]
    validation = np.isin(source[rows].astype(str), sorted(map(str, held)))
    return rows[~validation], rows[validation]


def missing_classes(train: Indices, test: Indices, label: Labels) -> dict[str, int]:
    """Number of test rows by class, of classes without a training row."""
    known = set(label[train])
    return dict(sorted(Counter(str(name) for name in label[test] if name not in known).items()))


@dataclass(frozen=True)
class QueryGallery:
    """Rows of the manifest that search, and rows that are searched.

    Args:
        leave_one_out: Whether both are the same clips, and none of its own group is a clip's
            neighbour.
        left_out: How many other clips there are, and why, in words.
        scored: Whether hits are counted: without labels there are none.
        group: The number of each row's group, (rows of the manifest,); used if `leave_one_out`.
    """

    query: Indices
    gallery: Indices
    leave_one_out: bool
    left_out: str
    scored: bool
    group: Indices

    @property
    def description(self) -> str:
        """Who searches where."""
        if not self.leave_one_out:
            return f"{len(self.query):,} test clips query {len(self.gallery):,} training clips"
        groups = len(np.unique(self.group[self.query]))
        others = "the others"
        if groups < len(self.query):
            others = f"those of other groups ({groups:,} groups)"
        return f"every one of {len(self.query):,} clips queries {others}"

    @property
    def rows(self) -> Indices:
        """All rows that need features, sorted."""
        return np.unique(np.concatenate([self.query, self.gallery]))


def group_numbers(manifest: Manifest) -> Indices:
    """The number of each clip's group, or of its recording where the dataset names no group."""
    group, source = (manifest.table[name].astype(str) for name in ("group", "source"))
    named = np.where(group != "", "group " + group, "source " + source)
    return np.unique(named, return_inverse=True)[1].astype(np.int64)


def check_groups(manifest: Manifest, rows: Indices) -> None:
    """Check that clips are of several groups, so that one can be left out.

    Raises:
        InputError: If they aren't.
    """
    if len(np.unique(group_numbers(manifest)[rows])) < 2:
        raise InputError(
            f"{manifest.name} has one group only: no clip has a neighbour in another one",
            "prepare it with groups (--group-pattern, or the column `group`)",
        )


def count_alone(label: Labels, rows: Indices, group: Indices) -> int:
    """Number of rows whose class is in no other group."""
    found = Counter(label[rows])
    classes = {(label[row], group[row]) for row in rows}
    groups = Counter(name for name, _ in classes)
    return sum(count for name, count in found.items() if groups[name] == 1)


def query_gallery(manifest: Manifest, split: int, leave_one_out: bool = False) -> QueryGallery:
    """Test clips query training clips; without labels or test clips, all clips query the others.

    Args:
        leave_one_out: Whether all clips with a label query those of other groups; without labels
            all clips do.
    """
    table = manifest.table
    labelled = table["label"].notna().to_numpy()
    if leave_one_out:
        rows = np.flatnonzero(labelled) if labelled.any() else np.arange(len(table))
        outside = len(table) - len(rows)
        words = f"{outside:,} clips have no label" if outside else "none"
        group = group_numbers(manifest)
        return QueryGallery(rows, rows, True, words, bool(labelled.any()), group)
    test, train = manifest.part(split, "test"), manifest.part(split, "train")
    test, train = test[labelled[test]], train[labelled[train]]
    if len(test) and len(train):
        outside = len(table) - len(test) - len(train)
        words = (
            f"{outside:,} clips are in neither part of split {split} or have no label"
            if outside
            else "none"
        )
        return QueryGallery(test, train, False, words, True, np.arange(len(table)))
    every = np.arange(len(table))
    return QueryGallery(every, every, True, "none", False, every)


def equal_clips(table: pd.DataFrame, rows: Indices, others: Indices) -> Indices:
    """Those of some rows of a manifest whose frames, or whose videos' files, equal those of one of
    some other rows."""
    equal = np.zeros(len(rows), bool)
    for name in ("sha256", "original"):
        digests = table[name].astype(object)
        equal |= digests.iloc[rows].isin({*digests.iloc[others]} - {""}).to_numpy(bool)
    return rows[equal]


def count_equal_across(table: pd.DataFrame, rows: Indices, group: Indices) -> int:
    """Number of some rows of a manifest whose frames, or whose videos' files, equal those of
    another of these rows in another group."""
    equal = np.zeros(len(rows), bool)
    for name in ("sha256", "original"):
        clips = table[[name]].iloc[rows].astype(object).assign(group=group[rows])
        several = clips.drop_duplicates()[name].duplicated(keep=False)
        shared = {*clips.drop_duplicates()[name][several]} - {""}
        equal |= clips[name].isin(shared).to_numpy(bool)
    return int(equal.sum())


def describe_duplicates(table: pd.DataFrame) -> list[str]:
    """Remarks on clips of a manifest with the same frames that a user would not expect: of two
    classes, or in both parts of a split."""
    same = table[table.duplicated("sha256", keep=False)]
    frames = same.groupby("sha256")
    across = np.zeros(len(same), bool)
    for split in (1, 2, 3):
        parts = same[f"split{split}"]
        both = [parts.eq(part).groupby(same["sha256"]).transform("any") for part in PARTS]
        across |= (both[0] & both[1] & parts.isin(PARTS)).to_numpy(bool)
    kinds = {
        "in another class": (frames["label"].transform("nunique") > 1).to_numpy(bool),
        "in the other part of a split": across,
    }
    remarks = []
    for where, found in kinds.items():
        if found.any():
            clips = same[found]
            first = clips[clips["sha256"] == clips["sha256"].iloc[0]]["video"]
            remarks.append(
                f"{len(clips):,} clips are equal to others {where}, such as "
                f"{' and '.join(first.iloc[:2])}"
            )
    return remarks
