"""The gallery of a search: features of every window of a prepared dataset, kept on disk in the
run's folder.

`slow.npy` and `fast.npy` hold one row for each window and only grow. `windows.jsonl` has a line for
each clip with its rows, written after the rows are on disk. A later call continues after the last
line, whether the call before was killed or the dataset has grown. Rows of clips that the dataset no
longer has stay unused."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from vcsf_cli.contracts import PATHWAYS, Indices, Sampler
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.errors import RunError
from vcsf_cli.features.extract import Features
from vcsf_cli.narrate import say
from vcsf_cli.storage import files
from vcsf_cli.storage.sealed import parse_line, reading, to_line

FloatArray = npt.NDArray[np.float32]
Times = npt.NDArray[np.float64]

_HEADER_BYTES = 128
"""Header of a `.npy` file, in which numpy leaves room for a growing number of rows."""
ROWS_AT_ONCE = 4096
"""Rows in a block: few enough for the processor's cache, enough for a fast matrix product."""
SHORTEST = np.float32(1e-12)
"""A feature closer to the mean than this has no direction and is similar to nothing."""
_SECONDS_BETWEEN_WRITES = 5.0


@dataclass(frozen=True)
class GalleryWindows:
    """The windows of a gallery, in order of recordings and time.

    Args:
        features: Rows (F, C) by pathway; some are unused if clips are gone.
        row: The row of each window, (N,).
        recording: The number of each window's recording, (N,), rising.
        times: Begin and end of each window in its recording, in seconds, (N, 2).
        mean: Mean over the windows (C,) by pathway, which centres all features, a query's too.
        lengths: Lengths of the windows' features less the mean, (N,) by pathway.
        names: Names of the recordings.
        labels: Labels of the recordings, None where unknown.
    """

    features: Features
    row: Indices
    recording: Indices
    times: Times
    mean: Features
    lengths: Features
    names: npt.NDArray[np.object_]
    labels: npt.NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.row)

    @cached_property
    def starts(self) -> Indices:
        """The first window of every recording, and the number of windows at the end, (R + 1,)."""
        return np.searchsorted(self.recording, np.arange(len(self.names) + 1))

    def restricted(self, recordings: Indices) -> GalleryWindows:
        """The windows of some recordings; the mean stays that of all."""
        kept = np.unique(recordings)
        mine = np.isin(self.recording, kept)
        return replace(
            self,
            row=self.row[mine],
            recording=np.searchsorted(kept, self.recording[mine]),
            times=self.times[mine],
            lengths={name: values[mine] for name, values in self.lengths.items()},
            names=self.names[kept],
            labels=self.labels[kept],
        )

    def read_rows(self, pathway: str, begin: int, end: int) -> FloatArray:
        """Features (n, C) of consecutive windows, neither centred nor scaled."""
        rows = self.row[begin:end]
        first, last = int(rows[0]), int(rows[-1])
        consecutive = last - first == len(rows) - 1 and bool((np.diff(rows) == 1).all())
        return np.asarray(
            self.features[pathway][first : last + 1]
            if consecutive
            else self.features[pathway][rows]
        )

    def vectors(self, pathway: str, begin: int, end: int) -> FloatArray:
        """Unit vectors (n, D) of consecutive windows, as `unit_vectors` makes them."""
        return unit_vectors(
            {name: self.read_rows(name, begin, end) for name in split_pathway(pathway)},
            self.mean,
            pathway,
        )


def split_pathway(pathway: str) -> tuple[str, ...]:
    """The pathways that `slow`, `fast` or `both` stands for."""
    return PATHWAYS if pathway == "both" else (pathway,)


def _vector_lengths(vectors: FloatArray) -> FloatArray:
    """Lengths (N,) of vectors (N, C)."""
    lengths: FloatArray = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    return lengths


