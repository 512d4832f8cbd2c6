"""What was measured of a run, from the files that `vcsf retrieve` and `vcsf finetune` left: rows,
and every clip's hit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vcsf_cli.config import protocol as protocols
from vcsf_cli.config.table import DEFAULT_KS, DEFAULT_PROTOCOLS, Measure
from vcsf_cli.contracts import Indices
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.data.splits import query_gallery
from vcsf_cli.errors import RunError
from vcsf_cli.evaluate.classification import Classification
from vcsf_cli.runs import results
from vcsf_cli.runs.run import Run
from vcsf_cli.storage import files

TRAINED = ("trained", "trained_with_labels")
METRICS = ("top1", "top5", "class_mean")
"""Of classification; the ends of top1's own interval are no numbers of a table."""

_CLOSE = 1e-6
"""How near a mean over clips must be to the number in results.csv, which may have been computed in
float32."""


@dataclass(frozen=True)
class Measurement:
    """One measurement of one run.

    Args:
        rows: Tidy rows, one a pathway and metric.
        clips: 1 or 0 for every test clip (index) by `(pathway, metric)`, for metrics that are means
            over clips.
    """

    rows: pd.DataFrame
    clips: dict[tuple[str, str], pd.Series]


def recall_ks(measure: Measure) -> list[int]:
    """The k of R@k, in order."""
    return sorted(set(measure.k or DEFAULT_KS))


def table_metrics(measure: Measure) -> list[str]:
    """The metrics that a table may show, the first being the one that stands for all."""
    return [f"R@{k}" for k in recall_ks(measure)] if measure.task == "retrieve" else list(METRICS)


def find_measurement(
    run: Run, manifest: Manifest, split: int, measure: Measure, pathways: Sequence[str]
) -> Measurement | None:
    """What was measured of a finished run as it is now; None if it wasn't, or not of these data and
    this checkpoint.

    Raises:
        RunError: If the run or its measurement is damaged.
    """
    if measure.task == "retrieve":
        return read_retrieval(run, manifest, split, recall_ks(measure))
    return read_classification(classification_job(run, manifest, split, measure, pathways))


def classification_job(
    run: Run, manifest: Manifest, split: int, measure: Measure, pathways: Sequence[str]
) -> Classification:
    """The measurement by classification."""
    return Classification(
        run, manifest, split, load_protocol(measure), run.recipe.seed, pathways=tuple(pathways)
    )


def tested_clips(
    run: Run, manifest: Manifest, split: int, measure: Measure, pathways: Sequence[str]
) -> Indices:
    """Rows of the manifest that a measurement tests.

    Raises:
        VcsfError: If the dataset does not have what the measurement needs.
    """
    if measure.task == "retrieve":
        return query_gallery(manifest, split).query
    return classification_job(run, manifest, split, measure, pathways).test


def load_protocol(measure: Measure) -> protocols.Protocol:
    """The protocol of a measurement by classification."""
    return protocols.load(measure.protocol or DEFAULT_PROTOCOLS[measure.task], measure.assignments)


def measurement_key(measure: Measure) -> str:
    """What a measurement's task leaves open, as text: two that agree in it are the same."""
    return "" if measure.task == "retrieve" else load_protocol(measure).model_dump_json()


def read_retrieval(
    run: Run, manifest: Manifest, split: int, ks: Sequence[int]
) -> Measurement | None:
    """R@k of the trained networks, if the files agree with each other, with the data and with the
    checkpoint.

    Any k can be had of neighbours up to a rank that is no lower, whichever k was asked for when
    they were found."""
    folder = folder_of_retrieval(run, manifest, split)
    try:
        key = json.loads((pq.read_schema(folder / "features.parquet").metadata or {})[b"vcsf"])
        rows = results.read(folder / "results.csv")
        rows = rows[rows["variant"].isin(TRAINED)]
        near = results.read(folder / "neighbours.csv", ["query", "pathway", "rank", "hit"])
    except (OSError, KeyError, ValueError, pa.ArrowException):
        return None
    if key.get("data") != manifest.hash or not run.checkpoint.is_file():
        return None
    if key.get("checkpoint") != files.sha256(run.checkpoint):
        return None
    kept, clips = [], {}
    for pathway, own in rows.groupby("pathway", sort=False):
        of_pathway = near[near["pathway"] == pathway]
        known = {
            int(name.partition("@")[2]): value
            for name, value in zip(own["metric"], own["value"], strict=True)
        }
        if max(known) < max(ks):
            return None
        for k in sorted({*ks, *known}):
            hit = of_pathway[of_pathway["rank"] <= k].groupby("query")["hit"].max().astype(float)
            # A killed call can leave neighbours behind that are not those of the results.
            if (
                len(hit) != own["clips"].iloc[0]
                or abs(hit.mean() - known.get(k, hit.mean())) > _CLOSE
            ):
                return None
            if k in ks:
                kept.append(
                    own.iloc[:1].assign(metric=f"R@{k}", value=float(known.get(k, hit.mean())))
                )
                clips[str(pathway), f"R@{k}"] = hit
    return Measurement(pd.concat(kept, ignore_index=True), clips) if kept else None


def folder_of_retrieval(run: Run, manifest: Manifest, split: int) -> Path:
    """Where `vcsf retrieve` writes."""
    return run.folder / "retrieve" / f"{manifest.name}-split{split}"


def asked_before(run: Run, manifest: Manifest, split: int) -> set[int]:
    """The k that results are there of; who measures again asks for them too, so that nobody misses
    them."""
    try:
        rows = results.read(folder_of_retrieval(run, manifest, split) / "results.csv")
        return {int(metric.partition("@")[2]) for metric in rows["metric"]}
    except (OSError, KeyError, ValueError):
        return set()


def read_classification(job: Classification) -> Measurement | None:
    """Accuracies of a finished measurement.

    Raises:
        RunError: If its files are damaged.
    """
    if not job.run.checkpoint.is_file() or not job.is_measured:
        return None
    damaged = RunError(
        f"the files of the measurement {job.folder} don't agree with each other",
        "delete that folder: the same command measures it again",
    )
    try:
        rows = results.read(job.folder / "results.csv")
        answers = results.read(job.folder / "answers.csv", ["video", "pathway", "label", "answer"])
        top1 = rows[rows["metric"] == "top1"].set_index("pathway")["value"].to_dict()
    except (OSError, KeyError, ValueError) as error:
        raise damaged from error
    right = (answers["label"] == answers["answer"]).astype(float)
    clips = {}
    for pathway, own in answers.groupby("pathway", sort=False):
        hit = pd.Series(right[own.index].to_numpy(), index=own["video"])
        if abs(hit.mean() - top1.get(pathway, np.nan)) > _CLOSE:
            raise damaged
        clips[str(pathway), "top1"] = hit
    if set(top1) != {pathway for pathway, _ in clips}:
        raise damaged
    return Measurement(rows[rows["metric"].isin(METRICS)].reset_index(drop=True), clips)


def sources(manifest: Manifest) -> dict[str, str]:
    """The recording of each clip of a dataset."""
    return dict(zip(manifest.table["video"], manifest.table["source"].astype(str), strict=True))
