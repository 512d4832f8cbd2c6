"""Clusters of clips by their features: how well they agree with the classes, and the clusters
themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.cluster import KMeans
from sklearn.metrics import normalized_mutual_info_score, v_measure_score
from threadpoolctl import threadpool_limits

from vcsf_cli.contracts import Indices
from vcsf_cli.errors import InputError, RunError
from vcsf_cli.evaluate.evaluation import LEAVE_ONE_OUT, Evaluation, Measurement
from vcsf_cli.evaluate.retrieval import FEATURES, RESULTS, Retrieval
from vcsf_cli.features.cache import load_features
from vcsf_cli.features.neighbours import FloatArray, centred_unit, measured_pathways
from vcsf_cli.runs import results
from vcsf_cli.runs.run import now
from vcsf_cli.storage import files
from vcsf_cli.storage.sealed import read_json, write_json

CLUSTERS = "clusters.csv"
METRICS = ("v_measure", "nmi")
SEEDS = 10
"""k-means begins this often, each time with other centres."""
_MOST = 50
"""Clusters of clips without labels, unless another number is asked for."""


@dataclass(frozen=True)
class Clustering(Evaluation):
    """An evaluation by k-means with as many clusters as the clips have classes, on the features of
    a retrieval.

    Args:
        count: Clusters of clips without labels; None for a number that grows with the clips.
    """

    count: int | None = None

    @property
    def task(self) -> str:
        return f"clusters{LEAVE_ONE_OUT}" if self.leave_one_out else "clusters"

    @cached_property
    def retrieval(self) -> Retrieval:
        """The retrieval whose queries are clustered: the test clips, or all of leave-one-out and
        where nothing is scored."""
        return Retrieval(
            self.source, self.manifest, self.split, [1], leave_one_out=self.leave_one_out
        )

    @property
    def folder(self) -> Path:
        return self.source.folder / "clusters" / self.retrieval.folder.name

    @property
    def test(self) -> Indices:
        return self.retrieval.test

    @property
    def left_out(self) -> int:
        return len(self.manifest.table) - len(self.retrieval.parts.query)

    @property
    def clips(self) -> Indices:
        """Rows of the manifest that are clustered."""
        return self.retrieval.parts.query

    @cached_property
    def clusters(self) -> int:
        """How many clusters there are.

        Raises:
            InputError: If a number is asked for that the clips don't allow.
        """
        clips = len(self.clips)
        if self.retrieval.parts.scored:
            if self.count is not None:
                raise InputError(
                    f"{self.manifest.name} has labels: there are as many clusters as classes",
                    "leave out --cluster-count",
                )
            return len(set(self.labels[self.clips]))
        if self.count is not None and self.count > clips:
            raise InputError(
                f"--cluster-count {self.count:,}: there are only {clips:,} clips", "ask for fewer"
            )
        return self.count or max(1, min(_MOST, round(np.sqrt(clips / 2))))

    def check(self) -> None:
        """Check what can be checked before long work.

        Raises:
            InputError: If a number of clusters is asked for that the clips don't allow.
        """
        assert self.clusters

    def measure(self, variants: Mapping[str, Path]) -> pd.DataFrame:
        """Cluster the features of a retrieval; write `clusters.csv` of the run's own and, with
        labels, `results.csv`.

        Args:
            variants: Where retrieval left the features of each variant.

        Returns:
            The result rows; empty without labels.
        """
        rows: list[dict[str, object]] = []
        for variant, folder in variants.items():
            features, _ = load_features(folder / FEATURES)
            place = np.searchsorted(self.retrieval.parts.rows, self.clips)
            unit = {name: centred_unit(values[place]) for name, values in features.items()}
            found, metrics = {}, {}
            for pathway in measured_pathways(unit):
                vectors = joined(unit) if pathway == "both" else unit[pathway]
                tries = [k_means(vectors, self.clusters, seed) for seed in range(SEEDS)]
                found[pathway] = by_size(min(tries, key=lambda each: each[1])[0])
                if self.retrieval.parts.scored:
                    classes = self.labels[self.clips].astype(str)
                    metrics[pathway] = agreement([each for each, _ in tries], classes)
            if variant == self.variant:
                self._write_clusters(unit, found)
            rows += self.result_rows(variant, self.source.seed, metrics)
        path = self.folder / "status.json"
        before = read_json(path, dict, f"delete {self.folder}") if path.is_file() else {}
        status = {
            "from": self.source.identity,
            "data": self.manifest.hash,
            "ended": now(),
        }
        if rows:
            same = before.get("data") == self.manifest.hash
            table = results.write(self.folder / RESULTS, rows, lambda variant: same)
            write_json(path, status)
            return table[table["variant"].isin(variants)]
        (self.folder / RESULTS).unlink(missing_ok=True)
        return pd.DataFrame()

    def _write_clusters(self, unit: dict[str, FloatArray], found: dict[str, Indices]) -> None:
        tables = []
        for pathway, cluster in found.items():
            vectors = joined(unit) if pathway == "both" else unit[pathway]
            table = {
                "video": self.videos[self.clips],
                "pathway": pathway,
                "cluster": cluster + 1,
                "similarity": centrality(vectors, cluster).round(6),
                "label": self.labels[self.clips],
            }
            tables.append(
                pd.DataFrame(table).sort_values(
                    ["cluster", "similarity"], ascending=[True, False], kind="stable"
                )
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        text = pd.concat(tables).to_csv(index=False, lineterminator="\n")
        files.write_text(self.folder / CLUSTERS, text)

    def read(self) -> Measurement | None:
        status = self.folder / "status.json"
        if not status.is_file() or not self.source.is_there:
            return None
        known = read_json(status, dict, f"delete {self.folder}")
        if known.get("from") != self.source.identity:
            return None
        if known.get("data") != self.manifest.hash:
            return None
        try:
            rows = results.read(self.folder / RESULTS)
        except RunError:
            return None
        rows = rows[(rows["variant"] == self.variant) & rows["metric"].isin(METRICS)]
        return Measurement(rows.reset_index(drop=True), {}) if len(rows) else None


def joined(unit: dict[str, FloatArray]) -> FloatArray:
    """Unit vectors of both pathways as one (N, C), whose cosine is the mean of their cosines."""
    vectors = np.concatenate(list(unit.values()), axis=1)
    vectors /= np.float32(np.sqrt(len(unit)))
    return vectors


def k_means(vectors: FloatArray, clusters: int, seed: int) -> tuple[Indices, float]:
    """The cluster of each vector, (N,), and the sum of squared distances to the centres."""
    # On several threads sums are formed in any order, and two calls give two answers.
    with threadpool_limits(1):
        found = KMeans(clusters, n_init=1, random_state=seed).fit(vectors)
    return found.labels_.astype(np.int64), float(found.inertia_)


def by_size(cluster: Indices) -> Indices:
    """Clusters (N,) with new numbers: 0 is the largest; equal ones go by their first clip."""
    _, first, back, count = np.unique(
        cluster, return_index=True, return_inverse=True, return_counts=True
    )
    number = np.empty(len(count), np.int64)
    number[np.lexsort((first, -count))] = np.arange(len(count))
    return number[back]


def centrality(vectors: FloatArray, cluster: Indices) -> FloatArray:
    """The cosine of each unit vector (N, C) and the centre of its cluster, (N,)."""
    centres = np.stack([vectors[cluster == each].mean(0) for each in range(cluster.max() + 1)])
    centres /= np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-12)
    cosine: FloatArray = np.einsum("ij,ij->i", vectors, centres[cluster])
    return cosine


def agreement(tries: list[Indices], classes: np.ndarray) -> dict[str, float]:
    """How well clusterings (N,) agree with classes (N,): for each metric the mean over the tries,
    and the lowest and the highest.

    V-measure is the harmonic mean of homogeneity and completeness (Rosenberg and Hirschberg, EMNLP
    2007), which is the mutual information over the arithmetic mean of the entropies; NMI is that
    over the geometric mean (Strehl and Ghosh, JMLR 2002)."""
    values = {
        "v_measure": [v_measure_score(classes, each) for each in tries],
        "nmi": [
            normalized_mutual_info_score(classes, each, average_method="geometric")
            for each in tries
        ],
    }
    return {
        f"{metric}{ending}": float(of(found))
        for metric, found in values.items()
        for ending, of in (("", np.mean), ("_min", min), ("_max", max))
    }
