"""Torchvision's video networks, without their classifiers, cut into stages."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from vcsf_cli.errors import RecipeError
from vcsf_plugins.backbones.layouts import (
    COCLR,
    TORCHVISION,
    TORCHVISION_EPS,
    coclr_layout,
    torchvision_layout,
)
from vcsf_plugins.backbones.staged import Pathway, Staged, Stride, Strides

if TYPE_CHECKING:
    from torchvision.models.video.resnet import VideoResNet


def s3d(*, temporal_stem_stride: Stride | None = None, pathway: Pathway = "fast") -> Staged:
    """S3D without gating (Xie et al., ECCV 2018): torchvision's layers, CoCLR's batch norm and
    initialisation.

    Differences from the paper: the recipe sets the input, there 64 frames of 224 px; the slow
    pathway's stem does not stride time; no classifier and no dropout. Differences from torchvision:
    batch norm has momentum 0.1 and eps 1e-5, there both 1e-3; convolutions start from N(0, 0.01).

    Args:
        temporal_stem_stride: Stride of the stem along time; by default 1 for slow (8 frames: 8, 4,
            2), 2 for fast.
    """
    # With torchvision's momentum of 1e-3 running statistics stay near their start in short runs.
    network = _video().S3D(norm_layer=partial(nn.BatchNorm3d, momentum=0.1, eps=1e-5))
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
    backbone = Staged(stages, (64, 192, 480, 832, 1024))
    backbone.layouts = {
        TORCHVISION: torchvision_layout(network, backbone, TORCHVISION_EPS),
        COCLR: coclr_layout(backbone),
    }
    return backbone


def r3d18(*, temporal_strides: Strides | None = None, pathway: Pathway = "fast") -> Staged:
    """R3D-18 (Tran et al., CVPR 2018) as in torchvision.

    Differences from the paper: the slow pathway strides time once less; no classifier; the recipe
    sets the input, there 16 frames of 112 px.

    Args:
        temporal_strides: Strides along time of layers 1 to 4; by default 1, 1, 2, 2 for slow, so
            that 8 frames end as 2, not 1, and 1, 2, 2, 2 for fast.
    """
    return _residual18(_video().r3d_18(), temporal_strides, pathway)


def r2plus1d18(*, temporal_strides: Strides | None = None, pathway: Pathway = "fast") -> Staged:
    """R(2+1)D-18 (Tran et al., CVPR 2018) as in torchvision: each 3x3x3 convolution is a 1x3x3 and
    a 3x1x1 one.

    Differences from the paper are those of `r3d18`.

    Args:
        temporal_strides: Strides along time of layers 1 to 4; by default 1, 1, 2, 2 for slow, 1, 2,
            2, 2 for fast.
    """
    return _residual18(_video().r2plus1d_18(), temporal_strides, pathway)


def _video() -> Any:
    # It takes over a second to import, and most commands build no network of it.
    from torchvision.models import video

    return video


def _residual18(network: VideoResNet, temporal_strides: Strides | None, pathway: Pathway) -> Staged:
    """An 18-layer video ResNet of torchvision with other strides along time.

    Raises:
        RecipeError: If layer 1 is to stride.
    """
    strides = temporal_strides or ((1, 1, 2, 2) if pathway == "slow" else (1, 2, 2, 2))
    if strides[0] != 1:
        raise RecipeError(
            f"temporal_strides is {list(strides)}: layer 1 has no projection, so it can't stride "
            "time",
            "set the first of them to 1",
        )
    layers = [network.layer1, network.layer2, network.layer3, network.layer4]
    for layer, stride in zip(layers[1:], strides[1:], strict=True):
        block = layer[0]
        first, projection = _temporal_convolution(block.conv1[0]), block.downsample[0]
        first.stride = (stride, *first.stride[1:])
        projection.stride = (stride, *projection.stride[1:])
    backbone = Staged([network.stem, *layers], (64, 64, 128, 256, 512))
    backbone.layouts = {TORCHVISION: torchvision_layout(network, backbone)}
    return backbone


def _temporal_convolution(convolution: nn.Module) -> nn.Conv3d:
    """The temporal convolution of torchvision's factorised pair, else the convolution itself."""
    return cast(
        nn.Conv3d, convolution[-1] if isinstance(convolution, nn.Sequential) else convolution
    )
