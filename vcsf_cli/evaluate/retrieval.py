"""Retrieval of test clips among training clips: features, neighbours, R@k, and the baselines beside
it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from vcsf_cli.config.schedule import shortness
from vcsf_cli.contracts import Indices
from vcsf_cli.data.clips import EvalClips
from vcsf_cli.data.loader import iterate, video_loader
from vcsf_cli.data.manifest import official_size
from vcsf_cli.data.splits import QueryGallery, check_groups, count_alone, query_gallery
from vcsf_cli.encoders.source import VARIANTS, EncoderSource
from vcsf_cli.errors import InputError, RunError
from vcsf_cli.evaluate.evaluation import (
    CLOSE,
    LEAVE_ONE_OUT,
    Evaluation,
    Extract,
    Measurement,
)
from vcsf_cli.features.bootstrap import few_recordings, paired_interval
from vcsf_cli.features.cache import load_features, read_key
from vcsf_cli.features.extract import Done, Features, extract
from vcsf_cli.features.neighbours import (
    BoolArray,
    Neighbours,
    centred_unit,
    feature_mean,
    found_at,
    hits,
    measured_pathways,
    nearest,
    recall,
)
from vcsf_cli.model.pathways import Networks, build
from vcsf_cli.runs import results
from vcsf_cli.runs.run import Run
from vcsf_cli.storage import files
from vcsf_cli.train.compute import Compute

_BINS = 8
"""Bins a channel of the colour histogram."""

FEATURES, NEIGHBOURS, RESULTS = "features.parquet", "neighbours.csv", "results.csv"
"""Files of a retrieval."""

NO_PATHWAY = "none"
"""The column `pathway` of a baseline without pathways."""


@dataclass(frozen=True)
class Difference:
    """How much better the trained networks are than another variant, in percentage points, with a
    95 % interval.

    Args:
        caveat: What is to be said of the interval; may be empty.
    """

    name: str
    value: float
    low: float
    high: float
    caveat: str = ""

    def __str__(self) -> str:
        text = f"{self.name}: {self.value:+.1f} points, 95 % interval {self.low:+.1f} to {self.high:+.1f}"
        return f"{text} ({self.caveat})" if self.caveat else text


@dataclass(frozen=True)
class _Hits:
    """Whether each neighbour of each query is of its class, (Q, k) by pathway."""

    variant: str
    hit: dict[str, BoolArray]

    @property
    def headline(self) -> str:
        """The pathway that stands for the variant: `both` where there are two."""
        return "both" if "both" in self.hit else next(iter(self.hit))


@dataclass(frozen=True)
class Retrieval(Evaluation):
    """An evaluation by retrieval.

    Args:
        ks: The k of R@k, in order.
    """

    ks: list[int]

    @property
    def task(self) -> str:
        return f"retrieval{LEAVE_ONE_OUT}" if self.leave_one_out else "retrieval"

    @property
    def folder(self) -> Path:
        return retrieval_folder(self.source, self.manifest.name, self.split, self.leave_one_out)

    @cached_property
    def parts(self) -> QueryGallery:
        return query_gallery(self.manifest, self.split, self.leave_one_out)

    @property
    def test(self) -> Indices:
        return self.parts.query if self.parts.scored else self.parts.query[:0]

    @property
    def left_out(self) -> int:
        return len(self.manifest.table) - len(self.parts.rows)

    def check(self, allow_seen: bool) -> None:
        """Check what can be checked before long work.

        Raises:
            InputError: If the dataset has no such split or, to leave one out, one group only; or test
                clips were seen in training and that is not allowed.
        """
        table, name = self.manifest.table, self.manifest.name
        if self.leave_one_out:
            check_groups(self.manifest, self.parts.query)
        elif not (table[f"split{self.split}"] != "").any() and (table["split1"] != "").any():
            raise InputError(
                f"{name} has no split {self.split}",
                "leave out --split, or prepare the dataset with its lists",
            )
        self.exposure.refuse(allow_seen)

    def folders(self, variants: Iterable[str]) -> dict[str, Path]:
        """Where the features of each variant are."""
        own = self.variant
        return {name: self.folder if name == own else self.folder / name for name in variants}

    def measure(
        self, compute: Compute, untrained: bool = False, colour_histogram: bool = False
    ) -> tuple[pd.DataFrame, list[Difference]]:
        """Measure the trained networks and baselines; write `results.csv`, and `features.parquet`
        and `neighbours.csv` of each.

        Returns:
            The rows of what was measured, and how much better the trained networks are than each
            baseline. Both are empty where there are no labels or no test part: then there are
            neighbours only.

        Raises:
            RunError: If the encoder's file is not whole.
        """
        source, recipe = self.source, self.source.recipe
        source.remember()
        trained = self._network_hits(
            self.variant, self.folder, source.identity, source.network(), compute
        )
        others = []
        if untrained and recipe:
            folder, drawn = self.folder / "untrained", {"recipe": recipe.hash, "seed": recipe.seed}
            model = build(recipe).eval()
            others.append(self._network_hits("untrained", folder, drawn, model, compute))
        if colour_histogram:
            others.append(self._histogram_hits(compute))
        path = self.folder / RESULTS
        if not self.parts.scored:
            # Of a time when there were labels and a test part.
            path.unlink(missing_ok=True)
            return pd.DataFrame(), []
        found: list[dict[str, object]] = []
        for each in (trained, *others):
            recalls = {
                pathway: {
                    results.recall_metric(k): value for k, value in recall(hit, self.ks).items()
                }
                for pathway, hit in each.hit.items()
            }
            if self.leave_one_out:
                for pathway, hit in each.hit.items():
                    recalls[pathway] |= self._recall_interval(hit)
            found += self.result_rows(each.variant, self.source.seed, recalls)
        rows = results.write(path, found, self._is_of_this_data)
        rows = rows[rows["variant"].isin([each.variant for each in (trained, *others)])]
        return rows, [self._difference(trained, other) for other in others]

    def _is_of_this_data(self, variant: str) -> bool:
        key = read_key(self.folders([variant])[variant] / FEATURES)
        return bool(key.get("data") == self.manifest.hash)

    def _network_hits(
        self,
        name: str,
        folder: Path,
        identity: dict[str, Any],
        model: Networks,
        compute: Compute,
    ) -> _Hits:
        device, bf16 = compute.device(), compute.bf16()

        def extract_all(clips: EvalClips, done: Done) -> Features:
            workers, engine = compute.num_workers, compute.engine
            return extract(model.to(device), clips, device, workers, done, bf16, engine)

        identity = identity | {"device": device.type, "bf16": bf16}
        return self._find_hits(name, f"the {name} network", folder, identity, extract_all)

    def _histogram_hits(self, compute: Compute) -> _Hits:
        """Hits by the joint RGB histogram of 8 x 8 x 8 bins, mean over a video's frames."""

        def extract_all(clips: EvalClips, done: Done) -> Features:
            found = []
            for clip in iterate(video_loader(clips, compute.num_workers)):
                found.append(histogram(clip["frames"].numpy()))
                done(len(found))
            return {NO_PATHWAY: np.stack(found)}

        name, title = "colour_histogram", "the colour histogram"
        return self._find_hits(name, title, self.folder / name, {"bins": _BINS}, extract_all)

    def _find_hits(
        self, name: str, title: str, folder: Path, identity: dict[str, Any], extract_all: Extract
    ) -> _Hits:
        """Find the neighbours of all queries; writes `features.parquet` and `neighbours.csv`.

        Args:
            name: The column `variant` of result rows.
            title: What gives the features, for the progress bar.
            identity: What they depend on besides the data.
        """
        parts, rows = self.parts, self.parts.rows
        in_gallery = np.isin(rows, parts.gallery)
        features = self.features(
            folder / FEATURES,
            identity | {"split": self.split},
            rows,
            extract_all,
            f"features of {title}",
            [""] * len(rows) if parts.leave_one_out else np.where(in_gallery, "train", "test"),
        )
        place = np.full(len(self.manifest.table), -1)
        place[rows] = np.arange(len(rows))
        query, gallery = (
            {pathway: centred_unit(values[place[some]]) for pathway, values in features.items()}
            for some in (parts.query, parts.gallery)
        )
        groups = (parts.group[parts.query], parts.group[parts.gallery])
        found = {
            pathway: nearest(
                query, gallery, pathway, max(self.ks), groups if parts.leave_one_out else None
            )
            for pathway in measured_pathways(features)
        }
        labels = self.labels
        hit = {
            pathway: hits(near, labels[parts.query], labels[parts.gallery])
            for pathway, near in found.items()
        }
        tables = [self._neighbour_table(pathway, found[pathway], hit[pathway]) for pathway in hit]
        with files.atomic_write(folder / NEIGHBOURS, "w") as file:
            pd.concat(tables).to_csv(file, index=False, lineterminator="\n")
        return _Hits(name, hit)

    def _neighbour_table(self, pathway: str, near: Neighbours, hit: BoolArray) -> pd.DataFrame:
        """Rows of `neighbours.csv`; `hit` is empty where a label is unknown."""
        count, k = near.index.shape
        query = np.repeat(self.parts.query, k)
        neighbour = self.parts.gallery[near.index.ravel()]
        labelled = pd.notna(self.labels[query]) & pd.notna(self.labels[neighbour])
        table = pd.DataFrame(
            {
                "query": self.videos[query],
                "pathway": pathway,
                "rank": np.tile(np.arange(1, k + 1), count),
                "neighbour": self.videos[neighbour],
                "similarity": near.similarity.ravel().round(6),
                "hit": pd.Series(hit.ravel().astype(int), dtype="Int64").where(labelled),
            }
        )
        return table[near.index.ravel() >= 0]

    def _recall_interval(self, hit: BoolArray) -> dict[str, float]:
        """The ends of the interval over groups of R@k at the lowest k."""
        found = found_at(hit, self.ks[0]).astype(float)
        interval = paired_interval(found, np.zeros_like(found), self.drawn[self.parts.query])
        metric = results.recall_metric(self.ks[0])
        return {
            f"{metric}{end}": value
            for end, value in zip(results.INTERVAL_ENDS, interval[1:], strict=True)
        }

    def _difference(self, trained: _Hits, other: _Hits) -> Difference:
        """R@k at the lowest k, with a paired interval over recordings."""
        k, ours, theirs = self.ks[0], trained.headline, other.headline
        difference, low, high = paired_interval(
            found_at(trained.hit[ours], k).astype(float),
            found_at(other.hit[theirs], k).astype(float),
            self.drawn[self.parts.query],
        )
        name = f"{results.recall_metric(k)} of trained {ours} less {other.variant}"
        name += "" if theirs == NO_PATHWAY else f" {theirs}"
        few = few_recordings(self.drawn[self.parts.query])
        return Difference(name, 100 * difference, 100 * low, 100 * high, few)

    def read(self) -> Measurement | None:
        """R@k of the trained networks; None unless the files agree with each other, with the data
        and with the checkpoint.

        Neighbours up to a rank give R@k for every k up to it, whichever k they were searched for.
        """
        key = read_key(self.folder / FEATURES)
        if key.get("data") != self.manifest.hash or not self.source.is_there:
            return None
        if not self.source.identity.items() <= key.items():
            return None
        try:
            rows = results.read(self.folder / RESULTS)
            near = results.read(self.folder / NEIGHBOURS, ["query", "pathway", "rank", "hit"])
        except RunError:
            return None
        rows = results.without_intervals(rows[rows["variant"].isin(set(VARIANTS.values()))])
        kept, clips = [], {}
        for pathway, own in rows.groupby("pathway", sort=False):
            known = dict(zip(map(results.recall_k, own["metric"]), own["value"], strict=True))
            if max(known) < max(self.ks):
                return None
            for k in sorted({*self.ks, *known}):
                ranked = near[(near["pathway"] == pathway) & (near["rank"] <= k)]
                hit = ranked.groupby("query")["hit"].max().astype(float)
                value = known.get(k, hit.mean())
                # A killed call can leave neighbours behind that are not those of the results.
                if len(hit) != own["clips"].iloc[0] or abs(hit.mean() - value) > CLOSE:
                    return None
                if k in self.ks:
                    metric = results.recall_metric(k)
                    kept.append(own.iloc[:1].assign(metric=metric, value=float(value)))
                    clips[str(pathway), metric] = hit
        return Measurement(pd.concat(kept, ignore_index=True), clips) if kept else None

    def remarks(self) -> list[str]:
        """Limits of the numbers: a gallery smaller than k, classes that only test clips have. None
        without numbers."""
        if not self.parts.scored:
            return []
        gallery, found = len(self.parts.gallery), []
        other, others = "training clip", "training clips"
        if self.leave_one_out:
            other, others = "clip of another group", "clips of other groups"
            group = self.parts.group[self.parts.gallery]
            gallery -= int(np.unique(group, return_counts=True)[1].min())
        beyond = [results.recall_metric(k) for k in self.ks if k > gallery]
        if beyond:
            found.append(
                f"there are only {gallery:,} {others}: {', '.join(beyond)} is "
                f"{results.recall_metric(gallery)}"
            )
        labels = self.labels
        if self.leave_one_out:
            alone = count_alone(labels, self.parts.query, self.parts.group)
        else:
            alone = int((~np.isin(labels[self.parts.query], labels[self.parts.gallery])).sum())
        if alone:
            found.append(
                f"{alone:,} test clips are of a class that no {other} has, and count as misses"
            )
        few = few_recordings(self.drawn[self.parts.query])
        return [*found, f"warning: test clips are {few}"] if few and self.leave_one_out else found

    @property
    def not_comparable(self) -> str:
        """That the numbers can't stand beside published ones; empty for a whole benchmark and a
        full schedule, and without numbers."""
        if not self.parts.scored:
            return ""
        size = official_size(self.manifest.name)
        whole = size is not None and len(self.manifest.table) >= size.clips
        if whole and not (self.source.recipe and shortness(self.source.recipe)):
            return ""
        return "These numbers are of this dataset and schedule alone; they are not comparable with published tables."


