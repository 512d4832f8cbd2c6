"""What two random clips of a video cost until a network can read them: from vcsf's store, and as
others read them.

pytest tests/benchmarks/test_read.py --benchmark-only -s
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from itertools import count
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from benchmarks import peers
from benchmarks.peers import Clips
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from vcsf_cli.config.recipe import load
from vcsf_cli.contracts import Frames, Video
from vcsf_cli.data import augment
from vcsf_cli.data.clips import TwoViewClips
from vcsf_cli.data.decode import Settings
from vcsf_cli.data.decoded import PLACE
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.data.prepare import Preparation
from vcsf_cli.engine.local import Local
from vcsf_cli.model.parts import build_sampler

SIZES = (112, 128)


class Originals:
    """Original recordings that are long enough for a window."""

    benchmark = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def videos(self) -> list[Video]:
        return [Video(path, path.name) for path in sorted(self.folder.rglob("*.avi"))]

    def remarks(self) -> list[str]:
        return []


@dataclass
class Way:
    """A way to read two clips, and what it took.

    Args:
        gives: `crops`, uint8 (2, L, size, size, 3), or the normalised `input` with colours and
            blur, (2, 3, L, size, size).
        allowed: Mean difference of pixels from vcsf's, of 255: Pillow scales otherwise, and an
            original has lost nothing as a JPEG and is scaled once, without smoothing.
    """

    name: str
    gives: str
    read: Callable[[Clips], Frames | Tensor]
    allowed: float
    original: bool = False
    cpu: dict[int, list[float]] = field(default_factory=lambda: {size: [] for size in SIZES})
    wall: dict[int, list[float]] = field(default_factory=lambda: {size: [] for size in SIZES})
    difference: list[float] = field(default_factory=list)
    unread: int = 0

    def timed(self, clips: Clips) -> Frames | Tensor | None:
        """What it gives; None if it can't read these clips."""
        begun, cpu_begun = time.perf_counter(), time.process_time()
        try:
            made = self.read(clips)
        except peers.UnreadError:
            self.unread += 1
            return None
        self.cpu[clips.size].append(1000 * (time.process_time() - cpu_begun))
        self.wall[clips.size].append(1000 * (time.perf_counter() - begun))
        return made

    def compare(self, made: Frames | Tensor, expected: Frames, clips: Clips) -> None:
        """Compare with vcsf's crops; of an input, the clips whose colours are unchanged."""
        if isinstance(made, Tensor):
            kept = (clips.colour == torch.tensor(augment.NEUTRAL)).all(1)
            made = made[kept].permute(0, 2, 3, 4, 1)
            made = (255 * (made * torch.tensor(augment.STD) + torch.tensor(augment.MEAN))).numpy()
            expected = expected[kept.numpy()]
        if len(made):
            self.difference.append(float(np.abs(made - expected.astype(np.float32)).mean()))
            assert self.difference[-1] <= self.allowed, (self.name, clips.path)


def check_equal(crops: list[Frames | Tensor | None]) -> None:
    """Check that decoders gave the same frames: their RGB differs by rounding only."""
    read = [np.asarray(each, np.int16) for each in crops if each is not None]
    for other in read[1:]:
        assert np.abs(other - read[0]).mean() < 0.1


def table(ways: list[Way]) -> list[str]:
    """Means over videos and rounds; times are those of vcsf for the same."""
    columns = [f"CPU ms at {size} px | wall ms | times vcsf" for size in SIZES]
    lines = [f"| | {' | '.join(columns)} | difference |", "|---" + 7 * "|---:" + "|"]
    for way in ways:
        own = next(each for each in ways if each.gives == way.gives)
        cells = [
            f"{np.mean(way.cpu[size]):.1f} | {np.mean(way.wall[size]):.1f} | "
            f"{np.mean(way.cpu[size]) / np.mean(own.cpu[size]):.1f}"
            for size in SIZES
        ]
        unread = f" ({way.unread} not readable)" if way.unread else ""
        name, difference = f"{way.gives}: {way.name}{unread}", np.mean(way.difference)
        lines.append(f"| {name} | {' | '.join(cells)} | {difference:.2f} |")
    return lines