def unit_vectors(features: Features, mean: Features, pathway: str) -> FloatArray:
    """Vectors (N, D) whose inner products are the similarities of a search.

    Of one pathway: its feature less the mean, of unit length, so that the product is the cosine. Of
    `both`: the two beside each other, each divided by the square root of two, so that it is the
    mean of the two cosines.

    Args:
        features: (N, C) by pathway.
        mean: Of the gallery, (C,) by pathway.
        pathway: One of them, or `both`.
    """
    used = split_pathway(pathway)
    parts = []
    for name in used:
        centred = features[name] - mean[name]
        length = _vector_lengths(centred) * np.float32(np.sqrt(len(used)))
        centred /= np.maximum(length, SHORTEST)[:, None]
        parts.append(centred)
    vectors: FloatArray = np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
    return vectors


def window_spans(sampler: Sampler, frames: int) -> Indices:
    """The first frame of each window of a video and the one after its last, (W, 2)."""
    views = [view.window for view in sampler.cover(frames)]
    return np.array([(window.min(), window.max() + 1) for window in views], np.int64)


def window_times(spans: Indices, fps: float, frame_times: Any, begin: float) -> Times:
    """When windows of a clip begin and end in its recording, (W, 2) in seconds.

    Args:
        spans: The first frame of each window and the one after its last, (W, 2).
        fps: Frames per second of the clip.
        frame_times: When each of its frames is shown, where the rate varies; else None.
        begin: When the clip begins.
    """
    if frame_times is None:
        found: Times = begin + spans / fps
        return found
    times = np.asarray(frame_times)
    return np.stack([times[spans[:, 0]], times[spans[:, 1] - 1] + 1 / fps], axis=1)


def find_recordings(manifest: Manifest) -> tuple[npt.NDArray[np.object_], Indices, Times]:
    """The recordings that a dataset's clips were cut from.

    Returns:
        Their names; the number of each clip's recording, (clips,); and when each clip begins in it,
        in seconds, (clips,)."""
    videos, seconds = (
        manifest.table["video"].to_list(),
        manifest.table["frames"] / manifest.table["fps"],
    )
    known = set(videos)
    numbered: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for clip, video in enumerate(videos):
        match = re.fullmatch(r"(.+)#(\d{3,})", video)
        if match and f"{match[1]}#000" in known:
            numbered[match[1]].append((int(match[2]), clip))
        else:
            numbered[video].append((0, clip))
    owner, begin = np.empty(len(videos), np.int64), np.zeros(len(videos))
    for number, clips in enumerate(numbered.values()):
        order = [clip for _, clip in sorted(clips)]
        owner[order] = number
        begin[order] = np.concatenate([[0], np.cumsum(seconds.to_numpy()[order])[:-1]])
    for clip, times in enumerate(manifest.table["frame_times"]):
        if times is not None:
            begin[clip] = times[0]
    return np.array(list(numbered), object), owner, begin


class _GrowingRows:
    """A `.npy` file of float32 rows that grows.

    Args:
        path: The file.
        rows: Number of valid rows; anything after them is overwritten.
    """

    def __init__(self, path: Path, rows: int) -> None:
        self.path, self.rows = path, rows

    def append(self, values: FloatArray) -> None:
        """Append rows (n, C) and wait until they are on disk."""
        width = values.shape[1]
        how = "r+b" if self.path.exists() else "w+b"
        with files.naming(self.path), self.path.open(how) as file:
            file.seek(_HEADER_BYTES + 4 * width * self.rows)
            file.write(np.ascontiguousarray(values, "<f4").data)
            self.rows += len(values)
            file.truncate()
            file.seek(0)
            shape = {"shape": (self.rows, width), "fortran_order": False, "descr": "<f4"}
            np.lib.format.write_array_header_1_0(file, shape)
            file.flush()
            os.fsync(file.fileno())


