"""Torchvision's video networks, without their classifiers, cut into stages."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn
from torch.nn import functional

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


class MaxPool3d(nn.MaxPool3d):
    """Max pooling, on a GPU first over space and then over time.

    Of two equally large features another one may get the gradient. Forwards and backwards in
    bfloat16, channels last, pools of 3x3x3 took 3.0 ms on an H200 where torch's own took 5.8 (64
    clips of 192 x 16 x 16 x 16), 0.95 for 1.86 (480 x 8 x 8 x 8) and 0.56 for 0.42 (832 x 4 x 4 x
    4)."""

    def forward(self, features: Tensor) -> Tensor:
        return self.separable(features) if features.is_cuda else super().forward(features)

    def separable(self, features: Tensor) -> Tensor:
        """The same as 2D pools, which keep the order of features (B, C, T, H, W) in memory."""
        (kt, *kernel), (st, *stride), (pt, *padding) = map(
            _three, (self.kernel_size, self.stride, self.padding)
        )
        batch, channels, steps = features.shape[:3]
        frames = features.transpose(1, 2).flatten(0, 1)
        frames = functional.max_pool2d(frames, kernel, stride, padding)
        size = frames.shape[2:]
        rows = frames.flatten(2).view(batch, steps, channels, -1).transpose(1, 2)
        if (kt, st) != (1, 1):
            rows = functional.max_pool2d(rows, (kt, 1), (st, 1), (pt, 0))
        return rows.view(batch, channels, -1, *size)


def _three(value: int | tuple[int, ...]) -> tuple[int, ...]:
    """An argument of a pool for time, height and width."""
    return (value,) * 3 if isinstance(value, int) else value


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
    for module in network.modules():
        for name, pool in module.named_children():
            if isinstance(pool, nn.MaxPool3d):
                setattr(module, name, MaxPool3d(pool.kernel_size, pool.stride, pool.padding))
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
