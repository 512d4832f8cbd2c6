"""The small moving pictures and the map: what they show, and how much room they take."""

from __future__ import annotations

import base64
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st

from vcsf_cli.data.manifest import Manifest
from vcsf_cli.data.store import FrameStore
from vcsf_cli.report import embedding
from vcsf_cli.report.pictures import (
    PAGE_CHARACTERS,
    Layout,
    encode_strip,
    encode_strips,
    frames_to_show,
    layout_for,
)


def jpeg(image: np.ndarray) -> bytes:
    return simplejpeg.encode_jpeg(np.ascontiguousarray(image.astype(np.uint8)), quality=95)


@given(st.integers(1, 1000), st.integers(1, 8))
def test_frames_are_spread_evenly_over_the_video(length: int, count: int) -> None:
    frames = frames_to_show(length, count)
    assert len(frames) == count
    assert frames == sorted(frames)
    assert frames[0] >= 0
    assert frames[-1] < length
    assert all(abs(frame - (part + 0.5) * length / count) < 1 for part, frame in enumerate(frames))


@given(st.integers(1, 16_000))
def test_the_pictures_of_any_page_fit(videos: int) -> None:
    layout = layout_for(videos)
    assert videos * 4 * ((layout.max_bytes + 2) // 3) <= PAGE_CHARACTERS + 4 * videos
    assert layout.side >= 32


def test_the_more_videos_the_poorer_each() -> None:
    layouts = [layout_for(videos) for videos in (1, 922, 4_000, 8_000, 13_320, 16_000)]
    pixels = [layout.frames * layout.side**2 for layout in layouts]
    assert pixels == sorted(pixels, reverse=True)
    assert layout_for(4_000).frames >= 6
    assert layout_for(13_320).frames >= 2


def test_a_picture_shows_the_centre_squares_in_order() -> None:
    images = []
    for value in (50, 120, 200):
        image = np.zeros((64, 128, 3))
        image[:, 32:96] = value
        images.append(jpeg(image))
    layout = Layout(3, 32, 10_000)
    shown = cv2.imdecode(np.frombuffer(encode_strip(images, layout), np.uint8), cv2.IMREAD_COLOR)
    assert shown.shape == (32, 96, 3)
    for part, value in enumerate((50, 120, 200)):
        assert np.abs(shown[4:28, 32 * part + 4 : 32 * part + 28].astype(int) - value).max() < 12


def test_colours_are_not_swapped() -> None:
    image = np.zeros((40, 40, 3))
    image[..., 0] = 220  # red
    shown = cv2.imdecode(
        np.frombuffer(encode_strip([jpeg(image)], Layout(1, 32, 10_000)), np.uint8),
        cv2.IMREAD_COLOR,
    )
    assert shown[16, 16, 2] > 180
    assert shown[16, 16, 0] < 60


def test_even_noise_stays_within_its_bytes() -> None:
    noise = [jpeg(np.random.default_rng(seed).integers(0, 256, (96, 128, 3))) for seed in range(8)]
    layout = layout_for(4_000)
    assert len(encode_strip(noise[: layout.frames], layout)) <= layout.max_bytes
    assert len(encode_strip(noise[:1], Layout(1, 64, 400))) <= 400


def test_pictures_are_of_the_videos_asked_for(tiny_data: Path) -> None:
    manifest = Manifest.open(tiny_data / "synthetic")
    layout = Layout(4, 32, 5_000)
    rows = np.array([0, 5, 11])
    found = encode_strips(manifest, rows, layout, 3)
    store = FrameStore(manifest)
    for row, text in zip(rows, found, strict=True):
        jpegs = store.jpegs(int(row), frames_to_show(int(manifest.table["frames"][row]), 4))
        assert base64.b64decode(text) == encode_strip(jpegs, layout)
    assert len(set(found)) == 3


def clusters(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = np.eye(16)[np.arange(count) % 4] + 0.05 * rng.normal(size=(count, 16))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def test_clips_of_a_group_lie_together_on_every_map() -> None:
    features = {"slow": clusters(120), "fast": clusters(120, 1)}
    places = embedding.embed(features)
    assert list(places) == ["slow", "fast", "both"]
    group = np.arange(120) % 4
    for points in places.values():
        assert points.min() == 0
        assert points.max() == embedding.SIDE
        distance = np.linalg.norm(points[:, None] - points[None], axis=2) + 1e9 * np.eye(120)
        assert (group[distance.argmin(1)] == group).mean() > 0.95


def test_a_map_is_the_same_every_time() -> None:
    features = {"slow": clusters(60)}
    first, again = embedding.embed(features), embedding.embed(features)
    assert list(first) == ["slow"]
    np.testing.assert_array_equal(first["slow"], again["slow"])


def test_few_or_equal_clips_make_no_trouble() -> None:
    assert embedding.embed({"slow": clusters(embedding.MIN_POINTS - 1)}) == {}
    assert embedding.embed({"slow": clusters(embedding.MIN_POINTS)})["slow"].shape == (
        embedding.MIN_POINTS,
        2,
    )
    equal = embedding.embed({"slow": np.ones((20, 8), np.float32), "fast": clusters(20)})
    assert np.isfinite(equal["slow"]).all()


@pytest.mark.parametrize("count", [10, embedding.MAX_POINTS, embedding.MAX_POINTS + 1, 13_320])
def test_of_many_clips_a_part_is_on_the_map(count: int) -> None:
    points = embedding.sample_points(count)
    assert len(points) == min(count, embedding.MAX_POINTS)
    assert len(np.unique(points)) == len(points)
    assert points.max() < count
