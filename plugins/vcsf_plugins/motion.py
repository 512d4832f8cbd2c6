"""Motion perception modules: what the slow pathway is given to notice fast movement."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn import functional


class NoMotion(nn.Module):
    """Leaves the features as they are."""

    def forward(self, features: Tensor, window: Tensor) -> Tensor:
        """The features (B, C, T, h, w) themselves."""
        return features


def none(channels: int, /) -> NoMotion:
    """No motion module."""
    return NoMotion()


class DifferenceGate(nn.Module):
    """A gate per channel and frame from the change of the features over time: TEA's motion excitation.

    x + x * (sigmoid(BN(W2 pool(dw3x3(u)_{t+1} - u_t))) - 1/2) with u = BN(W1 x); the last step sees no change (Li et
    al., "TEA: Temporal Excitation and Aggregation", CVPR 2020, eq. 1-5). Unlike there, the last norm starts at zero, so
    that the module starts as exactly the identity.

    Args:
        reduction: How many times fewer channels the differences have than the features.
    """

    def __init__(self, channels: int, /, *, reduction: int = 16) -> None:
        super().__init__()
        reduced = max(1, channels // reduction)
        self.squeeze = nn.Sequential(nn.Conv3d(channels, reduced, 1, bias=False), nn.BatchNorm3d(reduced))
        self.align = nn.Conv3d(reduced, reduced, (1, 3, 3), padding=(0, 1, 1), groups=reduced, bias=False)
        self.expand = nn.Conv3d(reduced, channels, 1, bias=False)
        self.norm = nn.BatchNorm3d(channels)
        nn.init.zeros_(self.norm.weight)
        nn.init.zeros_(self.norm.bias)

    def forward(self, features: Tensor, window: Tensor) -> Tensor:
        """Gated features, (B, C, T, h, w)."""
        squeezed = self.squeeze(features)
        change = self.align(squeezed)[:, :, 1:] - squeezed[:, :, :-1]
        pooled = functional.pad(change.mean((3, 4), keepdim=True), (0, 0, 0, 0, 0, 1))
        gate = self.norm(self.expand(pooled)).sigmoid() - 0.5
        return cast(Tensor, features + features * gate)
