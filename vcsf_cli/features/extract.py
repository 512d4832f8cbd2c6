"""Features of whole videos: every window of a video through the network, and their mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vcsf_cli.contracts import PATHWAYS
from vcsf_cli.data.augment import to_input
from vcsf_cli.data.clips import EvalClips
from vcsf_cli.data.loader import iterate, video_loader
from vcsf_cli.model.parts import Geometry
from vcsf_cli.model.pathways import Windows

Features = dict[str, npt.NDArray[np.float32]]
Done = Callable[[int], None]

WINDOWS_AT_ONCE = 32


class Network(Protocol):
    """What gives a vector by pathway for every window: the two pathways, or a classifier its
    probabilities."""

    training: bool

    def train(self, mode: bool = True) -> Any:
        """Set or leave training mode."""
        ...

    def eval(self) -> Any:
        """Leave training mode."""
        ...

    def features(self, windows: Windows, positions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Vectors (B, C) by pathway of windows (B, 3, L, H, W), one for all or one for each."""
        ...


def extract(
    model: Network,
    videos: EvalClips,
    device: torch.device,
    workers: int,
    done: Done,
    bf16: bool = False,
) -> Features:
    """Mean feature of each video's windows, float32 (N, C) by pathway, before any centring or
    scaling.

    Args:
        model: In eval mode while this runs; it is left as it was.
        videos: What to read.
        device: Where the model is.
        workers: Processes that read.
        done: Called with the number of videos finished so far.
        bf16: Whether the networks compute in bfloat16.
    """
    sums: dict[str, npt.NDArray[np.float64]] = {}
    counts = np.zeros(len(videos), np.int64)
    training = model.training
    model.eval()
    try:
        for owners, features in extract_windows(model, videos, device, workers, bf16):
            for pathway, values in features.items():
                sums.setdefault(pathway, np.zeros((len(videos), values.shape[1])))
                np.add.at(sums[pathway], owners, values)
            np.add.at(counts, owners, 1)
            done(int(owners[-1] + 1))
    finally:
        model.train(training)
    return {
        pathway: (total / counts[:, None]).astype(np.float32) for pathway, total in sums.items()
    }


@torch.no_grad()
def extract_windows(
    model: Network, videos: EvalClips, device: torch.device, workers: int, bf16: bool = False
) -> Iterator[tuple[npt.NDArray[np.int64], Features]]:
    """Features of every window of each video in order, batch by batch: the number of the video of
    each, (B,), and float32 (B, C) by pathway. The model must be in eval mode."""
    geometry = Geometry.from_sampler(videos.sampler)
    for owners, frames, positions in batches(videos, workers):
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            features = model.features(geometry.split(to_input(frames.to(device))), positions)
        yield (
            owners,
            {pathway: feature.float().cpu().numpy() for pathway, feature in features.items()},
        )


def batches(
    videos: EvalClips, workers: int
) -> Iterator[tuple[npt.NDArray[np.int64], Tensor, dict[str, Tensor]]]:
    """Windows of consecutive videos in batches: the number of the video of each, uint8 (B, L, H, W,
    3), and positions.

    A batch of a fixed size may end within a video, so that a long video needs no more memory than a
    short one."""
    owners: list[int] = []
    frames: list[Tensor] = []
    positions: dict[str, list[Tensor]] = {pathway: [] for pathway in PATHWAYS}

    def flush() -> tuple[npt.NDArray[np.int64], Tensor, dict[str, Tensor]]:
        batch = (
            np.array(owners),
            torch.stack(frames),
            {p: torch.stack(items) for p, items in positions.items()},
        )
        owners.clear()
        frames.clear()
        for items in positions.values():
            items.clear()
        return batch

    for number, video in enumerate(iterate(video_loader(videos, workers))):
        for index, window in enumerate(video["windows"]):
            owners.append(number)
            frames.append(video["frames"][window])
            for pathway in PATHWAYS:
                positions[pathway].append(video[pathway][index])
            if len(owners) == WINDOWS_AT_ONCE:
                yield flush()
    if owners:
        yield flush()
