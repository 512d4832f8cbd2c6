"""The training clips of a run, kept in its folder, and whether test clips were among them.

A run sees its training clips, with labels or without. Results on a clip that it has seen, or on
another clip of the same recording, say nothing about new videos."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa

from vcsf_cli.contracts import Indices
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.errors import InputError
from vcsf_cli.storage.sealed import read_json, read_parquet, reading, write_parquet

if TYPE_CHECKING:
    from vcsf_cli.runs.run import Run

FILE = "trained_on.parquet"
"""In a run folder: the clips that the run was trained on."""

OWN = "vcsf"
"""The layout of vcsf's own files in `status.json`."""

UNKNOWN = "training_clips_unknown"
"""In `status.json`: names of the files that a run started from whose training clips are unknown."""

_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("dataset", "video", "source", "sha256", "original")]
)
_DIGESTS = ("sha256", "original")
"""Columns that identify content: the stored frames, and the file that they were decoded from."""

_HINT = (
    "bring it back from a copy: it says which clips the run was trained on; or train into another "
    "--runs"
)
_DIGITS = 16
"""Hexadecimal digits of a SHA-256 that are kept: enough to tell clips apart."""

UNTRAINED: dict[str, Any] = {"training_data": "", "seen": None}
"""Columns of a result row of an untrained network or a baseline."""


@dataclass(frozen=True)
class Exposure:
    """Which of the test clips a run has seen in training.

    Args:
        manifest: The dataset that it is measured on.
        training_data: Whether that is the data of the training: `same` to the last clip, `changed`
            since, or `other`, another dataset; `unknown` if nobody says what it is; empty if
            nothing was trained.
        seen: Rows of the test clips of recordings that the run was trained on; None if unknown.
        unknown: Files of weights that it started from whose training clips are unknown.
        without_labels: Whether clips that were seen may be measured, because no label of theirs
            was: of leave-one-out, where every clip is measured.
    """

    run: str
    manifest: Manifest
    split: int
    test: Indices
    training_data: Literal["same", "changed", "other", "unknown", ""]
    seen: Indices | None
    unknown: Sequence[str] = ()
    without_labels: bool = False

    @property
    def columns(self) -> dict[str, Any]:
        """Its columns in a result row."""
        return {
            "training_data": self.training_data,
            "seen": None if self.seen is None else len(self.seen),
        }

    @property
    def mark(self) -> str:
        """A note beside results that include seen test clips; "" if there are none."""
        if not self.count:
            return ""
        if self.without_labels:
            return f"{self.count:,} of {len(self.test):,} clips seen in training, without labels"
        return f"{self.count:,} of {len(self.test):,} test clips seen in training"

    @property
    def count(self) -> int:
        """Number of test clips that are known to have been seen."""
        return 0 if self.seen is None else len(self.seen)

    @property
    def remarks(self) -> list[str]:
        """Remarks for a reader of the results, a sentence each."""
        found, name = [], self.manifest.name
        if self.training_data == "changed":
            checked = ""
            if self.seen is None:
                checked = (
                    "; the run, which an older vcsf began, does not remember its training clips, "
                    "so it can't be checked whether test clips were among them"
                )
            elif len(self.test) and not self.count:
                checked = "; no test clip was seen in training"
            found.append(f"the data of {name} has changed since the run was trained on it{checked}")
        if self.count:
            found.append(
                f"{self.mark}: the run was trained on them, or on other clips of their recordings"
                f"{', so that the numbers are of these clips, not of new ones' * self.without_labels}"
            )
        if self.training_data == "unknown" and len(self.test):
            found.append(
                f"which clips {self.run} was trained on is not known: test clips may be among them"
            )
        elif self.unknown and len(self.test):
            found.append(
                f"the run started from {', '.join(self.unknown)}, whose training clips are not "
                "known: test clips among them are not counted"
            )
        return found

    def refuse(self, allow_seen: bool) -> None:
        """Check that no test clip was seen in training, unless that is allowed, or is no leak.

        Raises:
            InputError: If one was.
        """
        if self.seen is None or not self.count or allow_seen or self.without_labels:
            return
        raise InputError(
            f"{self.count:,} of {len(self.test):,} test clips of {self.manifest.name} split "
            f"{self.split} were seen in training, such as "
            f"{self.manifest.table['video'][self.seen[0]]}: run {self.run} was trained on them, or "
            "on other clips of their recordings",
            "measure on the split and the data of the training, or train another run on these; "
            "--allow-seen measures all the same, and marks the results",
        )


def training_clips(manifest: Manifest, split: int) -> pd.DataFrame:
    """The training clips of a split, with the columns of a run's `trained_on.parquet`."""
    table = manifest.table.iloc[manifest.training_part(split)]
    found = table[["video", "source"]].assign(
        dataset=manifest.name, **{name: table[name].str[:_DIGITS] for name in _DIGESTS}
    )
    clips: pd.DataFrame = found[_SCHEMA.names].astype(str)
    return clips


def copy_list(source: Path, target: Path) -> None:
    """Copy the list of training clips from one folder into another, if there is one."""
    if (source / FILE).is_file():
        shutil.copyfile(source / FILE, target / FILE)


def remember(
    folder: Path, manifest: Manifest, split: int, started_from: Sequence[Path] = ()
) -> None:
    """Write a run's training clips into its folder.

    Args:
        started_from: Files of vcsf's own weights that it starts from; their training clips count
            too.
    """
    tables = [training_clips(manifest, split)]
    tables += [table for path in started_from if (table := read(path.parent)) is not None]
    table = pd.concat(tables, ignore_index=True).drop_duplicates(ignore_index=True)
    content = pa.Table.from_pandas(table, preserve_index=False)
    write_parquet(folder / FILE, content, compression="zstd")


