"""What was measured of a run and belongs into its export: results, and the centre of its training
clips' features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vcsf_cli.features.extract import Features
from vcsf_cli.features.neighbours import feature_mean
from vcsf_cli.runs import results
from vcsf_cli.runs.run import Run

_CACHE = "features.parquet"
"""Beside the results of retrieval: features, and in its metadata the checkpoint that they are
of."""


def read_results(run: Run, checkpoint: str) -> pd.DataFrame:
    """The rows of every `results.csv` that `vcsf retrieve` and `vcsf finetune` wrote of a
    checkpoint, of what was measured again with other settings the last; columns as in
    `results.COLUMNS`.

    Args:
        run: The run.
        checkpoint: SHA-256 of its checkpoint.
    """
    folders = [
        path.parent
        for path in run.folder.glob("*/*/results.csv")
        if _measured_checkpoint(path.parent) == checkpoint
    ]
    if not folders:
        return pd.DataFrame(columns=list(results.COLUMNS))
    folders.sort(key=lambda folder: (str(_read_status(folder).get("ended", "")), folder.name))
    rows = pd.concat(
        [results.read(folder / "results.csv") for folder in folders], ignore_index=True
    )
    return rows.drop_duplicates([*results.SAME, "metric"], keep="last", ignore_index=True)


def _measured_checkpoint(folder: Path) -> str | None:
    """The checkpoint that what lies in a folder was measured of, if that is known."""
    kept = metadata(folder / _CACHE) or _read_status(folder).get("from", {})
    found: str | None = kept.get("checkpoint")
    return found


def _read_status(folder: Path) -> dict[str, Any]:
    """What `vcsf finetune` noted of a measurement; empty if it is none."""
    try:
        found: dict[str, Any] = json.loads((folder / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def training_mean(run: Run, checkpoint: str) -> tuple[Features, dict[str, Any]] | None:
    """The mean feature (C,) of a run's training clips by pathway and what it is of, if `vcsf
    retrieve` computed them.

    It is what retrieval subtracts from the clips that are searched.
    """
    split = run.recipe.first_stage.data.split
    path = run.folder / "retrieve" / f"{run.status['dataset']}-split{split}" / _CACHE
    key = metadata(path)
    if key.get("checkpoint") != checkpoint or key.get("data") != run.status["data_hash"]:
        return None
    table = pq.read_table(path)
    part = table["part"].to_numpy(zero_copy_only=False)
    searched = part == "train" if (part == "train").any() else np.ones(len(part), bool)
    centre = {}
    for name in table.column_names:
        if name not in ("video", "label", "part"):
            features = np.stack(table[name].combine_chunks().to_numpy(zero_copy_only=False))[
                searched
            ]
            centre[name] = feature_mean(features)
    return centre, {"dataset": run.status["dataset"], "split": split, "clips": int(searched.sum())}


def metadata(path: Path) -> dict[str, Any]:
    """What cached features depend on; empty if there are none that can be read."""
    try:
        found: dict[str, Any] = json.loads((pq.read_schema(path).metadata or {})[b"vcsf"])
    except (OSError, KeyError, ValueError, pa.ArrowException):
        return {}
    return found
