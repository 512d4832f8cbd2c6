"""Augmentation: crops in range, one draw for all frames, colour against slow references."""

import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vcsf_cli.config.schema import Augment
from vcsf_cli.data import augment as augmentation
from vcsf_cli.data.augment import (
    Crop,
    apply_crop,
    blur,
    blur_in_batch,
    centre_square,
    draw_base,
    draw_colour,
    draw_crop,
    to_input,
)

STANDARD = Augment()
NEUTRAL = list(augmentation.NEUTRAL)


def test_the_centre_square_of_a_frame() -> None:
    """CoCLR's 224 of 256, at the size of the store: 7/8 of 240 are 210."""
    square = centre_square(240, 320, 0.875)
    assert (square.top, square.left, square.height, square.width) == (15, 55, 210, 210)


@given(st.integers(16, 300), st.integers(16, 300), st.integers(0, 2**32))
def test_crops_lie_in_the_centre_square_with_the_asked_area(
    height: int, width: int, seed: int
) -> None:
    square = centre_square(height, width, STANDARD.border)
    assert square.height == square.width == round(0.875 * min(height, width))
    crop = draw_crop(STANDARD, height, width, np.random.default_rng(seed))
    assert square.top <= crop.top
    assert square.left <= crop.left
    assert crop.top + crop.height <= square.top + square.height
    assert crop.left + crop.width <= square.left + square.width
    rounding = 2 / min(crop.height, crop.width)
    assert 0.2 - rounding <= crop.height * crop.width / square.height**2 <= 1
    assert 3 / 4 - 2 * rounding <= crop.width / crop.height <= 4 / 3 + 2 * rounding


def test_a_crop_without_resizing_is_a_slice_and_a_flip_mirrors_it() -> None:
    frame = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    assert np.array_equal(apply_crop(frame, Crop(2, 5, 8, 8), 8), frame[2:10, 5:13])
    assert np.array_equal(apply_crop(frame, Crop(2, 5, 8, 8, flip=True), 8), frame[2:10, 12:4:-1])
    assert apply_crop(frame, Crop(0, 0, 20, 15), 8).shape == (8, 8, 3)


@given(st.integers(4, 40), st.integers(4, 40), st.integers(4, 40), st.booleans())
def test_a_crop_is_resized_by_opencv_then_mirrored(
    height: int, width: int, size: int, flip: bool
) -> None:
    frame = np.random.default_rng(0).integers(0, 255, (50, 60, 3), np.uint8)
    part, way = frame[3 : 3 + height, 7 : 7 + width], cv2.INTER_LINEAR
    if height > size and width > size:
        way = cv2.INTER_AREA
    expected = cv2.resize(part, (size, size), interpolation=way)
    made = apply_crop(frame, Crop(3, 7, height, width, flip), size)
    assert np.array_equal(made, expected[:, ::-1] if flip else expected)


def test_one_window_seen_twice_has_just_one_base_view() -> None:
    rng = np.random.default_rng(0)
    draws = [draw_base(STANDARD, True, rng) for _ in range(500)]
    assert all(first != second for first, second in draws)
    assert np.mean([first for first, _ in draws]) == pytest.approx(0.5, abs=0.08)
    two = np.array([draw_base(STANDARD, False, rng) for _ in range(2000)])
    assert two.mean(0) == pytest.approx([0.3, 0.3], abs=0.04)


def test_colour_draws_are_in_range_and_as_frequent_as_asked() -> None:
    rng = np.random.default_rng(0)
    draws = np.stack([draw_colour(STANDARD, True, 64, rng) for _ in range(4000)])
    assert (draws[:, : augmentation.HUE].min(0) >= 0.6 - 1e-6).all()
    assert (draws[:, : augmentation.HUE].max(0) <= 1.4 + 1e-6).all()
    assert abs(draws[:, augmentation.HUE]).max() <= 0.1
    assert (draws[:, augmentation.BRIGHTNESS] != 1).mean() == pytest.approx(0.8, abs=0.03)
    assert draws[:, augmentation.GREY].mean() == pytest.approx(0.2, abs=0.03)
    assert (draws[:, augmentation.SIGMA] > 0).mean() == pytest.approx(0.5, abs=0.03)
    assert draws[:, augmentation.SIGMA].max() <= 1.0  # 2 px of 128 are 1 px of 64
    assert draw_colour(STANDARD, False, 64, rng).tolist() == NEUTRAL


