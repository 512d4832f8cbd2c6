"""What was measured of a run, from the files that `vcsf retrieve` and `vcsf finetune` left: rows, and every clip's hit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vcsf_cli import files
from vcsf_cli import protocol as protocols
from vcsf_cli.ablate.table import DEFAULT_KS, DEFAULT_PROTOCOLS, Measure
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.measure.job import Job
from vcsf_cli.runs import Run

TRAINED = ("trained", "trained_with_labels")
METRICS = ("top1", "top5", "class_mean")
"""Of classification; the ends of top1's own interval are no numbers of a table."""


@dataclass(frozen=True)
class Found:
    """One measurement of one run.

    Args:
        rows: Tidy rows, one a pathway and metric.
        clips: 1 or 0 for every test clip (index) by `(pathway, metric)`, for metrics that are means over clips.
    """

    rows: pd.DataFrame
    clips: dict[tuple[str, str], pd.Series]


def ks_of(measure: Measure) -> list[int]:
    """The k of R@k, in order."""
    return sorted(set(measure.k or DEFAULT_KS))


def metrics_of(measure: Measure) -> list[str]:
    """The metrics that a table may show, the first being the one that stands for all."""
    return [f"R@{k}" for k in ks_of(measure)] if measure.task == "retrieve" else list(METRICS)


def found(run: Run, manifest: Manifest, split: int, measure: Measure, pathways: Sequence[str]) -> Found | None:
    """What was measured of a finished run as it is now; None if it wasn't, or not of these data and this checkpoint."""
    if measure.task == "retrieve":
        return retrieved(run, manifest, split, ks_of(measure))
    return classified(job_of(run, manifest, split, measure, pathways))


def job_of(run: Run, manifest: Manifest, split: int, measure: Measure, pathways: Sequence[str]) -> Job:
    """The measurement by classification."""
    return Job(run, manifest, split, protocol_of(measure), run.recipe.seed, pathways=tuple(pathways))


def protocol_of(measure: Measure) -> protocols.Protocol:
    """The protocol of a measurement by classification."""
    return protocols.load(measure.protocol or DEFAULT_PROTOCOLS[measure.task], measure.assignments)


def retrieved(run: Run, manifest: Manifest, split: int, ks: Sequence[int]) -> Found | None:
    """R@k of the trained networks, if the files agree with each other, with the data and with the checkpoint."""
    folder = run.folder / "retrieve" / f"{manifest.name}-split{split}"
    try:
        key = json.loads((pq.read_schema(folder / "features.parquet").metadata or {})[b"vcsf"])
        rows = pd.read_csv(folder / "results.csv")
        near = pd.read_csv(folder / "neighbours.csv", usecols=["query", "pathway", "rank", "hit"])
    except (OSError, KeyError, ValueError, pa.ArrowException):
        return None
    if key.get("data") != manifest.hash or key.get("checkpoint") != files.sha256(run.checkpoint):
        return None
    rows = rows[rows["variant"].isin(TRAINED)]
    kept, clips = [], {}
    for pathway, own in rows.groupby("pathway", sort=False):
        of_pathway = near[near["pathway"] == pathway]
        for k in ks:
            row = own[own["metric"] == f"R@{k}"]
            if len(row) != 1:
                return None
            hit = of_pathway[of_pathway["rank"] <= k].groupby("query")["hit"].max().astype(float)
            # An answer of fewer neighbours than k, of another call, gives another number.
            if len(hit) != row["clips"].iloc[0] or abs(hit.mean() - row["value"].iloc[0]) > 1e-9:
                return None
            kept.append(row)
            clips[str(pathway), f"R@{k}"] = hit
    return Found(pd.concat(kept, ignore_index=True), clips) if kept else None


def classified(job: Job) -> Found | None:
    """Accuracies of a finished measurement."""
    if not job.run.checkpoint.is_file() or not job.finished:
        return None
    rows = pd.read_csv(job.folder / "results.csv")
    answers = pd.read_csv(job.folder / "answers.csv", dtype={"label": str, "answer": str})
    right = (answers["label"] == answers["answer"]).astype(float)
    clips = {
        (str(pathway), "top1"): pd.Series(right[own.index].to_numpy(), index=own["video"])
        for pathway, own in answers.groupby("pathway", sort=False)
    }
    return Found(rows[rows["metric"].isin(METRICS)].reset_index(drop=True), clips)


def sources(manifest: Manifest) -> dict[str, str]:
    """The recording of each clip of a dataset."""
    return dict(zip(manifest.table["video"], manifest.table["source"].astype(str), strict=True))


def mean_over(series: Sequence[pd.Series]) -> pd.Series:
    """Every clip's mean over the measurements that have it, (clips,)."""
    mean: pd.Series = pd.concat(series).groupby(level=0).mean().astype(np.float64)
    return mean
