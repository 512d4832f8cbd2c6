"""The moving pictures of a page: a few frames of a video side by side in one small image."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from vcsf_cli.contracts import Indices
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.data.store import FrameStore
from vcsf_cli.narrate import Progress

PAGE_CHARACTERS = 24_000_000
"""All pictures of a page, in base64; with everything else the page stays under 30 MB."""

_LAYOUTS = (
    (8, 80),
    (8, 64),
    (6, 64),
    (6, 56),
    (4, 56),
    (4, 48),
    (3, 48),
    (2, 48),
    (1, 48),
    (1, 32),
)
"""Frames and pixels of a side, from the richest to the poorest."""

_BYTES_A_PIXEL = 0.13
"""Size of such small pictures as WebP of quality 45: the mean over clips of UCF101."""

_QUALITIES = (60, 45, 30, 15)
_SMALLEST = 4
"""Pixels of a side below which a picture shows nothing."""


@dataclass(frozen=True)
class Layout:
    """How the videos of a page are shown.

    Args:
        frames: Of each video, spread evenly over it.
        side: Pixels of a frame's side.
    """

    frames: int
    side: int
    max_bytes: int


def layout_for(videos: int) -> Layout:
    """The richest layout in which this number of videos fits into a page."""
    largest = PAGE_CHARACTERS * 3 // 4 // max(1, videos)
    for frames, side in _LAYOUTS:
        if frames * side * side * _BYTES_A_PIXEL <= largest:
            break
    return Layout(frames, side, largest)


def frames_to_show(length: int, count: int) -> list[int]:
    """The frames in the middle of `count` equal parts of a video; one may come twice."""
    return [int((part + 0.5) * length / count) for part in range(count)]


def encode_strip(jpegs: Sequence[bytes], layout: Layout) -> bytes:
    """The centre squares of frames side by side, as WebP of at most `layout.max_bytes` bytes. If no
    quality is low enough, as for noise, the squares are smaller."""
    side, data = layout.side, b""
    while side >= _SMALLEST:
        image = np.concatenate([_centre_square(jpeg, side) for jpeg in jpegs], axis=1)
        for quality in _QUALITIES:
            data = cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()
            if len(data) <= layout.max_bytes:
                return data
        side //= 2
    return data


def _centre_square(jpeg: bytes, side: int) -> npt.NDArray[np.uint8]:
    """A frame's centre square, uint8 (side, side, 3) in BGR."""
    frame = simplejpeg.decode_jpeg(jpeg, colorspace="BGR", min_height=side, min_width=side)
    height, width = frame.shape[:2]
    shorter = min(height, width)
    top, left = (height - shorter) // 2, (width - shorter) // 2
    cut = frame[top : top + shorter, left : left + shorter]
    resized: npt.NDArray[np.uint8] = cv2.resize(cut, (side, side), interpolation=cv2.INTER_AREA)
    return resized


def encode_strips(manifest: Manifest, rows: Indices, layout: Layout, workers: int) -> list[str]:
    """Pictures of videos in base64, one a row of the manifest.

    Raises:
        DataError: If a shard can't be read.
    """
    store, lock = FrameStore(manifest), Lock()
    lengths = manifest.table["frames"].to_numpy()

    def picture(row: int) -> str:
        with lock:  # the store opens its files lazily
            jpegs = store.jpegs(row, frames_to_show(int(lengths[row]), layout.frames))
        return base64.b64encode(encode_strip(jpegs, layout)).decode()

    found = []
    with (
        ThreadPoolExecutor(max(1, workers)) as threads,
        Progress(len(rows), "videos", "pictures for the report") as progress,
    ):
        for data in threads.map(picture, rows.tolist()):
            found.append(data)
            progress.advance()
    return found
