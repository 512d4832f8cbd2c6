"""The vote of the nearest training clips, by frozen features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vcsf_cli.evaluate.classification import Classification
from vcsf_cli.evaluate.metrics import FloatArray, IntArray
from vcsf_cli.evaluate.probe import classify_features
from vcsf_cli.features.extract import Features
from vcsf_cli.features.neighbours import centred_unit, feature_mean, nearest, vote
from vcsf_cli.train.compute import Compute


def predict_knn(evaluation: Classification, compute: Compute) -> Features:
    """Probabilities (test clips, classes) by pathway: the votes of the nearest training clips."""

    def fit(features: FloatArray, target: IntArray, setting: dict[str, Any]) -> Voters:
        return Voters(features, target, len(evaluation.classes), **setting)

    return classify_features(evaluation, compute, fit)[0]


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
