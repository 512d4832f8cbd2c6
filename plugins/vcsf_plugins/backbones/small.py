"""A network small enough to train on two cores."""

from __future__ import annotations

from torch import Tensor, nn

from vcsf_plugins.backbones.staged import Pathway, Staged, Strides


class _SmallBlock(nn.Module):
    """A residual block of a spatial (1x3x3) and a temporal (3x1x1) convolution, R(2+1)D's
    factorisation.
    """

    def __init__(self, channels_in: int, channels: int, stride: tuple[int, int, int]) -> None:
        super().__init__()
        time, height, width = stride
        self.body = nn.Sequential(
            nn.Conv3d(channels_in, channels, (1, 3, 3), (1, height, width), (0, 1, 1), bias=False),
            nn.BatchNorm3d(channels),
            nn.ReLU(inplace=True),
            nn.Conv3d(channels, channels, (3, 1, 1), (time, 1, 1), (1, 0, 0), bias=False),
            nn.BatchNorm3d(channels),
        )
        self.skip = nn.Sequential(
            nn.Conv3d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm3d(channels)
        )
        self.activation = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        output: Tensor = self.activation(self.body(features) + self.skip(features))
        return output


def small(
    *,
    channels: tuple[int, int, int, int] = (16, 32, 64, 128),
    temporal_strides: Strides | None = None,
    pathway: Pathway = "fast",
) -> Staged:
    """A small (2+1)D residual network for CPUs: a stem and three blocks, each halving the image.

    It is from no paper. Its convolutions are factorised as in R(2+1)D, but there is one pair per
    block, the pair has no extra channels in between, and every block has a projection.

    Args:
        channels: Channels after the stem and after each block.
        temporal_strides: Strides along time of the stem and the blocks; by default 1, 1, 1, 2 for
            slow and 2, 2, 2, 2 for fast. A stem that does not stride time does not look along it.
    """
    strides = temporal_strides or ((1, 1, 1, 2) if pathway == "slow" else (2, 2, 2, 2))
    depth = 1 if strides[0] == 1 else 3
    stem = nn.Sequential(
        nn.Conv3d(
            3, channels[0], (depth, 5, 5), (strides[0], 2, 2), (depth // 2, 2, 2), bias=False
        ),
        nn.BatchNorm3d(channels[0]),
        nn.ReLU(inplace=True),
    )
    blocks = [
        _SmallBlock(before, after, (stride, 2, 2))
        for before, after, stride in zip(channels, channels[1:], strides[1:], strict=False)
    ]
    network = Staged([stem, *blocks], channels)
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return network
