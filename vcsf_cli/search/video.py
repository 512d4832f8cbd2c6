"""A video file that is not prepared: decoded, cut into windows, and encoded as it streams."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vcsf_cli import registry
from vcsf_cli.contracts import PATHWAYS, Frame, Frames, Reader, Sampler, View
from vcsf_cli.data.augment import apply_crop, centre_square
from vcsf_cli.data.decode import USUAL_FPS, Decoded, default_decoder, judge, resample
from vcsf_cli.errors import DataError, InputError
from vcsf_cli.features.extract import Done, Features, Network, Positions, encode_in_batches
from vcsf_cli.features.neighbours import feature_mean
from vcsf_cli.model.parts import Geometry, WindowSpec
from vcsf_cli.video import SequentialReader, short_side

KEPT_BYTES = 256 * 2**20
"""A video whose frames take more than this is decoded twice: to count its frames, which the sampler
must know, and to read them. The frames of others are kept from the first time."""


@dataclass(frozen=True)
class FrameTransform:
    """How frames of a video file are made the same as those of a prepared store, except for JPEG.

    Args:
        size: Pixels of a clip's side.
        border: Side of the centre square as a fraction of the short side.
        stored: Short side in pixels that frames are first shrunk to, as in the store.
        fps: Frames per second to resample to, None for the video's own.
        decoder: Its name; empty for the default one.
        square_pixels: As in the store.
    """

    size: int
    border: float
    stored: int = 128
    fps: float | None = None
    decoder: str = ""
    square_pixels: bool = False

    @classmethod
    def from_windows(cls, windows: WindowSpec, settings: Mapping[str, Any]) -> FrameTransform:
        """As windows are cut out of clips of a store with these `Manifest.settings`, if any."""
        return cls(
            windows.size,
            windows.border,
            settings.get("size", cls.stored),
            settings.get("fps"),
            settings.get("decoder", ""),
            settings.get("square_pixels", False),
        )


@dataclass(frozen=True)
class Window:
    """One window of a video.

    Args:
        view: Its frames, and the positions that each pathway reads.
        begin: Time of its first frame, in seconds from the start.
        end: Time when its last frame ends.
    """

    view: View
    frames: Frames
    begin: float
    end: float


@dataclass(frozen=True)
class WindowFeatures:
    """Features of a video by window, before any centring or scaling.

    Args:
        features: float32 (W, C) by pathway.
        begin: Seconds from the start, float64 (W,).
        end: Seconds from the start, float64 (W,).
    """

    features: Features
    begin: npt.NDArray[np.float64]
    end: npt.NDArray[np.float64]

    def mean(self) -> Features:
        """The video's feature, the mean over its windows: float32 (C,) by pathway."""
        return {name: feature_mean(values) for name, values in self.features.items()}


class GivenFrames(SequentialReader):
    """Frames in memory that are read like a video.

    Args:
        frames: uint8 (T, H, W, 3).
    """

    def __init__(self, frames: Frames, fps: float) -> None:
        super().__init__(Path("frames"), fps, len(frames))
        self.frames = frames

    def stream(self) -> Iterator[Frame]:
        for number, image in enumerate(self.frames):
            yield Frame(image, number / self.fps)


