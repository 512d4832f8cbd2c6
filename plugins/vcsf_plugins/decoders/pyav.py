"""PyAV: FFmpeg's own libraries, which read what ffmpeg reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import av
import av.filter
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.sidedata.sidedata import SideDataContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vcsf_cli.contracts import Frame, Frames
from vcsf_cli.video import SequentialReader
from vcsf_plugins.decoders.container import VideoInfo, count_errors, describe, open_container

_USUAL_FPS = 25.0


@dataclass(frozen=True)
class Orientation:
    """How a stored picture is turned to be shown: first transposed, then mirrored."""

    transposed: bool
    mirrored: bool
    upside_down: bool

    @classmethod
    def from_frame(cls, frame: VideoFrame) -> Orientation:
        """As the display matrix says, which FFmpeg takes from the container or the codec's data.

        The matrix (a b; c d) shows the pixel of column x and row y in column ax + cy, row bx + dy.
        """
        # `frame.side_data` and the frame would keep each other alive until garbage is collected.
        data = SideDataContainer(frame)  # type: ignore[call-arg]  # its stub has no constructor
        matrix: Any = data.get("DISPLAYMATRIX") if len(data) else None
        if matrix is None:
            return _UPRIGHT
        a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32, 5).tolist()
        return cls(True, c < 0, b < 0) if abs(a) < abs(b) else cls(False, a < 0, d < 0)

    def swap(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Height and width as stored of a picture as shown, or the other way round."""
        return shape[::-1] if self.transposed else shape

    def apply(self, image: Frames) -> Frames:
        """A view of an image (H, W) or (H, W, C), as shown."""
        image = image.swapaxes(0, 1) if self.transposed else image
        return image[:: -1 if self.upside_down else 1, :: -1 if self.mirrored else 1]


_UPRIGHT = Orientation(False, False, False)


class _Screen:
    """Makes RGB of frames with the filters that ffmpeg uses. Where their size changes, they are
    scaled to that of the first one, as by ffmpeg."""

    def __init__(self) -> None:
        self.shape: tuple[int, int] | None = None
        """Height and width of all images, which are those of the first one."""
        self._graph: av.filter.Graph | None = None
        self._made_for: tuple[object, ...] = ()

    def show(self, frame: VideoFrame, orientation: Orientation) -> Frames:
        """uint8 (H, W, 3), upright."""
        assert self.shape is not None
        height, width = orientation.swap(self.shape)
        needed = frame.format.name, frame.width, frame.height, frame.colorspace, frame.color_range
        if self._graph is None or self._made_for != (*needed, width, height):
            self._graph, self._made_for = (
                _build_graph(frame, width, height),
                (*needed, width, height),
            )
        self._graph.push(frame)
        rgb = self._graph.pull()
        return np.ascontiguousarray(orientation.apply(np.asarray(rgb.to_ndarray(), np.uint8)))


def _build_graph(frame: VideoFrame, width: int, height: int) -> av.filter.Graph:
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
    )
    graph.link_nodes(
        source,
        graph.add("scale", f"{width}:{height}:flags=bicubic:threads=1"),
        graph.add("format", "rgb24"),
        graph.add("buffersink"),
    ).configure()
    return graph


@dataclass(frozen=True)
class DecodedFrame:
    """A frame that PyAV has decoded.

    Args:
        raw: As PyAV gives it.
        orientation: How it is turned.
        time: See `Frame`.
        damaged: See `Frame`.
        pixel_aspect: See `Frame`.
        screen: Makes RGB.
    """

    raw: VideoFrame
    orientation: Orientation
    time: float
    damaged: bool
    pixel_aspect: float
    screen: _Screen

    @cached_property
    def image(self) -> Frames:
        """uint8 (H, W, 3), upright."""
        return self.screen.show(self.raw, self.orientation)

    def frame(self, image: Frames | None = None) -> Frame:
        """The frame, with its own image or another decoder's."""
        image = self.image if image is None else image
        return Frame(image, self.time, self.damaged, self.pixel_aspect)


class _Clock:
    """Times of frames in seconds from the first. A frame that has none, or one that isn't later
    than the one before, follows at the usual distance, and those behind it are counted from there.
    """

    def __init__(self, fps: float) -> None:
        self._distance = 1 / (fps or _USUAL_FPS)
        self._last: float | None = None
        self._origin: float | None = None

    def time(self, stamp: float | None) -> float:
        follows = 0.0 if self._last is None else self._last + self._distance
        time = follows
        if stamp is not None:
            if self._origin is not None and self._last is not None:
                time = stamp - self._origin
            if self._origin is None or (self._last is not None and time <= self._last):
                time, self._origin = follows, stamp - follows
        self._last = time
        return time


class PyAVReader(SequentialReader):
    """An open video, decoded by PyAV.

    Raises:
        DataError: If the file has no video that PyAV can read.
    """

    def __init__(self, path: Path, info: VideoInfo | None = None) -> None:
        self.info = info or describe(path)
        self.decoder = "pyav"
        super().__init__(path, self.info.fps, self.info.declared)

    def stream(self) -> Iterator[Frame]:
        """All frames in presentation order, in bounded memory. Behind data that can't be decoded it
        goes on, as ffmpeg does."""
        return (frame.frame() for frame in self._decode())

    def _decode(self) -> Iterator[DecodedFrame]:
        clock, screen = _Clock(self.fps), _Screen()
        with open_container(self.path) as container:
            stream = container.streams[self.info.stream]
            assert isinstance(stream, VideoStream)
            unit = float(stream.time_base or 0)
            for raw, damaged in _decode_frames(container, stream):
                orientation = Orientation.from_frame(raw)
                screen.shape = screen.shape or orientation.swap((raw.height, raw.width))
                # AVI has no presentation times; PyAV makes some up, in a wrong order.
                stamp = raw.dts if self.info.container == "avi" else raw.pts
                aspect = self.info.pixel_aspect
                yield DecodedFrame(
                    raw,
                    orientation,
                    clock.time(None if stamp is None else stamp * unit),
                    damaged,
                    1 / aspect if orientation.transposed else aspect,
                    screen,
                )


def _decode_frames(
    container: InputContainer, stream: VideoStream
) -> Iterator[tuple[VideoFrame, bool]]:
    """Frames, and whether there were errors in the data of each or between it and the one before."""
    stream.codec_context.thread_count = 1  # many videos are read at once, each by one core
    packets = _packets(container, stream)
    damaged = finished = False
    while not finished:
        before = count_errors()
        packet = next(packets)
        try:
            frames = stream.decode(packet)
        except av.FFmpegError:
            frames, damaged = [], True
        finished = packet is None
        damaged = damaged or count_errors() > before
        for frame in frames:
            yield frame, damaged or frame.is_corrupt
            damaged = False


def _packets(
    container: InputContainer, stream: VideoStream
) -> Iterator[Packet[VideoStream] | None]:
    """Packets with data, up to where the file ends or breaks off, then None."""
    try:
        for packet in container.demux(stream):
            if packet.size:  # one without repeats a frame; FFmpeg's decoders would end there
                yield packet
    except av.FFmpegError:
        pass
    yield None


class PyAV:
    """PyAV, FFmpeg's own libraries; reads what FFmpeg reads."""

    reader = PyAVReader

    def open(self, path: Path) -> PyAVReader:
        """Open a video file.

        Raises:
            DataError: If it is not a video that PyAV, which reads the header, can read.
        """
        return self.reader(path)
