"""Readers of video files. They never seek: with AVI, whose frames carry no times, decord and PyAV
land on the wrong frame after a seek, silently (B-frames: half of all frames and more)."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from vcsf_cli.contracts import Frame, Frames
from vcsf_cli.errors import DataError
from vcsf_cli.video import SequentialReader

_QUARTER_TURNS = {90: 1, 180: 2, -180: 2, -90: 3, 270: 3}

_QUEUE_BYTES = 512 * 2**20
"""decord decodes ahead and keeps all frames: PyAV decodes videos that are larger than this."""


class PyAVReader(SequentialReader):
    """An open video, decoded by PyAV.

    Raises:
        DataError: If the file has no video stream.
    """

    def __init__(self, path: Path) -> None:
        with _open_container(path) as container:
            if not container.streams.video:
                raise DataError(f"{path} has no video stream")
            fps, declared = _read_header(container)
            codec = container.streams.video[0].codec_context
            self.frame_bytes = 3 * codec.width * codec.height
        super().__init__(path, fps, declared)

    def stream(self) -> Iterator[Frame]:
        """All frames in presentation order, in bounded memory."""
        with _open_container(self.path) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1  # many videos are read at once, each by one core
            first: float | None = None
            try:
                for frame in container.decode(stream):
                    image = np.rot90(
                        frame.to_ndarray(format="rgb24"), _QUARTER_TURNS.get(frame.rotation, 0)
                    )
                    first = frame.time if first is None else first
                    time = None if frame.time is None or first is None else frame.time - first
                    yield Frame(np.ascontiguousarray(image), time)
            except (av.FFmpegError, ValueError) as error:
                raise DataError(f"{self.path} can't be decoded further: {error}") from error


class _DecordReader(PyAVReader):
    """An open video, decoded by decord one frame after the other.

    Where a container counts too many frames, decord repeats the last one. So frames at the end that
    equal the one before are given only if PyAV finds them too. PyAV decodes videos beyond
    `_QUEUE_BYTES` and files whose name is not UTF-8. Its frames are the same, and their pixels too
    except in interlaced video."""

    def stream(self) -> Iterator[Frame]:
        """All frames in presentation order, in bounded memory."""
        if self.declared * self.frame_bytes > _QUEUE_BYTES or not _is_text(self.path):
            yield from super().stream()
            return
        last: Frames | None = None
        given = 0
        repeats: list[Frame] = []
        try:
            for frame in self._decoded():
                if last is not None and _equal(frame.image, last):
                    repeats.append(Frame(last, frame.time))
                    continue
                yield from repeats
                yield frame
                given += len(repeats) + 1
                last, repeats = frame.image, []
        except DataError:
            yield from repeats
            raise
        if repeats:
            yield from repeats[: max(0, sum(1 for _ in super().stream()) - given)]

    def _decoded(self) -> Iterator[Frame]:
        import decord  # optional

        try:
            reader = decord.VideoReader(str(self.path), num_threads=1)
            count = len(reader)
            # Times of frames whose container has none come as multiples of 1/fps, or as nonsense.
            times = (
                np.asarray(reader.get_frame_timestamp(range(count)))[:, 0] if count else np.empty(0)
            )
        except (RuntimeError, decord.DECORDError) as error:
            raise DataError(
                f"{self.path} can't be decoded: {str(error).splitlines()[-1]}"
            ) from error
        usable = bool(np.isfinite(times).all() and (np.diff(times) > 0).all())
        for number in range(count):
            try:
                image: Frames = reader.next().asnumpy()
            except StopIteration:
                return
            except (RuntimeError, decord.DECORDError) as error:
                reason = str(error).splitlines()[0].rpartition("Check failed: ")[2]
                raise DataError(
                    f"{self.path} can't be decoded past frame {number}: {reason}"
                ) from error
            yield Frame(image, float(times[number] - times[0]) if usable else None)


def _read_header(container: av.container.InputContainer) -> tuple[float, int]:
    """Frames a second, and the number of frames that there should be: those whose data is there,
    and those that are lost at the end. Frames that an edit list cuts away, as phones and trimming
    without encoding do, don't count.

    The header's own count is no help: encoders leave out frames that repeat the one before, and
    count them. So the lost ones are counted by the time from the last frame's end to the end in the
    header.
    """
    stream = container.streams.video[0]
    fps = float(stream.average_rate or stream.guessed_rate or 0)
    unit = stream.time_base or Fraction(0)
    count, cut_away, end = 0, 0, 0.0
    try:
        for packet in container.demux(stream):
            if not packet.size:  # what stands at the end of every stream, and a repeated frame
                continue
            if packet.is_discard:  # needed for decoding what follows, but never shown
                cut_away += 1
                continue
            count += 1
            time = packet.pts if packet.pts is not None else packet.dts
            if time is not None:
                end = max(end, float((time + (packet.duration or 0)) * unit))
    except av.FFmpegError:  # the data breaks off: what is lost shows below
        pass
    promised = [
        float((stream.duration or 0) * unit),
        max(0, stream.frames - cut_away) / fps if fps else 0.0,
    ]
    if len(container.streams) == 1 and container.duration:  # with sound it may be the sound's
        promised.append(container.duration / av.time_base)
    start = float((stream.start_time or 0) * unit)
    return fps, count + max(0, round((max(promised) + start - end) * fps))


def _open_container(path: Path) -> av.container.InputContainer:
    """The container of a file; text in it need not be UTF-8."""
    try:
        return av.open(str(path), metadata_errors="ignore")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise DataError(f"{path} is not a video that can be read: {error}") from error


def _is_text(path: Path) -> bool:
    """Whether a file's name is UTF-8, as decord needs."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _equal(image: Frames, other: Frames) -> bool:
    """Whether two frames are the same; most differ in their middle row already."""
    middle = len(image) // 2
    return np.array_equal(image[middle], other[middle]) and np.array_equal(image, other)


class PyAV:
    """PyAV, FFmpeg's own libraries; reads what FFmpeg reads."""

    reader = PyAVReader

    def open(self, path: Path) -> PyAVReader:
        """Open a video file.

        Raises:
            DataError: If it is not a video that PyAV, which reads the header, can read.
        """
        return self.reader(path)


class Decord(PyAV):
    """decord, about half as costly as PyAV; has wheels for x86-64 Linux and Windows only."""

    reader = _DecordReader
    requires = "decord"

    def __init__(self) -> None:
        try:
            import decord  # optional
        except (ImportError, OSError) as error:
            raise DataError(f"decord can't be used here: {error}", "give --decoder pyav") from error
        decord.logging.set_level(decord.logging.QUIET)
