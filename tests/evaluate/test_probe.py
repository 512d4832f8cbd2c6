"""The linear probe and k-NN on hand-made features, against slow twins."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from vcsf_cli.config.protocol import LinearTrain
from vcsf_cli.config.schema import Optim
from vcsf_cli.evaluate.knn import FOLDS, Voters, votes_of_other_groups
from vcsf_cli.evaluate.linear import fit_layer
from vcsf_cli.evaluate.probe import choose

SGD = Optim(name="sgd", lr=0.3, weight_decay=1e-4, schedule="step", drops=[60, 80])


def separable(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Features that a linear layer can tell apart, shifted and scaled, and their classes."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(4, 6))
    target = rng.integers(0, 4, count)
    features = centres[target] + 0.05 * rng.normal(size=(count, 6)) + 1
    return (7 * features).astype(np.float32), target


def test_a_linear_layer_tells_apart_what_can_be_told_apart() -> None:
    features, target = separable(0, 80)
    layer = fit_layer(features, target, 4, SGD, LinearTrain(), seed=0)
    seen, known = separable(1, 200)
    probability = layer.probabilities(seen)
    assert (probability.argmax(1) == known).all()
    assert probability.sum(1) == pytest.approx(np.ones(200), abs=1e-5)


def test_the_layer_sees_unit_length_and_learns_alike_from_the_same_seed() -> None:
    features, target = separable(0, 50)
    layer, again, other = (
        fit_layer(features, target, 4, SGD, LinearTrain(epochs=5, batch=16), s) for s in (0, 0, 1)
    )
    assert all(
        torch.equal(layer.state_dict()[name], value) for name, value in again.state_dict().items()
    )
    assert not torch.equal(layer.linear.weight, other.linear.weight)
    lengths = np.linspace(0.1, 9, 50, dtype=np.float32)[:, None]
    np.testing.assert_allclose(
        layer.probabilities(features * lengths), layer.probabilities(features), atol=1e-5
    )
    assert not list(layer.norm.parameters())


def test_learning_rate_weight_decay_and_schedule_reach_the_layer() -> None:
    features, target = separable(0, 50)

    def weights(**changes: Any) -> torch.Tensor:
        optim = Optim.model_validate(SGD.model_dump() | changes)
        return fit_layer(
            features, target, 4, optim, LinearTrain(epochs=4, batch=50), 0
        ).linear.weight.detach()

    slow, fast, decayed = weights(lr=0.01), weights(lr=1.0), weights(weight_decay=1.0)
    assert slow.norm() < weights().norm() < fast.norm()
    assert decayed.norm() < weights().norm()
    assert not torch.equal(weights(drops=[1]), weights())


def votes_by_hand(
    query: np.ndarray, gallery: np.ndarray, target: np.ndarray, k: int, temperature: float
) -> list[list[float]]:
    """Wu et al.: the sum of exp(cosine / temperature) of the k nearest of each class, as shares."""
    found = []
    query, gallery = query - gallery.mean(0), gallery - gallery.mean(0)
    for row in query:
        cosine = [
            float(row @ other / np.linalg.norm(row) / np.linalg.norm(other)) for other in gallery
        ]
        votes = [0.0, 0.0, 0.0]
        for near in sorted(range(len(cosine)), key=lambda index: -cosine[index])[:k]:
            votes[target[near]] += math.exp(cosine[near] / temperature)
        found.append([vote / sum(votes) for vote in votes])
    return found


@pytest.mark.parametrize(
    ("k", "temperature"), [(1, 0.07), (4, 0.07), (4, 1.0), (15, 0.2), (99, 0.02)]
)
def test_neighbours_vote_as_wu_et_al_say(k: int, temperature: float) -> None:
    rng = np.random.default_rng(k)
    gallery, query = (rng.normal(size=(count, 5)).astype(np.float32) + 2 for count in (20, 7))
    target = rng.integers(0, 3, 20)
    found = Voters(gallery, target, 3, k, temperature).probabilities(query)
    np.testing.assert_allclose(
        found, votes_by_hand(query, gallery, target, k, temperature), atol=1e-4
    )


def test_a_clip_s_neighbours_do_not_depend_on_the_other_clips_that_are_asked_about() -> None:
    rng = np.random.default_rng(0)
    centre = np.repeat([[5.0], [-5.0]], 20, 0)
    gallery = (rng.normal(size=(40, 5)) / 10 + centre).astype(np.float32)
    query = (rng.normal(size=(6, 5)) / 10 - 5).astype(np.float32)
    voters = Voters(gallery, np.repeat([0, 1], 20), 2, 5, 0.07)
    together = voters.probabilities(query)
    assert together.argmax(1).tolist() == [1] * 6
    np.testing.assert_allclose(
        np.concatenate([voters.probabilities(each[None]) for each in query]), together, atol=1e-5
    )


class Known:
    """A classifier whose probability of the right class is what its setting says, clip by clip."""

    def __init__(self, right: list[float]) -> None:
        self.right = right

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        return np.array([[each, 1 - each] for each in self.right], np.float32)


@pytest.mark.parametrize(
    ("gives", "chosen"),
    [
        (
            [[0.9, 0.9, 0.1, 0.1], [0.6, 0.6, 0.6, 0.1], [0.9, 0.1, 0.1, 0.1]],
            1,
        ),  # the most right answers
        (
            [[0.6, 0.6, 0.1, 0.1], [0.9, 0.9, 0.4, 0.4], [0.9, 0.1, 0.1, 0.1]],
            1,
        ),  # of equally many the surer
        (
            [[0.6, 0.6, 0.6, 0.6], [0.6, 0.6, 0.6, 0.6], [0.6, 0.6, 0.6, 0.6]],
            0,
        ),  # of the same the first
    ],
)
def test_the_setting_with_the_most_right_answers_on_held_out_clips_is_chosen(
    gives: list[list[float]], chosen: int
) -> None:
    def fit(features: np.ndarray, target: np.ndarray, setting: dict[str, Any]) -> Known:
        assert len(features) == len(target) == 4
        return Known(gives[setting["number"]])

    features, target, grid = (
        np.zeros((8, 2), np.float32),
        np.zeros(8, np.int64),
        {"number": [0, 1, 2]},
    )
    setting, tried = choose(features, target, np.arange(4), np.arange(4, 8), fit, grid)
    assert setting == {"number": chosen}
    assert tried["held_out_top1"].tolist() == [
        np.mean([each > 0.5 for each in row]) for row in gives
    ]
    assert choose(features, target, np.arange(8), np.arange(0), fit, {"number": [2, 1]})[0] == {
        "number": 2
    }


def left_out_by_hand(
    features: np.ndarray,
    target: np.ndarray,
    group: np.ndarray,
    fold: np.ndarray,
    settings: list[tuple[int, float]],
) -> tuple[list[list[float]], list[int]]:
    """For every fold the settings with the most right answers among the other folds' clips, each of
    which is told by clips of other groups and not of the fold; then the votes for the fold's."""
    unit = features - features.mean(0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)

    def votes(clip: int, allowed: list[int], k: int, temperature: float) -> list[float]:
        shares = [0.0, 0.0, 0.0]
        for near in sorted(allowed, key=lambda other: -float(unit[clip] @ unit[other]))[:k]:
            shares[target[near]] += math.exp(float(unit[clip] @ unit[near]) / temperature)
        return [each / sum(shares) for each in shares]

    clips, found, chosen = range(len(features)), [[0.0]] * len(features), []
    for number in sorted(set(fold)):
        scores = []
        for place, (k, temperature) in enumerate(settings):
            right, loss = 0, 0.0
            others = [clip for clip in clips if fold[clip] != number]
            for clip in others:
                allowed = [other for other in others if group[other] != group[clip]]
                shares = votes(clip, allowed, k, temperature)
                right += shares.index(max(shares)) == target[clip]
                loss -= math.log(max(shares[target[clip]], 1e-9))
            scores.append((right, -loss, -place))
        best = max(range(len(settings)), key=lambda place: scores[place])
        chosen.append(best)
        for clip in clips:
            if fold[clip] == number:
                allowed = [other for other in clips if group[other] != group[clip]]
                found[clip] = votes(clip, allowed, *settings[best])
    return found, chosen


