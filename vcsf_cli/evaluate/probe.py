"""Classifiers of frozen features: what a linear layer, an attentive one and the vote of the nearest
clips share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import pandas as pd

from vcsf_cli.config.protocol import Attentive, Knn, Linear
from vcsf_cli.contracts import Indices
from vcsf_cli.data.clips import EvalClips
from vcsf_cli.evaluate.classification import FOLDER, Classification
from vcsf_cli.evaluate.metrics import FloatArray, IntArray, right
from vcsf_cli.features.extract import Done, Features, extract
from vcsf_cli.narrate import say
from vcsf_cli.storage import files
from vcsf_cli.train.compute import Compute


class _FeatureClassifier(Protocol):
    def probabilities(self, features: Any) -> FloatArray:
        """Probabilities (N, classes) of the features of N clips."""
        ...


_Fitted = TypeVar("_Fitted", bound=_FeatureClassifier)

_Fit = Callable[[Any, IntArray, dict[str, Any]], _Fitted]
"""Fits a classifier to the features of N clips and their classes (N,) with settings."""


def classify_features(
    evaluation: Classification, features: Mapping[str, Any], fit: _Fit[_Fitted]
) -> tuple[Features, Mapping[str, _Fitted]]:
    """Fit a classifier to the features of each pathway.

    Args:
        features: By pathway, something that rows of the manifest index: an array (rows, C), or
            what stands for one on disk.

    Returns:
        Probabilities (test clips, classes) and the classifier, by pathway.
    """
    classifiers = {
        pathway: _fit_classifier(evaluation, pathway, values, fit)
        for pathway, values in features.items()
    }
    probability = {
        pathway: each.probabilities(features[pathway][evaluation.test])
        for pathway, each in classifiers.items()
    }
    return probability, classifiers


def labelled_features(evaluation: Classification, compute: Compute) -> Features:
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
    evaluation: Classification, pathway: str, features: Any, fit: _Fit[_Fitted]
) -> _Fitted:
    """The classifier of a pathway: settings chosen on held-out recordings, then fitted to all
    training clips. `sweep-<pathway>.csv` keeps what each setting gave."""
    splits, target = evaluation.splits, evaluation.target
    grid = cast(Linear | Attentive | Knn, evaluation.protocol).grid.model_dump()
    setting, tried = choose(features, target, splits.train, splits.validation, fit, grid)
    write_sweep(evaluation, pathway, tried)
    if len(splits.validation):
        say(
            f"{pathway}: {', '.join(f'{name} {value:g}' for name, value in setting.items())}, "
            "chosen on held-out recordings"
        )
    rows = splits.train_and_validation
    return fit(features[rows], target[rows], setting)


def write_sweep(evaluation: Classification, pathway: str, tried: pd.DataFrame) -> None:
    """Write `sweep-<pathway>.csv`: what each setting gave on held-out clips."""
    text = tried.to_csv(index=False, lineterminator="\n")
    files.write_text(evaluation.folder / f"sweep-{pathway}.csv", text)


def settings_of(grid: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """All combinations of the values of a grid, in its order."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def choose(
    features: Any,
    target: IntArray,
    train: Indices,
    validation: Indices,
    fit: _Fit[_Fitted],
    grid: dict[str, list[Any]],
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The setting of a grid with the most right answers on held-out recordings, and what each
    setting gave there. Without any it is the first setting.

    Args:
        features: Of N clips, as of `classify_features`.
        target: Their classes, (N,).
    """
    settings = settings_of(grid)
    if not len(validation):
        return settings[0], pd.DataFrame(settings[:1])
    probabilities = (
        fit(features[train], target[train], setting).probabilities(features[validation])
        for setting in settings
    )
    return best_setting(settings, probabilities, target[validation])


def best_setting(
    settings: list[dict[str, Any]], probabilities: Iterable[FloatArray], target: IntArray
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The setting with the most right answers, and what each gave.

    A tie is broken by the lower cross-entropy, then by the order of the settings.

    Args:
        probabilities: (N, classes) of held-out clips for each setting.
        target: Their classes, (N,).
    """
    shares, losses = [], []
    for probability in probabilities:
        shares.append(float(right(probability, target).mean()))
        losses.append(
            float(-np.log(np.maximum(probability[np.arange(len(target)), target], 1e-9)).mean())
        )
    best = max(range(len(settings)), key=lambda number: (shares[number], -losses[number], -number))
    return settings[best], pd.DataFrame(settings).assign(held_out_top1=shares, held_out_loss=losses)
