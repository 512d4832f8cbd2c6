"""Decoding one video into files of JPEG frames, in a process that can be killed."""

from __future__ import annotations

import hashlib
import math
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

import numpy as np
import simplejpeg

from vcsf_cli import registry
from vcsf_cli.contracts import Decoder, Frame, Reader, RemoteFile
from vcsf_cli.engine.engine import heartbeat_path
from vcsf_cli.errors import BROKEN_DISK, DataError, RemoteError, VcsfError
from vcsf_cli.remote import local_copy
from vcsf_cli.storage import files
from vcsf_cli.video import short_side

USUAL_FPS = 25.0
"""The rate of a video whose container has none."""
_EXACT_SECONDS = 0.01
"""Times that differ by less are equal: some containers round them to milliseconds."""
_HASHED_AT_ONCE = 2**22
_SECONDS_BETWEEN_BEATS = 0.05


def default_decoder() -> str:
    """The first decoder of the first plugin."""
    return next(iter(registry.load().components("decoder")))


@dataclass(frozen=True)
class Settings:
    """The settings of stored frames; a folder holds frames of one setting only.

    Args:
        kind: Name of the dataset component.
        decoder: Name of the decoder.
        size: Short side of the stored frames in pixels; smaller videos keep their size.
        quality: Of the JPEGs, 1 to 100.
        fps: Frames per second that videos are resampled to; None: their own.
        max_seconds: Longer videos are cut into clips; None: never.
        on_bad: `skip` leaves a bad video out, `keep` keeps what could be read of it.
        square_pixels: Whether frames whose pixels are not square are stored in the shape that they
            are shown in.
    """

    kind: str
    decoder: str
    size: int = 128
    quality: int = 90
    fps: float | None = None
    max_seconds: float | None = 60.0
    on_bad: str = "skip"
    square_pixels: bool = False


@dataclass(frozen=True)
class DecodeJob:
    """A video to decode.

    Args:
        path: The file.
        work: Where to write clips: the number of the clip is appended to this path.
        settings: How to store its frames.
    """

    path: Path | RemoteFile
    work: str
    settings: Settings


@dataclass
class Clip:
    path: Path
    width: int = 0
    height: int = 0
    sizes: list[int] = field(default_factory=list)
    """Bytes of every frame."""
    crc32: list[int] = field(default_factory=list)
    """Checksum of every frame."""
    times: list[float] = field(default_factory=list)
    """When each frame is shown, in seconds from the video's first frame; empty: at the video's
    rate."""
    repeated: int = 0
    """Frames that equal the one before."""
    sha256: str = ""


@dataclass
class Decoded:
    """A decoded video.

    Args:
        clips: Its clips, in order.
        fps: Frames per second of the clips.
        read: Number of frames that were decoded.
        declared: Number of frames that there should be, 0 if unknown.
        damaged: Number of frames with errors that the decoder concealed.
        decoder: What decoded them, empty if the decoder doesn't say.
        problem: What is wrong with the video; empty: nothing.
        sha256: Of the video's file.
        unread: Whether the file could not be read, which another try may change.
    """

    clips: list[Clip] = field(default_factory=list)
    fps: float = 0.0
    read: int = 0
    declared: int = 0
    damaged: int = 0
    decoder: str = ""
    problem: str = ""
    sha256: str = ""
    unread: bool = False


class StorageError(VcsfError):
    """The disk that is written to fails, not the video."""