@pytest.mark.parametrize("groups", [4, 13])
def test_clips_of_other_groups_vote_with_settings_that_other_folds_choose(groups: int) -> None:
    rng = np.random.default_rng(0)
    target, group = rng.integers(0, 3, 52), np.arange(52) % groups
    centres = rng.normal(size=(3, 5))
    features = (centres[target] + 1.3 * rng.normal(size=(52, 5)) + 2).astype(np.float32)
    grid = {"k": [9, 1, 3], "temperature": [0.1, 1.0]}
    found, tried = votes_of_other_groups(features, target, group, 3, grid, seed=0)
    order = np.random.default_rng(0).permutation(groups)
    fold = np.array([order[each] % min(FOLDS, groups) for each in group])
    settings = [(k, temperature) for k in grid["k"] for temperature in grid["temperature"]]
    by_hand, chosen = left_out_by_hand(features, target, group, fold, settings)
    np.testing.assert_allclose(found, by_hand, atol=1e-4)
    best = tried.sort_values(
        ["held_out_top1", "held_out_loss"], ascending=[False, True], kind="stable"
    )
    first = best.groupby("fold").first()
    assert [settings.index((row.k, row.temperature)) for row in first.itertuples()] == chosen
    assert len(set(chosen)) > 1


def test_a_fold_s_labels_choose_nothing_for_it() -> None:
    rng = np.random.default_rng(0)
    target, group = rng.integers(0, 3, 40), np.arange(40) % 8
    features = rng.normal(size=(40, 5)).astype(np.float32)
    grid = {"k": [1, 3, 9], "temperature": [0.1, 1.0]}
    _, tried = votes_of_other_groups(features, target, group, 3, grid, seed=0)
    changed = np.where(np.random.default_rng(0).permutation(8)[group] == 5, 2, target)
    assert (changed != target).any()
    _, again = votes_of_other_groups(features, changed, group, 3, grid, seed=0)
    same = ["k", "temperature", "held_out_top1", "held_out_loss"]
    assert tried[tried["fold"] == 5][same].equals(again[again["fold"] == 5][same])
    assert not tried[tried["fold"] == 4][same].equals(again[again["fold"] == 4][same])