class VideoFile:
    """A video and its windows. Opening decodes it once, in bounded memory.

    Args:
        source: A file, or frames.

    Raises:
        InputError: If there is no such file.
        DataError: If it can't be decoded, or much of it is missing.
    """

    def __init__(
        self, source: Path | GivenFrames, sampler: Sampler, transform: FrameTransform
    ) -> None:
        self.transform = transform
        self.decoder = transform.decoder or default_decoder()
        self.reader: Reader = source if isinstance(source, GivenFrames) else self._open(source)
        self.rate = transform.fps or self.reader.fps or USUAL_FPS
        self._kept: list[Frame] = []
        self._decoded = Decoded(declared=self.reader.declared)
        self.frames = self._count()
        problem = "" if isinstance(source, GivenFrames) else judge(self._decoded)
        if problem:
            raise DataError(f"{source}: {problem}", "give a video that plays to its end")
        self.views = sampler.cover(self.frames)

    def _open(self, path: Path) -> Reader:
        if path.is_symlink() and not path.exists():
            raise InputError(f"{path} is a link that leads nowhere", "give the path of a video")
        if not path.is_file():
            raise InputError(f"there is no video file {path}", "give the path of a video")
        if not path.stat().st_size:
            raise DataError(f"{path} is empty", "give a video that plays to its end")
        reader: Reader = registry.load().build("decoder", self.decoder).open(path)
        return reader

    def __len__(self) -> int:
        return len(self.views)

    def windows(self) -> Iterator[Window]:
        """Its windows in order; only the frames of windows that overlap are held."""
        frames = enumerate(self._kept if self._kept else map(self._small, self._frames()))
        firsts = np.array([view.window.min() for view in self.views])
        needed_from = np.minimum.accumulate(firsts[::-1])[::-1]
        held: dict[int, Frame] = {}
        last = -1
        for index, view in enumerate(self.views):
            held = {number: frame for number, frame in held.items() if number >= needed_from[index]}
            while last < view.window.max():
                last, frame = next(frames)
                if last >= needed_from[index]:
                    held[last] = frame
            seen = [held[number] for number in view.window.tolist()]
            begin, end = (
                cast(float, held[int(number)].time)
                for number in (view.window.min(), view.window.max())
            )
            yield Window(
                view, np.stack([frame.image for frame in seen]), begin, end + 1 / self.rate
            )

    def _count(self) -> int:
        """The number of frames, which are kept if they are few."""
        count = size = 0
        for count, frame in enumerate(self._frames(), start=1):  # noqa: B007 - the last count is what is wanted
            if size <= KEPT_BYTES:
                self._kept.append(self._small(frame))
                size += self._kept[-1].image.nbytes
        if size > KEPT_BYTES:
            self._kept = []
        return count

    def _frames(self) -> Iterator[Frame]:
        """Frames as decoded, or resampled, each with its time in seconds."""
        own = self.reader.fps or USUAL_FPS
        if self.transform.fps is None:
            for number, frame in enumerate(self._stream()):
                yield frame if frame.time is not None else Frame(frame.image, number / own)
        else:
            yield from resample(self._stream(), own, self.transform.fps)

    def _stream(self) -> Iterator[Frame]:
        self._decoded.read = 0
        with registry.load().blame_for("decoder", self.decoder):
            for frame in self.reader.stream():
                self._decoded.read += 1
                yield frame

    def _small(self, frame: Frame) -> Frame:
        pixel_aspect = frame.pixel_aspect if self.transform.square_pixels else 1.0
        image = short_side(frame.image, self.transform.stored, pixel_aspect)
        crop = centre_square(image.shape[0], image.shape[1], self.transform.border)
        return Frame(apply_crop(image, crop, self.transform.size), frame.time)


def encode_windows(
    model: Network,
    video: VideoFile,
    device: torch.device,
    bf16: bool = False,
    done: Done | None = None,
) -> WindowFeatures:
    """Features of every window of a video, as `features.extract.extract` computes those of prepared
    clips.

    Args:
        model: In eval mode, on `device`.
        done: Called with the number of windows finished so far.
    """

    def windows() -> Iterator[tuple[tuple[float, float], Tensor, Positions]]:
        for window in video.windows():
            positions: Positions = {
                name: torch.from_numpy(window.view.positions(name)) for name in PATHWAYS
            }
            yield (window.begin, window.end), torch.from_numpy(window.frames), positions

    times: list[tuple[float, float]] = []
    parts: list[Features] = []
    geometry = Geometry.from_view(video.views[0])
    for seconds, features in encode_in_batches(model, geometry, windows(), device, bf16):
        times += seconds
        parts.append(features)
        if done is not None:
            done(len(times))
    begin, end = np.array(times).T
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return WindowFeatures(found, begin, end)
