"""decord and torchcodec. Every frame of theirs is compared with PyAV's while PyAV decodes the same
file, because they are wrong in silence about some files: other frames, black ones, turned wrongly.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from vcsf_cli.contracts import Frame, Frames
from vcsf_cli.errors import DataError
from vcsf_plugins.decoders.pyav import DecodedFrame, PyAV, PyAVReader

_QUEUE_BYTES = 512 * 2**20
"""decord decodes ahead and keeps all frames: PyAV decodes videos that are larger than this."""

_GRID = 16
"""Every 16th pixel of every 16th row is compared."""
_TOLERANCE = 1.0
"""Mean difference between equal frames of two decoders, whose arithmetic differs a little."""
_ROUNDING = 0.85
"""Mean loss of brightness where swscale makes RGB, which rounds down (measured)."""
_LUMA = {True: (0.2126, 0.7152, 0.0722), False: (0.299, 0.587, 0.114)}
"""Weights of red, green and blue by ITU-R BT.709 and BT.601."""


class _CheckedReader(PyAVReader):
    """An open video whose images come from another library, as long as they show what PyAV's do;
    from the first one on that does not, PyAV's are given."""

    name: str

    def stream(self) -> Iterator[Frame]:
        """All frames in presentation order, in bounded memory."""
        images, agreeing = self._images(), True
        self.decoder = f"{self.name} or pyav"  # as long as there is no frame
        for number, decoded in enumerate(self._decode()):
            image = next(images, None) if agreeing else None
            if image is not None and _agree(image, decoded):
                self.decoder = self.name
                yield decoded.frame(image)
                continue
            if agreeing:
                agreeing = False
                images.close()
                self.decoder = f"{self.name} to frame {number - 1}, then pyav" if number else "pyav"
            yield decoded.frame()

    @abstractmethod
    def _images(self) -> Generator[Frames]:
        """Images as the library gives them, up to where it fails."""


def _agree(image: Frames, decoded: DecodedFrame) -> bool:
    """Whether an image shows a frame. Brightness is compared, so that PyAV need not make RGB of its
    own frame; where it differs, colours."""
    raw = decoded.raw
    shape = decoded.orientation.swap((raw.height, raw.width))
    if image.shape != (*shape, 3) or shape != decoded.screen.shape:
        return False
    sample = image[::_GRID, ::_GRID].astype(np.float32)
    if raw.format.name == "yuv420p" and raw.color_range != ColorRange.JPEG:
        plane: Any = raw.planes[0]
        luma = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:, : raw.width]
        shown = decoded.orientation.apply(luma[: raw.height])[::_GRID, ::_GRID]
        weights = np.array(_LUMA[raw.colorspace == Colorspace.ITU709], np.float32)
        grey = 16 + sample @ (weights * np.float32(219 / 255)) + np.float32(_ROUNDING)
        if np.abs(grey - shown.clip(16, 235)).mean() < _TOLERANCE:
            return True
    return bool(np.abs(sample - decoded.image[::_GRID, ::_GRID]).mean() < _TOLERANCE)


class DecordReader(_CheckedReader):
    """An open video, decoded by decord one frame after the other. PyAV decodes videos beyond
    `_QUEUE_BYTES` and files whose name is not UTF-8."""

    name = "decord"

    def _images(self) -> Generator[Frames]:
        import decord  # optional

        if self.declared * self.info.frame_bytes > _QUEUE_BYTES or not _is_text(self.path):
            return
        try:
            reader = decord.VideoReader(str(self.path.absolute()), num_threads=1)
            for _ in range(len(reader)):
                yield reader.next().asnumpy()
        except (RuntimeError, StopIteration, decord.DECORDError):
            return


class TorchCodecReader(_CheckedReader):
    """An open video, decoded by torchcodec one frame after the other."""

    name = "torchcodec"

    def _images(self) -> Generator[Frames]:
        from torchcodec.decoders import VideoDecoder  # optional

        try:
            decoder = VideoDecoder(
                str(self.path.absolute()),
                stream_index=self.info.stream,
                dimension_order="NHWC",
                seek_mode="exact",
            )
            for number in range(len(decoder)):
                yield decoder.get_frame_at(number).data.numpy()
        except (RuntimeError, ValueError, IndexError):
            return


def _is_text(path: Path) -> bool:
    """Whether a file's name is UTF-8, as decord needs."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


class Decord(PyAV):
    """decord, with PyAV for what it gets wrong; has wheels for x86-64 Linux and Windows only."""

    reader = DecordReader

    def __init__(self) -> None:
        try:
            import decord  # optional
        except (ImportError, OSError) as error:
            raise DataError(f"decord can't be used here: {error}", "give --decoder auto") from error
        decord.logging.set_level(decord.logging.QUIET)


class TorchCodec(PyAV):
    """torchcodec, with PyAV for what it gets wrong; needs `vcsf[torchcodec]` and FFmpeg's libraries.

    Exact mode only, from the first frame on. Its pixels are those of the FFmpeg that is installed
    on the machine.
    """

    reader = TorchCodecReader

    def __init__(self) -> None:
        try:
            import torchcodec.decoders  # noqa: F401 - optional; fails where a library is missing
        except (ImportError, OSError, RuntimeError) as error:
            raise DataError(
                f"torchcodec can't be used here: {str(error).strip().splitlines()[0]}",
                "pip install 'vcsf[torchcodec]' and the FFmpeg libraries, or give --decoder auto",
            ) from error
