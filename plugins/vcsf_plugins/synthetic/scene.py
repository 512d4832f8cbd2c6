"""Scenes and clips: a performer in clothes before a background, seen by a camera that is not quite
still."""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from vcsf_cli.contracts import Frames
from vcsf_plugins.synthetic.actions import Action
from vcsf_plugins.synthetic.figure import Body, Joints, place_joints

Colour = tuple[int, int, int]
_Floats = npt.NDArray[np.float64]

FPS = 25
_MARGIN = 1.5
"""Size of the background relative to the picture: the camera moves over it."""

_CLASS_HUE_SHARE = 0.65
"""Probability that a group's scene has the hue of its class: as in UCF101, the scene goes along
with the action but does not give it away. Set so that colour-histogram retrieval finds about a
quarter."""

_SHIFT = 4
"""Bits of a pixel's fraction when drawing, so that slow movement is smooth."""


@dataclass(frozen=True)
class Look:
    """The scene that all clips of a group share: performer, clothes, background and camera.

    Args:
        body: The performer's lengths.
        thickness: Of limbs, in body heights.
        skin: Of head and hands.
        shirt: Of trunk and arms.
        trousers: Of legs.
        background: Larger than a picture by `_MARGIN`, uint8 (H, W, 3).
        shake: How far the camera trembles, in picture heights.
    """

    body: Body
    thickness: float
    skin: Colour
    shirt: Colour
    trousers: Colour
    background: Frames
    shake: float


def colour(hue: float, saturation: float, value: float) -> Colour:
    """An RGB colour from 0 to 255."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_look(class_share: float, width: int, height: int, rng: np.random.Generator) -> Look:
    """A group's look; `class_share` from 0 to 1 is the place of its class on the circle of hues."""
    hue = class_share + rng.normal(0, 0.05) if rng.random() < _CLASS_HUE_SHARE else rng.random()
    lengths = {
        name: getattr(Body(), name) * rng.uniform(0.88, 1.12) for name in Body.__dataclass_fields__
    }
    skin_value = rng.uniform(0.45, 0.95)
    return Look(
        body=replace(Body(), **lengths),
        thickness=rng.uniform(0.055, 0.085),
        skin=colour(rng.uniform(0.05, 0.09), rng.uniform(0.3, 0.6), skin_value),
        shirt=colour(rng.random(), rng.uniform(0.2, 0.9), rng.uniform(0.25, 0.95)),
        trousers=colour(rng.random(), rng.uniform(0.1, 0.7), rng.uniform(0.15, 0.7)),
        background=_draw_background(hue, round(_MARGIN * width), round(_MARGIN * height), rng),
        shake=rng.uniform(0.0, 0.006),
    )


