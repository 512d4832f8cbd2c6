"""Classifiers of frozen features: what a linear layer and the vote of the nearest clips share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import pandas as pd

from vcsf_cli.config.protocol import Knn, Linear
from vcsf_cli.contracts import Indices
from vcsf_cli.data.clips import EvalClips
from vcsf_cli.evaluate.classification import FOLDER, Classification
from vcsf_cli.evaluate.metrics import FloatArray, IntArray, right
from vcsf_cli.features.extract import Done, Features, extract
from vcsf_cli.narrate import say
from vcsf_cli.storage import files
from vcsf_cli.train.compute import Compute


class _FeatureClassifier(Protocol):
    def probabilities(self, features: FloatArray) -> FloatArray:
        """Probabilities (N, classes) of features (N, C)."""
        ...


_Fitted = TypeVar("_Fitted", bound=_FeatureClassifier)

_Fit = Callable[[FloatArray, IntArray, dict[str, Any]], _Fitted]
"""Fits a classifier to features (N, C) and their classes (N,) with settings."""


def classify_features(
    evaluation: Classification, compute: Compute, fit: _Fit[_Fitted]
) -> tuple[Features, Mapping[str, _Fitted]]:
    """Fit a classifier to the features of each pathway.

    Returns:
        Probabilities (test clips, classes) and the classifier, by pathway.
    """
    features = _labelled_features(evaluation, compute)
    classifiers = {
        pathway: _fit_classifier(evaluation, pathway, values, fit)
        for pathway, values in features.items()
    }
    probability = {
        pathway: each.probabilities(features[pathway][evaluation.test])
        for pathway, each in classifiers.items()
    }
    return probability, classifiers


def _labelled_features(evaluation: Classification, compute: Compute) -> Features:
    """Mean features (rows, C) of all labelled clips of the dataset, by pathway; computed once for
    all splits and probes. Rows that have no label are zero."""
    table, crops = evaluation.manifest.table, evaluation.protocol.crops
    rows = np.flatnonzero(table["label"].notna().to_numpy())
    device, bf16 = compute.device(), compute.bf16()
    identity = {
        "from": evaluation.identity["from"],
        "seed": evaluation.seed if evaluation.source.is_drawn else None,
        "crops": crops,
        "device": device.type,
        "bf16": bf16,
    }

    def extract_all(clips: EvalClips, done: Done) -> Features:
        model = evaluation.network().to(device)
        workers, engine = compute.num_workers, compute.engine
        return extract(model, clips, device, workers, done, bf16, engine)

    name = f"features-{evaluation.manifest.name}-{evaluation.variant}-{crops}.parquet"
    path = evaluation.source.folder / FOLDER / name
    parts = [""] * len(rows)
    found = evaluation.features(path, identity, rows, extract_all, "features", parts, crops)
    whole = {}
    for pathway in evaluation.pathways:
        whole[pathway] = np.zeros((len(table), found[pathway].shape[1]), np.float32)
        whole[pathway][rows] = found[pathway]
    return whole


def _fit_classifier(
    evaluation: Classification, pathway: str, features: FloatArray, fit: _Fit[_Fitted]
) -> _Fitted:
    """The classifier of a pathway: settings chosen on held-out recordings, then fitted to all
    training clips. `sweep-<pathway>.csv` keeps what each setting gave."""
    splits, target = evaluation.splits, evaluation.target
    grid = cast(Linear | Knn, evaluation.protocol).grid.model_dump()
    setting, tried = choose(features, target, splits.train, splits.validation, fit, grid)
    text = tried.to_csv(index=False, lineterminator="\n")
    files.write_text(evaluation.folder / f"sweep-{pathway}.csv", text)
    if len(splits.validation):
        say(
            f"{pathway}: {', '.join(f'{name} {value:g}' for name, value in setting.items())}, "
            "chosen on held-out recordings"
        )
    rows = splits.train_and_validation
    return fit(features[rows], target[rows], setting)


def choose(
    features: FloatArray,
    target: IntArray,
    train: Indices,
    validation: Indices,
    fit: _Fit[_Fitted],
    grid: dict[str, list[Any]],
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The setting of a grid with the most right answers on held-out recordings, and what each
    setting gave there. Without any it is the first setting.

    A tie is broken by the lower cross-entropy, then by the order of the grid.

    Args:
        features: (N, C).
        target: Their classes, (N,).
    """
    settings = [
        dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())
    ]
    if not len(validation):
        return settings[0], pd.DataFrame(settings[:1])
    wanted = target[validation]
    shares, losses = [], []
    for setting in settings:
        classifier = fit(features[train], target[train], setting)
        probability = classifier.probabilities(features[validation])
        shares.append(float(right(probability, wanted).mean()))
        losses.append(
            float(-np.log(np.maximum(probability[np.arange(len(wanted)), wanted], 1e-9)).mean())
        )
    best = max(range(len(settings)), key=lambda number: (shares[number], -losses[number], -number))
    return settings[best], pd.DataFrame(settings).assign(held_out_top1=shares, held_out_loss=losses)
