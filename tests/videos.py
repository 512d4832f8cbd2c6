"""Small real videos for tests, encoded by PyAV. Every frame shows its own number, so that a wrong
frame is noticed."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]

BITS = 10
"""Cells of the strip at the top of a picture: white for a 1, the lowest bit first."""

CODECS: dict[str, tuple[str, dict[str, str]]] = {
    ".avi": ("mpeg4", {"qscale": "3", "flags": "+qscale"}),
    ".mp4": ("libx264", {"crf": "18", "preset": "ultrafast"}),
    ".mov": ("libx264", {"crf": "18", "preset": "ultrafast"}),
    ".mkv": ("libx264", {"crf": "18", "preset": "ultrafast"}),
    ".webm": (
        "libvpx-vp9",
        {"crf": "20", "b": "0", "cpu-used": "8", "deadline": "realtime", "auto-alt-ref": "1"},
    ),
}
"""Encoder and its options by the ending of a file."""


def picture(number: int, width: int = 160, height: int = 128) -> Image:
    """A frame that shows a number from 0 to 1023: uint8 (height, width, 3)."""
    across = np.linspace(40, 200, width)[None, :].repeat(height, 0)
    down = np.linspace(60, 180, height)[:, None].repeat(width, 1)
    image = np.stack([across, down, np.roll(across, 3 * number, 1)], axis=2).astype(np.uint8)
    cells = np.array([255 * (number >> bit & 1) for bit in range(BITS)], np.uint8)
    image[: height // 4] = cells[np.arange(width) * BITS // width][None, :, None]
    return image


def number_of(image: Image) -> int:
    """The number that a decoded picture of any size shows."""
    height, width = image.shape[:2]
    strip = image[height // 16 : 3 * height // 16].mean(axis=(0, 2))
    return sum(int(strip[int((bit + 0.5) * width / BITS)] > 128) << bit for bit in range(BITS))


def write_video(
    path: Path,
    frames: int | Sequence[int] = 30,
    *,
    width: int = 160,
    height: int = 128,
    fps: int = 25,
    gop: int = 40,
    b_frames: int = 2,
    times: Sequence[float] | None = None,
    pixel_aspect: Fraction = Fraction(1),
    metadata: dict[str, str] | None = None,
) -> Path:
    """Encode a video; the ending of `path` chooses container and codec.

    Args:
        path: The file; its folder is made.
        frames: How many frames, or the numbers that they show.
        width: Pixels, as displayed.
        height: Pixels, as displayed.
        fps: Frames per second.
        gop: Frames from one key frame to the next.
        b_frames: Of the codecs that have them, between two others.
        times: When each frame is shown in seconds, for a variable rate.
        pixel_aspect: Width of a pixel by its height.
        metadata: Of the container, such as a title.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = range(frames) if isinstance(frames, int) else frames
    codec, options = CODECS[path.suffix]
    with av.open(str(path), "w") as container:
        container.metadata.update(metadata or {})
        stream: Any = container.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height = width, height
        stream.pix_fmt, stream.gop_size, stream.max_b_frames = "yuv420p", gop, b_frames
        stream.sample_aspect_ratio = pixel_aspect
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index, number in enumerate(numbers):
            image = picture(number, width, height)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = index if times is None else round(1000 * times[index])
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def set_matrix(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Write a display matrix (a b; c d) into an mp4's track header: the pixel of column x and row y
    is shown in column ax + cy, row bx + dy."""
    data = bytearray(path.read_bytes())
    a, b, c, d = (number << 16 for number in matrix)
    place = data.index(b"tkhd") + 4 + 40
    struct.pack_into(">9i", data, place, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def trim(path: Path, begin: float, name: str = "trimmed.mp4") -> Path:
    """Copy an mp4 without encoding it again, shown from `begin` seconds on: an edit list cuts away
    what lies before."""
    copy = path.with_name(name)
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-y",
        "-ss",
        str(begin),
        "-i",
        str(path),
        "-c",
        "copy",
        str(copy),
    ]
    subprocess.run(command, check=True, timeout=300)
    return copy


def add_phantom(path: Path, before: int) -> Path:
    """Copy an AVI without B-frames to `phantom.avi`, with one packet more that holds no frame, as
    UCF101 has some.

    Args:
        path: The file.
        before: Number of the frame that the packet stands before.
    """
    copy = path.with_name("phantom.avi")
    with av.open(str(path)) as source, av.open(str(copy), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        number = 0
        for packet in source.demux(video=0):
            if packet.size:
                if number == before:
                    empty = av.Packet(
                        bytes.fromhex("000001b651cf")
                    )  # a picture that is `not coded`
                    empty.pts = empty.dts = number
                    empty.stream, number = stream, number + 1
                    container.mux(empty)
                packet.pts = packet.dts = number
                packet.stream, number = stream, number + 1
                container.mux(packet)
    return copy


def write_sound(path: Path, seconds: float = 1.0) -> Path:
    """A file with a sound stream and no video."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("pcm_s16le", rate=8000)
        stream.layout = "mono"
        wave = np.zeros((1, round(8000 * seconds)), np.int16)
        frame = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
        frame.sample_rate, frame.pts = 8000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def cut_off(path: Path, share: float) -> Path:
    """Leave only the first part of a file, as a broken download does."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def flip_bytes(path: Path, begin: float, end: float, seed: int = 0) -> Path:
    """Invert bytes here and there between two places of a file, given as shares of its length."""
    data = np.frombuffer(path.read_bytes(), np.uint8).copy()
    first, last = int(len(data) * begin), int(len(data) * end)
    places = np.random.default_rng(seed).integers(first, last, (last - first) // 40)
    data[places] ^= 255
    path.write_bytes(data.tobytes())
    return path


def ffmpeg_frames(path: Path, width: int, height: int) -> Image:
    """All frames as the ffmpeg program decodes them from the start: uint8 (T, height, width, 3)."""
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-threads",
        "1",  # with more, its Theora decoder gives other pixels
        "-i",
        str(path),
        "-fps_mode",
        "passthrough",
        "-f",
        "rawvideo",
    ]
    output = subprocess.run(
        [*command, "-pix_fmt", "rgb24", "-"], capture_output=True, check=True, timeout=300
    ).stdout
    return np.frombuffer(output, np.uint8).reshape(-1, height, width, 3)
