"""Augmentation of clips after CoCLR's pre-training (`config.schema.Augment` says what differs): one
draw per view, the same for all its frames and both pathways.

Crop, resize and flip happen in the worker, on uint8. Colour, grey and blur happen in batch on the
device, but are drawn in the worker with everything else, so that a clip depends on (seed, epoch,
video) alone."""

from __future__ import annotations

import math
from collections.abc import Callable
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
    made = np.empty((size, size, 3), np.uint8)
    write_crop(frame, crop, made)
    return made


def write_crop(frame: Frames, crop: Crop, out: Frames) -> None:
    """Write the crop of a frame (H, W, 3) into `out` (size, size, 3), which lies in one piece:
    nothing else is allocated."""
    part = frame[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    size = out.shape[0]
    if part.shape != out.shape:
        shrinks = part.shape[0] > size and part.shape[1] > size
        interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        cv2.resize(part, (size, size), dst=out, interpolation=interpolation)
        part = out
    if crop.flip:
        cv2.flip(part, 1, dst=out)  # numpy takes four times as long to copy a mirrored view
    elif part is not out:
        out[:] = part


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
    edges are repeated. A kernel ends at its own three sigma: a clip must not depend on its
    batch."""
    if clips.device.type == "cpu":
        return _blur_on_cpu(clips, sigma)
    return blur_in_batch(clips, sigma)


def _kernel(sigma: Tensor, radius: int) -> Tensor:
    """The kernel (B, 2 radius + 1) of each sigma (B,)."""
    taps = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (taps / sigma[:, None]) ** 2)
    kernel = kernel * (taps.abs() <= (3 * sigma[:, None]).ceil())
    return kernel / kernel.sum(1, keepdim=True)


def _blur_on_cpu(clips: Tensor, sigma: Tensor) -> Tensor:
    """`blur` by OpenCV, which takes an eighth of the time of `blur_in_batch` on a CPU."""
    blurred = torch.empty(clips.shape)
    for clip, out, each in zip(clips.numpy(), blurred.numpy(), sigma, strict=True):
        kernel = _kernel(each[None], max(1, math.ceil(3 * float(each))))[0].numpy()
        for frame, into in zip(clip, out, strict=True):
            cv2.sepFilter2D(frame, -1, kernel, kernel, dst=into, borderType=cv2.BORDER_REPLICATE)
    return blurred


def blur_in_batch(clips: Tensor, sigma: Tensor) -> Tensor:
    """`blur` with few calls for the whole batch, as a GPU needs it, and without a wait for it."""
    radius = max(1, math.ceil(3 * float(sigma.max())))
    kernel = _send(_kernel(sigma, radius), clips)
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
    # Row by row: torch takes seven times as long for three values at a time.
    mean, std = (_send(torch.tensor(each).repeat(clips.shape[3]), clips) for each in (MEAN, STD))
    if colour is None:
        images = clips.flatten(3).float().div_(255).sub_(mean).div_(std).view_as(clips)
        return images.permute(0, 4, 1, 2, 3)
    images = torch.empty(clips.shape, device=clips.device)
    # On a CPU clip by clip: each step finds what the one before it left in the cache.
    at_once = 1 if clips.device.type == "cpu" else len(clips)
    parts = (torch.split(each, at_once) for each in (clips, colour, images))
    for part, draw, out in zip(*parts, strict=True):
        changed = jitter(erase(out.copy_(part).div_(255), draw), draw)
        torch.sub(changed.flatten(3), mean, out=out.flatten(3)).div_(std)
    return images.permute(0, 4, 1, 2, 3)


def _changed(images: Tensor, rows: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Images with some rows, told on the host, changed."""
    if len(rows) == len(images):
        return change(images)
    if not len(rows):
        return images
    sent = _send(rows, images)
    return images.index_copy(0, sent, change(images[sent]))


def erase(images: Tensor, colour: Tensor) -> Tensor:
    """Clips (B, L, H, W, 3) with one frame of each mixed into all its frames: (1 - share) x_t +
    share x_s (BE, eq. 1)."""
    erased = (colour[:, STILL] > 0).nonzero()[:, 0]
    draw, length = colour[erased], images.shape[1]

    def mix(part: Tensor) -> Tensor:
        place = _send((draw[:, PLACE] * length).long().clamp(max=length - 1), images)
        share = _send(draw[:, STILL], images).view(-1, 1, 1, 1, 1)
        still = part[torch.arange(len(part), device=part.device), place][:, None]
        return torch.lerp(part, still, share)

    return _changed(images, erased, mix)


def jitter(images: Tensor, colour: Tensor) -> Tensor:
    """Brightness, contrast, saturation, hue, grey and blur, in this order, on RGB clips (B, L, H,
    W, 3) from 0 to 1. Contrast is around the whole clip's mean luma: all its frames change
    alike."""
    recoloured = (colour != colour.new_tensor(NEUTRAL))[:, :SIGMA].any(1).nonzero()[:, 0]
    blurred = (colour[:, SIGMA] > 0).nonzero()[:, 0]
    images = _changed(images, recoloured, lambda part: _recolour(part, colour[recoloured]))
    return _changed(images, blurred, lambda part: blur(part, colour[blurred, SIGMA]))


def _recolour(images: Tensor, colour: Tensor) -> Tensor:
    """`jitter` without blur. Brightness b, contrast c and the matrix M of the rest are one map,
    x -> c b M x + (1 - c) b l, as the luma l of the clip's mean is grey, which M keeps."""
    brightness, contrast = colour[:, BRIGHTNESS], colour[:, CONTRAST]
    scale = (brightness * contrast).view(-1, 1, 1)
    weights = brightness * (1 - contrast)
    matrix = _send(scale * _colour_matrix(colour), images)
    means = images.flatten(3).mean((1, 2)).view(len(images), -1, 3).mean(1)
    luma = (means * _send(weights[:, None] * torch.tensor(LUMA), images)).sum(1)
    changed = torch.bmm(images.flatten(1, 3), matrix.transpose(1, 2))
    return changed.add_(luma.view(-1, 1, 1)).clamp_(0, 1).view_as(images)
