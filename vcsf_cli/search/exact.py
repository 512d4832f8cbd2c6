"""Exact search of a gallery, window by window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vcsf_cli.contracts import Indices
from vcsf_cli.features.extract import Features
from vcsf_cli.features.neighbours import largest
from vcsf_cli.search.gallery import (
    ROWS_AT_ONCE,
    SHORTEST,
    FloatArray,
    GalleryWindows,
    split_pathway,
    unit_vectors,
)

QUERIES_AT_ONCE = 512
SIMILARITIES_AT_ONCE = 2**24
"""Entries of the table of groups and recordings, 64 MiB; more groups are searched in parts."""


class Pair(NamedTuple):
    """A window of a query and the most similar window of a recording.

    Args:
        group: The number of the group of query windows that are ranked together.
        similarity: The cosine of the two windows, or the mean of two cosines.
    """

    group: int
    recording: int
    similarity: float
    query: int
    window: int


def search_exact(
    query: Features, group: Indices, windows: GalleryWindows, pathway: str, k: int
) -> list[Pair]:
    """The k recordings nearest to each group of query windows, by their best pair of windows.

    The gallery is read block by block: memory grows by only one number for each recording.

    Args:
        query: Features of the query's windows as the network gave them, (Q, C) by pathway.
        group: The group of each window, (Q,), rising from 0 without gaps.
        pathway: `slow`, `fast`, or `both` for the mean of their cosines.
        k: Recordings for each group; equal similarities go by gallery order.

    Returns:
        At most k pairs a group, the nearest first, group after group.
    """
    nearest = nearest_recordings(query, group, windows, pathway, k)
    return rank(query, group, nearest, windows, pathway, k)


def nearest_recordings(
    query: Features, group: Indices, windows: GalleryWindows, pathway: str, k: int
) -> list[Indices]:
    """The k nearest recordings of each group, nearest first; arguments as of `search_exact`."""
    groups = int(group[-1]) + 1
    at_once = max(1, SIMILARITIES_AT_ONCE // len(windows.names))
    found: list[Indices] = []
    for first in range(0, groups, at_once):
        begin, end = np.searchsorted(group, [first, first + at_once])
        part = {name: features[begin:end] for name, features in query.items()}
        best = best_similarities(part, group[begin:end] - first, windows, pathway)
        found += list(largest(best, k))
    return found


def best_similarities(
    query: Features, group: Indices, windows: GalleryWindows, pathway: str
) -> FloatArray:
    """The similarity of the best pair of windows of every group and recording, (G, R); arguments as
    of `search_exact`.

    A cosine is q(x - m) / |x - m| for a query q of unit length, a window x and the mean m. As
    (qx - qm) / |x - m| it needs the features as they are on disk, read once, and the lengths."""
    used = split_pathway(pathway)
    vectors = {
        name: unit_vectors(query, windows.mean, name) / np.float32(len(used)) for name in used
    }
    at_mean = {name: (vectors[name] @ windows.mean[name])[:, None] for name in used}
    lengths = {
        name: np.where(windows.lengths[name] > SHORTEST, windows.lengths[name], np.float32(np.inf))
        for name in used
    }
    best = np.full((int(group[-1]) + 1, len(windows.names)), -np.inf, np.float32)
    for begin in range(0, len(windows), ROWS_AT_ONCE):
        rows = slice(begin, begin + ROWS_AT_ONCE)
        block = {name: windows.read_rows(name, begin, begin + ROWS_AT_ONCE).T for name in used}
        recording = windows.recording[rows]
        for first in range(0, len(group), QUERIES_AT_ONCE):
            some = slice(first, first + QUERIES_AT_ONCE)
            owner = group[some]
            parts = [
                (vectors[p][some] @ block[p] - at_mean[p][some]) / lengths[p][rows] for p in used
            ]
            similarity = np.maximum.reduceat(
                sum(parts[1:], parts[0]), run_starts(recording), axis=1
            )
            similarity = np.maximum.reduceat(similarity, run_starts(owner), axis=0)
            cells = best[owner[0] : owner[-1] + 1, recording[0] : recording[-1] + 1]
            np.maximum(cells, similarity, out=cells)
    return best


def run_starts(numbers: Indices) -> Indices:
    """The indices where runs of equal numbers begin."""
    return np.flatnonzero(np.concatenate([[True], numbers[1:] != numbers[:-1]]))


def rank(
    query: Features,
    group: Indices,
    candidates: Sequence[Indices],
    windows: GalleryWindows,
    pathway: str,
    k: int,
) -> list[Pair]:
    """The k best of each group's candidates, by their best pair of windows.

    Args:
        query: As of `search_exact`, and so are `group`, `windows`, `pathway` and `k`.
    """
    vectors = unit_vectors(query, windows.mean, pathway)
    found: list[Pair] = []
    for number, recordings in enumerate(candidates):
        begin, end = (int(edge) for edge in np.searchsorted(group, [number, number + 1]))
        pairs = [
            _best_pair(vectors[begin:end], number, begin, windows, int(each), pathway)
            for each in recordings
        ]
        found += sorted(pairs, key=lambda pair: (-pair.similarity, pair.recording))[:k]
    return found


def _best_pair(
    vectors: FloatArray,
    group: int,
    first: int,
    windows: GalleryWindows,
    recording: int,
    pathway: str,
) -> Pair:
    """The most similar windows of a recording and a group, whose first window is number `first`."""
    best = Pair(group, recording, -np.inf, first, int(windows.starts[recording]))
    for begin in range(
        int(windows.starts[recording]), int(windows.starts[recording + 1]), ROWS_AT_ONCE
    ):
        end = min(begin + ROWS_AT_ONCE, int(windows.starts[recording + 1]))
        similarity = vectors @ windows.vectors(pathway, begin, end).T
        row, column = divmod(int(similarity.argmax()), end - begin)
        if similarity[row, column] > best.similarity:
            best = Pair(
                group, recording, float(similarity[row, column]), first + row, begin + column
            )
    return best
