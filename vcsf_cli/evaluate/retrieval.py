"""The retrieval benchmark of a run on a prepared dataset: features, neighbours, R@k, and the
baselines beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from vcsf_cli.config.schedule import shortness
from vcsf_cli.data.clips import EvalClips
from vcsf_cli.data.loader import iterate, video_loader
from vcsf_cli.data.manifest import Manifest, official_size
from vcsf_cli.data.splits import query_gallery
from vcsf_cli.features.bootstrap import paired_interval
from vcsf_cli.features.cache import read_features, write_features
from vcsf_cli.features.extract import Features, extract
from vcsf_cli.features.neighbours import (
    BoolArray,
    Neighbours,
    centred_unit,
    hits,
    measured_pathways,
    nearest,
    recall,
)
from vcsf_cli.model.parts import build_sampler
from vcsf_cli.model.pathways import build
from vcsf_cli.narrate import Progress
from vcsf_cli.runs import results, trained_on
from vcsf_cli.runs.restore import restore
from vcsf_cli.runs.run import WITH_LABELS, Run
from vcsf_cli.storage import files
from vcsf_cli.train.compute import Compute

TRAINED, TRAINED_WITH_LABELS = "trained", "trained_with_labels"
"""What the trained networks are called among the variants."""

_BINS = 8
"""Of the colour histogram, per channel."""

NO_PATHWAY = "none"
"""What stands in the column `pathway` of a baseline that has none."""

PROTOCOL = (
    "Features before the head, mean over windows of the recipe's length with hop L/2 - 1 over the "
    "whole video, centre "
    "crop; less the mean of their own set (test or train), unit length, cosine similarity; `both` "
    "is the mean of the "
    "two pathways' similarities. R@k: a test clip counts when one of its k nearest training clips "
    "is of its class."
)


@dataclass(frozen=True)
class Difference:
    """How much better the trained networks are than another variant, in points of per cent, with a
    95 % interval."""

    name: str
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.name}: {self.value:+.1f} points, 95 % interval {self.low:+.1f} to {self.high:+.1f}"


@dataclass(frozen=True)
class _Variant:
    """Something that gives features: the trained networks, the untrained ones, or a baseline.

    Args:
        name: `trained` (`trained_with_labels` if a loss read them), `untrained` or
            `colour_histogram`.
        folder: Where its features and neighbours are kept.
        identity: What its features depend on besides the data; equal identities give equal
            features.
        compute: Features of videos, with a function to call with the number done.
    """

    name: str
    folder: Path
    identity: dict[str, Any]
    compute: Callable[[EvalClips, Callable[[int], None]], Features]


class Benchmark:
    """Retrieval of one run on one dataset and split.

    Args:
        run: The run.
        manifest: The dataset; it need not be the one that the run was trained on.
        split: The official split.
        ks: The k of R@k.
        machine: Where to compute.
    """

    def __init__(
        self, run: Run, manifest: Manifest, split: int, ks: list[int], machine: Compute
    ) -> None:
        self.run, self.manifest, self.split, self.ks, self.machine = (
            run,
            manifest,
            split,
            ks,
            machine,
        )
        self.stage = run.recipe.last_stage
        self.parts = query_gallery(manifest, split)
        self.folder = run.folder / "retrieve" / f"{manifest.name}-split{split}"
        self.labels = manifest.table["label"].to_numpy(object)
        self.videos = manifest.table["video"].to_numpy(object)

    @cached_property
    def exposure(self) -> trained_on.Exposure:
        """What the run has seen of the test clips.

        Raises:
            RunError: If a file of the run is damaged.
        """
        test = self.parts.query[:0] if self.parts.leave_one_out else self.parts.query
        return trained_on.compare(self.run, self.manifest, self.split, test)

    def trained(self) -> _Variant:
        """The run's trained networks.

        Raises:
            RunError: If the run has no whole checkpoint.
        """
        identity = {
            "checkpoint": files.sha256(self.run.checkpoint) if self.run.checkpoint.is_file() else ""
        }
        model, _ = restore(self.run)
        name = TRAINED_WITH_LABELS if self.run.uses_labels else TRAINED
        return self._network(name, self.folder, identity, model)

    def untrained(self) -> _Variant:
        """The recipe's networks before any training."""
        recipe = self.run.recipe
        identity = {"recipe": recipe.hash, "seed": recipe.seed}
        return self._network("untrained", self.folder / "untrained", identity, build(recipe).eval())

    def colour_histogram(self) -> _Variant:
        """The joint RGB histogram of 8 x 8 x 8 bins, mean over a video's frames."""

        def compute(videos: EvalClips, done: Callable[[int], None]) -> Features:
            found = []
            for count, video in enumerate(
                iterate(video_loader(videos, self.machine.num_workers)), start=1
            ):
                found.append(histogram(video["frames"].numpy()))
                done(count)
            return {NO_PATHWAY: np.stack(found)}

        return _Variant(
            "colour_histogram", self.folder / "colour_histogram", {"bins": _BINS}, compute
        )

    def _network(self, name: str, folder: Path, identity: dict[str, Any], model: Any) -> _Variant:
        device, bf16 = self.machine.device(), self.machine.bf16()
        identity |= {"device": device.type, "bf16": bf16}

        def compute(videos: EvalClips, done: Callable[[int], None]) -> Features:
            return extract(model.to(device), videos, device, self.machine.num_workers, done, bf16)

        return _Variant(name, folder, identity, compute)

    def features(self, variant: _Variant) -> Features:
        """Features of all clips that take part, from `features.parquet` if they were computed
        before."""
        rows = self.parts.rows
        stage = self.stage
        key = {
            **variant.identity,
            "data": self.manifest.hash,
            "split": self.split,
            "sampler": stage.sampler.model_dump(),
            "size": stage.data.size,
            "border": stage.augment.border,
        }
        path = variant.folder / "features.parquet"
        kept = read_features(path, key)
        if kept is not None:
            return kept
        videos = EvalClips(
            self.manifest,
            rows.tolist(),
            build_sampler(stage),
            stage.augment.border,
            stage.data.size,
        )
        with Progress(
            len(rows),
            "videos",
            f"features of the {variant.name} network".replace(
                "colour_histogram network", "colour histogram"
            ),
        ) as progress:
            found = variant.compute(videos, lambda count: progress.advance(count - progress.done))
        variant.folder.mkdir(parents=True, exist_ok=True)
        part = (
            np.where(np.isin(rows, self.parts.gallery), "train", "test")
            if not self.parts.leave_one_out
            else [""] * len(rows)
        )
        write_features(path, key, found, self.videos[rows], self.labels[rows], part)
        return found

    def measure(self, variant: _Variant) -> VariantHits:
        """Neighbours and R@k of a variant; its files are written."""
        features = self.features(variant)
        place = np.full(len(self.manifest.table), -1)
        place[self.parts.rows] = np.arange(len(self.parts.rows))
        query = {
            name: centred_unit(values[place[self.parts.query]]) for name, values in features.items()
        }
        gallery = {
            name: centred_unit(values[place[self.parts.gallery]])
            for name, values in features.items()
        }
        excluded = np.eye(len(self.parts.query), dtype=bool) if self.parts.leave_one_out else None
        found = {
            pathway: nearest(query, gallery, pathway, max(self.ks), excluded)
            for pathway in measured_pathways(features)
        }
        hit = {
            pathway: hits(near, self.labels[self.parts.query], self.labels[self.parts.gallery])
            for pathway, near in found.items()
        }
        self._write_neighbours(variant.folder / "neighbours.csv", found, hit)
        return VariantHits(variant.name, {} if self.parts.leave_one_out else hit)

    def _write_neighbours(
        self, path: Path, found: dict[str, Neighbours], hit: dict[str, BoolArray]
    ) -> None:
        tables = []
        for pathway, near in found.items():
            count, k = near.index.shape
            query = np.repeat(self.parts.query, k)
            neighbour = self.parts.gallery[near.index.ravel()]
            known = pd.notna(self.labels[query]) & pd.notna(self.labels[neighbour])
            table = pd.DataFrame(
                {
                    "query": self.videos[query],
                    "pathway": pathway,
                    "rank": np.tile(np.arange(1, k + 1), count),
                    "neighbour": self.videos[neighbour],
                    "similarity": near.similarity.ravel().round(6),
                    "hit": pd.array(np.where(known, hit[pathway].ravel().astype(int), -1)).astype(
                        "Int64"
                    ),
                }
            )
            table.loc[~known, "hit"] = pd.NA
            tables.append(table[near.index.ravel() >= 0])
        with files.whole(path, "w") as file:
            pd.concat(tables).to_csv(file, index=False, lineterminator="\n")

    def remarks(self) -> list[str]:
        """What limits the numbers, in words: a gallery smaller than k, classes that only test clips
        have."""
        gallery, found = len(self.parts.gallery), []
        beyond = [f"R@{k}" for k in self.ks if k > gallery]
        if beyond:
            found.append(
                f"there are only {gallery:,} training clips: {', '.join(beyond)} is R@{gallery}"
            )
        alone = int(
            (~np.isin(self.labels[self.parts.query], self.labels[self.parts.gallery])).sum()
        )
        if alone:
            found.append(
                f"{alone:,} test clips are of a class that no training clip has, and count as "
                f"misses"
            )
        return found

    def result_rows(self, measured: VariantHits) -> list[dict[str, object]]:
        """Rows for `results.csv`."""
        return [
            {
                "run": self.run.name,
                "variant": measured.variant,
                "seed": self.run.recipe.seed,
                "dataset": self.manifest.name,
                "split": self.split,
                "task": "retrieval",
                "pathway": pathway,
                "metric": f"R@{k}",
                "value": value,
                "clips": len(self.parts.query),
                "left_out": len(self.manifest.table) - len(self.parts.rows),
                **(
                    self.exposure.columns
                    if measured.variant in (TRAINED, TRAINED_WITH_LABELS)
                    else trained_on.UNTRAINED
                ),
            }
            for pathway, hit in measured.hit.items()
            for k, value in recall(hit, self.ks).items()
        ]

    @property
    def caveat(self) -> str:
        """That the numbers can't stand beside published ones, unless they are of a whole benchmark
        and a full schedule."""
        size = official_size(self.manifest.name)
        whole = size is not None and len(self.manifest.table) >= size.clips
        if whole and not shortness(self.run.recipe):
            return ""
        return "These numbers are of this dataset and schedule alone; they are not comparable with published tables."

    def comparisons(self, trained: VariantHits, others: list[VariantHits]) -> list[Difference]:
        """The trained `both` against each other variant, with a paired interval over recordings."""
        cluster = self.manifest.table["source"].to_numpy(object)[self.parts.query]
        k = self.ks[0]
        found = []
        ours = _headline_pathway(trained)
        for other in others:
            theirs = _headline_pathway(other)
            difference, low, high = paired_interval(
                trained.hit[ours][:, :k].any(1).astype(float),
                other.hit[theirs][:, :k].any(1).astype(float),
                cluster,
            )
            name = f"R@{k} of trained {ours} less {other.variant}{'' if theirs == NO_PATHWAY else ' ' + theirs}"
            found.append(Difference(name, 100 * difference, 100 * low, 100 * high))
        return found

    def report(self, rows: pd.DataFrame, comparisons: list[Difference]) -> Path:
        """Write `report.md` and return its path."""
        status, stage = self.run.status, self.stage
        path = self.folder / "report.md"
        recipe = self.run.recipe
        epochs = ", ".join(str(each.train.epochs) for each in recipe.stages)
        parts, ks = self.parts, ",".join(map(str, self.ks))
        facts = [
            f"run: `{self.run.name}`, seed {recipe.seed}, {status.get('steps', '?')} steps "
            f"({epochs} epochs) on "
            f"`{status['dataset']}` split {stage.data.split}",
            f"measured on: `{self.manifest.name}` split {self.split}: {len(parts.query):,} test "
            f"clips query "
            f"{len(parts.gallery):,} training clips; left out: {parts.left_out}",
            *([WITH_LABELS] if self.run.uses_labels else []),
            *self.run.imported,
            *self.exposure.remarks,
            *self.remarks(),
            f"again: `vcsf retrieve {self.manifest.name} --from {self.run.name} --split "
            f"{self.split} --k {ks}`",
        ]
        intervals = "\n".join(f"- {line}" for line in comparisons)
        sections = [
            (f"Retrieval of {self.run.name}", "\n".join(f"- {fact}" for fact in facts)),
            (
                "R@k in per cent",
                results.markdown(results.pivot(rows)) + (f"\n{self.caveat}" if self.caveat else ""),
            ),
            ("Protocol", PROTOCOL),
            ("Recipe", f"```yaml\n{recipe.yaml()}```"),
            (
                "Environment",
                f"```json\n{(self.run.folder / 'environment.json').read_text(encoding='utf-8')}```",
            ),
        ]
        if intervals:
            note = (
                "Paired bootstrap over the recordings that test clips were cut from, 10,000 draws."
            )
            sections.insert(2, ("Differences", f"{intervals}\n\n{note}"))
        results.write_report(path, sections)
        return path


@dataclass(frozen=True)
class VariantHits:
    """Hits of a variant, (Q, k) by pathway; none where there are no labels or no test part."""

    variant: str
    hit: dict[str, BoolArray]


def _headline_pathway(measured: VariantHits) -> str:
    """The pathway that stands for a variant: `both` where there are two."""
    return "both" if "both" in measured.hit else next(iter(measured.hit))


def histogram(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The joint RGB histogram of frames (F, H, W, 3), shares that sum to 1, float32 (512,)."""
    bins = (frames >> 5).astype(np.int64)
    joint = (bins[..., 0] * _BINS + bins[..., 1]) * _BINS + bins[..., 2]
    counts = np.bincount(joint.ravel(), minlength=_BINS**3)
    shares: npt.NDArray[np.float32] = (counts / counts.sum()).astype(np.float32)
    return shares
