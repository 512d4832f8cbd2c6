"""The two pathways of SlowFast as encoders of their own."""

from __future__ import annotations

from typing import Annotated, cast

from annotated_types import Gt
from torch import Tensor, nn

from vcsf_plugins.backbones.staged import Pathway, Staged

_BLOCKS = (3, 4, 6, 3)
"""Residual blocks of res2 to res5: ResNet-50."""

_TEMPORAL_KERNELS = {"slow": (1, 1, 1, 3, 3), "fast": (5, 3, 3, 3, 3)}
"""Frames that the stem and the blocks of res2 to res5 cover."""


class _Bottleneck(nn.Module):
    """A residual block of a temporal (kx1x1), a spatial (1x3x3) and a pointwise convolution.

    Args:
        inner: Channels in between; the output has four times as many.
        kernel: Frames that the first convolution covers.
    """

    def __init__(self, channels_in: int, inner: int, stride: int, kernel: int) -> None:
        super().__init__()
        channels = 4 * inner
        self.body = nn.Sequential(
            nn.Conv3d(channels_in, inner, (kernel, 1, 1), padding=(kernel // 2, 0, 0), bias=False),
            nn.BatchNorm3d(inner),
            nn.ReLU(inplace=True),
            nn.Conv3d(inner, inner, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False),
            nn.BatchNorm3d(inner),
            nn.ReLU(inplace=True),
            nn.Conv3d(inner, channels, 1, bias=False),
            nn.BatchNorm3d(channels),
        )
        self.skip: nn.Module = nn.Identity()
        if channels_in != channels or stride != 1:
            self.skip = nn.Sequential(
                nn.Conv3d(channels_in, channels, 1, (1, stride, stride), bias=False),
                nn.BatchNorm3d(channels),
            )
        self.activation = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.activation(self.body(features) + self.skip(features)))


def slowfast_r50(*, width: Annotated[float, Gt(0)] = 1.0, pathway: Pathway = "fast") -> Staged:
    """A pathway of SlowFast with a ResNet-50 (Feichtenhofer et al., ICCV 2019, table 1).

    Slow looks along time in res4 and res5 alone, fast in its stem and in every block; neither
    strides time. Differences from the paper: no lateral connections, so each pathway is an encoder
    by itself; fast is as wide as slow unless `width` says otherwise; no classifier. As in the
    authors' code, a stage strides in its 1x3x3 convolution, and the last norm of each block starts
    at zero.

    Args:
        width: Channels as a share of ResNet-50's; the paper's fast pathway has 0.125, its beta.
    """
    first = max(1, round(64 * width))
    inner = [first * 2**stage for stage in range(len(_BLOCKS))]
    stem_kernel, *kernels = _TEMPORAL_KERNELS[pathway]
    stages = [
        nn.Sequential(
            nn.Conv3d(
                3, first, (stem_kernel, 7, 7), (1, 2, 2), (stem_kernel // 2, 3, 3), bias=False
            ),
            nn.BatchNorm3d(first),
            nn.ReLU(inplace=True),
        )
    ]
    channels = [first]
    for index, (blocks, kernel) in enumerate(zip(_BLOCKS, kernels, strict=True)):
        # The pool opens stage 2, so that stage 1 is the stem alone, as in S3D.
        layers: list[nn.Module] = [] if index else [nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))]
        for block in range(blocks):
            before = 4 * inner[index] if block else channels[-1]
            layers.append(
                _Bottleneck(before, inner[index], 2 if index and not block else 1, kernel)
            )
        stages.append(nn.Sequential(*layers))
        channels.append(4 * inner[index])
    network = Staged(stages, channels)
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, _Bottleneck):
            nn.init.zeros_(cast(nn.BatchNorm3d, module.body[-1]).weight)
    return network
