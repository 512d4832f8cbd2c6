"""CPU time of reading two random clips of a video: from the store, and from the original by exact
decoding.

pytest tests/benchmarks --benchmark-only
"""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
from pytest_benchmark.fixture import BenchmarkFixture

from vcsf_cli.contracts import Frames, Video
from vcsf_cli.data.decode import Settings
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.data.prepare import Preparation
from vcsf_cli.data.store import FrameStore
from vcsf_cli.engine.local import Local
from vcsf_cli.video import short_side

FRAMES = 32


class Originals:
    """Original recordings that are long enough for a window."""

    benchmark = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def videos(self) -> list[Video]:
        return [Video(path, path.name) for path in sorted(self.folder.rglob("*.avi"))]

    def remarks(self) -> list[str]:
        return []


def decode_exactly(path: Path, indices: list[int]) -> list[Frames]:
    """The cheapest exact way that decord has: everything up to the last frame wanted, from the
    start."""
    import decord

    reader = decord.VideoReader(str(path), num_threads=1)
    frames = reader.get_batch(range(max(indices) + 1)).asnumpy()
    return [short_side(frames[index], 128) for index in indices]


def cpu_milliseconds(begun: float) -> float:
    return 1000 * (time.process_time() - begun)


def test_store_against_exact_decoding(
    benchmark: BenchmarkFixture, shared_data: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Interleaved, so that both meet the same machine; `ratio` is that of the medians over videos
    and rounds."""
    pytest.importorskip("decord")
    cv2.setNumThreads(1)
    originals = Originals(shared_data / "originals")
    Preparation(originals, tmp_path / "data", Settings("folder", "decord"), 60.0, Local(2)).run()
    manifest = Manifest.open(tmp_path / "data")
    store = FrameStore(manifest)
    paths = {video.name: video.path for video in originals.videos()}
    rng = np.random.default_rng(0)
    milliseconds: dict[str, list[float]] = {"store": [], "original": []}

    def read_all() -> None:
        for row, (name, count) in enumerate(
            zip(manifest.table["video"], manifest.table["frames"], strict=True)
        ):
            starts = rng.integers(0, count - FRAMES + 1, 2)
            windows = [list(range(start, start + FRAMES)) for start in starts]
            begun = time.process_time()
            for window in windows:
                images = [
                    simplejpeg.decode_jpeg(jpeg, colorspace="RGB")
                    for jpeg in store.jpegs(row, window)
                ]
                assert len(images) == FRAMES
            milliseconds["store"].append(cpu_milliseconds(begun))
            begun = time.process_time()
            assert len(decode_exactly(paths[name], [*windows[0], *windows[1]])) == 2 * FRAMES
            milliseconds["original"].append(cpu_milliseconds(begun))

    benchmark.pedantic(read_all, rounds=3, warmup_rounds=1)
    medians = {what: float(np.median(values)) for what, values in milliseconds.items()}
    ratio = medians["original"] / medians["store"]
    benchmark.extra_info |= {**medians, "ratio": ratio}
    text = (
        f"{medians['store']:.1f} CPU ms from the store, {medians['original']:.1f} from the original"
    )
    request.config.get_terminal_writer().line(f"{text}: {ratio:.1f} times")
    assert ratio > 4
