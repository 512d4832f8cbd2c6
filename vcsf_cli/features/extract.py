"""From windows to features: every window of a video through the network, and their mean."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vcsf_cli.contracts import PATHWAYS
from vcsf_cli.data.augment import to_input
from vcsf_cli.data.clips import EvalClips
from vcsf_cli.data.loader import iterate, video_loader
from vcsf_cli.engine.engine import Engine, Failure
from vcsf_cli.errors import RunError
from vcsf_cli.model.parts import Geometry
from vcsf_cli.model.pathways import Networks, Windows

Features = dict[str, npt.NDArray[np.float32]]
Done = Callable[[int], None]
Positions = dict[str, Tensor]
Owner = TypeVar("Owner")

_WINDOWS_AT_ONCE = 32


class Network(Protocol):
    """A network that gives every window a vector by pathway: features, or probabilities."""

    training: bool

    def train(self, mode: bool = True) -> Any: ...

    def eval(self) -> Any: ...

    def to(self, device: Any) -> Any: ...

    def features(self, windows: Windows, positions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Vectors (B, C) by pathway of windows (B, 3, L, H, W), one for all or one for each."""
        ...


def extract(
    model: Network,
    videos: EvalClips,
    device: torch.device,
    workers: int,
    done: Done = lambda count: None,
    bf16: bool = False,
    engine: Engine | None = None,
) -> Features:
    """Mean feature of each video's windows, float32 (N, C) by pathway, before any centring or
    scaling.

    Args:
        model: In eval mode while this runs; its mode is then restored.
        done: Called with the number of finished videos.
        engine: Where to compute; None: in this process.
    """
    sums: dict[str, npt.NDArray[np.float64]] = {}
    counts = np.zeros(len(videos), np.int64)
    training = model.training
    model.eval()
    try:
        for owners, features in extract_windows(model, videos, device, workers, bf16, engine):
            for pathway, values in features.items():
                sums.setdefault(pathway, np.zeros((len(videos), values.shape[1])))
                np.add.at(sums[pathway], owners, values)
            np.add.at(counts, owners, 1)
            done(int(owners[-1]) + 1)
    finally:
        model.train(training)
    return {
        pathway: (total / counts[:, None]).astype(np.float32) for pathway, total in sums.items()
    }


class FeatureMaps(nn.Module):
    """Networks whose features are those before pooling, (B, P, C) for P places over time and
    space."""

    def __init__(self, model: Networks) -> None:
        super().__init__()
        self.model = model

    def features(self, windows: Windows, positions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        maps = self.model.features(windows, positions, pooled=False)
        return {name: each.flatten(2).transpose(1, 2) for name, each in maps.items()}


def extract_windows(
    model: Network,
    videos: EvalClips,
    device: torch.device,
    workers: int,
    bf16: bool = False,
    engine: Engine | None = None,
) -> Iterator[tuple[npt.NDArray[np.int64], Features]]:
    """Features of every window of each video in order, batch by batch: the number of the video of
    each, (B,), and float32 (B, C) by pathway. The model must be in eval mode.

    With an engine, batches have other windows in them, which may change a feature's last bits.

    Raises:
        RunError: If an engine could not finish.
    """
    if engine is None:
        geometry, windows = Geometry.from_sampler(videos.sampler), _windows(videos, workers)
        for owners, features in encode_in_batches(model, geometry, windows, device, bf16):
            yield np.array(owners), features
        return
    work = _Extraction(model, videos, device.type, workers, bf16)
    firsts = range(0, len(videos), work.videos_at_once)
    for first, batches in zip(
        firsts, engine.map(work, firsts, gpus=int(device.type == "cuda")), strict=True
    ):
        if isinstance(batches, Failure):
            raise RunError(
                f"features of clips {first:,} and following can't be computed: their process "
                f"{batches.reason}",
                "look whether it needs more memory than there is; the same command tries it again",
            )
        for of_batch, features in batches:
            yield first + of_batch, features


class _Extraction:
    """Features of some consecutive videos, in a process of an engine.

    Args:
        device: Kind of device that each process has for itself.
    """

    def __init__(
        self, model: Network, videos: EvalClips, device: str, workers: int, bf16: bool
    ) -> None:
        self.model = copy.deepcopy(model).to("cpu")
        self.videos, self.device, self.bf16 = videos, device, bf16
        # A process for each core reads for itself; on a GPU, others have to read for it.
        self.workers, self.videos_at_once = (workers, 256) if device == "cuda" else (0, 16)

    def __call__(self, first: int, work: str) -> list[tuple[npt.NDArray[np.int64], Features]]:
        videos = copy.copy(self.videos)
        videos.rows = videos.rows[first : first + self.videos_at_once]
        device = torch.device(self.device)
        model = self.model.to(device)
        return [*extract_windows(model, videos, device, self.workers, self.bf16)]


def _windows(videos: EvalClips, workers: int) -> Iterator[tuple[int, Tensor, Positions]]:
    """The windows of all videos, as `encode_in_batches` takes them, with the number of the
    video."""
    for number, video in enumerate(iterate(video_loader(videos, workers))):
        for index, window in enumerate(video["windows"]):
            positions: Positions = {pathway: video[pathway][index] for pathway in PATHWAYS}
            yield number, video["frames"][window], positions


@torch.no_grad()
def encode_in_batches(
    model: Network,
    geometry: Geometry,
    windows: Iterable[tuple[Owner, Tensor, Positions]],
    device: torch.device,
    bf16: bool = False,
) -> Iterator[tuple[list[Owner], Features]]:
    """Features of windows, batch by batch: whose each window is, and float32 (B, C) by pathway.

    A batch may end within a video, so that a long video needs no more memory than a short one.

    Args:
        model: In eval mode, on `device`.
        geometry: Which part of a window each pathway sees.
        windows: Whose it is, uint8 (L, H, W, 3), and the positions (T,) that each pathway reads.
    """
    left = iter(windows)
    while batch := list(islice(left, _WINDOWS_AT_ONCE)):
        owners, frames, positions = zip(*batch, strict=True)
        stacked: Positions = {
            pathway: torch.stack([each[pathway] for each in positions]) for pathway in PATHWAYS
        }
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            images = to_input(torch.stack(frames).to(device))
            features = model.features(geometry.split(images), stacked)
        yield list(owners), {name: value.float().cpu().numpy() for name, value in features.items()}
