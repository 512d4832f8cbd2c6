"""An articulated figure in two dimensions: poses, and where its joints are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple


class _Point(NamedTuple):
    """A point in body heights, x to the right, y up."""

    x: float
    y: float


class Limb(NamedTuple):
    """Angles of an arm or a leg in degrees: the upper part from hanging down, to the front
    positive; the bend of elbow or knee against it."""

    upper: float = 0.0
    bend: float = 0.0


@dataclass(frozen=True)
class Pose:
    """The body at one moment.

    Args:
        arms: Left and right.
        legs: Left and right.
        lean: Of the trunk to the front, in degrees from upright.
        height: Of the lowest point above the ground, in body heights.
        turn: Width of the body as it is seen, from 1 (as drawn) to -1 (mirrored).
    """

    arms: tuple[Limb, Limb] = (Limb(), Limb())
    legs: tuple[Limb, Limb] = (Limb(), Limb())
    lean: float = 0.0
    height: float = 0.0
    turn: float = 1.0


@dataclass(frozen=True)
class Body:
    """Lengths in body heights; a performer's own differ a little."""

    trunk: float = 0.32
    head: float = 0.085
    neck: float = 0.03
    upper_arm: float = 0.17
    forearm: float = 0.17
    thigh: float = 0.23
    shin: float = 0.23


Joints = dict[str, _Point]


def place_joints(pose: Pose, body: Body) -> Joints:
    """Where the joints of a body are, the lowest of them `pose.height` above y = 0, the hip at x =
    0."""
    hip = _Point(0.0, 0.0)
    neck = along(hip, body.trunk, 180 - pose.lean)
    joints = {"hip": hip, "neck": neck, "head": along(neck, body.neck + body.head, 180 - pose.lean)}
    for side, arm, leg in zip(("left", "right"), pose.arms, pose.legs, strict=True):
        shoulder = along(hip, 0.94 * body.trunk, 180 - pose.lean)
        # Arms hang from the trunk and lean with it.
        joints[f"{side}_shoulder"] = shoulder
        joints[f"{side}_elbow"] = along(shoulder, body.upper_arm, arm.upper - pose.lean)
        joints[f"{side}_hand"] = along(
            joints[f"{side}_elbow"], body.forearm, arm.upper - pose.lean + arm.bend
        )
        joints[f"{side}_knee"] = along(hip, body.thigh, leg.upper)
        joints[f"{side}_foot"] = along(joints[f"{side}_knee"], body.shin, leg.upper - leg.bend)
    lowest = min(point.y for point in joints.values())
    return {
        name: _Point(pose.turn * point.x, point.y - lowest + pose.height)
        for name, point in joints.items()
    }


def along(start: _Point, length: float, degrees: float) -> _Point:
    """The point that lies `length` from a start, `degrees` from straight down, to the front."""
    radians = math.radians(degrees)
    return _Point(start.x + length * math.sin(radians), start.y - length * math.cos(radians))
