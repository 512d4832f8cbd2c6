"""Frozen features, classified: what a linear layer and the vote of the nearest clips share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import pandas as pd

from vcsf_cli.config.protocol import Knn, Linear
from vcsf_cli.contracts import Indices
from vcsf_cli.data.clips import EvalClips
from vcsf_cli.evaluate.job import FOLDER, Job
from vcsf_cli.evaluate.metrics import FloatArray, IntArray, right
from vcsf_cli.features.cache import read_features, write_features
from vcsf_cli.features.extract import Features, extract
from vcsf_cli.model.parts import build_sampler
from vcsf_cli.narrate import Progress, say
from vcsf_cli.storage import files
from vcsf_cli.train.compute import Compute


class Classifier(Protocol):
    """What tells classes apart by their features."""

    def probabilities(self, features: FloatArray) -> FloatArray:
        """Probabilities (N, classes) of features (N, C)."""
        ...


Fitted = TypeVar("Fitted", bound=Classifier)

_Fit = Callable[[FloatArray, IntArray, dict[str, Any]], Classifier]
"""From features (N, C), their classes (N,) and settings to what tells the classes apart."""


def predict_test(job: Job, features: Features, classifiers: Mapping[str, Classifier]) -> Features:
    """Probabilities (test clips, classes) by pathway."""
    test = job.division.test
    return {
        pathway: each.probabilities(features[pathway][test])
        for pathway, each in classifiers.items()
    }


def labelled_features(job: Job, machine: Compute) -> Features:
    """Mean features (rows, C) of all labelled clips of the dataset, by pathway; computed once for
    all splits and probes.

    Rows that have no label are zero.
    """
    stage, table = job.run.recipe.last_stage, job.manifest.table
    rows = np.flatnonzero(table["label"].notna().to_numpy())
    device, bf16 = machine.device(), machine.bf16()
    key = {
        "from": job.identity["from"],
        "seed": job.seed if job.scratch else None,
        "data": job.manifest.hash,
        "sampler": stage.sampler.model_dump(),
        "size": stage.data.size,
        "border": stage.augment.border,
        "crops": job.protocol.crops,
        "device": device.type,
        "bf16": bf16,
    }
    path = (
        job.run.folder
        / FOLDER
        / f"features-{job.manifest.name}-{job.variant}-{job.protocol.crops}.parquet"
    )
    found = read_features(path, key)
    if found is None:
        sampler, border, size = build_sampler(stage), stage.augment.border, stage.data.size
        videos = EvalClips(
            job.manifest, rows.tolist(), sampler, border, size, crops=job.protocol.crops
        )
        model = job.network().to(device)
        with Progress(len(rows), "videos", "features") as progress:
            found = extract(
                model,
                videos,
                device,
                machine.num_workers,
                lambda count: progress.advance(count - progress.done),
                bf16,
            )
        write_features(
            path, key, found, table["video"].to_numpy()[rows], job.label[rows], [""] * len(rows)
        )
    whole = {}
    for pathway in job.pathways:
        whole[pathway] = np.zeros((len(table), found[pathway].shape[1]), np.float32)
        whole[pathway][rows] = found[pathway]
    return whole


def fit_classifier(
    job: Job, pathway: str, features: FloatArray, fit: Callable[..., Fitted]
) -> Fitted:
    """The classifier of a pathway: settings chosen on held-out recordings, then learned from all
    training clips.

    What each setting gave there is kept in `sweep-<pathway>.csv`.
    """
    division, grid = job.division, cast(Linear | Knn, job.protocol).grid.model_dump()
    setting, tried = choose(features, job.known, division.learns, division.chooses, fit, grid)
    with files.whole(job.folder / f"sweep-{pathway}.csv", "w") as file:
        tried.to_csv(file, index=False, lineterminator="\n")
    if len(division.chooses):
        say(
            f"{pathway}: {', '.join(f'{name} {value:g}' for name, value in setting.items())}, "
            f"chosen on held-out recordings"
        )
    return fit(features[division.train], job.known[division.train], setting)


def choose(
    features: FloatArray,
    target: IntArray,
    learns: Indices,
    chooses: Indices,
    fit: _Fit,
    grid: dict[str, list[Any]],
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The setting of a grid with the most right answers on held-out recordings, and what each
    setting gave there.

    Of equally many right answers the surer ones win, then the earlier setting. The first setting is
    taken where nothing is held out.

    Args:
        features: (N, C).
        target: Their classes, (N,).
        learns: Rows to learn from.
        chooses: Rows that are held out.
        fit: What is tried.
        grid: The values of each setting.
    """
    settings = [
        dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())
    ]
    if not len(chooses):
        return settings[0], pd.DataFrame(settings[:1])
    wanted = target[chooses]
    shares, losses = [], []
    for setting in settings:
        probability = fit(features[learns], target[learns], setting).probabilities(
            features[chooses]
        )
        shares.append(float(right(probability, wanted).mean()))
        losses.append(
            float(-np.log(np.maximum(probability[np.arange(len(wanted)), wanted], 1e-9)).mean())
        )
    best = max(range(len(settings)), key=lambda number: (shares[number], -losses[number], -number))
    return settings[best], pd.DataFrame(settings).assign(held_out_top1=shares, held_out_loss=losses)
