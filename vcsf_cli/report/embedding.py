"""The map of the embedding: t-SNE of features in two dimensions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from vcsf_cli.contracts import Indices
from vcsf_cli.features.extract import Features
from vcsf_cli.features.neighbours import FloatArray

MAX_POINTS = 2_000
"""t-SNE of 2,000 points takes some 5 seconds for each pathway; more would hide each other."""
MIN_POINTS = 5
_DIMENSIONS = 50
"""Principal components that t-SNE sees (van der Maaten and Hinton, JMLR 2008)."""
_PERPLEXITY = 30
STEPS = 500
SIDE = 1000
"""Coordinates are whole numbers from 0 to this."""


def sample_points(count: int) -> Indices:
    """The clips that are on the map: all, or `MAX_POINTS` drawn with a fixed seed."""
    if count <= MAX_POINTS:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, MAX_POINTS, replace=False))


def embed(features: Features) -> dict[str, npt.NDArray[np.int64]]:
    """Coordinates of clips (N, 2) by pathway, and for `both` if there are two; none for fewer than
    `MIN_POINTS` clips.

    Args:
        features: Unit-length features (N, C) by pathway.
    """
    if len(next(iter(features.values()))) < MIN_POINTS:
        return {}
    if len(features) > 1:
        # The cosine of joined unit vectors is the mean of their cosines, which retrieval uses.
        features = features | {"both": np.concatenate(list(features.values()), axis=1)}
    # On several threads sums are formed in any order, and two calls give two maps.
    with threadpool_limits(1):
        return {pathway: _scale(_tsne(values)) for pathway, values in features.items()}


def _tsne(features: FloatArray) -> FloatArray:
    """t-SNE of features (N, C) from their first principal components, (N, 2)."""
    count = len(features)
    if min(features.shape) < 2 or not np.ptp(features, axis=0).any():
        return np.zeros((count, 2), np.float32)
    reduced = PCA(min(_DIMENSIONS, *features.shape), svd_solver="full").fit_transform(
        features.astype(np.float64)
    )
    perplexity = min(_PERPLEXITY, (count - 1) / 3)
    begin = reduced[:, :2] / reduced[:, 0].std() * 1e-4
    found: FloatArray = TSNE(
        perplexity=perplexity, init=begin, max_iter=STEPS, random_state=0
    ).fit_transform(reduced)
    return found


def _scale(points: FloatArray) -> npt.NDArray[np.int64]:
    """Points (N, 2), each axis scaled to 0 to `SIDE`."""
    low, high = points.min(0), points.max(0)
    scale = SIDE / np.maximum(high - low, 1e-12)
    moved: npt.NDArray[np.int64] = (
        ((points - (low + high) / 2) * scale + SIDE / 2).round().astype(np.int64)
    )
    return moved
