"""Clusters on hand-made features and classes, against sums by hand."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from vcsf_cli.evaluate.clusters import agreement, by_size, centrality, joined, k_means


def entropy(counts: list[int]) -> float:
    total = sum(counts)
    return -sum(count / total * math.log(count / total) for count in counts)


def agreement_by_hand(cluster: list[int], classes: list[str]) -> dict[str, float]:
    """Homogeneity and completeness from conditional entropies (Rosenberg and Hirschberg, sec. 2),
    and their harmonic mean; mutual information over the root of the product of the entropies."""
    pairs = Counter(zip(cluster, classes, strict=True))
    of_clusters, of_classes = (entropy(list(Counter(each).values())) for each in (cluster, classes))
    both = entropy(list(pairs.values()))
    homogeneity = 1 - (both - of_clusters) / of_classes
    completeness = 1 - (both - of_classes) / of_clusters
    shared = of_clusters + of_classes - both
    return {
        "v_measure": 2 * homogeneity * completeness / (homogeneity + completeness),
        "nmi": shared / math.sqrt(of_clusters * of_classes),
    }


def test_v_measure_and_nmi_by_hand_and_their_spread() -> None:
    classes = list("aaaabbbbcc")
    tries = [[0, 0, 0, 1, 1, 1, 1, 1, 2, 2], [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]]
    found = agreement([np.array(each) for each in tries], np.array(classes))
    by_hand = [agreement_by_hand(each, classes) for each in tries]
    for name in ("v_measure", "nmi"):
        values = [each[name] for each in by_hand]
        assert found[name] == pytest.approx(np.mean(values))
        assert found[f"{name}_min"] == pytest.approx(min(values))
        assert found[f"{name}_max"] == pytest.approx(max(values))
    # The geometric mean of two entropies is below the arithmetic one.
    assert by_hand[0]["nmi"] > by_hand[0]["v_measure"]


def test_what_lies_apart_falls_apart_and_the_same_seed_gives_the_same() -> None:
    rng = np.random.default_rng(0)
    centres = np.eye(4, dtype=np.float32)
    classes = rng.permutation(np.repeat(np.arange(4), 12))
    vectors = (centres[classes] + 0.02 * rng.normal(size=(48, 4))).astype(np.float32)
    tries = [k_means(vectors, 4, seed) for seed in range(5)]
    cluster, distance = min(tries, key=lambda each: each[1])
    assert agreement([cluster], classes)["v_measure"] == pytest.approx(1)
    by_hand = sum(
        float(((vectors[classes == each] - vectors[classes == each].mean(0)) ** 2).sum())
        for each in range(4)
    )
    assert distance == pytest.approx(by_hand, rel=1e-4)
    assert (k_means(vectors, 4, 3)[0] == tries[3][0]).all()


def test_clusters_are_numbered_by_size_then_by_their_first_clip() -> None:
    assert by_size(np.array([5, 2, 2, 9, 5, 2, 9])).tolist() == [1, 0, 0, 2, 1, 0, 2]


def test_the_most_central_clip_is_nearest_to_its_cluster_s_mean() -> None:
    vectors = np.array([[1, 0], [0.6, 0.8], [0, 1], [-1, 0]], np.float32)
    found = centrality(vectors, np.array([0, 0, 0, 1]))
    mean = vectors[:3].mean(0)
    by_hand = [float(each @ mean / np.linalg.norm(mean)) for each in vectors[:3]]
    assert found == pytest.approx([*by_hand, 1.0], abs=1e-6)
    assert found[:3].argmax() == 1


def test_the_cosine_of_joined_vectors_is_the_mean_of_the_pathways_cosines() -> None:
    rng = np.random.default_rng(0)
    unit = {}
    for name, width in (("slow", 3), ("fast", 5)):
        values = rng.normal(size=(6, width))
        unit[name] = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)
    mean = (unit["slow"] @ unit["slow"].T + unit["fast"] @ unit["fast"].T) / 2
    both = joined(unit)
    np.testing.assert_allclose(both @ both.T, mean, atol=1e-6)
