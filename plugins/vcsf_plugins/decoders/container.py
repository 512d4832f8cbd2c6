"""Opening a video file safely, and what it holds, found without decoding it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from vcsf_cli.errors import DataError

_DEMUXERS = (
    "3g2 3gp amv apng asf av1 avi cavsvideo cine dhav dirac dnxhd dv dxa evc f4v film_cpk flic flv "
    "gif gxf h261 h263 h264 hevc ipu ivf ivr kux live_flv lxf m4v matroska mjpeg mlv mov mp4 mpeg "
    "mpegts mpegtsraw mpegvideo mv mxf nsv nut nuv obu ogg pva rm roq rpl smjpeg smk swf thp ty "
    "vc1 vc1test vividas vivo vvc webm wtv xmv yuv4mpegpipe"
)
"""FFmpeg's names of what is opened: files that hold their video themselves. Lists, such as concat
and m3u8, lead to other files and addresses; texts are drawn as video by others."""
_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": _DEMUXERS.replace(" ", ",")}

_TEXT: dict[str, Any] = (
    {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "ignore"}
)
"""PyAV 19 takes text that is not UTF-8 as it is; before, it had to be told."""

_DEFAULT_SCORE = 5_000_000
"""Pixels that a stream marked as the default one counts for, as in ffmpeg."""


@dataclass(frozen=True)
class VideoInfo:
    """What a file's headers and packets say about its video.

    Args:
        stream: Index of the video stream, which is the one that ffmpeg takes.
        container: FFmpeg's name of the container, such as `matroska`.
        codec: FFmpeg's name of the codec, such as `mpeg4`.
        pixel_format: FFmpeg's name, such as `yuv420p`; empty if unknown.
        frame_bytes: Of one frame as RGB.
        fps: Frames per second, 0.0 if unknown.
        declared: Number of frames that there should be.
        pixel_aspect: Width of a pixel by its height, as stored.
    """

    stream: int
    container: str
    codec: str
    pixel_format: str
    frame_bytes: int
    fps: float
    declared: int
    pixel_aspect: float


def count_errors() -> int:
    """How many errors FFmpeg has reported in this process."""
    if av.logging.get_level() is None:
        av.logging.set_level(av.logging.PANIC)  # counts errors, and prints none of them
    count, _ = av.logging.get_last_error()
    return count


def open_container(path: Path) -> InputContainer:
    """The container of a file, whatever its name looks like; text in it need not be UTF-8.

    Raises:
        DataError: If the file is not a video.
    """
    before = count_errors()
    try:
        container: InputContainer = av.open(f"file:{path}", container_options=_OPTIONS, **_TEXT)
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        count, last = av.logging.get_last_error()
        if last is not None and count > before:
            _, demuxer, message = last
            reason = message.strip()
            if "not on whitelist" in reason.lower():
                reason = f"files of the kind `{demuxer}` are not opened"
        raise DataError(f"{path} is not a video that can be read: {reason}") from error
    return container


def describe(path: Path) -> VideoInfo:
    """Read the headers and the packets of a file's video.

    Raises:
        DataError: If the file has no video, or one of an unknown codec.
    """
    errors = count_errors()
    with open_container(path) as container:
        stream = _choose_stream(container, path)
        codec = stream.codec_context
        average, guessed = float(stream.average_rate or 0), float(stream.guessed_rate or 0)
        # FFmpeg's average is nonsense for DV, and counts the fields of GXF.
        fps = guessed if average > 1.5 * guessed > 0 else average or guessed
        return VideoInfo(
            stream=stream.index,
            container=container.format.name.partition(",")[0],
            codec=codec.codec.canonical_name,
            pixel_format=codec.pix_fmt or "",
            frame_bytes=3 * codec.width * codec.height,
            fps=fps,
            declared=_count_frames(path, container, stream, fps, errors),
            pixel_aspect=float(stream.sample_aspect_ratio or 1),
        )


def _choose_stream(container: InputContainer, path: Path) -> VideoStream:
    """The video stream that ffmpeg takes: the default one, else the largest, but no cover
    picture."""
    streams = [
        stream
        for stream in container.streams.video
        if not stream.disposition & Disposition.attached_pic
    ]
    if not streams:
        only = ", only a picture" if container.streams.video else ""
        raise DataError(f"{path} has no video stream{only}")
    readable = [stream for stream in streams if stream.codec_context is not None]
    if not readable:
        raise DataError(f"{path} has video of a codec that is not known")

    def score(stream: VideoStream) -> int:
        is_default = bool(stream.disposition & Disposition.default)
        return stream.width * stream.height + _DEFAULT_SCORE * is_default

    return max(readable, key=score)


def _count_frames(
    path: Path, container: InputContainer, stream: VideoStream, fps: float, errors: int
) -> int:
    """The number of frames that there should be: those whose data is there, and those that are lost
    at the end. Frames that an edit list cuts away, as phones and trimming without encoding do,
    don't count.

    The header's own count is no help: encoders leave out frames that repeat the one before, and
    count them. So the lost ones are counted by the time from the last frame's end to the end in the
    header, unless the file surely has all its data: a recording may end with packets without data.
    """
    unit = stream.time_base or Fraction(0)
    start = float((stream.start_time or 0) * unit)
    count, cut_away, end = 0, 0, start
    try:
        for packet in container.demux(stream):
            if packet.is_discard:  # needed for decoding what follows, but never shown
                cut_away += 1
                continue
            count += packet.size > 0  # one without data stands at the end of every stream
            time = packet.pts if packet.pts is not None else packet.dts
            if time is not None:
                end = max(end, float((time + (packet.duration or 0)) * unit))
    except av.FFmpegError:  # the data breaks off: what is lost shows below
        pass
    if container.format.name.startswith("matroska") and count_errors() == errors:
        return count  # the demuxer reports where it ends early
    index = getattr(stream, "index_entries", None)  # PyAV has it since version 17
    if index is not None and _is_whole_avi(path):
        return max(count, len(index))
    promised = [
        start + float((stream.duration or 0) * unit),
        start + (max(0, stream.frames - cut_away) / fps if fps else 0.0),
    ]
    if len(container.streams) == 1 and container.duration:  # with sound it may be the sound's
        promised.append(container.duration / av.time_base)  # counted from zero, not from the start
    rate = min(fps, count / (end - start)) if end > start else fps
    return count + max(0, round((max(promised) - end) * rate))


def _is_whole_avi(path: Path) -> bool:
    """Whether a file is an AVI that is as long as its header says."""
    with path.open("rb") as file:
        head = file.read(8)
        length = file.seek(0, os.SEEK_END)
    promised = 8 + int.from_bytes(head[4:], "little")
    return head[:4] == b"RIFF" and promised <= length <= promised + 1
