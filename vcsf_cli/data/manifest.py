"""The manifest of a prepared dataset: one row a clip, and where each of its frames lies."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from vcsf_cli import registry
from vcsf_cli.contracts import Indices, OfficialSize
from vcsf_cli.data.bucket import Bucket
from vcsf_cli.errors import DataError, InputError, did_you_mean_one
from vcsf_cli.storage import files
from vcsf_cli.storage.sealed import read_json, read_parquet, reading, write_parquet

FILE = "manifest.parquet"
SETTINGS = "settings.json"
MEND = (
    "the command that prepared the dataset mends it from the videos, with --verify added; without "
    "them, delete the dataset's folder and prepare it anew"
)

_SCHEMA = pa.schema(
    [
        ("video", pa.string()),  # path relative to the dataset's root
        ("label", pa.string()),  # null: unknown
        ("group", pa.string()),
        ("source", pa.string()),
        ("frames", pa.int64()),
        ("fps", pa.float64()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("split1", pa.string()),
        ("split2", pa.string()),
        ("split3", pa.string()),
        ("shard", pa.int64()),
        ("offset", pa.int64()),  # of the clip's bytes in its shard
        ("bytes", pa.int64()),
        ("frame_offsets", pa.list_(pa.int64())),  # in the shard, and the end of the last frame
        ("frame_crc32", pa.list_(pa.uint32())),  # of each frame; null: an earlier version stored it
        ("frame_times", pa.list_(pa.float64())),  # seconds in the video; null: frame number / fps
        ("sha256", pa.string()),  # of the clip's bytes
        ("original", pa.string()),  # SHA-256 of the video's file; empty: not known
    ]
)
SPLITS = ("split1", "split2", "split3")
_NEVER_NULL = ("video", "source", "frames", "fps", *SPLITS, "shard", "frame_offsets", "sha256")
_NOT_HASHED = ("shard", "offset", "frame_offsets", "frame_crc32", "frame_times", "original")
"""Columns that say where a clip lies or what it was made of, or repeat what `sha256` says."""


@dataclass(frozen=True)
class Manifest:
    """A prepared dataset.

    Args:
        folder: Where it lies, or where what is needed of it is kept.
        table: One row a clip, sorted by `video`, columns as in `_SCHEMA`.
        bucket: Where its shards are if they are not in `folder`.
    """

    folder: Path
    table: pd.DataFrame
    settings: dict[str, Any]
    bucket: Bucket | None = None

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def place(self) -> Path | str:
        """Where it is for the user."""
        return self.bucket.address if self.bucket else self.folder

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the clips and their splits; where their bytes lie does not matter."""
        content = self.table.drop(columns=list(_NOT_HASHED)).to_json(
            orient="split", index=False, double_precision=6
        )
        return hashlib.sha256(content.encode()).hexdigest()

    def training_part(self, split: int) -> Indices:
        """Rows to train on: the training part of a split, or all rows if the split is empty."""
        has_parts = (self.table[f"split{split}"] != "").any()
        return self.part(split, "train") if has_parts else np.arange(len(self.table))

    def part(self, split: int, part: str) -> Indices:
        """Rows of a part, `train` or `test`, of a split, 1 to 3."""
        return np.flatnonzero((self.table[f"split{split}"] == part).to_numpy())

    @classmethod
    def find(cls, data: Path | str, name: str) -> Manifest:
        """Open the prepared dataset of a name.

        Args:
            data: Folder of prepared datasets, or its address.
            name: Its folder in it.

        Raises:
            InputError: If the name leads out of `data`, or as `open`.
            DataError: As `open`.
            RemoteError: If the address can't be reached.
        """
        if not files.is_folder_name(name):
            raise InputError(
                f"{name!r} is not the name of a dataset",
                f"datasets are folders in {data}; --data says where",
            )
        if isinstance(data, Path):
            return cls.open(data / name)
        bucket = Bucket.of(data, name)
        bucket.refresh(FILE, SETTINGS)
        found = replace(cls.open(bucket.folder, bucket.address), bucket=bucket)
        ends = found.table["offset"] + found.table["bytes"]
        bucket.check_limit(int(ends.max()), int(found.table["bytes"].sum()))
        return found

    @classmethod
    def open(cls, folder: Path, place: Path | str = "") -> Manifest:
        """Read the manifest of a prepared dataset.

        Args:
            place: Where it is for the user, if not `folder`.

        Raises:
            InputError: If it isn't prepared, or not to the end.
            DataError: If the manifest is damaged.
        """
        name = folder.name
        if not (folder / FILE).is_file():
            begun = (folder / SETTINGS).is_file()
            state = "is not prepared to its end" if begun else "is not prepared"
            others = [path.parent.name for path in folder.parent.glob(f"*/{FILE}")]
            near = "" if begun or place else did_you_mean_one(name, others)
            raise InputError(
                f"dataset {name} {state}: there is no {place or folder}/{FILE}",
                near or f"{_prepare_command(name)}; --data says where datasets are",
            )
        table = read_table(folder)
        settings = read_json(folder / SETTINGS, dict, MEND, DataError)
        return cls(folder, table, settings)


