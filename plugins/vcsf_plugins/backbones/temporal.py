"""Temporal parts for networks that see single frames."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional


def temporal_shift(features: Tensor) -> Tensor:
    """TSM's shift: features (B, C, T, h, w) with an eighth of the channels from the previous step
    and an eighth from the next, zero at the ends."""
    part = features.shape[1] // 8
    past = functional.pad(features[:, :part, :-1], (0, 0, 0, 0, 1, 0))
    future = functional.pad(features[:, part : 2 * part, 1:], (0, 0, 0, 0, 0, 1))
    return torch.cat([past, future, features[:, 2 * part :]], 1)


class TemporalConvolution(nn.Module):
    """A residual depthwise 3x1x1 convolution, at the start the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(
            channels, channels, (3, 1, 1), padding=(1, 0, 0), groups=channels, bias=False
        )
        self.norm = nn.BatchNorm3d(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, T, h, w) to (B, C, T, h, w)."""
        return features + cast(Tensor, self.norm(self.convolution(features)))


class TemporalAttention(nn.Module):
    """Residual self-attention of each position over time, at the start the identity.

    Steps have the sinusoidal encoding of "Attention Is All You Need", so any number of them works.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = math.gcd(channels, 8)
        self.norm = nn.LayerNorm(channels)
        self.inputs = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, T, h, w) to (B, C, T, h, w)."""
        batch, channels, time, height, width = features.shape
        steps = features.permute(0, 3, 4, 2, 1).reshape(-1, time, channels)
        inputs = self.inputs(self.norm(steps) + _sinusoids(time, channels, steps))
        query, key, value = inputs.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = (
            functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        )
        change = (
            self.output(mixed).view(batch, height, width, time, channels).permute(0, 4, 3, 1, 2)
        )
        return features + cast(Tensor, change)


def _sinusoids(time: int, channels: int, like: Tensor) -> Tensor:
    """Sines and cosines (T, C) of steps 0 to T - 1, wavelengths from 2 pi to 10000 * 2 pi."""
    steps = torch.arange(time, device=like.device, dtype=torch.float32)[:, None]
    pairs = torch.arange((channels + 1) // 2, device=like.device, dtype=torch.float32)
    angles = steps * 10000 ** (-2 * pairs / channels)
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)[:, :channels].to(like.dtype)
