"""Windows of a video file against a slow twin that holds all frames at once."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from videos import write_video

from vcsf_cli import registry
from vcsf_cli.config import recipe as recipes
from vcsf_cli.data.augment import apply_crop, centre_square, to_input
from vcsf_cli.errors import DataError, InputError
from vcsf_cli.features import extract
from vcsf_cli.model.parts import build_sampler
from vcsf_cli.model.pathways import build
from vcsf_cli.search import video as video_files
from vcsf_cli.search.video import FrameTransform, GivenFrames, VideoFile, encode_windows
from vcsf_cli.video import short_side

STAGE = recipes.load("smoke").first_stage
SAMPLER = build_sampler(STAGE)
LOOK = FrameTransform(32, 0.875, stored=64)


def frames_of(path: Path) -> list[np.ndarray]:
    """All frames of a file, made small as a store and a measurement make them."""
    small = []
    for frame in registry.load().build("decoder", "pyav").open(path).stream():
        image = short_side(frame.image, 64)
        small.append(apply_crop(image, centre_square(*image.shape[:2], 0.875), 32))
    return small


@pytest.mark.parametrize("kept", [video_files.KEPT_BYTES, 0], ids=["kept", "decoded twice"])
@pytest.mark.parametrize("count", [3, 8, 41])
def test_windows_are_those_of_the_sampler(
    tmp_path: Path, count: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_files, "KEPT_BYTES", kept)
    path = write_video(tmp_path / "own.mp4", count, fps=20)
    frames = frames_of(path)
    video = VideoFile(path, SAMPLER, LOOK)
    assert video.frames == count
    views = SAMPLER.cover(count)
    windows = list(video.windows())
    assert len(windows) == len(video) == len(views)
    for view, window in zip(views, windows, strict=True):
        assert np.array_equal(window.frames, np.stack([frames[number] for number in view.window]))
        assert window.begin == pytest.approx(view.window.min() / 20, abs=1e-3)
        assert window.end == pytest.approx((view.window.max() + 1) / 20, abs=1e-3)
    again = list(video.windows())
    assert all(np.array_equal(a.frames, b.frames) for a, b in zip(windows, again, strict=True))


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_windows_have_the_times_of_the_file(tmp_path: Path, decoder: str) -> None:
    times = [*(number / 25 for number in range(20)), *(6 + number / 25 for number in range(20))]
    path = write_video(tmp_path / "pause.mp4", 40, times=times, b_frames=0)
    video = VideoFile(path, SAMPLER, FrameTransform(32, 0.875, decoder=decoder))
    for window in video.windows():
        seen = window.view.window
        assert window.begin == pytest.approx(times[seen.min()], abs=2e-3)
        assert window.end == pytest.approx(times[seen.max()] + 1 / video.rate, abs=2e-3)


def test_a_video_is_resampled_as_its_store_was(tmp_path: Path) -> None:
    path = write_video(tmp_path / "own.mp4", 40, fps=20)
    frames = frames_of(path)
    video = VideoFile(path, SAMPLER, FrameTransform(32, 0.875, stored=64, fps=10))
    assert video.frames == 20
    window = next(video.windows())
    assert np.array_equal(window.frames, np.stack(frames[0:16:2]))
    assert (window.begin, window.end) == (0, pytest.approx(0.8))


def test_memory_does_not_grow_with_the_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_files, "KEPT_BYTES", 2**20)
    path = write_video(tmp_path / "long.mp4", 900)
    video = VideoFile(path, SAMPLER, FrameTransform(128, 1.0, decoder="pyav"))
    tracemalloc.start()
    try:
        count = sum(1 for _ in video.windows())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == len(SAMPLER.cover(900))
    assert peak < 8 * 2**20  # all frames are 44 MB


def test_features_are_those_of_each_window_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract, "_WINDOWS_AT_ONCE", 3)
    model = build(recipes.load("smoke")).eval()
    frames = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), np.uint8)
    done: list[int] = []
    video = VideoFile(GivenFrames(frames, 10), SAMPLER, FrameTransform(32, 1.0))
    found = encode_windows(model, video, torch.device("cpu"), done=done.append)
    views = SAMPLER.cover(40)
    assert done == [*range(3, len(views), 3), len(views)]
    for index, view in enumerate(views):
        clip = to_input(torch.from_numpy(frames[view.window])[None])
        for pathway in ("slow", "fast"):
            with torch.no_grad():
                positions = {pathway: torch.from_numpy(view.positions(pathway))[None]}
                feature = model.features(clip, positions)[pathway]
            np.testing.assert_allclose(
                found.features[pathway][index], feature[0].numpy(), rtol=1e-4, atol=1e-6
            )
    for pathway, feature in found.mean().items():
        np.testing.assert_allclose(feature, found.features[pathway].mean(0), rtol=1e-5)


def test_what_is_no_whole_video_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no video file"):
        VideoFile(tmp_path / "absent.mp4", SAMPLER, LOOK)
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    with pytest.raises(DataError, match=r"text\.mp4"):
        VideoFile(text, SAMPLER, LOOK)
    path = write_video(tmp_path / "whole.avi", 60)
    cut = tmp_path / "cut.avi"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"cut\.avi"):
        VideoFile(cut, SAMPLER, LOOK)
