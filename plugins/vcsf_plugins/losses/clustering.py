"""Clusters of embeddings, the same for the same embeddings and seed."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import Tensor

_ROWS = 1024
"""Vectors that are compared with all others at once."""


def k_means(vectors: Tensor, count: int, seed: int) -> Tensor:
    """The cluster of each of N vectors, int64 (N,): fewer than `count` clusters where vectors are
    equal."""
    # On several threads sums are formed in any order, and two calls give two answers.
    with threadpool_limits(1):
        found = KMeans(count, n_init=1, random_state=seed).fit_predict(vectors.numpy())
    return torch.from_numpy(found).long()


def first_neighbours(vectors: Tensor) -> Tensor:
    """The cluster of each of N vectors of equal length in FINCH's first partition, int64 (N,).

    Each is linked to the one that is nearest by cosine; clusters are the connected components
    (Sarfraz et al., CVPR 2019, eq. 1)."""
    nearest = []
    for begin in range(0, len(vectors), _ROWS):
        rows = torch.arange(begin, min(begin + _ROWS, len(vectors)))
        similarity = vectors[rows] @ vectors.T
        similarity[torch.arange(len(rows)), rows] = -torch.inf
        nearest.append(similarity.argmax(1))
    links = np.arange(len(vectors)), torch.cat(nearest).numpy()
    graph = coo_array((np.ones(len(vectors), bool), links), shape=(len(vectors),) * 2)
    return torch.from_numpy(connected_components(graph, directed=False)[1]).long()
