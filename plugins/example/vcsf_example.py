"""A plugin of vcsf in one file: copy this folder, rename it, and replace the parts.

pip install ./plugins/example
vcsf plugins backbone frame_average
vcsf pretrain recipes/demo.yaml --set backbone=frame_average --set motion=added_change --set 'motion.after=[1, 2]' \
    --set sampler=beginning --set loss=in_batch
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from vcsf_cli import hookimpl
from vcsf_cli.contracts import Contrast, View, identity
from vcsf_cli.errors import RecipeError


class FrameAverage(nn.Module):
    """Two layers of image convolution on every frame.

    Args:
        width: Channels of the first stage; the second has twice as many.
    """

    def __init__(self, *, width: int = 16) -> None:
        super().__init__()
        self.channels = (width, 2 * width)
        self.first = nn.Sequential(
            nn.Conv3d(3, width, (1, 7, 7), (1, 4, 4), (0, 3, 3)), nn.BatchNorm3d(width), nn.ReLU()
        )
        self.second = nn.Sequential(
            nn.Conv3d(width, 2 * width, (1, 3, 3), (1, 2, 2), (0, 1, 1)),
            nn.BatchNorm3d(2 * width),
            nn.ReLU(),
        )

    def forward(self, clip, between=identity):
        """Features (B, 2 * width, T, h, w) of clips (B, 3, T, H, W)."""
        return between(2, self.second(between(1, self.first(clip))))


class AddedChange(nn.Module):
    """Adds a learned share of the change from the previous time step; zero at the start.

    Args:
        start: The share at the start.
    """

    def __init__(self, channels: int, /, *, start: float = 0.0) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.full((channels, 1, 1, 1), start))

    def forward(self, features, window):
        """Features of the same shape."""
        change = functional.pad(features[:, :, 1:] - features[:, :, :-1], (0, 0, 0, 0, 1, 0))
        return features + self.share * change


class Beginning:
    """The first frames of a video, for both views.

    Args:
        frames: Frames of a window, a multiple of 4: the slow pathway reads every fourth.
    """

    def __init__(self, *, frames: int = 16) -> None:
        if frames < 4 or frames % 4:
            raise RecipeError(
                f"is {frames}, not a multiple of 4",
                "such as --set sampler.frames=16",
                key="sampler.frames",
            )
        self.length = frames

    def sample(self, frames, rng):
        """Two equal views."""
        (view,) = self.cover(frames)
        return view, view

    def cover(self, frames):
        """One window."""
        positions = np.arange(self.length)
        return [View(positions % frames, slow=positions[::4], fast=positions)]


class InBatch(nn.Module):
    """Cross-entropy of a clip's own key among all keys of the batch.

    Args:
        temperature: Softness of the similarity.
    """

    queue = 0
    uses_labels = False

    def __init__(self, *, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, contrast: Contrast, pathway: str):
        """The loss of a pathway."""
        query, key = contrast.query[pathway].float(), contrast.key[pathway].float()
        logits = query @ key.T / self.temperature
        own = torch.arange(len(logits), device=logits.device)
        return {"loss": functional.cross_entropy(logits, own)}


@hookimpl
def vcsf_backbones():
    return {"frame_average": FrameAverage}


@hookimpl
def vcsf_motion_modules():
    return {"added_change": AddedChange}


@hookimpl
def vcsf_samplers():
    return {"beginning": Beginning}


@hookimpl
def vcsf_losses():
    return {"in_batch": InBatch}
