"""Features of every window of many videos, read side by side and in bounded memory."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from vcsf_cli.contracts import PATHWAYS, Indices, RemoteFile, Sampler
from vcsf_cli.data.clips import EvalClips
from vcsf_cli.data.loader import iterate, set_up_worker
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.engine.engine import Engine, Failure
from vcsf_cli.errors import DataError, InputError
from vcsf_cli.features.extract import (
    Features,
    Network,
    Positions,
    encode_in_batches,
    extract_windows,
)
from vcsf_cli.model.parts import Geometry
from vcsf_cli.remote import local_copy
from vcsf_cli.search.gallery import find_recordings, group_by_clip, window_spans, window_times
from vcsf_cli.search.video import FrameTransform, VideoFile, WindowFeatures


@dataclass(frozen=True)
class _Window:
    """A window of the video with this number."""

    video: int
    begin: float
    end: float
    frames: Tensor
    positions: Positions


@dataclass(frozen=True)
class _End:
    """The end of the video with this number: how many windows it had, or why it can't be read."""

    video: int
    windows: int
    problem: str = ""


class VideoWindows(IterableDataset[Any]):
    """The windows of video files, each file's in order and then its end. Each process that reads
    takes every n-th file.

    Args:
        paths: The files.
        sampler: Gives the windows of a video.
        transform: Makes frames small.
        every: Seconds from the begin of a window to that of the next, at least; 0 for all windows.
    """

    def __init__(
        self,
        paths: Sequence[Path | RemoteFile],
        sampler: Sampler,
        transform: FrameTransform,
        every: float,
    ) -> None:
        self.paths, self.sampler, self.transform = list(paths), sampler, transform
        self.every = every

    def __iter__(self) -> Iterator[_Window | _End]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for number in range(first, len(self.paths), step):
            yield from self._read(number)

    def _read(self, number: int) -> Iterator[_Window | _End]:
        count = 0
        path = file = self.paths[number]
        try:
            with local_copy(file) as path:
                video = VideoFile(path, self.sampler, self.transform)
                video.views = video.views[:: self._step(video)]
                for window in video.windows():
                    positions: Positions = {
                        name: torch.from_numpy(window.view.positions(name)) for name in PATHWAYS
                    }
                    frames = torch.from_numpy(window.frames)
                    yield _Window(number, window.begin, window.end, frames, positions)
                    count += 1
        except (DataError, InputError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error.message
            yield _End(number, count, (reason or str(error)).replace(str(path), str(file)))
        else:
            yield _End(number, count)

    def _step(self, video: VideoFile) -> int:
        """Every how many of a video's windows is read."""
        if not self.every or len(video.views) < 2:
            return 1
        hop = (video.views[1].window.min() - video.views[0].window.min()) / video.rate
        return max(1, int(np.ceil(self.every / hop - 1e-6)))


@dataclass
class _Open:
    """A video whose windows are still coming.

    Args:
        end: Its end, once it has been read.
    """

    times: list[tuple[float, float]] = field(default_factory=list)
    parts: list[Features] = field(default_factory=list)
    end: _End | None = None

    @property
    def is_done(self) -> bool:
        return self.end is not None and (
            bool(self.end.problem) or len(self.times) == self.end.windows
        )

    def result(self) -> WindowFeatures | str:
        assert self.end is not None
        if self.end.problem:
            return self.end.problem
        begin, end = np.array(self.times, np.float64).T
        names = self.parts[0]
        found = {name: np.stack([part[name] for part in self.parts]) for name in names}
        return WindowFeatures(found, begin, end)


def embed_files(
    model: Network,
    geometry: Geometry,
    windows: VideoWindows,
    device: torch.device,
    workers: int,
    bf16: bool = False,
    engine: Engine | None = None,
) -> Iterator[tuple[int, WindowFeatures | str]]:
    """The features of each video's windows, or why the video can't be read, with its number; in the
    order in which they are finished, or in order from an engine.

    Args:
        model: In eval mode, on `device`.
        geometry: Which frames of a window each pathway reads.
        windows: What to read.
        device: Where the model is.
        workers: Processes that read.
        bf16: Whether the networks compute in bfloat16.
        engine: Where to compute; None: in this process.
    """
    if engine is not None:
        work = _Embedding(model, geometry, windows, device.type, bf16)
        gpus = int(device.type == "cuda")
        for number, found in enumerate(engine.map(work, range(len(windows.paths)), gpus=gpus)):
            yield number, f"its process {found.reason}" if isinstance(found, Failure) else found
        return
    loader: DataLoader[Any] = DataLoader(
        windows,
        batch_size=None,
        num_workers=workers,
        worker_init_fn=set_up_worker if workers else None,
    )
    videos: dict[int, _Open] = {}

    def stream() -> Iterator[tuple[tuple[int, float, float], Tensor, Positions]]:
        for item in iterate(loader):
            video = videos.setdefault(item.video, _Open())
            if isinstance(item, _End):
                video.end = item
            else:
                yield (item.video, item.begin, item.end), item.frames, item.positions

    for owners, features in encode_in_batches(model, geometry, stream(), device, bf16):
        for row, (number, begin, end) in enumerate(owners):
            videos[number].times.append((begin, end))
            videos[number].parts.append({name: values[row] for name, values in features.items()})
        yield from _finished(videos)
    yield from _finished(videos)


class _Embedding:
    """Features of one video's windows, in a process of an engine.

    Args:
        device: Kind of device that each process has for itself.
    """

    def __init__(
        self, model: Network, geometry: Geometry, windows: VideoWindows, device: str, bf16: bool
    ) -> None:
        self.model = copy.deepcopy(model).to("cpu")
        self.geometry, self.windows, self.device, self.bf16 = geometry, windows, device, bf16

    def __call__(self, number: int, work: str) -> WindowFeatures | str:
        windows, device = copy.copy(self.windows), torch.device(self.device)
        windows.paths = windows.paths[number : number + 1]
        model = self.model.to(device)
        ((_, found),) = embed_files(model, self.geometry, windows, device, 0, self.bf16)
        return found


def _finished(videos: dict[int, _Open]) -> Iterator[tuple[int, WindowFeatures | str]]:
    """Take out the videos whose windows are all encoded."""
    for number in [number for number, video in videos.items() if video.is_done]:
        yield number, videos.pop(number).result()


def embed_clips(
    model: Network,
    manifest: Manifest,
    rows: Indices,
    clips: EvalClips,
    device: torch.device,
    workers: int,
    bf16: bool = False,
    engine: Engine | None = None,
) -> Iterator[tuple[int, WindowFeatures]]:
    """The features of each prepared clip's windows, with its row, in order. Seconds are those of
    the recording that it was cut from.

    Args:
        model: In eval mode, on `device`.
        manifest: The prepared dataset.
        rows: Rows of it.
        clips: What reads them.
        device: Where the model is.
        workers: Processes that read.
        bf16: Whether the networks compute in bfloat16.
        engine: Where to compute; None: in this process.
    """
    _, _, begins = find_recordings(manifest)
    frames, fps, times = (manifest.table[key].to_list() for key in ("frames", "fps", "frame_times"))
    batches = extract_windows(model, clips, device, workers, bf16, engine)
    for row, features in group_by_clip(rows, batches):
        spans = window_spans(clips.sampler, frames[row])
        begin, end = window_times(spans, fps[row], times[row], begins[row]).T
        yield row, WindowFeatures(features, begin, end)


def with_both(features: Features) -> Features:
    """Features (N, C) by pathway, and `both` if there are two: slow and fast beside each other, each
    of unit length over the square root of two. The inner product of two such vectors is the mean of
    both cosines."""
    if len(features) < 2:
        return features
    parts = [
        values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
        for values in features.values()
    ]
    joined = np.concatenate(parts, axis=1) / np.sqrt(len(parts))
    return {**features, "both": joined.astype(np.float32)}