class Gallery:
    """The features of a dataset's windows on disk, one process at a time.

    Args:
        folder: Their folder; features of another `key` are deleted.
        manifest: The dataset.
        sampler: Gives the windows.
        key: Everything but the clips that features depend on, such as the checkpoint's hash.
        pathways: Names of the features.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        sampler: Sampler,
        key: dict[str, Any],
        pathways: tuple[str, ...] = PATHWAYS,
    ) -> None:
        self.folder, self.manifest, self.pathways = folder, manifest, pathways
        table = manifest.table
        self.videos, self.hashes = table["video"].to_list(), table["sha256"].to_list()
        self.frames, self.fps = table["frames"].to_numpy(np.int64), table["fps"].to_list()
        self.frame_times = table["frame_times"].to_list()
        self.spans = {
            int(frames): window_spans(sampler, int(frames)) for frames in np.unique(self.frames)
        }
        self.journal = folder / "windows.jsonl"
        self._waiting: list[tuple[dict[str, Any], Features]] = []
        self._written = time.monotonic()
        self._begin(json.dumps(key, sort_keys=True, indent=2) + "\n")

    def _begin(self, key: str) -> None:
        """Delete features of another key; read the journal."""
        path = self.folder / "key.json"
        if not path.is_file() or path.read_bytes() != key.encode():
            for old in self.folder.iterdir():
                if old.name != "lock":
                    old.unlink()
            files.write_text(path, key)
        self.entries: dict[str, dict[str, Any]] = {}
        self.rows = 0
        lines = (
            self.journal.read_bytes().splitlines(keepends=True) if self.journal.is_file() else []
        )
        stored: Features = {name: self._stored(name) for name in self.pathways} if lines else {}
        good = 0
        for line in lines:
            entry = parse_line(line)
            if entry is None or not _is_whole(entry, stored):
                say(f"{self.journal} is damaged or was cut off: features are computed again")
                break
            good += len(line)
            self.entries[entry["video"]] = entry
            self.rows = entry["first"] + entry["windows"]
        if lines:
            os.truncate(self.journal, good)
        self._files = {
            pathway: _GrowingRows(self.folder / f"{pathway}.npy", self.rows)
            for pathway in self.pathways
        }

    def _stored(self, pathway: str) -> FloatArray:
        """The rows of a pathway's file; none if it is damaged."""
        path = self.folder / f"{pathway}.npy"
        try:
            with path.open("rb") as file:
                np.lib.format.read_magic(file)
                (_, width), _, _ = np.lib.format.read_array_header_1_0(file)
        except (OSError, ValueError):
            return np.empty((0, 1), np.float32)
        # A killed call can leave a header with another number of rows than there are.
        rows = (path.stat().st_size - _HEADER_BYTES) // (4 * width)
        return (
            np.memmap(path, "<f4", "r", _HEADER_BYTES, (rows, width))
            if rows
            else np.empty((0, width), np.float32)
        )

    def _entry(self, clip: int) -> dict[str, Any] | None:
        """The journal's entry of a clip, None if there is none for its content."""
        entry = self.entries.get(self.videos[clip])
        if entry is None or entry["sha256"] != self.hashes[clip]:
            return None
        return entry if entry["windows"] == len(self.spans[int(self.frames[clip])]) else None

    def missing(self) -> Indices:
        """Rows of the manifest without features."""
        return np.array(
            [clip for clip in range(len(self.videos)) if self._entry(clip) is None], np.int64
        )

    def add(self, clip: int, features: Features) -> None:
        """Add a clip. It is on disk after some seconds, or after `flush`.

        Args:
            clip: Its row in the manifest.
            features: Features (W, C) of all its windows by pathway.
        """
        count = len(features[self.pathways[0]])
        entry = {
            "video": self.videos[clip],
            "sha256": self.hashes[clip],
            "first": self.rows,
            "windows": count,
            "crc32": {pathway: _crc32(features[pathway]) for pathway in self.pathways},
        }
        self.rows += count
        self._waiting.append((entry, features))
        if time.monotonic() - self._written > _SECONDS_BETWEEN_WRITES:
            self.flush()

    def flush(self) -> None:
        """Write what was added: first the rows, then the journal."""
        if not self._waiting:
            return
        for pathway, file in self._files.items():
            file.append(np.concatenate([features[pathway] for _, features in self._waiting]))
        with files.naming(self.journal), self.journal.open("ab") as journal:
            for entry, _ in self._waiting:
                journal.write(to_line(entry))
            journal.flush()
            os.fsync(journal.fileno())
        self.entries |= {entry["video"]: entry for entry, _ in self._waiting}
        self._waiting, self._written = [], time.monotonic()

    def windows(self) -> GalleryWindows:
        """The windows of all clips, when none is missing."""
        names, owner, begin = find_recordings(self.manifest)
        labels = np.full(len(names), None, object)
        labels[owner] = [
            None if pd.isna(label) else label for label in self.manifest.table["label"]
        ]
        order = np.lexsort((begin, owner))
        entries = [self._entry(clip) for clip in order]
        counts = np.array([entry["windows"] for entry in entries if entry is not None], np.int64)
        row = np.concatenate(
            [np.arange(e["first"], e["first"] + e["windows"]) for e in entries if e is not None]
        )
        times = np.concatenate(
            [
                window_times(
                    self.spans[int(self.frames[clip])],
                    self.fps[clip],
                    self.frame_times[clip],
                    begin[clip],
                )
                for clip in order
            ]
        )
        features: Features = {pathway: self._stored(pathway) for pathway in self.pathways}
        found = GalleryWindows(
            features, row, np.repeat(owner[order], counts), times, {}, {}, names, labels
        )
        self._fill_means(found)
        return found

    def _fill_means(self, windows: GalleryWindows) -> None:
        """Fill in mean and lengths, from `mean.npz` if it is of the same windows."""
        path, these = self.folder / "mean.npz", hashlib.sha256(windows.row.tobytes()).hexdigest()
        try:
            with reading(path, ""), np.load(path) as kept:
                if str(kept["windows"]) == these:
                    windows.mean.update({pathway: kept[pathway] for pathway in self.pathways})
                    windows.lengths.update(
                        {pathway: kept[f"{pathway}_lengths"] for pathway in self.pathways}
                    )
                    return
        except RunError as error:
            if path.is_file():
                say(f"{error.message}: it is computed again")
        for pathway in self.pathways:
            windows.mean[pathway], windows.lengths[pathway] = _mean_and_lengths(windows, pathway)
        arrays = windows.mean | {
            f"{pathway}_lengths": values for pathway, values in windows.lengths.items()
        }
        with files.atomic_write(path) as file:
            np.savez(file, windows=np.array(these), **arrays)  # type: ignore[arg-type]  # numpy's stub takes no names