def read_table(folder: Path) -> pd.DataFrame:
    """The rows of a dataset's manifest, columns as in `_SCHEMA`.

    Raises:
        DataError: If it is missing or damaged.
    """
    content = read_parquet(folder / FILE, MEND, DataError, schema=_SCHEMA)
    with reading(folder / FILE, MEND, DataError):
        table: pd.DataFrame = content.to_pandas()
        table["original"] = table["original"].fillna("")  # earlier versions did not keep it
        if empty := [name for name in _NEVER_NULL if table[name].isna().any()]:
            raise ValueError(f"it lacks values of {', '.join(empty)}")
    return table


def official_size(name: str) -> OfficialSize | None:
    """The size of the published dataset of this name, None if its plugin states none."""
    size: OfficialSize | None = registry.load().attribute("dataset", name, "official_size")
    return size


def official_split(name: str, split: int) -> tuple[int, int] | None:
    """Numbers of training and test clips of an official split, None if unknown."""
    size = official_size(name)
    return size.splits.get(split) if size else None


def _prepare_command(name: str) -> str:
    dataset = registry.load().components("dataset").get(name)
    if dataset and not getattr(dataset.factory, "needs_source", False):
        return f"vcsf prepare {name}"
    return f"vcsf prepare folder --source VIDEOS --name {shlex.quote(name)}"


def read_parts(folder: Path) -> dict[str, tuple[str, str, str]]:
    """The part of every recording in each split; empty before the first manifest.

    Raises:
        DataError: If the manifest is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return {}
    columns = ["label", "source", *SPLITS]
    return parts_by_recording(read_parquet(path, MEND, DataError, columns=columns).to_pandas())


def parts_by_recording(table: pd.DataFrame) -> dict[str, tuple[str, str, str]]:
    """The part of every recording in each split, from the label, source and parts of clips.

    A recording with unlabelled clips only is test where these have no part, because test parts are
    drawn so. In an empty split everything is training data, as it is for a training.
    """
    unlabelled = table["label"].isna().groupby(table["source"]).all()
    found = {}
    for split in SPLITS:
        has_train, has_test = (
            table[split].eq(part).groupby(table["source"]).any() for part in ("train", "test")
        )
        if not has_train.any() and not has_test.any():
            has_train |= True
        found[split] = np.select([has_train, has_test | unlabelled], ["train", "test"], "").tolist()
    first, second, third = found.values()
    return dict(zip(unlabelled.index, zip(first, second, third, strict=True), strict=True))


def write(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write a manifest whole or not at all."""
    rows = sorted(rows, key=lambda row: str(row["video"]))
    write_parquet(folder / FILE, pa.Table.from_pylist(rows, _SCHEMA), compression="zstd")
