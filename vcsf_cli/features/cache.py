"""Features in a Parquet file, with what they depend on as its key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vcsf_cli.errors import RunError
from vcsf_cli.features.extract import Features
from vcsf_cli.narrate import say
from vcsf_cli.storage.sealed import read_parquet, reading, write_parquet


def write_features(
    path: Path, key: dict[str, Any], features: Features, video: Any, label: Any, part: Any
) -> None:
    """Write `features.parquet`, with what the features depend on in its metadata."""
    columns: dict[str, Any] = {
        "video": pa.array(video, pa.string()),
        "label": pa.array([None if pd.isna(item) else item for item in label], pa.string()),
        "part": pa.array(list(part), pa.string()),
    }
    for pathway, values in features.items():
        columns[pathway] = pa.FixedSizeListArray.from_arrays(
            pa.array(values.ravel(), pa.float32()), values.shape[1]
        )
    table = pa.table(columns).replace_schema_metadata({"vcsf": json.dumps(key, sort_keys=True)})
    write_parquet(path, table)


def read_key(path: Path) -> dict[str, Any]:
    """The key of the features in a file; empty if there are none, or they can't be read."""
    try:
        found: dict[str, Any] = json.loads((pq.read_schema(path).metadata or {})[b"vcsf"])
    except (OSError, KeyError, ValueError, pa.ArrowException):
        return {}
    return found


def load_features(path: Path) -> tuple[Features, npt.NDArray[np.object_]]:
    """Features (N, C) by pathway and the part of each clip, (N,), from `features.parquet`.

    Raises:
        RunError: If the file is missing or damaged.
    """
    hint = "delete it: vcsf retrieve and vcsf finetune compute it again"
    table = read_parquet(path, hint)
    with reading(path, hint):
        names = [name for name in table.column_names if name not in ("video", "label", "part")]
        features = {
            name: np.stack(table[name].combine_chunks().to_numpy(zero_copy_only=False))
            for name in names
        }
        return features, np.array(table["part"].to_pylist(), object)


def read_features(path: Path, key: dict[str, Any]) -> Features | None:
    """Features from `features.parquet`, if they depend on exactly what `key` says."""
    if read_key(path) != json.loads(json.dumps(key)):
        return None
    try:
        return load_features(path)[0]
    except RunError as error:
        say(f"warning: {error.message}: these features are computed again")
        return None