def clips(count: int = 2, length: int = 3, size: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(
        0, 256, (count, length, size, size, 3), generator=generator, dtype=torch.uint8
    )


def test_without_colour_only_normalisation_remains() -> None:
    frames = clips()
    expected = (frames.float() / 255 - torch.tensor(augmentation.MEAN)) / torch.tensor(
        augmentation.STD
    )
    torch.testing.assert_close(to_input(frames), expected.permute(0, 4, 1, 2, 3))
    torch.testing.assert_close(to_input(frames, torch.tensor([NEUTRAL, NEUTRAL])), to_input(frames))
    assert to_input(frames).is_contiguous(memory_format=torch.channels_last_3d)


def jitter_by_hand(pixel: list[float], draw: list[float], mean_luma: float) -> list[float]:
    """One pixel through brightness, contrast, hue, saturation and grey, each as its definition
    says."""
    luma = (0.299, 0.587, 0.114)
    values = [draw[1] * (draw[0] * value) + (1 - draw[1]) * mean_luma for value in pixel]
    y = sum(weight * value for weight, value in zip(luma, values, strict=True))
    i = 0.595716 * values[0] - 0.274453 * values[1] - 0.321263 * values[2]
    q = 0.211456 * values[0] - 0.522591 * values[1] + 0.311135 * values[2]
    angle = 2 * math.pi * draw[3]
    i, q = i * math.cos(angle) - q * math.sin(angle), i * math.sin(angle) + q * math.cos(angle)
    to_yiq = [luma, (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135)]
    values = np.linalg.solve(to_yiq, [y, i, q]).tolist()
    y = sum(weight * value for weight, value in zip(luma, values, strict=True))
    values = [draw[2] * value + (1 - draw[2]) * y for value in values]
    if draw[4]:
        values = [sum(weight * value for weight, value in zip(luma, values, strict=True))] * 3
    return [min(1.0, max(0.0, value)) for value in values]


@pytest.mark.parametrize(
    "draw",
    [
        [1.3, 1, 1, 0, 0],
        [1, 0.6, 1, 0, 0],
        [1, 1, 0.5, 0, 0],
        [1, 1, 1, 0.1, 0],
        [1, 1, 1, 0, 1],
        [0.8, 1.3, 1.4, -0.05, 0],
    ],
)
def test_colour_equals_its_definition_pixel_by_pixel(draw: list[float]) -> None:
    images = clips(1, 2, 4).float() / 255
    luma = torch.tensor(augmentation.LUMA)
    mean = float((images * draw[0] @ luma).mean())
    changed = augmentation.jitter(images, torch.tensor([[*draw, 0.0, 0.0, 0.0]]))
    for frame in range(2):
        for row in range(4):
            expected = jitter_by_hand(images[0, frame, row, 1].tolist(), draw, mean)
            assert changed[0, frame, row, 1].tolist() == pytest.approx(expected, abs=1e-6)


def test_every_clip_gets_its_own_draw_and_all_its_frames_the_same() -> None:
    one = clips(1, 1).expand(2, 4, -1, -1, -1)
    changed = to_input(one, torch.tensor([[1.2, 0.9, 1.1, 0.03, 0, 0.8, 0, 0], NEUTRAL]))
    for frame in range(1, 4):
        assert torch.equal(changed[0, :, frame], changed[0, :, 0])
    torch.testing.assert_close(changed[1], to_input(one)[1])
    assert not torch.allclose(changed[0], changed[1], atol=1e-2)


@settings(max_examples=20)
@given(st.floats(0.3, 2.0))
def test_blur_equals_opencv(sigma: float) -> None:
    images = clips(1, 1, 16).float() / 255
    radius = math.ceil(3 * sigma)
    size = (2 * radius + 1, 2 * radius + 1)
    expected = cv2.GaussianBlur(images[0, 0].numpy(), size, sigma, borderType=cv2.BORDER_REPLICATE)
    for blurred in (
        blur(images, torch.tensor([sigma])),
        blur_in_batch(images, torch.tensor([sigma])),
    ):
        np.testing.assert_allclose(blurred[0, 0].numpy(), expected, atol=1e-6)


def test_clip_by_clip_and_all_at_once_give_the_same_colours() -> None:
    """As on a CPU and as on a GPU."""
    frames = clips(5, 4, 10)
    colour = torch.tensor(
        [
            [1.2, 0.7, 1.1, 0.03, 0, 1.3, 0, 0],
            NEUTRAL,
            [0.8, 1.3, 0.6, -0.1, 0, 0, 0.2, 0.4],
            [1, 1, 1, 0, 1, 0.4, 0, 0],
            [1, 1, 1, 0, 0, 0, 0.3, 0.9],
        ]
    )
    images = augmentation.erase(frames.float() / 255, colour)
    images = augmentation.jitter(images, colour)
    expected = (images - torch.tensor(augmentation.MEAN)) / torch.tensor(augmentation.STD)
    given = to_input(frames, colour)
    torch.testing.assert_close(given, expected.permute(0, 4, 1, 2, 3), rtol=0, atol=5e-6)
    assert torch.equal(given[1], to_input(frames)[1])
    assert given.is_contiguous(memory_format=torch.channels_last_3d)


def test_erasing_mixes_one_frame_of_the_clip_into_all_its_frames() -> None:
    images = clips(3, 4, 6).float() / 255
    colour = torch.tensor([NEUTRAL, [*NEUTRAL[:6], 0.25, 0.6], [*NEUTRAL[:6], 0.1, 0.999]])
    changed = augmentation.erase(images, colour)
    assert torch.equal(changed[0], images[0])
    for clip, share, still in ((1, 0.25, 2), (2, 0.1, 3)):
        for frame in range(4):
            expected = (1 - share) * images[clip, frame] + share * images[clip, still]
            torch.testing.assert_close(changed[clip, frame], expected)


def test_the_background_is_erased_as_often_and_as_much_as_asked() -> None:
    rng = np.random.default_rng(0)
    augment = Augment(erase=0.5, still=0.4)
    draws = np.stack([draw_colour(augment, False, 64, rng) for _ in range(3000)])
    assert (draws[:, augmentation.STILL] > 0).mean() == pytest.approx(0.5, abs=0.04)
    assert draws[:, augmentation.STILL].max() < 0.4
    assert draws[draws[:, augmentation.STILL] > 0, augmentation.STILL].mean() == pytest.approx(
        0.2, abs=0.02
    )
    assert draws[draws[:, augmentation.STILL] > 0, augmentation.PLACE].mean() == pytest.approx(
        0.5, abs=0.04
    )
    assert (draws[:, : augmentation.STILL] == NEUTRAL[: augmentation.STILL]).all()


def test_what_a_seed_gave_before_it_gives_still() -> None:
    """Colours of the default kind, pinned: another draw would change every run."""
    rng = np.random.default_rng(3)
    first, second, third = (draw_colour(STANDARD, True, 64, rng) for _ in range(3))
    assert first == pytest.approx([0.7894, 1.241, 1.0657, -0.0812, 0, 0.2018, 0, 0], abs=1e-4)
    assert second == pytest.approx([0.6909, 0.913, 1.0134, -0.0139, 0, 0, 0, 0], abs=1e-4)
    assert third.tolist() == NEUTRAL


def test_a_clip_does_not_depend_on_what_it_is_blurred_together_with() -> None:
    clips = torch.rand(2, 2, 24, 24, 3)
    alone = blur(clips[:1], torch.tensor([0.4]))
    for blurred in (blur, blur_in_batch):
        torch.testing.assert_close(blurred(clips, torch.tensor([0.4, 3.0]))[:1], alone)
    assert not torch.allclose(alone, clips[:1])
