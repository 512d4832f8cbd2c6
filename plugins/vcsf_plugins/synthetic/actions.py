"""Actions: the pose at every moment of one period."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from vcsf_plugins.synthetic.figure import Limb, Pose


@dataclass(frozen=True)
class Action:
    """A repeated movement.

    Args:
        pose: The pose at a phase from 0 to 1.
        seconds: A period's usual length.
        travel: Body heights that the figure moves forward in a period.
    """

    pose: Callable[[float], Pose]
    seconds: float
    travel: float = 0.0


def _sine_wave(phase: float) -> float:
    """A sine: 0 at the phases 0 and 1/2, 1 at 1/4."""
    return math.sin(2 * math.pi * phase)


def _dip(phase: float) -> float:
    """From 0 at phase 0 to 1 at 1/2 and back."""
    return 0.5 - 0.5 * math.cos(2 * math.pi * phase)


def walk(phase: float) -> Pose:
    swing = _sine_wave(phase)
    lift = _sine_wave(phase + 0.25)
    return Pose(
        arms=(Limb(-22 * swing, 12), Limb(22 * swing, 12)),
        legs=(
            Limb(26 * swing, 8 + 34 * max(0.0, lift)),
            Limb(-26 * swing, 8 + 34 * max(0.0, -lift)),
        ),
        lean=3,
    )


def run(phase: float) -> Pose:
    swing = _sine_wave(phase)
    lift = _sine_wave(phase + 0.2)
    return Pose(
        arms=(Limb(-45 * swing, 85), Limb(45 * swing, 85)),
        legs=(
            Limb(12 + 42 * swing, 25 + 70 * max(0.0, lift)),
            Limb(12 - 42 * swing, 25 + 70 * max(0.0, -lift)),
        ),
        lean=13,
        height=0.05 * abs(_sine_wave(phase)),
    )


def jump(phase: float) -> Pose:
    flight = max(0.0, _sine_wave(phase))
    crouch = max(0.0, -_sine_wave(phase))
    leg = Limb(55 * crouch, 95 * crouch)
    arm = Limb(150 * flight - 35 * crouch, 10)
    return Pose(arms=(arm, arm), legs=(leg, leg), lean=22 * crouch, height=0.3 * flight)


def wave(phase: float) -> Pose:
    return Pose(arms=(Limb(-8, 5), Limb(150, 38 * _sine_wave(phase))), legs=(Limb(-5), Limb(5)))


def _squat(phase: float) -> Pose:
    depth = _dip(phase)
    leg = Limb(78 * depth, 118 * depth)
    arm = Limb(10 + 85 * depth, 5)
    return Pose(arms=(arm, arm), legs=(leg, leg), lean=28 * depth)


def _jumping_jack(phase: float) -> Pose:
    spread = _dip(phase)
    return Pose(
        arms=(Limb(-12 - 150 * spread, -8), Limb(12 + 150 * spread, 8)),
        legs=(Limb(-3 - 24 * spread), Limb(3 + 24 * spread)),
        height=0.07 * abs(_sine_wave(phase)),
    )


def _punch(phase: float) -> Pose:
    left, right = max(0.0, _sine_wave(phase)), max(0.0, -_sine_wave(phase))
    return Pose(
        arms=(Limb(45 + 48 * left, 115 * (1 - left)), Limb(45 + 48 * right, 115 * (1 - right))),
        legs=(Limb(18, 14), Limb(-16, 8)),
        lean=6 + 5 * (left - right),
    )


def _push_up(phase: float) -> Pose:
    depth = _dip(phase)
    arm = Limb(72 + 4 * depth - 62 * depth, 92 * depth)
    leg = Limb(-74 - 10 * depth)
    return Pose(arms=(arm, arm), legs=(leg, leg), lean=72 + 12 * depth)


def spin(phase: float) -> Pose:
    return Pose(
        arms=(Limb(-68, -8), Limb(68, 8)),
        legs=(Limb(-6), Limb(9, 6)),
        turn=math.cos(2 * math.pi * phase),
    )


def _bow(phase: float) -> Pose:
    depth = _dip(phase)
    arm = Limb(12 + 25 * depth, 8)
    return Pose(arms=(arm, arm), legs=(Limb(-3), Limb(3)), lean=82 * depth)


def kick(phase: float) -> Pose:
    swing = max(0.0, _sine_wave(phase))
    back = max(0.0, -_sine_wave(phase))
    return Pose(
        arms=(Limb(30 * swing, 35), Limb(-35 * swing + 20 * back, 35)),
        legs=(Limb(-4, 6), Limb(88 * swing - 30 * back, 30 * (1 - swing) + 40 * back)),
        lean=-10 * swing + 8 * back,
    )


def _clap(phase: float) -> Pose:
    open_arms = _dip(phase)
    return Pose(
        arms=(Limb(62 - 48 * open_arms, 60), Limb(62 + 48 * open_arms, 10)),
        legs=(Limb(-6), Limb(6)),
    )


ACTIONS: dict[str, Action] = {
    "Walk": Action(walk, 1.1, travel=0.7),
    "Run": Action(run, 0.72, travel=0.95),
    "Jump": Action(jump, 1.2),
    "Wave": Action(wave, 0.8),
    "Squat": Action(_squat, 1.6),
    "JumpingJack": Action(_jumping_jack, 1.0),
    "Punch": Action(_punch, 0.8),
    "PushUp": Action(_push_up, 1.5),
    "Spin": Action(spin, 1.2),
    "Bow": Action(_bow, 2.0),
    "Kick": Action(kick, 1.2),
    "Clap": Action(_clap, 0.7),
}
"""In the order in which a dataset of fewer classes takes them."""
