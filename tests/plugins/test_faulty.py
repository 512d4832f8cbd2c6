"""Plugins that break a contract: one error that names the part, and no traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Vcsf

CODE = """
import torch
from torch import nn
from vcsf_cli import hookimpl
from vcsf_plugins.samplers import SlowFast

class TensorLoss(nn.Module):
    queue = 0
    def __init__(self):
        super().__init__()
    def forward(self, contrast, pathway):
        return contrast.query[pathway].sum()

class RaisingLoss(TensorLoss):
    def __init__(self):
        super().__init__()
    def forward(self, contrast, pathway):
        return {"loss": contrast.nothing}

class NoViews(SlowFast):
    def sample(self, frames, rng):
        return None, None

class Flat(nn.Module):
    channels = (4,)
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 4)
    def forward(self, clip, between=lambda stage, features: features):
        return self.layer(clip.mean((2, 3, 4)))

class Halving(nn.Module):
    def __init__(self, channels, /):
        super().__init__()
    def forward(self, features, window):
        return features[:, :, ::2]

class Missing(nn.Module):
    def __init__(self, channels, /):
        super().__init__()
    def forward(self, features, window):
        return features * self.scale

class Shy(nn.Module):
    def __init__(self, channels, /):
        super().__init__()
    def forward(self, features, window):
        raise ValueError("boom")

class OnlyBlank(nn.Module):
    def __init__(self, channels, /):
        super().__init__()
    def forward(self, features, window):
        if self.training:
            raise RuntimeError("it is training")
        return features

class Careless(Flat):
    def __init__(self):
        super().__init__()
    def forward(self, clip, between=lambda stage, features: features):
        return self.layers(clip)

@hookimpl
def vcsf_losses():
    return {"tensor": TensorLoss, "raising": RaisingLoss}

@hookimpl
def vcsf_samplers():
    return {"no_views": NoViews}

@hookimpl
def vcsf_backbones():
    return {"flat": Flat, "careless": Careless}

@hookimpl
def vcsf_motion_modules():
    return {"halving": Halving, "missing": Missing, "shy": Shy, "only_blank": OnlyBlank}
"""


@pytest.mark.parametrize(
    ("settings", "named", "said"),
    [
        (["loss=tensor"], "loss `tensor`", "must return a dict of scalars"),
        (["loss=raising"], "loss `raising`", "no attribute 'nothing'"),
        (["sampler=no_views"], "sampler `no_views`", "must give Views"),
        (["backbone=flat", "motion=none"], "backbone (Flat)", "(B, 4, T, h, w)"),
        (["motion=halving"], "motion module (Halving)", "must keep their shape"),
        (["motion=missing"], "vcsf_local.py`, motion `missing`, failed", "no attribute 'scale'"),
        (["motion=shy"], "motion `shy` can't read clips", "ValueError: boom"),
        (["motion=only_blank"], "motion `only_blank`, failed", "RuntimeError: it is training"),
        (
            ["backbone=careless", "motion=none"],
            "vcsf_local.py`, backbone `careless`, failed",
            "no attribute 'layers'",
        ),
        (
            ["backbone=s3d", "motion=none", "data.size=16"],
            "backbone `s3d`",
            "can't read clips of 2 frames of 16 x 16 pixels",
        ),
    ],
)
def test_what_breaks_a_contract_is_named(
    settings: list[str], named: str, said: str, tiny_data: Path, tmp_path: Path, vcsf: Vcsf
) -> None:
    (tmp_path / "vcsf_local.py").write_text(CODE)
    words = [
        word
        for setting in ["train.batch=2", "train.epochs=1", *settings]
        for word in ("--set", setting)
    ]
    done = vcsf(
        "pretrain", "smoke", *words, "--data", tiny_data, "--workers", 0, cwd=tmp_path, status=2
    )
    assert named in done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_debug_shows_where_a_motion_module_fails(
    tiny_data: Path, tmp_path: Path, vcsf: Vcsf
) -> None:
    (tmp_path / "vcsf_local.py").write_text(CODE)
    words = ("--set", "motion=only_blank", "--set", "train.batch=2", "--workers", 0)
    done = vcsf("--debug", "pretrain", "smoke", *words, "--data", tiny_data, cwd=tmp_path, status=1)
    assert 'raise RuntimeError("it is training")' in done.stderr
    assert "motion `only_blank`, failed: RuntimeError: it is training" in done.stderr
