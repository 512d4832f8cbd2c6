"""Parts with weights of their own: a loss that learns, and a backbone that keeps some weights as
they are."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from conftest import Vcsf
from trained import hold, let_go

from vcsf_cli.storage import checkpoint

CODE = """
import torch
from torch import nn
from vcsf_cli import hookimpl
from vcsf_plugins.backbones.small import small
from vcsf_plugins.losses import InfoNCE

class Scaled(InfoNCE):
    def __init__(self, *, queue: int = 4):
        super().__init__(queue=queue)
        self.scale = nn.Parameter(torch.rand(()) + 1)
    def forward(self, contrast, pathway):
        terms = super().forward(contrast, pathway)
        return terms | {"loss": terms["loss"] * self.scale}

def kept(*, pathway: str = "fast"):
    network = small(channels=(4, 4, 8, 8), pathway=pathway)
    network.stages[0].requires_grad_(False)
    return network

@hookimpl
def vcsf_losses():
    return {"scaled": Scaled}

@hookimpl
def vcsf_backbones():
    return {"kept": kept}
"""
RECIPE = """
extends: smoke
name: stateful
backbone: {name: kept}
head: {hidden: 8, dim: 4}
loss: {name: scaled}
optim: {lr: 1e-2}
train: {batch: 2, epochs: 2, log_every: 1, check_every: 0}
stages: [{}, {train: {epochs: 4}}]
"""


def test_a_loss_learns_and_what_is_frozen_stays_even_after_a_kill(
    vcsf: Vcsf, tiny_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "vcsf_local.py").write_text(CODE)
    recipe = tmp_path / "stateful.yaml"
    recipe.write_text(RECIPE)
    words = [
        "pretrain",
        str(recipe),
        "--data",
        str(tiny_data),
        "--workers",
        "0",
        "--save-every",
        "0",
    ]
    vcsf(*words, "--runs", "whole", cwd=tmp_path)
    (path,) = (tmp_path / "whole").glob("*/checkpoint.pt")
    whole = checkpoint.load(path)["task"]
    first = checkpoint.load(path.parent / "stage-1.pt", checkpoint.STAGE)["model"]
    for pathway in ("slow", "fast"):
        stem, block = (f"{pathway}.backbone.stages.{stage}" for stage in (0, 1))
        assert torch.equal(first[f"{stem}.0.weight"], whole["model"][f"{stem}.0.weight"])
        assert not torch.equal(
            first[f"{block}.body.0.weight"], whole["model"][f"{block}.body.0.weight"]
        )

    hold(tmp_path, 11)
    process = subprocess.Popen(
        [sys.executable, "-m", "vcsf_cli", *words, "--runs", "killed"],
        cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    killed = tmp_path / "killed" / path.parent.name / "checkpoint.pt"
    while process.poll() is None and not (
        killed.exists() and checkpoint.load(killed)["position"]["stage"] == 1
    ):
        time.sleep(0.002)
    process.kill()
    process.wait()
    let_go(tmp_path)
    assert checkpoint.load(killed)["task"]["loss"]["scale"] != whole["loss"]["scale"]
    vcsf(*words, "--runs", "killed", cwd=tmp_path)
    again = checkpoint.load(killed)["task"]
    for part in ("model", "keys", "loss"):
        assert all(torch.equal(value, again[part][key]) for key, value in whole[part].items())
