"""The decoder that chooses one for every file."""

from __future__ import annotations

import contextlib
from pathlib import Path

from vcsf_cli.errors import DataError
from vcsf_plugins.decoders.checked import Decord
from vcsf_plugins.decoders.container import describe
from vcsf_plugins.decoders.pyav import PyAV, PyAVReader

_KEPT_BYTES = frozenset((container, "mpeg4", "yuv420p") for container in ("avi", "matroska", "mov"))
"""Container, codec and pixel format of files that newer versions of FFmpeg decode to pixels that
differ by rounding (at most 2 of 255 in UCF101). decord brings one version along, so that a store
of UCF101 or HMDB51 has the same bytes wherever decord is. Of all others that were compared, H.264
and VP9 among them, the pixels of decord, PyAV and torchcodec are equal."""


class Auto:
    """An exact decoder for each file: PyAV, which is the fastest, or decord for MPEG-4 part 2.

    PyAV reads what ffmpeg reads, in about half of decord's time and the same as torchcodec's, which
    takes seconds to load. MPEG-4 part 2 in AVI, Matroska or MP4, as in UCF101 and HMDB51, is read by
    decord where it is installed, so that stores keep their bytes: newer decoders round some pixels
    differently. decord's frames are compared with PyAV's one by one; from the first that differs
    on, PyAV's are taken. The journal of a prepared dataset says what read each file. docs/video.md
    has the measurements.
    """

    def open(self, path: Path) -> PyAVReader:
        """Open a video file.

        Raises:
            DataError: If it has no video that PyAV can read.
        """
        info = describe(path)
        preferred: PyAV | None = None
        if (info.container, info.codec, info.pixel_format) in _KEPT_BYTES:
            with contextlib.suppress(DataError):  # it is not installed
                preferred = Decord()
        return (preferred or PyAV()).reader(path, info)