def unremembered(started_from: Sequence[Path]) -> list[str]:
    """Names of the files of vcsf's own weights whose training clips their folder does not have."""
    found = []
    for path in started_from:
        training = _read_training(path.parent)
        if not training or not (path.parent / FILE).is_file() or unknown_files(training):
            found.append(path.name)
    return list(dict.fromkeys(found))


def _read_training(folder: Path) -> dict[str, Any]:
    """What a run or an export says of its training: `dataset`, `data_hash` and more; empty if the
    folder is neither."""
    if (folder / "status.json").is_file():
        return read_json(folder / "status.json", dict, _HINT)
    if (folder / "config.json").is_file():
        return dict(read_json(folder / "config.json", dict, _HINT).get("run", {}))
    return {}


def unknown_files(status: Mapping[str, Any]) -> list[str]:
    """The files that a run started from whose training clips are unknown."""
    own = [str(init["file"]) for init in status.get("init", {}).values() if init["layout"] == OWN]
    return list(status.get(UNKNOWN, dict.fromkeys(own)))


def read(folder: Path) -> pd.DataFrame | None:
    """The training clips of the run in a folder; None if it has no list of them.

    Raises:
        RunError: If the file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    table: pd.DataFrame = read_parquet(path, _HINT, schema=_SCHEMA).to_pandas()
    with reading(path, _HINT):
        if table[["dataset", "video", "source"]].isna().any(axis=None):
            raise ValueError("it lacks names of clips")
    return table.fillna("")  # earlier versions did not keep all digests


def compare(
    run: Run, manifest: Manifest, split: int, test: Indices, leave_one_out: bool = False
) -> Exposure:
    """Which test clips a run has seen in training.

    Args:
        leave_one_out: Whether every clip is tested, and none is of a training part.

    Raises:
        RunError: If a file of the run is damaged.
    """
    status = run.status
    dataset, same = str(status.get("dataset", "")), status.get("data_hash") == manifest.hash
    clips = read(run.folder)
    if clips is None and same:  # begun before runs remembered it
        clips = training_clips(manifest, run.recipe.first_stage.data.split)
    unknown = unknown_files(status)
    return exposure(run.name, clips, dataset, same, manifest, split, test, unknown, leave_one_out)


def compare_files(
    name: str,
    own: Sequence[Path],
    others: Sequence[Path],
    manifest: Manifest,
    split: int,
    test: Indices,
    leave_one_out: bool = False,
) -> Exposure:
    """Which test clips the training of weights in files has seen.

    Args:
        name: Of the encoder that they make.
        own: Files that vcsf wrote; beside them stands what they were trained on.
        others: Those of other code.
        leave_one_out: As of `compare`.

    Raises:
        RunError: If a file beside them is damaged.
    """
    known, trainings = [], [_read_training(path.parent) for path in own]
    same = bool(own) and all(each.get("data_hash") == manifest.hash for each in trainings)
    for path, training in zip(own, trainings, strict=True):
        clips = read(path.parent)
        if clips is None and same and training.get("split"):  # an export of an earlier version
            clips = training_clips(manifest, int(training["split"]))
        known += [] if clips is None else [clips]
    if not known:
        return Exposure(name, manifest, split, test, "unknown", None)
    unknown = [*unremembered(own), *(path.name for path in others)]
    dataset = str(trainings[0].get("dataset") or "")
    clips = pd.concat(known, ignore_index=True)
    return exposure(name, clips, dataset, same, manifest, split, test, unknown, leave_one_out)


def exposure(
    run: str,
    clips: pd.DataFrame | None,
    dataset: str,
    same: bool,
    manifest: Manifest,
    split: int,
    test: Indices,
    unknown: Sequence[str] = (),
    leave_one_out: bool = False,
) -> Exposure:
    """Which test clips a training has seen.

    Args:
        clips: Those it was trained on; None if unknown.
        dataset: Name of the dataset that it was trained on.
        same: Whether the data that it is measured on are those of the training.
        unknown: Files of weights that it started from whose training clips are unknown.
        leave_one_out: As of `compare`.
    """
    training_data: Literal["same", "changed", "other"] = (
        "same" if same else "changed" if manifest.name == dataset else "other"
    )
    seen = None
    if clips is not None:
        names = {manifest.name, dataset} if same else {manifest.name}
        train = test[:0] if leave_one_out else manifest.part(split, "train")
        seen = test[_seen_rows(manifest, train, clips, names)[test]]
    return Exposure(run, manifest, split, test, training_data, seen, tuple(unknown))


def _seen_rows(
    manifest: Manifest, train: Indices, clips: pd.DataFrame, names: Collection[str]
) -> np.ndarray:
    """Whether each clip of a dataset is of a recording that was trained on.

    A clip is recognised by its bytes, by the file that it was decoded from, and in datasets of the
    same name by its name and its recording's. Bytes or recordings that the measured split itself
    has among its training clips do not count."""
    # As objects: `isin` of pandas' strings takes milliseconds for every hundred values.
    table = manifest.table[["video", "source", *_DIGESTS]].astype(object)
    named = clips[clips["dataset"].isin(names)].astype(object)
    source = table["source"]
    clip = table["video"].isin(named["video"])
    for name in _DIGESTS:
        digest = table[name].str[:_DIGITS].astype(object)
        clip |= digest.isin({*clips[name]} - {""}) & ~digest.isin(digest.iloc[train])
    recordings = {*named["source"], *source[clip]}
    return (clip | (source.isin(recordings) & ~source.isin(source.iloc[train]))).to_numpy(bool)
