"""The clips of a page: their pictures and their neighbours, by one run or by several on the same
clips."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from vcsf_cli.contracts import Indices
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.data.splits import QueryGallery
from vcsf_cli.features.cache import load_features
from vcsf_cli.features.extract import Features
from vcsf_cli.features.neighbours import FloatArray, centred_unit, measured_pathways
from vcsf_cli.report import embedding
from vcsf_cli.report.page import Clips
from vcsf_cli.report.pictures import encode_strips, layout_for
from vcsf_cli.runs import results
from vcsf_cli.storage.sealed import reading

_SHOWN_NEIGHBOURS = 5
"""How many neighbours of a query the gallery shows."""
_SHOWN_MEMBERS = 15
"""How many clips of a cluster the gallery shows beside the most central one."""
_MOST_QUERIES = 4_000
"""In the gallery; of more, a sample is drawn with a fixed seed."""
_MOST_VIDEOS = 16_000
"""With pictures on a page; the gallery shows fewer queries if they and their neighbours are more.
"""


@dataclass(frozen=True)
class _NeighbourLists:
    """The neighbours of every query by one pathway, as rows of the manifest.

    Args:
        near: Nearest first, (Q, k); -1 where there are fewer.
        similarity: (Q, k).
    """

    near: Indices
    similarity: npt.NDArray[np.float64]


def build_clips(
    manifest: Manifest, parts: QueryGallery, folders: Mapping[str, Path]
) -> Clips | None:
    """The clips with their pictures, neighbours and places on the map; None if no clip has a
    neighbour.

    Args:
        folders: Where retrieval of each run left its `neighbours.csv` and `features.parquet`, by
            the name to show.

    Raises:
        DataError: If the dataset's shards can't be read.
    """
    found = {name: _read_neighbours(folder, manifest, parts) for name, folder in folders.items()}
    if not all(found.values()):
        return None
    near = [each.near for by_pathway in found.values() for each in by_pathway.values()]
    shown = _shown_queries(near)
    points = embedding.sample_points(len(parts.rows))
    mapped = parts.rows[points] if len(points) >= embedding.MIN_POINTS else np.empty(0, np.int64)
    rows = np.unique(
        np.concatenate([parts.query[shown], mapped, *(each[shown].ravel() for each in near)])
    )
    rows = rows[rows >= 0]
    place = np.full(len(manifest.table), -1)
    place[rows] = np.arange(len(rows))
    layout = layout_for(len(rows))
    names, classes = _clip_classes(manifest, parts)
    videos = manifest.table["video"].to_numpy(object)
    data = {
        "classes": names,
        "videos": [[str(videos[row]), int(classes[row])] for row in rows],
        "queries": place[parts.query[shown]].tolist(),
        "frames": layout.frames,
        "marked": bool(names),
        "scored": not parts.leave_one_out,
        "words": _describe_gallery(parts, bool(names), len(shown)),
        "mapped": place[mapped].tolist(),
        "map_words": _describe_map(len(points), len(parts.rows), parts.leave_one_out, bool(names)),
        "recall": [],
    }
    views = [_run_view(name, found[name], shown, place, folders[name], points) for name in folders]
    if parts.scored:
        hits = {
            (f"R@1 {pathway}", pathway): pd.Series(
                classes[parts.query] == classes[each.near[:, 0]], videos[parts.query]
            )
            for pathway, each in next(iter(found.values())).items()
        }
        data["recall"] = [class_shares("R@1 by class", manifest, hits)]
        for view, by_pathway in zip(views, found.values(), strict=True):
            view["confusion"] = _count_confusion(classes, parts.query, by_pathway)
    return Clips(data, views, encode_strips(manifest, rows, layout, os.cpu_count() or 1))


def build_clusters(
    manifest: Manifest, rows: Indices, cluster: Indices, similarity: FloatArray, unit: Features
) -> Clips:
    """The clusters of clips: the most central clips of each, and all on the map.

    Args:
        rows: Rows of the manifest that were clustered, (N,).
        cluster: The number of the cluster of each from 0 without gaps, (N,).
        similarity: Of each to its cluster's centre, (N,).
        unit: Unit-length features (N, C) by pathway, for the map.

    Raises:
        DataError: If the dataset's shards can't be read.
    """
    order = np.lexsort((-similarity, cluster))
    members = np.split(order, np.searchsorted(cluster[order], np.arange(1, cluster.max() + 1)))
    central = [own[: _SHOWN_MEMBERS + 1] for own in members]
    points = embedding.sample_points(len(rows))
    mapped = points if len(points) >= embedding.MIN_POINTS else points[:0]
    shown = np.unique(np.concatenate([*central, mapped]))
    place = np.full(len(rows), -1)
    place[shown] = np.arange(len(shown))
    layout = layout_for(len(shown))
    videos = manifest.table["video"].to_numpy(object)
    names = [f"cluster {number + 1} ({len(own):,} clips)" for number, own in enumerate(members)]
    pathway = list(measured_pathways(unit))[-1]
    places = embedding.embed({name: values[points] for name, values in unit.items()})
    data = {
        "classes": names,
        "videos": [[str(videos[rows[each]]), int(cluster[each])] for each in shown],
        "queries": [int(place[own[0]]) for own in central],
        "units": ["cluster", "clusters"],
        "frames": layout.frames,
        "marked": False,
        "scored": False,
        "words": "Each cluster with its most central clip, and beside it those that are next, with "
        f"their similarity to the centre (cosine); at most {_SHOWN_MEMBERS + 1} of a cluster. "
        "clusters.csv has all.",
        "mapped": place[mapped].tolist(),
        "map_words": _describe_map(len(points), len(rows), True, False)
        + " Colour and shape stand for the cluster.",
        "recall": [],
    }
    view = {
        "name": "",
        "pathways": [pathway],
        "near": {pathway: [place[own[1:]].tolist() for own in central]},
        "similarity": {
            pathway: [(1000 * similarity[own[1:]]).round().astype(int).tolist() for own in central]
        },
        "k": _SHOWN_NEIGHBOURS,
        "places": {pathway: places[pathway].ravel().tolist()} if places else {},
    }
    pictures = encode_strips(manifest, rows[shown], layout, os.cpu_count() or 1)
    return Clips(data, [view], pictures)


def _run_view(
    name: str,
    found: Mapping[str, _NeighbourLists],
    shown: Indices,
    place: Indices,
    folder: Path,
    points: Indices,
) -> dict[str, Any]:
    """A run's neighbours of the shown queries, and its map.

    Args:
        place: The number of each row of the manifest among the page's videos.
        points: Which of the clips that take part are on the map.
    """
    places = embedding.embed(_read_unit_features(folder, points))
    return {
        "name": name,
        "pathways": list(found),
        "near": {
            pathway: [place[near[near >= 0]].tolist() for near in each.near[shown]]
            for pathway, each in found.items()
        },
        "similarity": {
            pathway: (1000 * each.similarity[shown]).round().astype(int).tolist()
            for pathway, each in found.items()
        },
        "k": max(each.near.shape[1] for each in found.values()),
        "places": {pathway: values.ravel().tolist() for pathway, values in places.items()},
    }


def _read_neighbours(
    folder: Path, manifest: Manifest, parts: QueryGallery
) -> dict[str, _NeighbourLists]:
    """The nearest clips by pathway, from `neighbours.csv`."""
    columns = ["query", "pathway", "rank", "neighbour", "similarity"]
    table = results.read(folder / "neighbours.csv", columns)
    table = table[table["rank"] <= _SHOWN_NEIGHBOURS]
    with reading(folder / "neighbours.csv", "run the same command again"):
        return _neighbour_lists(table, manifest, parts)


def _neighbour_lists(
    table: pd.DataFrame, manifest: Manifest, parts: QueryGallery
) -> dict[str, _NeighbourLists]:
    row_of = {video: row for row, video in enumerate(manifest.table["video"])}
    query_of = {row: index for index, row in enumerate(parts.query)}
    query = table["query"].map(row_of).map(query_of).to_numpy()
    neighbour, rank = table["neighbour"].map(row_of).to_numpy(), table["rank"].to_numpy() - 1
    shape = (len(parts.query), int(rank.max(initial=0)) + 1)
    found = {}
    for pathway in table["pathway"].unique():
        of = (table["pathway"] == pathway).to_numpy()
        near, similarity = np.full(shape, -1), np.zeros(shape)
        near[query[of], rank[of]] = neighbour[of]
        similarity[query[of], rank[of]] = table["similarity"].to_numpy()[of]
        found[str(pathway)] = _NeighbourLists(near, similarity)
    return found


def _shown_queries(near: Sequence[Indices]) -> Indices:
    """The queries that the gallery shows: all, or a sample that a page can hold, drawn with a fixed
    seed.

    Args:
        near: The neighbours of every query, (Q, k) for each pathway and run.
    """
    every = np.concatenate(near, axis=1)
    order = np.random.default_rng(0).permutation(len(every))[:_MOST_QUERIES]
    while len(order) + len(np.unique(every[order])) > _MOST_VIDEOS:
        order = order[: len(order) * 9 // 10]
    return np.sort(order)


def _read_unit_features(folder: Path, points: Indices) -> Features:
    """Unit-length features of some of the clips that take part, from `features.parquet`, centred as
    retrieval does."""
    features, part = load_features(folder / "features.parquet")
    for values in features.values():
        for each in np.unique(part):
            values[part == each] = centred_unit(values[part == each])
    return {name: values[points] for name, values in features.items()}


def _clip_classes(manifest: Manifest, parts: QueryGallery) -> tuple[list[str], Indices]:
    """The names of the classes that take part, and the class of each row of the manifest, (N,); -1
    without a label or of another class."""
    labels = manifest.table["label"]
    names = sorted(map(str, labels.iloc[parts.rows].dropna().unique()))
    return names, pd.Categorical(labels.astype(object), names).codes.astype(np.int64)


def _count_confusion(
    classes: Indices, query: Indices, found: Mapping[str, _NeighbourLists]
) -> dict[str, Any]:
    """How often the nearest clip of a query of one class is of another, by pathway: (class of the
    query, class of the clip, count).

    Args:
        classes: Class of each row of the manifest.
    """
    confusion = {}
    for pathway, each in found.items():
        pairs = np.stack([classes[query], classes[each.near[:, 0]]], axis=1)
        kinds, counts = np.unique(pairs, axis=0, return_counts=True)
        confusion[pathway] = [
            [int(a), int(b), int(count)] for (a, b), count in zip(kinds, counts, strict=True)
        ]
    return confusion


def class_shares(
    title: str, manifest: Manifest, hits: Mapping[tuple[str, str], pd.Series]
) -> dict[str, Any]:
    """The share of right answers for each class's test clips, as a table for the page's script.

    Args:
        hits: A number from 0 to 1 for every clip (index), by a column's heading and its kind as in
            `charts.Line`.
    """
    if not hits:
        return {"title": title, "columns": [], "rows": []}
    label = manifest.table.set_index("video")["label"]
    shares = pd.DataFrame({column: each.groupby(label).mean() for column, each in hits.items()})
    clips = pd.concat(list(hits.values())).groupby(level=0).first().groupby(label).size()
    return {
        "title": title,
        "columns": list(hits),
        "rows": [
            [
                str(name),
                int(clips[name]),
                *(None if pd.isna(share) else round(float(share), 6) for share in values),
            ]
            for name, values in zip(shares.index, shares.to_numpy(), strict=True)
        ],
    }


def _describe_gallery(parts: QueryGallery, marked: bool, shown: int) -> str:
    where, count = "other clips" if parts.leave_one_out else "training clips", len(parts.query)
    where += " of other groups" if parts.leave_one_out and parts.scored else ""
    words = [
        f"Each query with its nearest {where} by each pathway, and how similar they are (cosine)."
    ]
    if marked:
        words.append(
            "✓ marks a clip of the query's class. A query is called right where its nearest clip "
            "is of its class."
        )
    if shown < count:
        words.append(
            f"{shown:,} of {count:,} queries are here, drawn with a fixed seed; tables are of all."
        )
    return " ".join(words)


def _describe_map(points: int, count: int, leave_one_out: bool, marked: bool) -> str:
    words = [
        "t-SNE of the features: near clips are similar; distances between groups and sizes of "
        "groups mean nothing."
    ]
    if marked:
        words.append("Colour and shape stand for the class.")
    if not leave_one_out:
        words.append("Test clips have an edge.")
    if points < count:
        words.append(f"{points:,} of {count:,} clips are here, drawn with a fixed seed.")
    return " ".join(words)
