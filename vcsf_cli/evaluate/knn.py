"""The vote of the nearest training clips, by frozen features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd

from vcsf_cli.config.protocol import Knn
from vcsf_cli.contracts import Indices
from vcsf_cli.evaluate.classification import Classification
from vcsf_cli.evaluate.metrics import FloatArray, IntArray
from vcsf_cli.evaluate.probe import (
    best_setting,
    classify_features,
    labelled_features,
    settings_of,
    write_sweep,
)
from vcsf_cli.features.extract import Features
from vcsf_cli.features.neighbours import (
    BoolArray,
    Neighbours,
    centred_unit,
    feature_mean,
    nearest,
    vote,
)
from vcsf_cli.train.compute import Compute

FOLDS = 10
"""Most folds of groups, each with settings of its own."""


def predict_knn(evaluation: Classification, compute: Compute) -> Features:
    """Probabilities (test clips, classes) by pathway: the votes of the nearest training clips, or
    of the nearest clips of other groups."""
    if evaluation.leave_one_out:
        return _predict_leaving_out(evaluation, compute)

    def fit(features: FloatArray, target: IntArray, setting: dict[str, Any]) -> Voters:
        return Voters(features, target, len(evaluation.classes), **setting)

    return classify_features(evaluation, labelled_features(evaluation, compute), fit)[0]


def _predict_leaving_out(evaluation: Classification, compute: Compute) -> Features:
    rows, classes = evaluation.test, len(evaluation.classes)
    group = np.unique(evaluation.drawn[rows], return_inverse=True)[1]
    grid = cast(Knn, evaluation.protocol).grid.model_dump()
    target, found = evaluation.target[rows], {}
    for pathway, features in labelled_features(evaluation, compute).items():
        found[pathway], tried = votes_of_other_groups(
            features[rows], target, group, classes, grid, evaluation.seed
        )
        write_sweep(evaluation, pathway, tried)
    return found


def votes_of_other_groups(
    features: FloatArray,
    target: IntArray,
    group: Indices,
    classes: int,
    grid: dict[str, list[Any]],
    seed: int,
) -> tuple[FloatArray, pd.DataFrame]:
    """Shares (N, classes) of the votes of each clip's nearest clips in other groups, and what each
    setting of the grid gave for each fold.

    Groups are dealt into at most `FOLDS` folds. The settings for a fold are those that are best for
    the clips of the other folds, when these are told by other groups of the other folds alone: no
    label of the fold has a part in them.

    Args:
        features: (N, C); they are centred by their own mean.
        target: Classes of the clips, (N,).
        group: Numbers of their groups from 0 without gaps, (N,).
        seed: Of the folds.
    """
    groups = int(group.max()) + 1
    fold = np.random.default_rng(seed).permutation(groups)[group] % min(FOLDS, groups)
    settings, most = settings_of(grid), max(grid["k"])
    unit = {"": centred_unit(features)}
    # Of these some are of the fold, and are not looked at when its settings are chosen.
    near = nearest(unit, unit, "", most + int(np.bincount(fold).max()), (group, group))
    shares, tables = np.zeros((len(features), classes), np.float32), []
    for number in range(int(fold.max()) + 1):
        own = fold == number
        others = _without(near, ~own, own, most)
        probabilities = (
            vote(_first(others, setting["k"]), target, classes, setting["temperature"])
            for setting in settings
        )
        setting, tried = best_setting(settings, probabilities, target[~own])
        tables.append(tried.assign(fold=number, clips=int(own.sum())))
        mine = _first(Neighbours(near.index[own], near.similarity[own]), setting["k"])
        shares[own] = vote(mine, target, classes, setting["temperature"])
    return shares, pd.concat(tables, ignore_index=True)


def _without(near: Neighbours, rows: BoolArray, gone: BoolArray, k: int) -> Neighbours:
    """The k nearest of some queries without the clips that are gone."""
    index, similarity = near.index[rows], near.similarity[rows].copy()
    similarity[gone[index]] = -np.inf
    order = np.argsort(np.isneginf(similarity), axis=1, kind="stable")[:, :k]
    return Neighbours(np.take_along_axis(index, order, 1), np.take_along_axis(similarity, order, 1))


def _first(near: Neighbours, k: int) -> Neighbours:
    return Neighbours(near.index[:, :k], near.similarity[:, :k])


@dataclass(frozen=True)
class Voters:
    """Training clips that vote for their class, see `neighbours.vote`.

    Args:
        gallery: Features of the training clips (N, C).
        target: Their classes, (N,).
        k: How many of the nearest vote.
        temperature: How much nearer clips weigh more.
    """

    gallery: FloatArray
    target: IntArray
    classes: int
    k: int
    temperature: float

    def probabilities(self, features: FloatArray) -> FloatArray:
        """Shares of the votes (M, classes) of features (M, C).

        All are centred by the training clips' mean, so that a clip's shares do not depend on the
        other test clips: less the mean of test clips of one class, nothing of that class is left.
        """
        mean = feature_mean(self.gallery)
        near = nearest(
            {"": centred_unit(features, mean)}, {"": centred_unit(self.gallery, mean)}, "", self.k
        )
        return vote(near, self.target, self.classes, self.temperature)
