"""Augmentation of clips, as in CoCLR's pre-training: one draw per view, the same for all its frames
and both pathways.

Crop, resize and flip happen in the worker, on uint8. Colour, grey and blur happen in batch on the
device, but are drawn in the worker with everything else, so that a clip depends on (seed, epoch,
video) alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vcsf_cli.config.schema import Augment
from vcsf_cli.contracts import Frames

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of ImageNet's RGB pixels; all networks read pixels normalised by them."""

BRIGHTNESS, CONTRAST, SATURATION, HUE, GREY, SIGMA, STILL, PLACE = range(8)
"""Columns of a colour draw: three factors, hue in turns, grey 0 or 1, sigma of the blur in pixels
(0: no blur), share of the still frame mixed into all others, and its place in the clip, 0 to 1."""

NEUTRAL = (1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
"""The draw that changes nothing."""

LUMA = (0.299, 0.587, 0.114)
_CROP_ATTEMPTS = 10


@dataclass(frozen=True)
class Crop:
    """A crop in pixels of the stored frame, and whether it is mirrored."""

    top: int
    left: int
    height: int
    width: int
    flip: bool = False


def centre_square(height: int, width: int, border: float) -> Crop:
    """The centre square whose side is a fraction `border` of the short side."""
    side = max(1, round(border * min(height, width)))
    return Crop((height - side) // 2, (width - side) // 2, side, side)


def ten_crops(height: int, width: int, border: float) -> list[Crop]:
    """Squares as large as the centre one in the four corners and the centre of the whole frame,
    then the same mirrored."""
    centre = centre_square(height, width, border)
    down, right = height - centre.height, width - centre.width
    places = [(0, 0), (0, right), (down, 0), (down, right), (centre.top, centre.left)]
    return [
        Crop(*place, centre.height, centre.width, flip)
        for flip in (False, True)
        for place in places
    ]


def draw_crop(augment: Augment, height: int, width: int, rng: np.random.Generator) -> Crop:
    """A random-resized crop (area, aspect) of the centre square, mirrored with probability
    `flip`."""
    square = centre_square(height, width, augment.border)
    side = square.height
    flip = bool(rng.random() < augment.flip)
    for _ in range(_CROP_ATTEMPTS):
        area = rng.uniform(*augment.area) * side * side
        aspect = math.exp(rng.uniform(math.log(augment.aspect[0]), math.log(augment.aspect[1])))
        crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < crop_width <= side and 0 < crop_height <= side:
            top = square.top + int(rng.integers(0, side - crop_height + 1))
            left = square.left + int(rng.integers(0, side - crop_width + 1))
            return Crop(top, left, crop_height, crop_width, flip)
    return Crop(square.top, square.left, side, side, flip)


def apply_crop(frame: Frames, crop: Crop, size: int) -> Frames:
    """The crop of a frame (H, W, 3), resized to (size, size, 3)."""
    part = frame[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    if part.shape[:2] != (size, size):
        shrinks = part.shape[0] > size and part.shape[1] > size
        resized = cv2.resize(
            part, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        )
        part = np.asarray(resized, np.uint8)
    return part[:, ::-1] if crop.flip else part


def draw_base(augment: Augment, same_window: bool, rng: np.random.Generator) -> tuple[bool, bool]:
    """Which of two views is `base` (colour, grey, blur): exactly one if both show the same window,
    else each with probability `base`."""
    if same_window:
        first = bool(rng.random() < 0.5)
        return first, not first
    return bool(rng.random() < augment.base), bool(rng.random() < augment.base)


def draw_colour(
    augment: Augment, base: bool, size: int, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """A colour draw, (8,); `size` is the pixels of a clip's side. One that is not `base` has at
    most a still."""
    row = np.array(NEUTRAL, np.float32)
    if augment.erase and rng.random() < augment.erase:
        row[[STILL, PLACE]] = rng.uniform(0, augment.still), rng.random()
    if not base:
        return row
    if rng.random() < augment.colour:
        brightness, contrast, saturation, hue = augment.jitter
        for column, reach in (
            (BRIGHTNESS, brightness),
            (CONTRAST, contrast),
            (SATURATION, saturation),
        ):
            row[column] = rng.uniform(max(0.0, 1 - reach), 1 + reach)
        row[HUE] = rng.uniform(-hue, hue)
    row[GREY] = rng.random() < augment.grey
    if rng.random() < augment.blur:
        row[SIGMA] = rng.uniform(*augment.sigma) * size / 128
    return row


def _colour_matrix(colour: Tensor) -> Tensor:
    """Saturation, hue and grey of draws (B, 8) as matrices (B, 3, 3) on RGB columns.

    Hue turns the chroma plane of YIQ, which is linear, where torchvision goes through HSV.
    """
    saturation, hue, grey = colour[:, SATURATION], colour[:, HUE], colour[:, GREY]
    luma = colour.new_tensor(LUMA).expand(3, 3)
    keep = (saturation * (1 - grey))[:, None, None]
    saturate = keep * torch.eye(3) + (1 - keep) * luma
    to_yiq = colour.new_tensor(
        [LUMA, (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135)]
    )
    cos, sin = torch.cos(2 * math.pi * hue), torch.sin(2 * math.pi * hue)
    zero, one = torch.zeros_like(cos), torch.ones_like(cos)
    turn = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], 1).view(-1, 3, 3)
    matrix: Tensor = saturate @ torch.linalg.inv(to_yiq) @ turn @ to_yiq
    return matrix


def _send(values: Tensor, images: Tensor) -> Tensor:
    """Values of the host on the device of images, without waiting for what that computes."""
    return values.to(images.device, non_blocking=True)


def blur(clips: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of clips (B, L, H, W, 3), one sigma (B,) in pixels per clip, on the host;
    edges are repeated."""
    radius = max(1, math.ceil(3 * float(sigma.max())))
    taps = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (taps / sigma[:, None]) ** 2)
    # Every clip's kernel ends at its own three sigma: a clip must not depend on its batch.
    kernel = kernel * (taps.abs() <= (3 * sigma[:, None]).ceil())
    kernel = _send(kernel / kernel.sum(1, keepdim=True), clips)
    for axis in (2, 3):
        length = clips.shape[axis]
        reach = torch.arange(-radius, length + radius, device=clips.device).clamp(0, length - 1)
        padded = clips.index_select(axis, reach)
        clips = torch.zeros_like(clips)
        for tap in range(2 * radius + 1):
            clips.addcmul_(padded.narrow(axis, tap, length), kernel[:, tap].view(-1, 1, 1, 1, 1))
    return clips


def to_input(clips: Tensor, colour: Tensor | None = None) -> Tensor:
    """Normalised float32 input (B, 3, L, H, W), channels last in memory, from uint8 clips (B, L, H,
    W, 3) and, in training, colour draws (B, 8) on the host: what is to be done is read from them,
    and must not wait for a device."""
    images = clips.float().div_(255)
    if colour is not None:
        images = jitter(erase(images, colour), colour)
    mean, std = (_send(torch.tensor(values), images) for values in (MEAN, STD))
    return images.sub_(mean).div_(std).permute(0, 4, 1, 2, 3)


def erase(images: Tensor, colour: Tensor) -> Tensor:
    """Clips (B, L, H, W, 3) with one frame of each mixed into all its frames: (1 - share) x_t +
    share x_s (BE, eq. 1)."""
    erased = (colour[:, STILL] > 0).nonzero()[:, 0]
    if not len(erased):
        return images
    draw, length = colour[erased], images.shape[1]
    place = _send((draw[:, PLACE] * length).long().clamp(max=length - 1), images)
    rows, share = _send(erased, images), _send(draw[:, STILL], images).view(-1, 1, 1, 1, 1)
    part = images[rows]
    still = part[torch.arange(len(part), device=part.device), place][:, None]
    return images.index_copy(0, rows, torch.lerp(part, still, share))


def jitter(images: Tensor, colour: Tensor) -> Tensor:
    """Brightness, contrast, saturation, hue, grey and blur, in this order, on RGB clips (B, L, H,
    W, 3) from 0 to 1. Contrast is around the whole clip's mean luma: all its frames change
    alike."""
    changed = (colour != colour.new_tensor(NEUTRAL))[:, :SIGMA].any(1).nonzero()[:, 0]
    if len(changed):
        draw, rows, shape = colour[changed], _send(changed, images), (-1, 1, 1, 1, 1)
        matrix, sent = _send(_colour_matrix(draw), images), _send(draw, images)
        part = images[rows] * sent[:, BRIGHTNESS].view(shape)
        weights = _send(torch.tensor(LUMA), images)
        luma = (part.mean((1, 2, 3)) * weights).sum(1).view(shape)
        part = torch.lerp(luma, part, sent[:, CONTRAST].view(shape))
        flat = part.flatten(1, 3)
        part = torch.bmm(flat, matrix.transpose(1, 2)).view_as(part).clamp_(0, 1)
        images = images.index_copy(0, rows, part)
    blurred = (colour[:, SIGMA] > 0).nonzero()[:, 0]
    if len(blurred):
        rows = _send(blurred, images)
        images = images.index_copy(0, rows, blur(images[rows], colour[blurred, SIGMA]))
    return images
