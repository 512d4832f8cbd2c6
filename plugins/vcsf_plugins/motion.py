"""Motion modules: they show the slow pathway fast movement.

x are the features (B, C, T, h, w). Every module's last norm starts with weight and bias zero: the
module starts as exactly the identity, and its parameters before that norm begin to learn one step
later."""

from __future__ import annotations

from typing import Annotated, cast

import torch
from annotated_types import Gt, Interval
from torch import Tensor, nn
from torch.nn import functional

_Positive = Annotated[int, Gt(0)]


class _NoMotion(nn.Module):
    def forward(self, features: Tensor, window: Tensor) -> Tensor:
        return features


def none(channels: int, /) -> _NoMotion:
    """No motion module."""
    return _NoMotion()


class DifferenceGate(nn.Module):
    """A gate per channel and step from the change of the features: TEA's motion excitation.

    x + x * (sigmoid(BN(W2 pool(dw3x3(u)_{t+1} - u_t))) - 1/2) with u = BN(W1 x); the last step sees
    no change (Li et al., "TEA: Temporal Excitation and Aggregation", CVPR 2020, eq. 1-5). Unlike in
    TEA, the last norm starts at zero.

    Args:
        reduction: How many times fewer channels the differences have than the features.
    """

    def __init__(self, channels: int, /, *, reduction: _Positive = 16) -> None:
        super().__init__()
        reduced = max(1, channels // reduction)
        self.squeeze = nn.Sequential(
            nn.Conv3d(channels, reduced, 1, bias=False), nn.BatchNorm3d(reduced)
        )
        self.align = _depthwise(reduced)
        self.expand = nn.Conv3d(reduced, channels, 1, bias=False)
        self.norm = _silent_norm(channels)

    def forward(self, features: Tensor, window: Tensor) -> Tensor:
        squeezed = self.squeeze(features)
        change = self.align(squeezed)[:, :, 1:] - squeezed[:, :, :-1]
        pooled = functional.pad(change.mean((3, 4), keepdim=True), (0, 0, 0, 0, 0, 1))
        gate = self.norm(self.expand(pooled)).sigmoid() - 0.5
        return cast(Tensor, features + features * gate)


class DifferenceMap(nn.Module):
    """A gate per pixel and channel from the change to both neighbours: TDN's long-term module.

    x + x * (a(D+) + a(D-)) / 2 with u = BN(W1 x), D+_t = dw3x3(u)_{t+1} - u_t, D-_t =
    dw3x3(u)_{t-1} - u_t, zero where there is no neighbour, and a(D) = sigmoid(BN(W2 (D + BN(3x3 D)
    + up BN(3x3 pool2 D)) / 3)) - 1/2 (Wang et al., "TDN: Temporal Difference Networks for Efficient
    Action Recognition", CVPR 2021, as in `mSEModule` of its code). Both directions share all
    weights, so a clip and its reverse get the same gates: movement counts, its direction does not.

    Differences from TDN: the last norm starts at zero. The full-size 3x3 branch of D- reads D-; in
    TDN's code it reads that of D+, which alone distinguishes a clip from its reverse. Both
    directions are normed together, not one after the other. The last row and column of an odd size
    are pooled too, not dropped. 3x3 convolutions have no bias, since a norm follows. TDN puts the
    module inside a residual block, before the 3x3 convolution.

    Args:
        reduction: How many times fewer channels the differences have than the features.
    """

    def __init__(self, channels: int, /, *, reduction: _Positive = 16) -> None:
        super().__init__()
        reduced = max(1, channels // reduction)
        self.squeeze = nn.Sequential(
            nn.Conv3d(channels, reduced, 1, bias=False), nn.BatchNorm3d(reduced)
        )
        self.align = _depthwise(reduced)
        self.fine = nn.Sequential(_spatial(reduced, reduced), nn.BatchNorm3d(reduced))
        self.coarse = nn.Sequential(_spatial(reduced, reduced), nn.BatchNorm3d(reduced))
        self.expand = nn.Conv3d(reduced, channels, 1, bias=False)
        self.norm = _silent_norm(channels)

    def forward(self, features: Tensor, window: Tensor) -> Tensor:
        squeezed = self.squeeze(features)
        aligned = self.align(squeezed)
        # Both directions as one clip of 2T, since they share all weights and no layer looks along
        # time.
        change = torch.cat(
            [_change_to_next(squeezed, aligned), _change_to_previous(squeezed, aligned)], 2
        )
        # A map of one row or column is not halved.
        height, width = (min(2, side) for side in change.shape[3:])
        coarse = self.coarse(functional.avg_pool3d(change, (1, height, width), ceil_mode=True))
        scales = change + self.fine(change) + functional.interpolate(coarse, change.shape[2:])
        gates = self.norm(self.expand(scales / 3)).sigmoid() - 0.5
        following, previous = gates.chunk(2, 2)
        return cast(Tensor, features + features * ((following + previous) / 2))


class ShortTerm(nn.Module):
    """Adds the movement in frames that the slow pathway skips: TDN's short-term module.

    x + BN(W2 resize(maxpool(ReLU(BN(7x7/2 pool2 d))))), where d_t are the 2n RGB differences from
    frame to frame among the 2n + 1 window frames around the step's middle one, floor((t + 1/2)
    L/T); frames outside the window change nothing (Wang et al., "TDN", CVPR 2021, as in `TDN_Net`
    of its code, where n = 2). With n = 2 and every fourth frame read by slow, a step reads from its
    own slow frame to the next one.

    Differences from TDN: it looks around the sampled frame, here the first of its step; the middle
    suits wider steps too. It mixes the result with the features (1/2 and 1/2, or 3/4 and 1/4) after
    the stem, and again after stage 1, through a second stage 1; here a 1x1 convolution and a norm
    that starts at zero fit the result to the features of any stage, and it is added. 32 channels
    instead of 64. Resizing averages areas: for whole multiples that is TDN's nearest neighbour, and
    nothing is lost where the features are the smaller map.

    Args:
        neighbours: Window frames that a step reads on each side of its middle one.
        width: Channels of the differences' own features.
    """

    def __init__(
        self, channels: int, /, *, neighbours: _Positive = 2, width: _Positive = 32
    ) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.stem = nn.Sequential(
            nn.Conv3d(6 * neighbours, width, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False),
            nn.BatchNorm3d(width),
            nn.ReLU(inplace=True),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        )
        self.expand = nn.Conv3d(width, channels, 1, bias=False)
        self.norm = _silent_norm(channels)

    def changes(self, window: Tensor, steps: int) -> Tensor:
        """Each step's differences (B, 6n, T, ceil(H/2), ceil(W/2)), earliest first."""
        # Pooling commutes with differences, and leaves a quarter of the pixels to subtract.
        frames = functional.avg_pool3d(window, (1, 2, 2), ceil_mode=True)
        change = frames[:, :, 1:] - frames[:, :, :-1]
        change = functional.pad(change, (0, 0, 0, 0, self.neighbours, self.neighbours))
        middle = (
            torch.arange(1, 2 * steps, 2, device=change.device) * window.shape[2] // (2 * steps)
        )
        return torch.cat(
            [change.index_select(2, middle + each) for each in range(2 * self.neighbours)], 1
        )

    def forward(self, features: Tensor, window: Tensor) -> Tensor:
        motion = self.stem(self.changes(window, features.shape[2]))
        motion = functional.interpolate(motion, features.shape[2:], mode="area")
        return cast(Tensor, features + self.norm(self.expand(motion)))


class Additive(nn.Module):
    """Adds the change of the features to the next step: STM's channel-wise motion module (CMM).

    x + BN(W2 (dw3x3(u)_{t+1} - u_t)) with u = W1 x; the last step sees no change (Jiang et al.,
    "STM: SpatioTemporal and Motion Encoding for Action Recognition", ICCV 2019). Unlike in STM, a
    norm that starts at zero comes last, and x is the features themselves, not those of the
    spatio-temporal module (CSTM).

    Args:
        reduction: How many times fewer channels the differences have than the features.
    """

    def __init__(self, channels: int, /, *, reduction: _Positive = 16) -> None:
        super().__init__()
        reduced = max(1, channels // reduction)
        self.squeeze = nn.Conv3d(channels, reduced, 1, bias=False)
        self.align = _depthwise(reduced)
        self.expand = nn.Conv3d(reduced, channels, 1, bias=False)
        self.norm = _silent_norm(channels)

    def forward(self, features: Tensor, window: Tensor) -> Tensor:
        squeezed = self.squeeze(features)
        change = _change_to_next(squeezed, self.align(squeezed))
        return cast(Tensor, features + self.norm(self.expand(change)))


class Correlation(nn.Module):
    """Adds features of a correlation volume between consecutive steps, as MSNet does, but smaller.

    x + BN(W2 ReLU(BN(3x3 v))) with u = BN(W1 x) and v_t(p, d) = ReLU(cos(u_t(p), u_{t+1}(p + d)))
    for all d of up to `radius` pixels in height and width; outside the image the cosine is 0, and
    the last step is compared with itself, as in a still clip (Kwon et al., "MotionSqueeze: Neural
    Motion Feature Learning for Video Understanding", ECCV 2020).

    Differences from MSNet: it turns a volume of radius 7 into a displacement and a confidence per
    pixel (soft argmax), and these into features by four separable convolutions; here one 3x3
    convolution reads the whole, smaller volume. The last norm starts at zero. MSNet repeats the
    volume of the last pair for the last step.

    Args:
        radius: The largest displacement, in pixels of the feature map; the volume has (2 radius +
            1)^2 channels.
        reduction: How many times fewer channels are compared than the features have.
    """

    def __init__(
        self,
        channels: int,
        /,
        *,
        radius: Annotated[int, Interval(ge=1, le=7)] = 2,
        reduction: _Positive = 8,
    ) -> None:
        super().__init__()
        reduced = max(1, channels // reduction)
        self.radius = radius
        # Normed before the comparison: cosines of features after a ReLU are all near 1.
        self.squeeze = nn.Sequential(
            nn.Conv3d(channels, reduced, 1, bias=False), nn.BatchNorm3d(reduced)
        )
        self.read = nn.Sequential(
            _spatial((2 * radius + 1) ** 2, reduced), nn.BatchNorm3d(reduced), nn.ReLU(inplace=True)
        )
        self.expand = nn.Conv3d(reduced, channels, 1, bias=False)
        self.norm = _silent_norm(channels)

    def volume(self, squeezed: Tensor) -> Tensor:
        """Cosines (B, (2 radius + 1)^2, T, h, w) with the next step's positions around each."""
        # Neighbouring displacements often differ by less than bfloat16 resolves.
        squeezed = squeezed.float()
        # The addend, MSNet's, bounds the gradient where all channels are zero.
        unit = squeezed * (squeezed.square().sum(1, keepdim=True) + 1e-6).rsqrt()
        following = torch.cat([unit[:, :, 1:], unit[:, :, -1:]], 2)
        around = functional.pad(following, (self.radius,) * 4)
        height, width = unit.shape[3:]
        reach = range(2 * self.radius + 1)
        cosines = [
            (unit * around[..., down : down + height, right : right + width]).sum(1)
            for down in reach
            for right in reach
        ]
        return torch.stack(cosines, 1).relu()

    def forward(self, features: Tensor, window: Tensor) -> Tensor:
        motion = self.read(self.volume(self.squeeze(features)))
        return cast(Tensor, features + self.norm(self.expand(motion)))


def _depthwise(channels: int) -> nn.Conv3d:
    """A 3x3 convolution per channel, which aligns a step with its neighbour despite small
    movement."""
    return nn.Conv3d(channels, channels, (1, 3, 3), padding=(0, 1, 1), groups=channels, bias=False)


def _spatial(channels_in: int, channels: int) -> nn.Conv3d:
    """A 3x3 convolution of every step."""
    return nn.Conv3d(channels_in, channels, (1, 3, 3), padding=(0, 1, 1), bias=False)


def _silent_norm(channels: int) -> nn.BatchNorm3d:
    """A batch norm whose output is zero until it is trained."""
    norm = nn.BatchNorm3d(channels)
    nn.init.zeros_(norm.weight)
    nn.init.zeros_(norm.bias)
    return norm


def _change_to_next(squeezed: Tensor, aligned: Tensor) -> Tensor:
    """aligned_{t+1} - squeezed_t, zero at the last step; all (B, C, T, h, w)."""
    return functional.pad(aligned[:, :, 1:] - squeezed[:, :, :-1], (0, 0, 0, 0, 0, 1))


def _change_to_previous(squeezed: Tensor, aligned: Tensor) -> Tensor:
    """aligned_{t-1} - squeezed_t, zero at the first step; all (B, C, T, h, w)."""
    return functional.pad(aligned[:, :, :-1] - squeezed[:, :, 1:], (0, 0, 0, 0, 1, 0))
