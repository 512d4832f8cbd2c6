"""Two random clips of a video as others read them: from the original, from LMDB, by WebDataset.

A peer is spared what it can be: a frame that both clips show is decoded once, and an original is
not scaled before it is cropped.
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import av
import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision.transforms import functional

from vcsf_cli.contracts import Frames
from vcsf_cli.data import augment
from vcsf_cli.data.augment import Crop
from vcsf_cli.data.clips import TwoViewClips
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.data.store import FrameStore

_Image = TypeVar("_Image")


class UnreadError(Exception):
    """A peer can't read a frame that is there."""


@dataclass(frozen=True)
class Clips:
    """Two clips of a video in an epoch: their frames (2, L), crops and colours (2, 8), and the height of the
    stored frames, which the crops are meant for."""

    epoch: int
    row: int
    path: Path
    windows: npt.NDArray[np.int64]
    crops: list[Crop]
    colour: Tensor
    height: int
    size: int

    @property
    def frames(self) -> list[int]:
        """The frames that the two need, each once, in order."""
        return np.unique(self.windows).tolist()

    def collect(
        self, images: Iterable[_Image], cut: Callable[[_Image, Crop, Frames], object]
    ) -> Frames:
        """The clips (2, L, size, size, 3) from the images of `frames`; `cut` writes a crop of an
        image."""
        out = np.empty((*self.windows.shape, self.size, self.size, 3), np.uint8)
        for frame, image in zip(self.frames, images, strict=True):
            for view, position in np.argwhere(self.windows == frame).tolist():
                cut(image, self.crops[view], out[view, position])
        return out

    def cut_original(self, image: Frames, crop: Crop, out: Frames) -> None:
        """Write the part of an original frame that the crop shows of the stored one."""
        scale = image.shape[0] / self.height
        top, left, height, width = (
            round(scale * side) for side in (crop.top, crop.left, crop.height, crop.width)
        )
        part = image[top : top + height, left : left + width]
        cv2.resize(part, (self.size, self.size), dst=out, interpolation=cv2.INTER_LINEAR)
        if crop.flip:
            cv2.flip(out, 1, dst=out)


def draw(clips: TwoViewClips, manifest: Manifest, epoch: int, row: int, path: Path) -> Clips:
    """What `clips[epoch, row]` shows."""
    rng = np.random.default_rng((clips.seed, epoch, row))
    height, width = (int(manifest.table[side].iloc[row]) for side in ("height", "width"))
    windows = np.stack(
        [v.window for v in clips.sampler.sample(int(clips.numbers.frames[row]), rng)]
    )
    crops, colour = [], []
    for base in augment.draw_base(clips.augment, np.array_equal(*windows), rng):
        crops.append(augment.draw_crop(clips.augment, height, width, rng))
        colour.append(augment.draw_colour(clips.augment, base, clips.size, rng))
    return Clips(
        epoch, row, path, windows, crops, torch.from_numpy(np.stack(colour)), height, clips.size
    )


def with_decord(clips: Clips) -> Frames:
    """The original up to the last frame: decord's seeking is not exact in such files."""
    import decord

    reader = decord.VideoReader(str(clips.path), num_threads=1)
    images = reader.get_batch(range(clips.frames[-1] + 1)).asnumpy()
    return clips.collect((images[frame] for frame in clips.frames), clips.cut_original)


def with_torchcodec(clips: Clips) -> Frames:
    """The original up to the last frame: torchcodec's seeking is not exact in such files, either."""
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(clips.path), dimension_order="NHWC", num_ffmpeg_threads=1)
    try:
        images = decoder.get_frames_in_range(0, clips.frames[-1] + 1).data.numpy()
    except RuntimeError as error:  # the last frame of AVI files with B-frames
        raise UnreadError from error
    return clips.collect((images[frame] for frame in clips.frames), clips.cut_original)


