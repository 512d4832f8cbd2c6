"""Clips of a prepared dataset: two augmented views for training, all windows for measuring."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vcsf_cli.config.schema import Augment
from vcsf_cli.contracts import PATHWAYS, View
from vcsf_cli.contracts import Sampler as WindowSampler
from vcsf_cli.data import augment as augmentation
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.data.store import FrameStore

Batch = dict[str, Tensor]


class ClipIds:
    """Frames, source and label of each row of a manifest as int64; -1 for no label."""

    def __init__(self, manifest: Manifest) -> None:
        table = manifest.table
        self.frames = table["frames"].to_numpy(np.int64)
        self.source = table["source"].astype("category").cat.codes.to_numpy(np.int64)
        self.label = table["label"].astype("category").cat.codes.to_numpy(np.int64)


class TwoViewClips(Dataset[Batch]):
    """Two augmented views of a clip. The key of an item is (epoch, row); it depends on (seed,
    epoch, row) alone.

    Args:
        size: Pixels of a clip's side.
    """

    def __init__(
        self, manifest: Manifest, sampler: WindowSampler, augment: Augment, size: int, seed: int
    ) -> None:
        self.store = FrameStore(manifest)
        self.numbers = ClipIds(manifest)
        self.sampler, self.augment, self.size, self.seed = sampler, augment, size, seed

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, row = key
        rng = np.random.default_rng((self.seed, epoch, row))
        views = self.sampler.sample(int(self.numbers.frames[row]), rng)
        same = np.array_equal(views[0].window, views[1].window)
        base = augmentation.draw_base(self.augment, same, rng)
        return {**self._read(row, views, base, rng), "same_window": same}

    def _read(
        self, row: int, views: Sequence[View], base: Sequence[bool], rng: np.random.Generator
    ) -> dict[str, Any]:
        """Views of a clip, each with a crop of its own, and with colours if it is `base`."""
        wanted, back = np.unique(
            np.concatenate([view.window for view in views]), return_inverse=True
        )
        length = len(views[0].window)
        frames = np.empty((len(views), length, self.size, self.size, 3), np.uint8)
        images = self.store.images(row, wanted.tolist())
        first = next(images)
        height, width = first.shape[:2]
        crops, colour = self._draw(height, width, base, rng)
        # Each image is cropped as soon as it is decoded, while it is in the processor's cache.
        for number, image in enumerate(chain([first], images)):
            for place in np.flatnonzero(back == number).tolist():
                view, position = divmod(place, length)
                augmentation.write_crop(image, crops[view], frames[view, position])
        return {
            "frames": frames,
            "colour": colour,
            **{
                pathway: np.stack([view.positions(pathway) for view in views])
                for pathway in PATHWAYS
            },
            **{
                f"{pathway}_part": np.array([view.part(pathway) for view in views])
                for pathway in PATHWAYS
            },
            "video": row,
            "source": self.numbers.source[row],
            "label": self.numbers.label[row],
        }

    def _draw(
        self, height: int, width: int, base: Sequence[bool], rng: np.random.Generator
    ) -> tuple[list[augmentation.Crop], npt.NDArray[np.float32]]:
        """Crop and colours (views, draws, 8) of each view of a clip of this height and width."""
        draws = 1 if self.augment.draws == "shared" else len(PATHWAYS)
        colour = np.empty((len(base), draws, len(augmentation.NEUTRAL)), np.float32)
        crops = []
        for view, has_colour in enumerate(base):
            crops.append(augmentation.draw_crop(self.augment, height, width, rng))
            for draw in range(draws):
                colour[view, draw] = augmentation.draw_colour(
                    self.augment, has_colour, self.size, rng
                )
        return crops, colour


class LabelledClips(TwoViewClips):
    """One augmented view of a clip, to learn its label from."""

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, row = key
        rng = np.random.default_rng((self.seed, epoch, row))
        view, _ = self.sampler.sample(int(self.numbers.frames[row]), rng)
        return self._read(row, [view], [bool(rng.random() < self.augment.base)], rng)


def pathway_inputs(
    batch: Batch, view: int, pathways: Sequence[str], device: torch.device, channels_last: bool
) -> dict[str, Tensor]:
    """The normalised window (B, 3, L, H, W) that each pathway sees in a view; one tensor where they
    see the same."""
    frames = batch["frames"][:, view].to(device, non_blocking=True)
    colour = batch["colour"][:, view]
    made: dict[tuple[int, int, int], Tensor] = {}
    windows = {}
    for pathway in pathways:
        own = pathway if pathway in PATHWAYS else PATHWAYS[1]  # others read what fast would
        begin, end = batch[f"{own}_part"][0, view].tolist()
        draw = min(PATHWAYS.index(own), colour.shape[1] - 1)
        key = (begin, end, draw)
        if key not in made:
            made[key] = augmentation.to_input(frames[:, begin:end], colour[:, draw])
            if not channels_last:
                made[key] = made[key].contiguous()
        windows[pathway] = made[key]
    return windows


class EvalClips(Dataset[dict[str, Any]]):
    """The frames of a clip that its windows read, each once and cropped, and the windows as
    positions in them. With ten crops, each has frames and windows of its own.

    Args:
        sampler: Gives the windows.
        border: Side of the centre square as a fraction of the short side.
        size: Pixels of a clip's side.
        spread: How many windows, spread evenly over a clip, one perhaps more than once; 1 is the
            middle one. None: all.
        crops: The centre square, or corners and centre of the frame, also mirrored.
    """

    def __init__(
        self,
        manifest: Manifest,
        rows: Sequence[int],
        sampler: WindowSampler,
        border: float,
        size: int,
        spread: int | None = None,
        crops: Literal["centre", "ten"] = "centre",
    ) -> None:
        self.store = FrameStore(manifest)
        self.frames = manifest.table["frames"].to_numpy(np.int64)
        self.rows = list(rows)
        self.sampler, self.border, self.size, self.spread = sampler, border, size, spread
        self.crops = crops

    def __len__(self) -> int:
        return len(self.rows)

    def windows(self, row: int) -> list[View]:
        views = self.sampler.cover(int(self.frames[row]))
        if self.spread is None:
            return views
        return [
            views[(2 * part + 1) * len(views) // (2 * self.spread)] for part in range(self.spread)
        ]

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        views = self.windows(row)
        wanted, back = np.unique(np.stack([view.window for view in views]), return_inverse=True)
        crops = 10 if self.crops == "ten" else 1
        frames = np.empty((crops, len(wanted), self.size, self.size, 3), np.uint8)
        for position, frame in enumerate(self.store.images(row, wanted.tolist())):
            for number, crop in enumerate(self._crops(*frame.shape[:2])):
                augmentation.write_crop(frame, crop, frames[number, position])
        first = len(wanted) * np.arange(crops)[:, None, None]
        windows = (
            (first + back.reshape(len(views), -1)).reshape(crops * len(views), -1).astype(np.int64)
        )
        return {
            "frames": torch.from_numpy(frames).flatten(0, 1),
            "windows": torch.from_numpy(windows),
            **{
                p: torch.from_numpy(np.stack([view.positions(p) for view in views] * crops))
                for p in PATHWAYS
            },
        }

    def _crops(self, height: int, width: int) -> list[augmentation.Crop]:
        if self.crops == "ten":
            return augmentation.ten_crops(height, width, self.border)
        return [augmentation.centre_square(height, width, self.border)]
