"""Nearest neighbours, and how often one of the k nearest is of the right class."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vcsf_cli.features.extract import Features

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

QUERIES_AT_ONCE = 512


def centred_unit(features: FloatArray, mean: FloatArray | None = None) -> FloatArray:
    """Features (N, C) less a mean (C,), each of unit length. The benchmark subtracts their own mean
    (CoCLR)."""
    centred = features - (feature_mean(features) if mean is None else mean)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    unit: FloatArray = centred / np.maximum(length, 1e-12)
    return unit


def feature_mean(features: FloatArray) -> FloatArray:
    """The mean (C,) of features (N, C), summed in float64."""
    mean: FloatArray = features.mean(0, dtype=np.float64).astype(np.float32)
    return mean


def measured_pathways(features: Features) -> list[str]:
    """Each pathway, and `both` if there are two."""
    return [*features, "both"] if len(features) > 1 else list(features)


@dataclass(frozen=True)
class Neighbours:
    """The nearest gallery clips of every query.

    Args:
        index: Gallery rows, nearest first, int64 (Q, k); -1 where the gallery has fewer.
        similarity: Their cosine similarity, (Q, k).
    """

    index: IntArray
    similarity: FloatArray


def nearest(
    query: Features,
    gallery: Features,
    pathway: str,
    k: int,
    groups: tuple[IntArray, IntArray] | None = None,
) -> Neighbours:
    """The k nearest gallery clips by cosine similarity; `both` is the mean of the pathways'
    similarities.

    Args:
        query: Unit-length features (Q, C) by pathway.
        gallery: Unit-length features (G, C) by pathway.
        pathway: One of them, or `both`.
        k: Number of neighbours; equal similarities go by gallery order.
        groups: The group of each query (Q,) and of each gallery clip (G,); clips of one group are
            never neighbours.
    """
    used = list(query) if pathway == "both" else [pathway]
    rows, columns = len(query[used[0]]), len(gallery[used[0]])
    k = min(k, columns)
    index = np.empty((rows, k), np.int64)
    similarity = np.empty((rows, k), np.float32)
    for start in range(0, rows, QUERIES_AT_ONCE):
        part = slice(start, start + QUERIES_AT_ONCE)
        total: FloatArray = np.stack([query[name][part] @ gallery[name].T for name in used]).mean(
            0, dtype=np.float32
        )
        if groups is not None:
            total[groups[0][part, None] == groups[1]] = -np.inf
        order = largest(total, k)
        index[part] = order
        similarity[part] = np.take_along_axis(total, order, 1)
    index[np.isneginf(similarity)] = -1
    return Neighbours(index, similarity)


def largest(values: FloatArray, k: int) -> IntArray:
    """The columns of the k largest values of each row, the largest first; equal ones in their order,
    and values that are no number last.

    To sort whole rows would take most of the time of a large retrieval."""
    if not 0 < k < values.shape[1] or np.isnan(values).any():
        return np.argsort(-values, axis=1, kind="stable")[:, :k]
    least = np.partition(values, -k, axis=1)[:, -k, None]
    kept = values >= least
    for row in np.flatnonzero(kept.sum(1) > k):
        equal = np.flatnonzero(values[row] == least[row])
        kept[row, equal[k - kept[row].sum() :]] = False
    columns = kept.nonzero()[1].reshape(-1, k)
    order = np.argsort(-np.take_along_axis(values, columns, 1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, 1)


def vote(neighbours: Neighbours, target: IntArray, classes: int, temperature: float) -> FloatArray:
    """Shares of the votes that classes get, (Q, classes); zeros for a query without neighbours.

    A neighbour votes for its class with the weight exp(similarity / temperature) (Wu et al., CVPR
    2018, sec. 3.4).

    Args:
        neighbours: The neighbours that vote.
        target: Classes of the gallery, (G,).
        classes: How many there are.
        temperature: How much nearer clips weigh more.
    """
    # Less the largest, so that no weight is too large for a float; shares stay the same.
    nearer = neighbours.similarity - neighbours.similarity.max(1, keepdims=True, initial=-2)
    weight = np.exp(nearer / temperature)
    votes = np.zeros((len(weight), classes), np.float32)
    np.add.at(votes, (np.arange(len(weight))[:, None], target[neighbours.index]), weight)
    shares: FloatArray = votes / np.maximum(votes.sum(1, keepdims=True), 1e-12)
    return shares


def hits(
    neighbours: Neighbours,
    query_label: npt.NDArray[np.object_],
    gallery_label: npt.NDArray[np.object_],
) -> BoolArray:
    """Whether each neighbour is of its query's class, (Q, k)."""
    right: BoolArray = (gallery_label[neighbours.index] == query_label[:, None]) & (
        neighbours.index >= 0
    )
    return right


def found_at(hit: BoolArray, k: int) -> BoolArray:
    """Whether a clip of the query's class is among the k nearest, (Q,), of hits (Q, k or more)."""
    found: BoolArray = np.any(hit[:, :k], axis=1)
    return found


def recall(hit: BoolArray, ks: Iterable[int]) -> dict[int, float]:
    """R@k: the share of queries with a clip of their class among the k nearest."""
    return {k: float(found_at(hit, k).mean()) for k in ks}