class _Heartbeat:
    """A file that is touched with every frame, which tells a slow video from a stuck one.

    Args:
        path: The file.

    Raises:
        StorageError: If it can't be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last = 0.0
        try:
            path.touch()
        except OSError as error:
            raise StorageError(f"{path} can't be written: {error.strerror}") from error

    def beat(self) -> None:
        now = time.monotonic()
        if now - self._last >= _SECONDS_BETWEEN_BEATS:
            self._last = now
            try:
                self.path.touch()
            except OSError as error:
                raise StorageError(f"{self.path} can't be written: {error.strerror}") from error


def decode(job: DecodeJob) -> Decoded:
    """Decode a video into clips, in bounded memory.

    Raises:
        StorageError: If a clip, or a copy of a file that is not on this disk, can't be written.
        RemoteError: If such a file can't be reached: others can't either.
    """
    decoded, settings = Decoded(), job.settings
    writer = _ClipWriter(job, decoded)
    path = job.path
    try:
        decoder = registry.load().build("decoder", settings.decoder)
        if isinstance(path, Path) and path.exists() and not path.is_file():
            # Reading one may never end.
            raise DataError(f"{path} is a folder, pipe or device, not a file")
        heart = _Heartbeat(heartbeat_path(job.work))  # from here on the time without a frame counts
        with local_copy(job.path, job.work, heart.beat) as path:
            _read(decoder, path, writer, heart)
        decoded.problem = judge(decoded)
    except (StorageError, RemoteError):
        raise
    except VcsfError as error:
        decoded.problem = error.message
    except OSError as error:
        if isinstance(job.path, RemoteFile) and error.errno in BROKEN_DISK:
            raise StorageError(f"{job.work}: {error.strerror}") from error
        decoded.problem = f"{job.path} can't be read: {error.strerror or error}"
        decoded.unread = True
    except Exception as error:  # noqa: BLE001 - a decoder that fails on one video must not stop the others
        decoded.problem = (
            f"the decoder `{settings.decoder}` failed: {type(error).__name__}: {error}"
        )
    finally:
        writer.close()
    for place in (path, job.path):
        # Wherever videos lie.
        decoded.problem = decoded.problem.replace(str(place), job.path.name)
    return decoded


def _read(decoder: Decoder, path: Path, writer: _ClipWriter, heart: _Heartbeat) -> None:
    """Decode a file into the clips of a writer."""
    decoded, settings = writer.decoded, writer.job.settings
    decoded.sha256 = sha256(path, heart)
    if not path.stat().st_size:
        raise DataError(f"{path} is empty")
    reader = decoder.open(path)
    decoded.declared = reader.declared
    decoded.fps = settings.fps or reader.fps or USUAL_FPS
    writer.longest = round(settings.max_seconds * decoded.fps) if settings.max_seconds else 0
    for frame in _read_frames(reader, settings.fps, decoded, heart):
        writer.add(frame)
    decoded.decoder = getattr(reader, "decoder", settings.decoder)


def sha256(path: Path, heart: _Heartbeat) -> str:
    """The SHA-256 of a file, which may take longer than the time limit: every block is a beat."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_HASHED_AT_ONCE):
            digest.update(chunk)
            heart.beat()
    return digest.hexdigest()


