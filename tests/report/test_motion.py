"""Maps of what motion modules change."""

from __future__ import annotations

import base64
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vcsf_cli.config.recipe import load
from vcsf_cli.data.clips import EvalClips
from vcsf_cli.data.manifest import Manifest
from vcsf_cli.model.parts import build_sampler
from vcsf_cli.model.pathways import Pathway, build
from vcsf_cli.report.motion import change_maps, motion_section


class Quadrant(nn.Module):
    """Adds one to every channel of the upper right quadrant."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place

    def forward(self, features: Tensor, window: Tensor) -> Tensor:
        features = features if self.in_place else features.clone()
        height, width = features.shape[3:]
        features[:, :, :, : height // 2, width // 2 :] += 1
        return features


def slow_with(motion: dict[str, nn.Module]) -> Pathway:
    slow = build(load("smoke", [])).pathway("slow").eval()
    slow.motion = nn.ModuleDict(motion)
    return slow


@pytest.mark.parametrize("in_place", [False, True])
def test_only_what_a_module_changes_is_bright(in_place: bool) -> None:
    slow = slow_with({"2": Quadrant(in_place), "3": nn.Identity()})
    slow.motion["3"].forward = lambda features, window: features  # type: ignore[method-assign]
    clip, window = torch.randn(2, 3, 2, 32, 32), torch.randn(2, 3, 8, 32, 32)
    maps, shares = change_maps(slow, clip, window)
    height, width = maps["2"].shape[2:]
    assert height > 2
    expected = torch.zeros_like(maps["2"])
    expected[..., : height // 2, width // 2 :] = 8**0.5  # the length of eight ones
    torch.testing.assert_close(maps["2"], expected, atol=1e-4, rtol=1e-4)
    assert shares["2"] > 0
    assert not maps["3"].any()
    assert shares["3"] == 0
    assert all(not module._forward_hooks for module in slow.motion.values())


def test_a_section_shows_frames_and_a_line_for_each_module(tiny_data: Path) -> None:
    manifest, stage = Manifest.open(tiny_data / "synthetic"), load("smoke", []).first_stage
    clips = EvalClips(manifest, [0, 5], build_sampler(stage), stage.augment.border, 32, spread=1)
    assert motion_section(slow_with({}), manifest, clips) is None
    unchanged = build(load("smoke", ["motion={name: difference_gate, after: [2]}"]))
    assert motion_section(unchanged.pathway("slow").eval(), manifest, clips) is None
    section = motion_section(slow_with({"2": Quadrant(False)}), manifest, clips)
    assert section is not None
    assert "after stage 2:" in section.text
    assert [picture.caption.split(": ")[1] for picture in section.pictures] == [
        manifest.table["video"][row] for row in (0, 5)
    ]
    for picture in section.pictures:
        data = np.frombuffer(base64.b64decode(picture.data), np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert image.shape[1::-1] == (picture.width, picture.height) == (160, 160)
        bright = image[80:].max(2).reshape(2, 40, 4, 40).mean((1, 3)) > 128
        assert bright.tolist() == [[False, True] * 2, [False] * 4]