def _is_whole(entry: dict[str, Any], stored: Features) -> bool:
    """Whether the rows of a journal's entry are there, and those that were written."""
    if not entry.keys() >= {"video", "sha256", "first", "windows"}:
        return False
    sums = entry.get("crc32", {})  # which earlier versions did not keep
    for pathway, rows in stored.items():
        own = rows[entry["first"] : entry["first"] + entry["windows"]]
        if len(own) != entry["windows"] or sums.get(pathway) not in (None, _crc32(own)):
            return False
    return True


def _crc32(rows: FloatArray) -> int:
    return zlib.crc32(np.ascontiguousarray(rows, "<f4").data)


def _mean_and_lengths(windows: GalleryWindows, pathway: str) -> tuple[FloatArray, FloatArray]:
    """The mean feature (C,) over all windows, and the distance of each from it, (N,)."""
    blocks = range(0, len(windows), ROWS_AT_ONCE)
    total = sum(
        windows.read_rows(pathway, begin, begin + ROWS_AT_ONCE).sum(0, dtype=np.float64)
        for begin in blocks
    )
    mean = np.asarray(total / len(windows), np.float32)
    lengths = [
        _vector_lengths(windows.read_rows(pathway, begin, begin + ROWS_AT_ONCE) - mean)
        for begin in blocks
    ]
    return mean, np.concatenate(lengths)


def group_by_clip(
    clips: Indices, batches: Iterable[tuple[Indices, Features]]
) -> Iterator[tuple[int, Features]]:
    """Each clip with the features (W, C) of all its windows, from batches that may end anywhere.

    Args:
        clips: Rows of the manifest, in the order of the batches.
        batches: The position in `clips` of each window's clip, rising, and features.
    """
    parts: list[Features] = []
    current = 0
    for owners, features in batches:
        for number in np.unique(owners):
            if number != current:
                yield int(clips[current]), _concatenate(parts)
                parts, current = [], int(number)
            parts.append(
                {pathway: values[owners == number] for pathway, values in features.items()}
            )
    if parts:
        yield int(clips[current]), _concatenate(parts)


def _concatenate(parts: list[Features]) -> Features:
    return {pathway: np.concatenate([part[pathway] for part in parts]) for pathway in parts[0]}