def judge(decoded: Decoded) -> str:
    """The problem of a video that decoded without an error; one frame, or one in fifty, may be
    missing."""
    if decoded.read == 0:
        return "no frame could be decoded" + (f" by {decoded.decoder}" if decoded.decoder else "")
    if decoded.read == 1:
        return "it has one frame only"
    if decoded.read < decoded.declared - max(1, decoded.declared // 50):
        what = "damaged" if decoded.damaged else "truncated"
        return f"{what}: {decoded.read} of {decoded.declared} frames could be decoded"
    return ""


def _read_frames(
    reader: Reader, fps: float | None, decoded: Decoded, heart: _Heartbeat
) -> Iterator[Frame]:
    """Frames of a video, at its own rate or at `fps`. Each decoded frame is counted in `decoded`
    and is a beat."""

    def counted() -> Iterator[Frame]:
        for frame in reader.stream():
            decoded.read += 1
            decoded.damaged += frame.damaged
            heart.beat()
            yield frame

    return counted() if fps is None else resample(counted(), reader.fps or USUAL_FPS, fps)


def resample(frames: Iterator[Frame], own: float, fps: float) -> Iterator[Frame]:
    """The frame on screen at every multiple of 1/fps, with that time.

    Args:
        frames: The video's frames; one without a time follows the one before at the video's own
            rate.
        own: The video's own rate.
        fps: The rate wanted.
    """
    shown: Frame | None = None
    tick, time = 0, -1 / own
    for frame in frames:
        time = time + 1 / own if frame.time is None else frame.time
        while shown is not None and tick / fps < time - 1e-6:
            yield replace(shown, time=tick / fps)
            tick += 1
        shown = frame
    while shown is not None and tick / fps < time + 1 / own - 1e-6:
        yield replace(shown, time=tick / fps)
        tick += 1


def _are_irregular(times: list[float], first: int, fps: float) -> bool:
    """Whether the times of frames are other than by their numbers, counted from `first`, and
    usable."""
    found = np.array(times)
    if not np.isfinite(found).all() or (np.diff(found) < 0).any():
        return False
    return bool((np.abs(found - (first + np.arange(len(found))) / fps) > _EXACT_SECONDS).any())


class _ClipWriter:
    """Writes frames as JPEGs to files, a new one for each clip.

    Args:
        job: Where to write them, how large and how well.
        decoded: Gets the clips.
    """

    def __init__(self, job: DecodeJob, decoded: Decoded) -> None:
        self.job, self.decoded = job, decoded
        self.longest = 0
        """Frames of the longest clip, 0 for no limit."""
        self._file: IO[bytes] | None = None
        self._last = b""
        self._size = ""

    def add(self, frame: Frame) -> None:
        """Append a frame.

        Raises:
            StorageError: If it can't be written.
            DataError: If it is not as large as the one before.
        """
        clips, settings = self.decoded.clips, self.job.settings
        pixel_aspect = frame.pixel_aspect if settings.square_pixels else 1.0
        image = short_side(frame.image, settings.size, pixel_aspect)
        height, width = image.shape[:2]
        size = f"{width} x {height}"
        if self._size not in ("", size):
            raise DataError(f"its frames have two sizes, {self._size} and {size}")
        self._size = size
        if not clips or (self.longest and len(clips[-1].sizes) == self.longest):
            self._next()
        clip = clips[-1]
        jpeg: bytes = simplejpeg.encode_jpeg(
            image, quality=settings.quality, colorspace="RGB", colorsubsampling="420"
        )
        clip.height, clip.width = height, width
        clip.sizes.append(len(jpeg))
        clip.crc32.append(zlib.crc32(jpeg))
        clip.times.append(math.nan if frame.time is None else frame.time)
        clip.repeated += jpeg == self._last
        self._last = jpeg
        self._write(jpeg)

    def close(self) -> None:
        """Complete the clips; a last one of less than a second joins the one before."""
        self._close_file()
        clips = self.decoded.clips
        if len(clips) > 1 and len(clips[-1].sizes) < self.decoded.fps:
            rest = clips.pop()
            self._file = clips[-1].path.open("ab")
            self._write(rest.path.read_bytes())
            self._close_file()
            rest.path.unlink()
            clips[-1].sizes += rest.sizes
            clips[-1].crc32 += rest.crc32
            clips[-1].times += rest.times
            clips[-1].repeated += rest.repeated
        first = 0
        for clip in clips:
            clip.sha256 = files.sha256(clip.path)
            if not _are_irregular(clip.times, first, self.decoded.fps):
                clip.times = []
            first += len(clip.sizes)

    def _next(self) -> None:
        self._close_file()
        clip = Clip(Path(f"{self.job.work}-{len(self.decoded.clips):03d}.mjpeg"))
        try:
            self._file = clip.path.open("wb")
        except OSError as error:
            raise StorageError(f"{clip.path} can't be written: {error.strerror}") from error
        self.decoded.clips.append(clip)
        self._last = b""

    def _write(self, data: bytes) -> None:
        assert self._file is not None
        try:
            self._file.write(data)
        except OSError as error:
            raise StorageError(f"{self._file.name} can't be written: {error.strerror}") from error

    def _close_file(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            try:
                file.close()
            except OSError as error:
                raise StorageError(f"{file.name} can't be written: {error.strerror}") from error