def of_vcsf(datasets: dict[int, TwoViewClips]) -> Callable[[Clips], Frames]:
    def crops(clips: Clips) -> Frames:
        found: Frames = datasets[clips.size][clips.epoch, clips.row]["frames"]
        return found

    return crops


@cache
def is_installed(library: str) -> bool:
    """Whether a peer can be compared with; it is imported before the clock starts."""
    try:
        import_module(library)
    except (ImportError, RuntimeError):  # torchcodec's where there is no FFmpeg
        return False
    return True


def ways_to_read(
    datasets: dict[int, TwoViewClips],
    cached: dict[int, TwoViewClips],
    manifest: Manifest,
    folder: Path,
) -> list[Way]:
    """All whose library is installed."""

    def coloured(clips: Clips) -> Tensor:
        found = datasets[clips.size][clips.epoch, clips.row]
        frames, colour = torch.from_numpy(found["frames"]), torch.from_numpy(found["colour"])
        return augment.to_input(frames, colour[:, 0])

    ways = [
        Way("vcsf", "crops", of_vcsf(datasets), 0),
        Way("vcsf with --cache", "crops", of_vcsf(cached), 0),
    ]
    if is_installed("webdataset"):
        ways.append(Way("WebDataset, vcsf's shards", "crops", peers.Shards(manifest).crops, 0))
    if is_installed("torchcodec.decoders"):
        ways.append(Way("torchcodec, originals", "crops", peers.with_torchcodec, 12, True))
    ways.append(Way("PyAV, originals", "crops", peers.with_pyav, 12, True))
    if is_installed("decord"):
        ways.append(Way("decord, originals", "crops", peers.with_decord, 12, True))
    lmdb = peers.Lmdb(manifest, folder) if is_installed("lmdb") else None
    if lmdb:
        ways.append(Way("LMDB and Pillow", "crops", lmdb.crops, 3))
    ways.append(Way("vcsf", "input", coloured, 1e-4))
    if lmdb:
        ways.append(Way("LMDB and Pillow, frame by frame", "input", lmdb.inputs, 3))
    return ways


def test_store_against_peers(
    benchmark: BenchmarkFixture,
    shared_data: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In turn on each video, on one thread each, so that all meet the same machine."""
    threads, write = torch.get_num_threads(), request.config.get_terminal_writer().line
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    originals = Originals(shared_data / "originals")
    Preparation(originals, tmp_path / "data", Settings("folder", "auto"), 60.0, Local(2)).run()
    manifest = Manifest.open(tmp_path / "data")
    paths = {video.name: video.path for video in originals.videos()}
    stage = load("vcsf", ["sampler.same_window=0"]).first_stage

    def datasets() -> dict[int, TwoViewClips]:
        return {
            size: TwoViewClips(manifest, build_sampler(stage), stage.augment, size, 0)
            for size in SIZES
        }

    plain = datasets()
    monkeypatch.setenv(PLACE, str(tmp_path / "decoded"))
    cached = datasets()
    for row in range(len(manifest.table)):  # decoded before the clock starts
        next(cached[SIZES[0]].store.images(row, [0]))
    ways = ways_to_read(plain, cached, manifest, tmp_path / "lmdb")
    in_shards = manifest.table.sort_values(["shard", "offset"])["video"]
    epochs = count()

    def read_all() -> None:
        epoch = next(epochs)
        for dataset in plain.values():
            for row, name in in_shards.items():
                clips = peers.draw(dataset, manifest, epoch, row, paths[name])
                made = [way.timed(clips) for way in ways]
                for way, each in zip(ways, made, strict=True):
                    if each is not None:
                        way.compare(each, made[0], clips)
                check_equal([each for way, each in zip(ways, made, strict=True) if way.original])

    benchmark.pedantic(read_all, rounds=1)
    torch.set_num_threads(threads)
    benchmark.extra_info |= {f"{way.gives}: {way.name}": way.cpu for way in ways}
    for library in ("webdataset", "torchcodec.decoders", "decord", "lmdb"):
        if not is_installed(library):
            write(f"{library} can't be imported and is left out")
    for line in table(ways):
        write(line)
