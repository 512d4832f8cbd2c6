"""Encoders of clips: each returns its feature map and lets motion modules in between its stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn
from torchvision.models.video import r3d_18
from torchvision.models.video.s3d import S3D

from vcsf_cli.contracts import identity

Between = Callable[[int, Tensor], Tensor]
Pathway = Literal["slow", "fast"]


class Staged(nn.Module):
    """A backbone that is a row of stages.

    Args:
        stages: One module a stage; stage 1 is the stem.
        channels: Channels after each stage.
    """

    def __init__(self, stages: Sequence[nn.Module], channels: Sequence[int]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.channels = tuple(channels)

    def forward(self, clip: Tensor, between: Between = identity) -> Tensor:
        """Features (B, C, T', h, w) of clips (B, 3, T, H, W)."""
        features = clip
        for number, stage in enumerate(self.stages, start=1):
            features = between(number, stage(features))
        return features


def s3d(*, temporal_stem_stride: int | None = None, pathway: Pathway = "fast") -> Staged:
    """S3D without gating (Xie et al., ECCV 2018), torchvision's layers with CoCLR's batch norm and initialisation.

    Args:
        temporal_stem_stride: Stride of the stem along time; by default 1 for slow (8 frames: 8, 4, 2), 2 for fast.
    """
    # torchvision's batch norm has momentum and eps 1e-3: in short runs its running statistics stay near their start.
    network = S3D(norm_layer=partial(nn.BatchNorm3d, momentum=0.1, eps=1e-5))
    layers = list(network.features)
    stride = temporal_stem_stride or (1 if pathway == "slow" else 2)
    # The stem is a spatial convolution followed by a temporal one (Conv3d, norm, ReLU each).
    temporal: nn.Conv3d = layers[0][1][0]
    temporal.stride = (stride, 1, 1)
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.normal_(module.weight, std=0.01)
    # Cut before each of the pools that halve the image, so that stage 1 is the stem alone.
    pools = [index for index, layer in enumerate(layers) if isinstance(layer, nn.MaxPool3d)]
    bounds = [0, *pools, len(layers)]
    stages = [nn.Sequential(*layers[start:end]) for start, end in pairwise(bounds)]
    return Staged(stages, (64, 192, 480, 832, 1024))


def r3d18(*, temporal_strides: tuple[int, int, int, int] | None = None, pathway: Pathway = "fast") -> Staged:
    """R3D-18 (Tran et al., CVPR 2018) as in torchvision.

    Args:
        temporal_strides: Strides along time of layers 1 to 4; by default 1, 1, 2, 2 for slow, so that 8 frames end as
            2 and not as 1, and 1, 2, 2, 2 for fast.
    """
    network = r3d_18()
    layers = [network.layer1, network.layer2, network.layer3, network.layer4]
    strides = temporal_strides or ((1, 1, 2, 2) if pathway == "slow" else (1, 2, 2, 2))
    for layer, stride in zip(layers, strides, strict=True):
        block = layer[0]
        block.conv1[0].stride = (stride, *block.conv1[0].stride[1:])
        if block.downsample is not None:
            block.downsample[0].stride = (stride, *block.downsample[0].stride[1:])
        elif stride != 1:
            raise ValueError("layer 1 of R3D-18 has no projection, so its temporal stride must be 1")
    return Staged([network.stem, *layers], (64, 64, 128, 256, 512))


class SmallBlock(nn.Module):
    """A residual block of a spatial (1x3x3) and a temporal (3x1x1) convolution, R(2+1)D's factorisation.

    Args:
        channels_in: Channels before.
        channels: Channels after.
        stride: Strides along time, height and width.
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
            nn.Conv3d(channels_in, channels, 1, stride, bias=False),
            nn.BatchNorm3d(channels),
        )
        self.activation = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, channels, ...) of features (B, channels_in, ...)."""
        output: Tensor = self.activation(self.body(features) + self.skip(features))
        return output


def small(
    *,
    channels: tuple[int, int, int, int] = (16, 32, 64, 128),
    temporal_strides: tuple[int, int, int, int] | None = None,
    pathway: Pathway = "fast",
) -> Staged:
    """A small (2+1)D residual network for CPUs: a stem and three blocks, each halving the image.

    Args:
        channels: Channels after the stem and after each block.
        temporal_strides: Strides along time of the stem and the blocks; by default 1, 1, 1, 2 for slow, 2, 2, 2, 2 for
            fast. The stem looks along time only where it also strides.
    """
    strides = temporal_strides or ((1, 1, 1, 2) if pathway == "slow" else (2, 2, 2, 2))
    depth = 1 if strides[0] == 1 else 3
    stem = nn.Sequential(
        nn.Conv3d(3, channels[0], (depth, 5, 5), (strides[0], 2, 2), (depth // 2, 2, 2), bias=False),
        nn.BatchNorm3d(channels[0]),
        nn.ReLU(inplace=True),
    )
    blocks = [
        SmallBlock(before, after, (stride, 2, 2))
        for before, after, stride in zip(channels, channels[1:], strides[1:], strict=False)
    ]
    network = Staged([stem, *blocks], channels)
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return network
