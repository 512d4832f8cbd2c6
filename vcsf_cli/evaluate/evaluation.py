"""The base of all evaluations of an encoder: test clips and their exposure, cached features, result
rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt
import pandas as pd

from vcsf_cli.contracts import Indices
from vcsf_cli.data.clips import EvalClips
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.data.splits import count_equal_across, equal_clips, group_numbers
from vcsf_cli.encoders.source import EncoderSource
from vcsf_cli.features.cache import read_features, write_features
from vcsf_cli.features.extract import Done, Features
from vcsf_cli.narrate import Progress
from vcsf_cli.runs import trained_on

CLOSE = 1e-6
"""How near a mean over clips must be to the value in results.csv, which may come from float32."""

LEAVE_ONE_OUT = "-leave-one-out"
"""Ending of the names of tasks and folders where every clip is tested."""

Extract = Callable[[EvalClips, Done], Features]


@dataclass(frozen=True)
class Measurement:
    """A measurement, read back from its files.

    Args:
        rows: Rows of `results.csv`, one for each pathway and metric.
        clips: 1 or 0 for every test clip (index) by `(pathway, metric)`, for metrics that are means
            over clips.
    """

    rows: pd.DataFrame
    clips: dict[tuple[str, str], pd.Series]


@dataclass(frozen=True)
class Evaluation(ABC):
    """An evaluation of an encoder on a dataset.

    Args:
        source: The encoder.
        manifest: The dataset; it need not be the one that the encoder was trained on.
        leave_one_out: Whether every clip is tested, against the clips of other groups, in place of
            the split's parts.
    """

    source: EncoderSource
    manifest: Manifest
    split: int
    leave_one_out: bool = field(default=False, kw_only=True)

    @property
    @abstractmethod
    def task(self) -> str:
        """Its name in result rows."""

    @property
    @abstractmethod
    def folder(self) -> Path:
        """Where its files are, in the folder of the encoder's measurements."""

    @property
    @abstractmethod
    def test(self) -> Indices:
        """Rows of the manifest that are tested."""

    @property
    @abstractmethod
    def left_out(self) -> int:
        """How many clips of the dataset take no part."""

    @abstractmethod
    def read(self) -> Measurement | None:
        """The measurement of this checkpoint on these data; None if there is none.

        Raises:
            RunError: If its files are damaged.
        """

    @property
    def variant(self) -> str:
        """The column `variant` of its result rows."""
        return self.source.variant

    @property
    def labels(self) -> npt.NDArray[Any]:
        """Class of each row of the manifest, None or NaN where unknown."""
        return self.manifest.table["label"].to_numpy(object)

    @property
    def recordings(self) -> npt.NDArray[Any]:
        """Recording of each row of the manifest."""
        return self.manifest.table["source"].to_numpy(object)

    @property
    def drawn(self) -> npt.NDArray[Any]:
        """What intervals draw whole: the recording of each row of the manifest, or its group."""
        return group_numbers(self.manifest) if self.leave_one_out else self.recordings

    @property
    def videos(self) -> npt.NDArray[Any]:
        """Name of each row of the manifest."""
        return self.manifest.table["video"].to_numpy(object)

    @cached_property
    def exposure(self) -> trained_on.Exposure:
        """Which test clips the encoder has seen in training.

        Raises:
            RunError: If a file that says so is damaged.
        """
        left_out = self.leave_one_out
        found = self.source.exposure(self.manifest, self.split, self.test, left_out)
        return replace(found, without_labels=left_out and self.source.uses_labels is False)

    @cached_property
    def duplicates(self) -> int:
        """Number of test clips that equal a training clip; of leave-one-out, a clip of another
        group."""
        if self.leave_one_out:
            return count_equal_across(self.manifest.table, self.test, group_numbers(self.manifest))
        train = self.manifest.part(self.split, "train")
        return len(equal_clips(self.manifest.table, self.test, train))

    @property
    def duplicate_remarks(self) -> list[str]:
        """A sentence on test clips that equal training clips, if there are any."""
        if not self.duplicates:
            return []
        others = "clips of other groups" if self.leave_one_out else "training clips"
        return [f"{self.duplicates:,} of {len(self.test):,} test clips are equal to {others}"]

    @property
    def caveats(self) -> list[str]:
        """Sentences about the encoder that belong beside the numbers."""
        source = self.source
        of_encoder = [*source.labels_remarks, *source.remarks, *self.size_remarks]
        return [*of_encoder, *self.exposure.remarks, *self.duplicate_remarks]

    @property
    def size_remarks(self) -> list[str]:
        """A sentence on frames of the store that are smaller than the encoder wants them."""
        windows, stored = self.source.windows, self.manifest.settings.get("size")
        wanted = round(windows.size / windows.border)
        if self.source.recipe or stored is None or stored >= wanted:
            return []
        return [
            f"{self.source.name} reads {windows.size} px, enlarged from stored frames of {stored} px: "
            f"prepared with --size {wanted} it may do better"
        ]

    def features(
        self,
        path: Path,
        identity: Mapping[str, Any],
        rows: Indices,
        extract: Extract,
        title: str,
        part: Sequence[str] | npt.NDArray[Any],
        crops: Literal["centre", "ten"] = "centre",
    ) -> Features:
        """Features (rows, C) of clips by pathway, read from a file if they were computed before.

        Args:
            identity: What the features depend on besides the data and the windows.
            title: Names them on the progress bar.
            part: What the file says of each row: `train`, `test` or nothing.
        """
        windows = self.source.windows
        key = {**identity, "data": self.manifest.hash, **windows.key}
        kept = read_features(path, key)
        if kept is not None:
            return kept
        clips = EvalClips(
            self.manifest,
            rows.tolist(),
            windows.build_sampler(),
            windows.border,
            windows.size,
            crops=crops,
        )
        with Progress(len(rows), "videos", title) as progress:
            found = extract(clips, lambda count: progress.advance(count - progress.done))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_features(path, key, found, self.videos[rows], self.labels[rows], part)
        return found

    def result_rows(
        self, variant: str, seed: int, metrics: Mapping[str, Mapping[str, float]]
    ) -> list[dict[str, object]]:
        """Rows of `results.csv`.

        Args:
            metrics: Fractions from 0 to 1 by pathway and metric.
        """
        own = variant == self.variant
        exposure = self.exposure.columns if own else trained_on.UNTRAINED
        return [
            {
                "run": self.source.name,
                "variant": variant,
                "seed": seed,
                "dataset": self.manifest.name,
                "split": self.split,
                "task": self.task,
                "pathway": pathway,
                "metric": metric,
                "value": value,
                "clips": len(self.test),
                "left_out": self.left_out,
                **exposure,
                "duplicates": self.duplicates,
            }
            for pathway, values in metrics.items()
            for metric, value in values.items()
        ]
