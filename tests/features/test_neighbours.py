"""Retrieval against a slow twin and by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcsf_cli.features.neighbours import (
    Neighbours,
    centred_unit,
    hits,
    largest,
    measured_pathways,
    nearest,
    recall,
    vote,
)

FloatArray = np.ndarray


def features(seed: int, count: int) -> dict[str, FloatArray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=(count, 5)).astype(np.float32) + 3 for name in ("slow", "fast")}


def recall_by_hand(
    query: FloatArray, gallery: FloatArray, labels: list[str], known: list[str], k: int
) -> float:
    """Centre each set by its own mean, then count queries with their class among the k largest
    cosines."""
    query, gallery = query - query.mean(0), gallery - gallery.mean(0)
    found = 0
    for row, label in zip(query, labels, strict=True):
        cosines = [
            float(row @ other / np.linalg.norm(row) / np.linalg.norm(other)) for other in gallery
        ]
        best = sorted(range(len(cosines)), key=lambda index: -cosines[index])[:k]
        found += any(known[index] == label for index in best)
    return found / len(query)


@pytest.mark.parametrize("seed", range(3))
def test_recall_equals_its_definition(seed: int) -> None:
    query, gallery = features(seed, 40), features(seed + 10, 60)
    rng = np.random.default_rng(seed)
    labels, known = rng.choice(list("abcdefgh"), 40), rng.choice(list("abcdefgh"), 60)
    unit = [
        {name: centred_unit(values) for name, values in part.items()} for part in (query, gallery)
    ]
    for pathway in ("slow", "fast"):
        hit = hits(nearest(*unit, pathway, 10), labels.astype(object), known.astype(object))
        for k, value in recall(hit, [1, 5, 10]).items():
            expected = recall_by_hand(
                query[pathway], gallery[pathway], labels.tolist(), known.tolist(), k
            )
            assert value == pytest.approx(expected)


def test_both_is_the_mean_of_the_similarities() -> None:
    query, gallery = ({n: centred_unit(v) for n, v in features(seed, 9).items()} for seed in (0, 1))
    assert measured_pathways(query) == ["slow", "fast", "both"]
    near = nearest(query, gallery, "both", 9)
    mean = (query["slow"] @ gallery["slow"].T + query["fast"] @ gallery["fast"].T) / 2
    np.testing.assert_allclose(near.similarity, np.take_along_axis(mean, near.index, 1), rtol=1e-5)
    assert (np.diff(near.similarity) <= 0).all()


def test_clips_of_one_group_are_never_neighbours_and_short_galleries_end_in_minus_one() -> None:
    unit = {"slow": centred_unit(features(0, 4)["slow"])}
    group = np.array([0, 1, 2, 1])
    near = nearest(unit, unit, "slow", 10, (group, group))
    assert set(near.index[0, :3]) == {1, 2, 3}
    assert near.index[0, 3] == -1
    assert set(near.index[1, :2]) == set(near.index[3, :2]) == {0, 2}
    assert near.index[1, 2:].tolist() == [-1, -1]
    labels = np.array(["a"] * 4, object)
    assert hits(near, labels, labels).sum() == 3 + 2 + 3 + 2


def test_equal_similarities_go_by_gallery_order() -> None:
    gallery = {"slow": np.array([[1, 0], [0, 1], [1, 0], [1, 0]], np.float32)}
    assert nearest({"slow": np.array([[1, 0]], np.float32)}, gallery, "slow", 3).index.tolist() == [
        [0, 2, 3]
    ]


@given(
    similarity=st.lists(
        st.lists(st.sampled_from([np.nan, -np.inf, -1.0, 0.0, 1.0]), min_size=5, max_size=5),
        min_size=1,
    ),
    k=st.integers(0, 5),
)
def test_the_largest_are_those_of_whole_rows_sorted(similarity: list[list[float]], k: int) -> None:
    values = np.array(similarity, np.float32)

    def order(row: FloatArray) -> list[int]:
        return sorted(range(5), key=lambda at: (np.isnan(row[at]), -np.nan_to_num(row[at]), at))

    expected = [order(row)[:k] for row in values]
    assert largest(values, k).tolist() == expected


def test_a_class_that_is_not_in_the_gallery_is_never_hit() -> None:
    unit = {"slow": centred_unit(features(0, 6)["slow"])}
    hit = hits(
        nearest(unit, unit, "slow", 6), np.array(["x"] * 6, object), np.array(["y"] * 6, object)
    )
    assert recall(hit, [1, 6]) == {1: 0.0, 6: 0.0}


@given(st.integers(0, 1000))
def test_recall_never_falls_with_k(seed: int) -> None:
    hit = np.random.default_rng(seed).random((20, 10)) < 0.2
    values = list(recall(hit, range(1, 11)).values())
    assert values == sorted(values)


def test_near_clips_weigh_more_in_a_vote() -> None:
    found = Neighbours(
        np.array([[0, 1, 2], [3, -1, -1], [-1, -1, -1]]),
        np.array([[0.9, 0.8, 0.8], [0.1, -np.inf, -np.inf], [-np.inf] * 3], np.float32),
    )
    target = np.array([0, 1, 1, 2])
    shares = vote(found, target, 3, 0.1)
    ratio = 2 * math.exp(-1)  # two votes, each for 0.1 less
    expected = [[1 / (1 + ratio), ratio / (1 + ratio), 0], [0, 0, 1], [0, 0, 0]]
    np.testing.assert_allclose(shares, expected, atol=1e-6)
    # With a low temperature the nearest alone decides, without an overflow.
    np.testing.assert_allclose(vote(found, target, 3, 1e-4)[0], [1, 0, 0], atol=1e-6)