def _draw_background(hue: float, width: int, height: int, rng: np.random.Generator) -> Frames:
    """A wall and a ground of one hue with some things on them."""
    saturation, value = rng.uniform(0.15, 0.6), rng.uniform(0.4, 0.9)
    top = np.array(colour(hue, saturation, value), np.float32)
    bottom = np.array(
        colour(hue + rng.normal(0, 0.04), saturation, value * rng.uniform(0.6, 1.0)), np.float32
    )
    slope = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    image = np.broadcast_to((1 - slope) * top + slope * bottom, (height, width, 3)).astype(np.uint8)
    image = np.ascontiguousarray(image)
    for _ in range(int(rng.integers(4, 14))):
        shade = colour(hue + rng.normal(0, 0.12), rng.uniform(0.1, 0.7), rng.uniform(0.2, 0.95))
        x, y = int(rng.integers(0, width)), int(rng.integers(0, round(0.8 * height)))
        size = (int(rng.integers(4, width // 5)), int(rng.integers(4, height // 3)))
        if rng.random() < 0.6:
            cv2.rectangle(image, (x, y), (x + size[0], y + size[1]), shade, -1)
        else:
            cv2.ellipse(
                image, (x, y), size, float(rng.uniform(0, 180)), 0, 360, shade, -1, cv2.LINE_AA
            )
    ground = round(height * rng.uniform(0.66, 0.74))
    image[ground:] = colour(
        hue + rng.normal(0, 0.06), rng.uniform(0.1, 0.5), rng.uniform(0.25, 0.75)
    )
    grain = rng.normal(0, 5, image.shape)
    return np.clip(cv2.GaussianBlur(image, (3, 3), 0) + grain, 0, 255).astype(np.uint8)


def render(
    action: Action, look: Look, frames: int, width: int, height: int, rng: np.random.Generator
) -> Frames:
    """A clip, uint8 (frames, height, width, 3): one performance with its own speed, size, place,
    mirror and camera."""
    speed = rng.uniform(0.75, 1.35)
    phase = rng.random()
    stature = height * rng.uniform(0.5, 0.72)
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    zoom = rng.uniform(-0.12, 0.12)
    pan = rng.normal(0, 0.04, 2)
    travel = action.travel * stature * speed / (action.seconds * FPS) * mirror
    # What travels may also be followed by the camera, as if on a treadmill.
    followed = 1.0 if rng.random() < 0.5 else 0.0
    start = width * rng.uniform(0.35, 0.65) - (1 - followed) * travel * frames / 2
    tremble = _smooth_noise(frames, rng) * look.shake * height
    clip = np.empty((frames, height, width, 3), np.uint8)
    for index in range(frames):
        share = index / max(1, frames - 1) - 0.5
        scale = 1 + zoom * share
        offset = np.array([pan[0] * width, pan[1] * height]) * share + tremble[index]
        followed_by = np.array([followed * travel * index, 0])
        camera = _camera_matrix(scale, offset + followed_by, width, height)
        image = cv2.warpAffine(
            look.background, camera, (width, height), borderMode=cv2.BORDER_REFLECT
        )
        pose = action.pose((phase + speed * index / FPS / action.seconds) % 1)
        x = start + (1 - followed) * travel * index
        centre = np.array([width / 2, height / 2])
        place = (np.array([x, 0.9 * height]) - centre) * scale + centre - offset * scale
        _draw_figure(
            np.asarray(image), place_joints(pose, look.body), look, place, stature * scale, mirror
        )
        clip[index] = image
    return clip


def _smooth_noise(frames: int, rng: np.random.Generator) -> _Floats:
    """A random walk of a held camera, (frames, 2), of about unit size."""
    steps = rng.normal(0, 1, (frames + 8, 2))
    walk = np.stack([np.convolve(steps[:, axis], np.ones(9) / 3, "valid") for axis in (0, 1)], 1)
    return walk[:frames]


def _camera_matrix(scale: float, offset: _Floats, width: int, height: int) -> _Floats:
    """The affine map from the background to the picture: the picture's centre shows the
    background's, moved."""
    x, y = _MARGIN * width / 2 + offset[0], _MARGIN * height / 2 + offset[1]
    return np.array([[scale, 0, width / 2 - scale * x], [0, scale, height / 2 - scale * y]])


def _draw_figure(
    image: Frames,
    joints: Joints,
    look: Look,
    place: _Floats,
    stature: float,
    mirror: float,
) -> None:
    """Draw a figure into an image, standing at `place`, far limbs first and darker."""

    def pixel(name: str) -> tuple[int, int]:
        point = joints[name]
        x, y = place[0] + mirror * stature * point.x, place[1] - stature * point.y
        return round(x * 2**_SHIFT), round(y * 2**_SHIFT)

    def line(start: str, end: str, shade: Colour, thickness: float) -> None:
        width = max(1, round(thickness * stature))
        cv2.line(image, pixel(start), pixel(end), shade, width, cv2.LINE_AA, _SHIFT)

    def limbs(side: str, shading: float) -> None:
        trousers, shirt, skin = (
            darker(shade, shading) for shade in (look.trousers, look.shirt, look.skin)
        )
        line("hip", f"{side}_knee", trousers, 1.15 * look.thickness)
        line(f"{side}_knee", f"{side}_foot", trousers, look.thickness)
        line(f"{side}_shoulder", f"{side}_elbow", shirt, look.thickness)
        line(f"{side}_elbow", f"{side}_hand", skin, 0.8 * look.thickness)

    limbs("left", 0.75)
    line("hip", "neck", look.shirt, 1.9 * look.thickness)
    radius = round(look.body.head * stature * 2**_SHIFT)
    cv2.circle(image, pixel("head"), radius, look.skin, -1, cv2.LINE_AA, _SHIFT)
    limbs("right", 1.0)


def darker(shade: Colour, share: float) -> Colour:
    """A colour with a share of its light."""
    red, green, blue = (math.floor(share * part) for part in shade)
    return red, green, blue
