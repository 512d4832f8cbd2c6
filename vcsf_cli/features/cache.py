"""Features in a Parquet file that says what they depend on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vcsf_cli.config.schema import Stage
from vcsf_cli.features.extract import Features
from vcsf_cli.storage import files


def window_key(stage: Stage) -> dict[str, Any]:
    """What features depend on of a recipe's stage: how it cuts windows out of clips."""
    return {
        "sampler": stage.sampler.model_dump(),
        "size": stage.data.size,
        "border": stage.augment.border,
    }


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
    with files.whole(path) as file:
        pq.write_table(table, file)


def read_features(path: Path, key: dict[str, Any]) -> Features | None:
    """Features from `features.parquet`, if it depends on just what `key` says."""
    if not path.is_file():
        return None
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException):
        return None  # damaged: compute them again
    if (table.schema.metadata or {}).get(b"vcsf") != json.dumps(key, sort_keys=True).encode():
        return None
    names = [name for name in table.column_names if name not in ("video", "label", "part")]
    return {
        name: np.stack(table[name].combine_chunks().to_numpy(zero_copy_only=False))
        for name in names
    }