def with_pyav(clips: Clips) -> Frames:
    """The original up to the last frame; only frames that are needed are turned into RGB."""
    with av.open(str(clips.path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        frames = set(clips.frames)
        images = (
            image.to_ndarray(format="rgb24")
            for number, image in zip(
                range(clips.frames[-1] + 1), container.decode(stream), strict=False
            )
            if number in frames
        )
        return clips.collect(images, clips.cut_original)


class Lmdb:
    """CoCLR's way: the JPEGs of a video under one key, decoded and changed frame by frame with
    Pillow. They are those of the store."""

    def __init__(self, manifest: Manifest, folder: Path) -> None:
        import lmdb

        store = FrameStore(manifest)
        with (
            lmdb.open(str(folder), map_size=2**32) as environment,
            environment.begin(write=True) as to,
        ):
            for row, count in enumerate(manifest.table["frames"]):
                to.put(str(row).encode(), pickle.dumps(store.jpegs(row, range(count))))
        self.environment = lmdb.open(str(folder), readonly=True, lock=False, readahead=False)

    def crops(self, clips: Clips) -> Frames:
        def cut(image: Image.Image, crop: Crop, out: Frames) -> None:
            out[:] = np.asarray(_cut_with_pillow(image, crop, clips.size))

        return clips.collect(self._images(clips), cut)

    def inputs(self, clips: Clips) -> Tensor:
        """The normalised clips (2, 3, L, size, size)."""
        made = torch.empty(*clips.windows.shape, 3, clips.size, clips.size)
        for frame, image in zip(clips.frames, self._images(clips), strict=True):
            for view, position in np.argwhere(clips.windows == frame).tolist():
                small = _cut_with_pillow(image, clips.crops[view], clips.size)
                small = _colour_with_pillow(small, clips.colour[view].tolist())
                pixels = functional.to_tensor(small)
                made[view, position] = functional.normalize(pixels, augment.MEAN, augment.STD)
        return made.transpose(1, 2)

    def _images(self, clips: Clips) -> Iterator[Image.Image]:
        with self.environment.begin() as read:
            jpegs = pickle.loads(read.get(str(clips.row).encode()))
        for frame in clips.frames:
            yield Image.open(io.BytesIO(jpegs[frame])).convert("RGB")


def _cut_with_pillow(image: Image.Image, crop: Crop, size: int) -> Image.Image:
    box = (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
    small = image.crop(box).resize((size, size), Image.Resampling.BILINEAR)
    return small.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if crop.flip else small


def _colour_with_pillow(image: Image.Image, colour: list[float]) -> Image.Image:
    for adjust, factor, neutral in zip(_ADJUST, colour, augment.NEUTRAL, strict=False):
        if factor != neutral:
            image = adjust(image, factor)
    if colour[augment.GREY]:
        image = functional.to_grayscale(image, 3)
    if colour[augment.SIGMA]:
        image = image.filter(ImageFilter.GaussianBlur(colour[augment.SIGMA]))
    return image


_ADJUST = (
    functional.adjust_brightness,
    functional.adjust_contrast,
    functional.adjust_saturation,
    functional.adjust_hue,
)


class Shards:
    """The store's own shards as WebDataset streams them: a whole video, in the order of the tar.
    Frames are decoded and cropped as vcsf does it."""

    def __init__(self, manifest: Manifest) -> None:
        import webdataset

        self.videos = manifest.table["video"]
        shards = sorted(map(str, manifest.folder.glob("shard-*.tar")))
        self.samples = iter(webdataset.WebDataset(shards, shardshuffle=False).repeat())

    def crops(self, clips: Clips) -> Frames:
        sample = next(self.samples)
        description = json.loads(sample["json"])
        assert description["video"] == self.videos.iloc[clips.row]
        ends = np.cumsum(description["frame_bytes"])
        jpegs = (
            sample["mjpeg"][ends[frame] - description["frame_bytes"][frame] : ends[frame]]
            for frame in clips.frames
        )
        images = (simplejpeg.decode_jpeg(jpeg, colorspace="RGB") for jpeg in jpegs)
        return clips.collect(images, augment.write_crop)