def retrieval_folder(
    encoder: EncoderSource | Run, dataset: str, split: int, leave_one_out: bool = False
) -> Path:
    name = f"{dataset}{LEAVE_ONE_OUT}" if leave_one_out else f"{dataset}-split{split}"
    return encoder.folder / "retrieve" / name


def training_mean(run: Run, checkpoint: str) -> tuple[Features, dict[str, Any]] | None:
    """The mean feature (C,) of a run's training clips by pathway and what it is the mean of; None
    if its retrieval was not measured. Retrieval subtracts it from the gallery.

    Args:
        checkpoint: SHA-256 of its checkpoint.
    """
    dataset, split = run.dataset, run.recipe.first_stage.data.split
    path = retrieval_folder(run, dataset, split) / FEATURES
    key = read_key(path)
    if key.get("checkpoint") != checkpoint or key.get("data") != run.status.get("data_hash"):
        return None
    features, part = load_features(path)
    gallery = part == "train" if (part == "train").any() else np.ones(len(part), bool)
    means = {name: feature_mean(values[gallery]) for name, values in features.items()}
    return means, {"dataset": dataset, "split": split, "clips": int(gallery.sum())}


def histogram(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The joint RGB histogram of frames (F, H, W, 3), shares that sum to 1, float32 (512,)."""
    bins = (frames >> 5).astype(np.int64)
    joint = (bins[..., 0] * _BINS + bins[..., 1]) * _BINS + bins[..., 2]
    counts = np.bincount(joint.ravel(), minlength=_BINS**3)
    shares: npt.NDArray[np.float32] = (counts / counts.sum()).astype(np.float32)
    return shares
